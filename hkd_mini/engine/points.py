"""Points in the plane: distributions that a diffusion model can learn in seconds.

Every set has, in closed form, mean 0 and a mean square of sigma_data^2 over its
coordinates, as pictures have nearly: one preconditioning serves both. Each is a
function of (n, generator) and returns (n, 2) float32; `POINT_SETS` lists them by name.
Chapter: 7 "One step in the plane".
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, polar, view_as_real

DEVIATION = 0.5  # sigma_data of EDM (Karras et al. 2022, table 1)


def checkerboard(n: int, generator: Generator) -> Float[Tensor, "n 2"]:
    """n points by `generator`, uniform on the cells with even i + j of a 4x4 board
    [-a, a]^2; a = sqrt(3) DEVIATION.
    """
    i = torch.randint(4, (n,), generator=generator)
    row = torch.randint(2, (n,), generator=generator)
    corner = torch.stack([i, 2 * row + i % 2], dim=1)
    return (
        ((corner + torch.rand(n, 2, generator=generator)) / 2 - 1)
        * math.sqrt(3)
        * DEVIATION
    )


def two_moons(
    n: int, generator: Generator, noise: float = 0.05
) -> Float[Tensor, "n 2"]:
    """n points by `generator`: (cos a, sin a) and its mirror (1 - cos a, 1/2 - sin a),
    0 < a < pi, and noise; centred and scaled.
    """
    arc = polar(torch.ones(n), math.pi * torch.rand(n, generator=generator)) - (
        0.5 + 0.25j
    )
    x = view_as_real(arc * (1 - 2 * torch.randint(2, (n,), generator=generator)))
    spread = (3 / 4 + 9 / 16 - 1 / math.pi) / 2 + noise**2  # mean of the two variances
    return (
        (x + noise * torch.randn(n, 2, generator=generator))
        * DEVIATION
        / math.sqrt(spread)
    )


def pinwheel(
    n: int, generator: Generator, arms: int = 5, twist: float = 0.25
) -> Float[Tensor, "n 2"]:
    """n points by `generator`, Gaussian about (1, 0), deviations .3 and .1, turned by
    the angle of one of the `arms` + twist exp(x); scaled.
    """
    x = 1 + 0.3 * torch.randn(n, generator=generator)
    y = 0.1 * torch.randn(n, generator=generator)
    turn = (
        2 * math.pi / arms * torch.randint(arms, (n,), generator=generator)
        + twist * x.exp()
    )
    spread = (1 + 0.3**2 + 0.1**2) / 2  # a rotation keeps |x|^2
    return (
        view_as_real(torch.complex(x, y) * polar(torch.ones(n), turn))
        * DEVIATION
        / math.sqrt(spread)
    )


def spiral(
    n: int, generator: Generator, turns: float = 1.5, noise: float = 0.02
) -> Float[Tensor, "n 2"]:
    """n points by `generator`: radius r at angle 2 pi turns r, r^2 uniform in [0, 1],
    its mirror through 0, and noise; scaled.
    """
    r = torch.rand(n, generator=generator).sqrt()
    arm = torch.randint(2, (n,), generator=generator)
    x = view_as_real(polar(r, math.pi * (2 * turns * r + arm)))
    return (
        (x + noise * torch.randn(n, 2, generator=generator))
        * DEVIATION
        / math.sqrt(1 / 4 + noise**2)
    )


def gaussian_mixture(
    n: int,
    generator: Generator,
    means: Float[Tensor, "k 2"] | None = None,
    deviation: float = 0.05,
) -> Float[Tensor, "n 2"]:
    """n points by `generator`, of equal Gaussians of `deviation` about `means` as they
    are; default: 8 on the circle that makes the whole DEVIATION.
    """
    if means is None:
        # radius^2 / 2 + deviation^2 = DEVIATION^2
        radius = math.sqrt(2 * (DEVIATION**2 - deviation**2))
        means = view_as_real(
            polar(torch.full((8,), radius), torch.arange(8) * math.pi / 4)
        )
    centres = means[torch.randint(len(means), (n,), generator=generator)]
    return centres + deviation * torch.randn(n, 2, generator=generator)


POINT_SETS = {
    f.__name__: f for f in (checkerboard, two_moons, pinwheel, spiral, gaussian_mixture)
}
