"""The losses of the neighbours: every other way to make a picture in one step, a short
function each.

A regression asks for the end of the noise's own path; a consistency model for the same
answer at two neighbouring levels; a rectified flow for straight paths; progressive
distillation for two steps in one; distribution matching for samples that two denoisers
cannot tell from the data. All have one signature: student, teacher, clean x0, unit
noise, u uniform in [0, 1] from which a level is made, and the progress of the run in
[0, 1]. Chapter: 17 "One-step generation, side by side". Sources stand at the functions;
letters are EDM's.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.schedule import Denoise, Noise, expand, noise_of
from ..diffusion.teacher import edm_loss
from .students import Matched, one_step

Loss = Callable[..., Float[Tensor, ""]]
Metric = Callable[[Tensor, Tensor, float], Float[Tensor, " batch"]]
FINEST = 128  # steps of the teacher that progressive distillation starts from


def square(
    a: Float[Tensor, "batch ..."], b: Float[Tensor, "batch ..."], progress: float = 1.0
) -> Tensor:
    """Mean square of a - b per sample, (batch,), at any progress."""
    return (a - b).square().flatten(1).mean(1)


def pseudo_huber(
    a: Float[Tensor, "batch ..."], b: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    """sqrt(|a - b|^2 + c^2) - c with c = 0.00054 sqrt(dim), per sample.

    2-RF++ was published with c = 0.00054 dim.
    Source: Song & Dhariwal 2023, eq 7.
    """
    gap = (a - b).flatten(1)
    c = 0.00054 * gap.shape[1] ** 0.5
    return (gap.square().sum(1) + c**2).sqrt() - c


def knowledge_distillation(
    student: Denoise,
    teacher: Denoise | None,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
    d: Metric = square,
) -> Tensor:
    """d(D(sigma_max n), x0) on the teacher's pairs: regression of the end on the start.

    HKD without generators, from T alone. student, teacher, x0, noise, u, progress as
    the module says.
    Source: Luhman & Luhman 2021.
    """
    return d(one_step(student, noise), x0, progress).mean()


def progressive_distillation(
    student: Denoise,
    teacher: Denoise,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
    steps: int = 1,
) -> Tensor:
    """One DDIM step of the student is two of the teacher's: `steps` of its steps cover
    a grid of `FINEST`. It is asked at noisy data, x0 + t n.

    From x_t two steps of the teacher's lead to x_s over the middle; the guess that
    leads there at once is x~ = (x_s - (s/t) x_t) / (1 - s/t). L = max(1, 1/t^2) |D(x_t)
    - x~|^2. student, teacher, x0, noise, u, progress as the module says.
    Source: Salimans & Ho 2022, algorithm 2.
    """
    levels = noise_of(student).sigmas(FINEST)[:: FINEST // (2 * steps)].to(x0)
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


def rectified_flow(
    student: Denoise,
    teacher: Denoise | None,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
) -> Tensor:
    """|v - (n - x0)|^2 on the straight line x_t = (1 - t) x0 + t n, with the velocity v
    = (x_t - D) / t.

    In EDM's letters the line is x0 + sigma n with sigma = t / (1 - t), and the loss |D
    - x0|^2 / t^2. On independent data and noise it is flow matching (1-RF), whose paths
    bend; on a teacher's pairs (2-RF) they are nearly straight, and one step is enough.
    student, teacher, x0, noise, u, progress as the module says.
    Source: Liu et al. 2023.
    """
    t = _line_time(u, noise_of(student))
    sigma = t / (1 - t)
    guess = student(x0 + expand(sigma, x0) * noise, sigma)
    return (square(guess, x0) / t**2).mean()


def rectified_flow_plus(
    student: Denoise,
    teacher: Denoise | None,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
    d: Metric = square,
) -> Tensor:
    """2-RF++: times near both ends, (1 - t) times a pseudo-Huber distance of velocities
    plus d(D, x0) / t.

    t has the density of e^{4 t} + e^{4 (1 - t)} on [0, 1], the U that puts work where
    the errors are. c is that of `pseudo_huber`. student, teacher, x0, noise, u,
    progress as the module says.
    Source: Lee et al. 2024, section 4.
    """
    outer = (torch.log1p((2 * u - 1).abs() * (torch.e**4 - 1)) / 4).clamp(max=1)
    t = _line_time(torch.where(u > 0.5, outer, 1 - outer), noise_of(student))
    sigma = t / (1 - t)
    guess = student(x0 + expand(sigma, x0) * noise, sigma)
    velocity = pseudo_huber(guess / expand(t, x0), x0 / expand(t, x0)) / x0[0].numel()
    return ((1 - t) * velocity + d(guess, x0, progress) / t).mean()


def _line_time(u: Tensor, levels: Noise) -> Tensor:
    """Uniform numbers as times of the straight line that a denoiser can be asked at:
    sigma_min to sigma_max.
    """
    low = levels.sigma_min / (1 + levels.sigma_min)
    high = levels.sigma_max / (1 + levels.sigma_max)
    return low + u * (high - low)


def distribution_matching(
    student: Matched,
    teacher: Denoise,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
    d: Metric = square,
    regress: float = 0.5,
) -> Tensor:
    """Samples move along fake denoiser less true denoiser, the gradient of KL; a
    regression on pairs keeps all modes.

    g = (D_fake(x_t) - D(x_t)) / mean|x - D(x_t)|, L = |x - sg(x - g)|^2 / 2 + regress
    d(x, x0), and the fake denoiser learns from x as any does. Ours, not published: t
    from the middle 80 per cent of the levels (for 2 to 98), samples of the pairs'
    noises in g too, and lognormal levels for the fake denoiser. student, teacher, x0,
    noise, u, progress as the module says.
    Source: Yin et al. 2024 (DMD), eq 7, eq 8.
    """
    x = one_step(student, noise)
    s = noise_of(student).sigma_data
    # neither the noisiest tenth nor the cleanest
    sigma = noise_of(student).sigmas(1000).to(x0)[(u * 800).long() + 100]
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
        + edm_loss(student.fake, x.detach(), level, again, sigma_data=s)
    )
