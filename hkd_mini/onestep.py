"""The neighbours: every other way to make a picture in one step, a short function each,
over one training loop.

A student starts as a copy of the teacher, D(x; sigma), and its one step is D(sigma_max
n; sigma_max). What differs is what it is asked. A regression asks for the end of the
noise's own path; a consistency model for the same answer at two neighbouring levels; a
rectified flow for straight paths; progressive distillation for two steps in one;
distribution matching for samples that two denoisers cannot tell from the data. All
losses have one signature: student, teacher, clean x0, unit noise, u uniform in [0, 1]
from which a level is made, and the progress of the run in [0, 1]. Chapter: 17 "One-step
generation, side by side". Sources stand at the functions; letters are EDM's.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .data import Images, batch_indices, to_unit
from .kdm import kdm_loss
from .loop import Step, TrainConfig, fit, generator
from .losses import Distance
from .schedule import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, karras_sigmas
from .teacher import Denoise, edm_loss, expand

Loss = Callable[..., Float[Tensor, ""]]
FINEST = 128  # steps of the teacher that progressive distillation starts from
# its students' steps, and each stage's share of the run
STAGES = {64: 1, 32: 1, 16: 1, 8: 1, 4: 1, 2: 1, 1: 2}


def square(
    a: Float[Tensor, "batch ..."], b: Float[Tensor, "batch ..."], progress: float = 1.0
) -> Tensor:
    """Mean square per sample, (batch,)."""
    return (a - b).square().flatten(1).mean(1)


def pseudo_huber(
    a: Float[Tensor, "batch ..."], b: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    """sqrt(|a - b|^2 + c^2) - c with c = 0.00054 sqrt(dim), per sample.
    Source: Song & Dhariwal 2023, eq 7.
    """
    gap = (a - b).flatten(1)
    c = 0.00054 * gap.shape[1] ** 0.5
    return (gap.square().sum(1) + c**2).sqrt() - c


def one_step(
    student: Denoise, noise: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch ..."]:
    """What a student makes of unit noise in one evaluation: D(sigma_max n;
    sigma_max).
    """
    return student(SIGMA_MAX * noise, SIGMA_MAX)


def jump(
    student: Denoise, x: Float[Tensor, "batch ..."], sigma: Float[Tensor, " batch"]
) -> Tensor:
    """A consistency function, which is x itself at sigma_min, from a denoiser, which is
    x at 0.

    f = c'_skip x + (sigma - eps) / sigma (D - c_skip x), c_skip = s^2 / (sigma^2 + s^2)
    and c'_skip the same at sigma - eps.
    Source: Song et al. 2023 (consistency models), appendix C.
    """
    level = expand(sigma, x)
    skip = lambda v: SIGMA_DATA**2 / (v**2 + SIGMA_DATA**2)
    left = (level - SIGMA_MIN) / level
    return skip(level - SIGMA_MIN) * x + left * (student(x, sigma) - skip(level) * x)


def knowledge_distillation(
    student, teacher, x0, noise, u, progress, d=square
) -> Tensor:
    """d(D(sigma_max n), x0) on the teacher's pairs: regression of the end on the start.
    Source: Luhman & Luhman 2021.

    HKD without generators, from T alone.
    """
    return d(one_step(student, noise), x0, progress).mean()


def progressive_distillation(
    student, teacher, x0, noise, u, progress, steps: int = 1
) -> Tensor:
    """One DDIM step of the student is two of the teacher's: `steps` of its steps cover
    a grid of `FINEST`.

    From x_t two steps of the teacher's lead to x_s over the middle; the guess that
    leads there at once is x~ = (x_s - (s/t) x_t) / (1 - s/t). L = max(1, 1/t^2) |D(x_t)
    - x~|^2.
    Source: Salimans & Ho 2022, algorithm 2.
    """
    levels = karras_sigmas(FINEST)[:: FINEST // (2 * steps)].to(x0)
    i = 2 * (u * steps).long().clamp(max=steps - 1)
    t, middle, s = (expand(levels[i + k], x0) for k in range(3))
    x = x0 + t * noise
    with torch.no_grad():
        guess = teacher(x, t.flatten())
        y = guess + middle / t * (x - guess)
        guess = teacher(y, middle.flatten())
        y = guess + s / middle * (y - guess)
    wish = (y - s / t * x) / (1 - s / t)
    return (torch.clamp(t**-2, min=1) * (student(x, t.flatten()) - wish) ** 2).mean()


def rectified_flow(student, teacher, x0, noise, u, progress) -> Tensor:
    """|v - (n - x0)|^2 on the straight line x_t = (1 - t) x0 + t n, with the velocity v
    = (x_t - D) / t.

    In EDM's letters the line is x0 + sigma n with sigma = t / (1 - t), and the loss |D
    - x0|^2 / t^2. On independent data and noise it is flow matching (1-RF), whose paths
    bend; on a teacher's pairs (2-RF) they are nearly straight, and one step is enough.
    Source: Liu et al. 2023.
    """
    t = _line_time(u)
    sigma = t / (1 - t)
    guess = student(x0 + expand(sigma, x0) * noise, sigma)
    return (square(guess, x0) / t**2).mean()


def rectified_flow_plus(student, teacher, x0, noise, u, progress, d=square) -> Tensor:
    """2-RF++: times near both ends, (1 - t) times a pseudo-Huber distance of velocities
    plus d(D, x0) / t.

    t has the density of e^{4 t} + e^{4 (1 - t)} on [0, 1], the U that puts work where
    the errors are.
    Source: Lee et al. 2024, section 4.
    """
    outer = (torch.log1p((2 * u - 1).abs() * (torch.e**4 - 1)) / 4).clamp(max=1)
    t = _line_time(torch.where(u > 0.5, outer, 1 - outer))
    sigma = t / (1 - t)
    guess = student(x0 + expand(sigma, x0) * noise, sigma)
    velocity = pseudo_huber(guess / expand(t, x0), x0 / expand(t, x0)) / x0[0].numel()
    return ((1 - t) * velocity + d(guess, x0, progress) / t).mean()


def _line_time(u: Tensor) -> Tensor:
    """Uniform numbers as times of the straight line that a denoiser can be asked at:
    sigma_min to sigma_max.
    """
    low = SIGMA_MIN / (1 + SIGMA_MIN)
    high = SIGMA_MAX / (1 + SIGMA_MAX)
    return low + u * (high - low)


def consistency_distillation(
    student, teacher, x0, noise, u, progress, d=square, levels: int = 18
) -> Tensor:
    """d(f(x_t), f(x_r)) with x_r one Heun step of the teacher's below x_t, the lower
    answer held fixed.

    t and r are neighbours on EDM's grid of `levels`.
    Source: Song et al. 2023, algorithm 2.
    """
    grid = karras_sigmas(levels)[:-1].flip(0).to(x0)
    i = (u * (levels - 1)).long().clamp(max=levels - 2)
    t = grid[i + 1]
    r = grid[i]
    x = x0 + expand(t, x0) * noise
    with torch.no_grad():
        step = expand(r - t, x0)
        slope = (x - teacher(x, t)) / expand(t, x0)
        y = x + step * slope
        y = x + step * (slope + (y - teacher(y, r)) / expand(r, x0)) / 2
        wish = jump(student, y, r)
    return d(jump(student, x, t), wish, progress).mean()


def consistency_training(student, teacher, x0, noise, u, progress, d=square) -> Tensor:
    """d(f(x0 + t n), f(x0 + r n)): without a teacher, the same noise at two
    neighbouring levels of a grid that refines.

    The grid grows from 2 to 150 levels as the root of the progress. The lower answer is
    the student's own, held fixed; the original's is a moving average of it.
    Source: Song et al. 2023, algorithm 3, appendix C.
    """
    count = 1 + int((progress * (151**2 - 2**2) + 2**2) ** 0.5)
    grid = karras_sigmas(max(count, 3))[:-1].flip(0).to(x0)
    i = (u * (len(grid) - 1)).long().clamp(max=len(grid) - 2)
    return d(*_neighbours(student, x0, noise, grid[i + 1], grid[i]), progress).mean()


def improved_consistency_training(student, teacher, x0, noise, u, progress) -> Tensor:
    """Consistency training with a pseudo-Huber distance, weights 1 / (t - r), lognormal
    levels, a grid that doubles.

    From 10 intervals to 1,280 in eight stages. Source: Song & Dhariwal 2023, table 1.
    """
    intervals = 10 * 2 ** min(int(8 * progress), 7)
    grid = karras_sigmas(intervals + 1)[:-1].flip(0).to(x0)
    # a lognormal's distribution function, mean -1.1, deviation 2
    edges = torch.erf((grid.log() + 1.1) / (2 * 2**0.5))
    i = (
        torch.searchsorted(edges, edges[0] + u * (edges[-1] - edges[0]), right=True) - 1
    ).clamp(0, len(grid) - 2)
    t = grid[i + 1]
    r = grid[i]
    return (pseudo_huber(*_neighbours(student, x0, noise, t, r)) / (t - r)).mean()


def easy_consistency(
    student, teacher, x0, noise, u, progress, q: float = 2.0, stages: int = 8
) -> Tensor:
    """Consistency tuning from a diffusion model: |f(x0 + t n) - f(x0 + r n)| / (t - r),
    r drawn towards t in stages.

    ln t ~ N(-1.1, 2^2), r = t (1 - q^{-(stage + 1)} (1 + 8 / (1 + e^t))), not below 0,
    where the answer is x0. At first r is 0 and the loss a diffusion's.
    Source: Geng et al. 2024 (ECM), eq 13 and appendix.
    """
    t = (
        (torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6)).float() * 2 - 1.1)
        .exp()
        .clamp(SIGMA_MIN, SIGMA_MAX)
    )
    gap = q ** -(min(int(stages * progress), stages - 1) + 1) * (
        1 + 8 * torch.sigmoid(-t)
    )
    r = (t * (1 - gap)).clamp(min=0)
    upper = student(x0 + expand(t, x0) * noise, t)
    with torch.no_grad():
        below = student(x0 + expand(r, x0) * noise, r.clamp(min=SIGMA_MIN))
        below = torch.where(expand(r, x0) > SIGMA_MIN, below, x0)
    return ((upper - below).flatten(1).norm(dim=1) / (t - r)).mean()


def _neighbours(student, x0, noise, t, r) -> tuple[Tensor, Tensor]:
    """The student's jumps from two levels of one noise, the lower one held fixed."""
    upper = jump(student, x0 + expand(t, x0) * noise, t)
    with torch.no_grad():
        below = jump(student, x0 + expand(r, x0) * noise, r)
    return upper, below


