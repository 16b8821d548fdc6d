"""Consistency: the same answer at every level of a path, as a loss between two
neighbouring levels.

Distilled from a teacher's steps or trained without one; the grid of levels refines as
the run goes on. All take student, teacher, clean x0, unit noise, u uniform in [0, 1]
from which a level is made, and the progress of the run in [0, 1], as those of `losses`
do. Chapter: 17 "One-step generation, side by side".
Source: Song et al. 2023; Song & Dhariwal 2023; Geng et al. 2024.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.schedule import Denoise, expand, noise_of
from .losses import Metric, pseudo_huber, square


def jump(
    student: Denoise, x: Float[Tensor, "batch ..."], sigma: Float[Tensor, " batch"]
) -> Tensor:
    """A consistency function, which is x itself at sigma_min, from the denoiser
    `student`, which is x at 0.

    f = c'_skip x + (sigma - eps) / sigma (D - c_skip x), c_skip = s^2 / (sigma^2 + s^2)
    and c'_skip the same at sigma - eps.
    Source: Song et al. 2023 (consistency models), appendix C.
    """
    level = expand(sigma, x)
    least = noise_of(student).sigma_min
    s = noise_of(student).sigma_data
    skip = lambda v: s**2 / (v**2 + s**2)
    left = (level - least) / level
    return skip(level - least) * x + left * (student(x, sigma) - skip(level) * x)


def consistency_distillation(
    student: Denoise,
    teacher: Denoise,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
    d: Metric = square,
    levels: int = 18,
) -> Tensor:
    """d(f(x_t), f(x_r)) with x_r one Heun step of the teacher's below x_t, the lower
    answer held fixed.

    t and r are neighbours on EDM's grid of `levels`. student, teacher, x0, noise, u,
    progress as the module says.
    Source: Song et al. 2023, algorithm 2.
    """
    grid = noise_of(student).sigmas(levels)[:-1].flip(0).to(x0)
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


def consistency_training(
    student: Denoise,
    teacher: Denoise | None,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
    d: Metric = square,
) -> Tensor:
    """d(f(x0 + t n), f(x0 + r n)): without a teacher, the same noise at two
    neighbouring levels of a grid that refines.

    The grid grows from 2 to 150 levels as the root of the progress. The lower answer is
    the student's own, held fixed; the original's is a moving average of it, and it
    starts from scratch. student, teacher, x0, noise, u, progress as the module says.
    Source: Song et al. 2023, algorithm 3, appendix C.
    """
    count = 1 + int((progress * (151**2 - 2**2) + 2**2) ** 0.5)
    grid = noise_of(student).sigmas(max(count, 3))[:-1].flip(0).to(x0)
    i = (u * (len(grid) - 1)).long().clamp(max=len(grid) - 2)
    return d(*_neighbours(student, x0, noise, grid[i + 1], grid[i]), progress).mean()


def improved_consistency_training(
    student: Denoise,
    teacher: Denoise | None,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
) -> Tensor:
    """Consistency training with a pseudo-Huber distance, weights 1 / (t - r), lognormal
    levels, a grid that doubles.

    From 10 intervals to 1,280 in eight stages; published from scratch. student,
    teacher, x0, noise, u, progress as the module says.
    Source: Song & Dhariwal 2023, table 1.
    """
    intervals = 10 * 2 ** min(int(8 * progress), 7)
    grid = noise_of(student).sigmas(intervals + 1)[:-1].flip(0).to(x0)
    # a lognormal's distribution function, mean -1.1, deviation 2
    edges = torch.erf((grid.log() + 1.1) / (2 * 2**0.5))
    i = (
        torch.searchsorted(edges, edges[0] + u * (edges[-1] - edges[0]), right=True) - 1
    ).clamp(0, len(grid) - 2)
    t = grid[i + 1]
    r = grid[i]
    return (pseudo_huber(*_neighbours(student, x0, noise, t, r)) / (t - r)).mean()


def easy_consistency(
    student: Denoise,
    teacher: Denoise | None,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"],
    progress: float,
    q: float = 2.0,
    stages: int = 8,
) -> Tensor:
    """Consistency tuning from a diffusion model: |f(x0 + t n) - f(x0 + r n)| / (t - r),
    r drawn towards t in stages.

    ln t ~ N(-1.1, 2^2), r = t (1 - q^{-(stage + 1)} (1 + 8 / (1 + e^t))), not below 0,
    where the answer is x0. In the first stage r is 0 for t <= ln 7. The norm is not
    squared, so the answer even there is no mean. student, teacher, x0, noise, u,
    progress as the module says.
    Source: Geng et al. 2024 (ECM), eq 13 and appendix.
    """
    if not (q > 1 and 1 <= stages <= 1000):
        raise ValueError(f"q = {q}, stages = {stages}: above 1, and 1 to 1000")
    levels = noise_of(student)
    t = (
        (torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6)).float() * 2 - 1.1)
        .exp()
        .clamp(levels.sigma_min, levels.sigma_max)
    )
    gap = q ** -(min(int(stages * progress), stages - 1) + 1) * (
        1 + 8 * torch.sigmoid(-t)
    )
    r = (t * (1 - gap)).clamp(min=0)
    upper = student(x0 + expand(t, x0) * noise, t)
    with torch.no_grad():
        below = student(x0 + expand(r, x0) * noise, r.clamp(min=levels.sigma_min))
        below = torch.where(expand(r, x0) > levels.sigma_min, below, x0)
    return ((upper - below).flatten(1).norm(dim=1) / (t - r)).mean()


def _neighbours(
    student: Denoise, x0: Tensor, noise: Tensor, t: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    """The student's jumps from two levels of one noise, the lower one held fixed."""
    upper = jump(student, x0 + expand(t, x0) * noise, t)
    with torch.no_grad():
        below = jump(student, x0 + expand(r, x0) * noise, r)
    return upper, below
