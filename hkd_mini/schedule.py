"""Noise levels, and the clocks that turn them into time.

A diffusion model knows one coordinate along a path: the noise level sigma, from
sigma_max (noise) down to sigma_min (picture). Where a sampler puts its steps is a
schedule: Karras's spaces them evenly in sigma^(1/rho). How densely training visits the
levels is a density: lognormal.

A Koopman generator needs one thing more, a *time*, since dz/dt = A z is linear only in
the clock that you chose. The choice is made here, once, and it is invertible:
`CLOCKS[name].time(sigma)` and `.sigma(t)`. In every clock time grows with noise: T =
time(sigma_max) is pure noise and eps = time(sigma_min) is the picture. Chapters: 6
"Clocks", 8 "Diffusion as a flow".
Source: Karras et al. 2022 (EDM), table 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
RHO = 7.0
SIGMA_DATA = 0.5


def karras_sigmas(
    n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> Float[Tensor, "n_plus_1"]:
    """The n noise levels of EDM's sampler, and the 0 that it steps to last.

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,
    i = 0..n-1;  sigma_n = 0.

    Returns n + 1 float64 levels, falling from sigma_max. Heun's method on them costs 2n
    - 1 evaluations. Raises ValueError for n < 2 or levels that are not 0 < sigma_min <
    sigma_max.
    Source: EDM, eq 5.
    """
    if n < 2:
        raise ValueError(f"n = {n} noise levels: need at least 2")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    lo = sigma_min ** (1 / rho)
    hi = sigma_max ** (1 / rho)
    levels = (hi + ramp * (lo - hi)) ** rho  # EDM eq 5
    levels[0] = sigma_max  # the ends exactly, not to rounding
    levels[-1] = sigma_min
    return torch.cat([levels, levels.new_zeros(1)])


def lognormal_sigmas(
    n: int,
    generator: torch.Generator | None = None,
    mean: float = -1.2,
    std: float = 1.2,
) -> Float[Tensor, "n"]:
    """Draw the noise levels that a denoiser trains on: ln sigma ~ N(mean, std^2).
    Source: EDM, table 1.
    """
    return (torch.randn(n, generator=generator) * std + mean).exp()


class Clock(NamedTuple):
    """A time t for every noise level sigma, and back; `time` rises with sigma.

    Both functions take and return floats or tensors of any shape. sigma_max becomes
    `T`, sigma_min becomes `eps`.
    """

    time: Callable
    sigma: Callable

    @property
    def T(self) -> float:
        """The time of pure noise, sigma_max."""
        return float(self.time(SIGMA_MAX))

    @property
    def eps(self) -> float:
        """The time of the picture, sigma_min."""
        return float(self.time(SIGMA_MIN))


_LO = SIGMA_MIN ** (1 / RHO)
_HI = SIGMA_MAX ** (1 / RHO)


def _edm_time(sigma):
    """1/2 log(s^2 + sigma^2)."""
    squared = SIGMA_DATA**2 + sigma**2
    return 0.5 * (squared.log() if isinstance(squared, Tensor) else math.log(squared))


def _edm_sigma(t):
    """sqrt(e^(2t) - s^2), the inverse."""
    if isinstance(t, Tensor):
        return ((2 * t).exp() - SIGMA_DATA**2).sqrt()
    return math.sqrt(math.exp(2 * t) - SIGMA_DATA**2)


CLOCKS: dict[str, Clock] = {
    # t in [0, 1], uniform along EDM's schedule: our reading of the HKD paper, and the
    # default
    "rho": Clock(
        lambda sigma: (sigma ** (1 / RHO) - _LO) / (_HI - _LO),
        lambda t: (_LO + t * (_HI - _LO)) ** RHO,
    ),
    # the clock in which the probability-flow ODE of a Gaussian of deviation s is linear
    # with rate exactly 1
    "edm": Clock(_edm_time, _edm_sigma),
    # in which the noise of a path, sigma n, grows with rate exactly 1 and its picture
    # stands still
    "log": Clock(
        lambda sigma: sigma.log() if isinstance(sigma, Tensor) else math.log(sigma),
        lambda t: t.exp() if isinstance(t, Tensor) else math.exp(t),
    ),
    # the noise level itself
    "sigma": Clock(lambda sigma: sigma, lambda t: t),
}