class Matched(nn.Module):
    """A generator, and a denoiser of what it makes: distribution matching trains both.
    Called, it is the generator.
    """

    def __init__(self, student: nn.Module):
        super().__init__()
        self.generator = student
        self.fake = copy.deepcopy(student)

    def forward(
        self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None
    ) -> Tensor:
        return self.generator(x, sigma, labels)


def distribution_matching(
    student: Matched, teacher, x0, noise, u, progress, d=square, regress: float = 0.5
) -> Tensor:
    """Samples move along fake denoiser less true denoiser, the gradient of KL; a
    regression on pairs keeps all modes.

    g = (D_fake(x_t) - D(x_t)) / mean|x - D(x_t)|, L = |x - sg(x - g)|^2 / 2 + regress
    d(x, x0), and the fake denoiser learns from x as any does.
    Source: Yin et al. 2024 (DMD), eqs 7 and 8.
    """
    x = one_step(student, noise)
    # neither the noisiest tenth nor the cleanest
    sigma = karras_sigmas(1000).to(x0)[(u * 800).long() + 100]
    again = noise.roll(1, 0)  # another sample's noise
    with torch.no_grad():
        x_t = x + expand(sigma, x0) * again
        true = teacher(x_t, sigma)
        size = (x - true).abs().flatten(1).mean(1)
        wish = x - (student.fake(x_t, sigma) - true) / expand(size, x0).clamp(min=1e-3)
    level = (
        torch.special.ndtri(u.roll(1).double().clamp(1e-6, 1 - 1e-6)).float() * 1.2
        - 1.2
    ).exp()
    return (
        0.5 * square(x, wish).mean()
        + regress * d(x, x0, progress).mean()
        + edm_loss(student.fake, x.detach(), level, again)
    )


