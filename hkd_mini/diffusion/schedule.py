"""Noise levels, and the clocks that turn them into time.

A diffusion model knows one coordinate along a path: the noise level sigma, from
sigma_max (noise) down to sigma_min (picture). Where a sampler puts its steps is a
schedule: Karras's spaces them evenly in sigma^(1/rho). How densely training visits the
levels is a density: lognormal.

A Koopman generator needs one thing more, a *time*, since dz/dt = A z is linear only in
the clock that you chose. The choice is made here, once, and it is invertible:
`CLOCKS[name].time(sigma)` and `.sigma(t)`; `CLOCK_OF[name](noise)`
for other levels than EDM's. In every clock time grows with noise: T =
time(sigma_max) is pure noise and eps = time(sigma_min) is the picture. Chapters: 6
"Clocks", 8 "Diffusion as a flow".
Source: EDM table 1 (Karras et al. 2022).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Denoise = Callable[..., Tensor]


@dataclass(frozen=True)
class Noise:
    """The noise levels that a model knows, saved with its weights. The defaults are
    EDM's.

    Raises ValueError for levels that are not 0 < sigma_min < sigma_max, a rho or
    sigma_data that is not above 0, and whatever is not finite.
    Source: EDM table 1.
    """

    sigma_min: float = 0.002
    """Last noise level: the picture."""
    sigma_max: float = 80.0
    """First noise level: pure noise."""
    rho: float = 7.0
    """How steps and the clock rho are spread: evenly in sigma^(1/rho)."""
    sigma_data: float = 0.5
    """Deviation of the data."""

    def __post_init__(self):
        _check_ends(self.sigma_min, self.sigma_max)
        for name in ("rho", "sigma_data"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: above 0, and finite")

    def sigmas(self, n: int) -> Float[Tensor, "n_plus_1"]:
        """`karras_sigmas` of n levels between these ends."""
        return karras_sigmas(n, self.sigma_min, self.sigma_max, self.rho)


def _check_ends(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"need 0 < sigma_min < sigma_max, both finite, got {sigma_min} and "
            f"{sigma_max}"
        )


EDM = Noise()
SIGMA_MIN = EDM.sigma_min
SIGMA_MAX = EDM.sigma_max
RHO = EDM.rho
SIGMA_DATA = EDM.sigma_data


def noise_of(model: object) -> Noise:
    """The noise levels of a model; EDM's for a function that does not say."""
    return getattr(model, "noise", EDM)


def karras_sigmas(
    n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> Float[Tensor, "n_plus_1"]:
    """The n noise levels of EDM's sampler, and the 0 that it steps to last.

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,
    i = 0..n-1;  sigma_n = 0.

    Returns n + 1 float64 levels, falling from sigma_max. Heun's method on them costs 2n
    - 1 evaluations. Raises ValueError for n < 2 or levels that are not 0 < sigma_min <
    sigma_max.
    Source: EDM eq 5.
    """
    if n < 2:
        raise ValueError(f"n = {n} noise levels: need at least 2")
    _check_ends(sigma_min, sigma_max)
    if not 0 < rho < math.inf:
        raise ValueError(f"rho = {rho}: above 0, and finite")
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
    sigma_data: float = SIGMA_DATA,
) -> Float[Tensor, "n"]:
    """Draw n noise levels that a denoiser trains on, by `generator` and on its device:
    ln sigma ~ N(mean, std^2), moved with the data's deviation, since what a level hides
    depends on it.
    Source: EDM table 1, where sigma_data is 0.5.

    Raises ValueError for a std below 0, or a sigma_data that is not above 0.
    """
    if std < 0 or not sigma_data > 0:
        raise ValueError(f"std = {std}, sigma_data = {sigma_data}: 0 and above 0")
    mean = mean + math.log(sigma_data / SIGMA_DATA)
    device = None if generator is None else generator.device
    normal = torch.randn(n, generator=generator, device=device)
    return (normal * std + mean).exp()


class Clock(NamedTuple):
    """A time t for every noise level sigma, and back; `time` rises with sigma.

    Both functions take and return floats or tensors of any shape. The model's sigma_max
    becomes `T`, its sigma_min becomes `eps`.
    """

    time: Callable
    sigma: Callable
    noise: Noise = EDM

    @property
    def T(self) -> float:
        """The time of pure noise, sigma_max."""
        return float(self.time(self.noise.sigma_max))

    @property
    def eps(self) -> float:
        """The time of the picture, sigma_min."""
        return float(self.time(self.noise.sigma_min))


def rho_clock(noise: Noise = EDM) -> Clock:
    """t in [0, 1], uniform along EDM's schedule between the ends of `noise`: our
    reading of the HKD paper, and the default.
    """
    lo = noise.sigma_min ** (1 / noise.rho)
    hi = noise.sigma_max ** (1 / noise.rho)
    return Clock(
        lambda sigma: (sigma ** (1 / noise.rho) - lo) / (hi - lo),
        lambda t: (lo + t * (hi - lo)) ** noise.rho,
        noise,
    )


def edm_clock(noise: Noise = EDM) -> Clock:
    """tau = 1/2 log(s^2 + sigma^2), s = noise.sigma_data: the clock in which the
    probability-flow ODE of a Gaussian of deviation s is linear with rate exactly 1.
    """

    def time(sigma: float | Tensor) -> float | Tensor:
        squared = noise.sigma_data**2 + sigma**2
        return 0.5 * (
            squared.log() if isinstance(squared, Tensor) else math.log(squared)
        )

    def sigma(t: float | Tensor) -> float | Tensor:
        if isinstance(t, Tensor):
            return ((2 * t).exp() - noise.sigma_data**2).sqrt()
        return math.sqrt(math.exp(2 * t) - noise.sigma_data**2)

    return Clock(time, sigma, noise)


def log_clock(noise: Noise = EDM) -> Clock:
    """ln sigma, in which the noise of a path, sigma n, grows with rate exactly 1 and
    its picture stands still.
    """
    return Clock(
        lambda sigma: sigma.log() if isinstance(sigma, Tensor) else math.log(sigma),
        lambda t: t.exp() if isinstance(t, Tensor) else math.exp(t),
        noise,
    )


def sigma_clock(noise: Noise = EDM) -> Clock:
    """The noise level itself."""
    return Clock(lambda sigma: sigma, lambda t: t, noise)


CLOCK_OF: dict[str, Callable[[Noise], Clock]] = {
    "rho": rho_clock,
    "edm": edm_clock,
    "log": log_clock,
    "sigma": sigma_clock,
}
# the clocks of EDM's levels
CLOCKS: dict[str, Clock] = {name: make(EDM) for name, make in CLOCK_OF.items()}


def expand(sigma: float | Tensor, x: Tensor) -> Tensor:
    """sigma, a number or one per sample, shaped to multiply x: (batch or 1, 1, ...), in
    x's dtype and device.

    Raises ValueError for a number that is not above 0: at level 0 nothing is left to
    denoise.
    """
    if not isinstance(sigma, Tensor) and sigma <= 0:
        raise ValueError(f"sigma = {sigma}: a noise level is above 0")
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return sigma.reshape(-1, *[1] * (x.ndim - 1))