class Method(NamedTuple):
    """A loss, what it learns from, and what one training sample costs in network
    evaluations (a gradient counts 2).

    data: "pairs" of a teacher's noises and ends, or "images". metric: whether it takes
    the distance d.
    """

    loss: Loss
    data: str
    cost: int
    metric: bool = True


METHODS: dict[str, Method] = {
    "KD": Method(knowledge_distillation, "pairs", 3),
    "PD": Method(progressive_distillation, "images", 5, False),
    "1-RF": Method(rectified_flow, "images", 3, False),
    "2-RF": Method(rectified_flow, "pairs", 3, False),
    "2-RF++": Method(rectified_flow_plus, "pairs", 3),
    "CD": Method(consistency_distillation, "images", 6),
    "CT": Method(consistency_training, "images", 4),
    "iCT": Method(improved_consistency_training, "images", 4, False),
    "ECM": Method(easy_consistency, "images", 4, False),
    "DMD": Method(distribution_matching, "pairs", 11),
    "KDM": Method(kdm_loss, "pairs", 12),
}


def distil(
    student: nn.Module,
    method: str,
    data,
    config: TrainConfig,
    teacher: Denoise | None = None,
    **keep,
) -> Iterator[Step]:
    """Train a student (a denoiser, a `Matched` pair for DMD, a `KDM`) by one of
    METHODS; yields as `loop.fit`.

    `data`: a teacher's paths for "pairs" (`trajectories.Trajectories`,
    `train.PathsInMemory`), `data.Images` or points (n, 2) for "images". The student is
    trained in place. Progressive distillation runs its stages one after another, each a
    run of its own. Raises ValueError for an unknown method, or data of the other kind.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: one of {', '.join(METHODS)}")
    wanted = METHODS[method].data
    paired = not isinstance(data, Images | Tensor)
    if paired != (wanted == "pairs"):
        raise ValueError(f"{method} learns from {wanted}, got {type(data).__name__}")
    if method != "PD":
        yield from _run(student, METHODS[method], data, config, teacher, **keep)
        return
    for steps, share in STAGES.items():
        part = replace(
            config,
            images=config.images * share // sum(STAGES.values()),
            seed=config.seed + steps,
        )
        yield from _run(student, METHODS[method], data, part, teacher, steps=steps)
        teacher = copy.deepcopy(student)


def _run(
    student, method: Method, data, config: TrainConfig, teacher, steps: int = 0, **keep
) -> Iterator[Step]:
    frozen = (
        copy.deepcopy(teacher).requires_grad_(False)
        if isinstance(teacher, nn.Module)
        else teacher
    )

    def batch(step: int) -> dict[str, Tensor]:
        x = getattr(data, "x", data) if method.data == "images" else data
        rng = generator(config.seed, step)
        index = batch_indices(len(x), config.batch, config.seed, step)
        if method.data == "pairs":
            there = data.gather(index, torch.zeros(len(index), 1, dtype=torch.long))
            x0 = there["end"]
            noise = there["x"][:, 0] / SIGMA_MAX
        else:
            x0 = to_unit(x[index]) if isinstance(data, Images) else x[index]
            noise = torch.randn(x0.shape, generator=rng)
        return {"x0": x0, "noise": noise, "u": torch.rand(len(index), generator=rng)}

    distance = Distance.of(config.perceptual if batch(0)["x0"].ndim == 4 else "none")
    for part in (frozen, distance.perceptual) if config.compile else ():
        part.compile() if isinstance(part, nn.Module) else None
    fixed = (
        {"d": lambda *pair_and_progress: distance(*pair_and_progress)[0]}
        if method.metric
        else {}
    )
    fixed |= {"steps": steps} if steps else {}

    def loss(model, x0, noise, u, progress):
        for part in (distance, frozen):
            part.to(x0.device) if isinstance(part, nn.Module) else None
        return {"loss": method.loss(model, frozen, x0, noise, u, progress, **fixed)}

    yield from fit(student, batch, loss, config, **keep)
