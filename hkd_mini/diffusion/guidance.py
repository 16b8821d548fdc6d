"""Guidance: away from a weaker guess, at the price of a second evaluation.

Two denoisers look at the same point, a good one and a weaker one, and the guess is
moved from the weaker one's through the good one's and on. Where the weaker one is the
same network told no class, this is classifier-free guidance; where it is a smaller or
less trained network, autoguidance. The levels at which it is done are an interval,
since classifier-free guidance is reported to help in the middle of the path alone.
Chapter: 8 "Diffusion as a flow".
Source: Ho & Salimans 2022; Karras et al. 2024; Kynkaanniemi et al. 2024 (interval).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .schedule import Denoise, Noise, noise_of


class Guided(nn.Module):
    """A denoiser D_w = D_weak + weight (D - D_weak) at levels low < sigma <= high of
    `interval`, and D elsewhere, where it costs one evaluation.

    `denoiser` and `weaker` are denoisers (x, sigma, labels) -> guess; without `weaker`
    it is `denoiser` told no class. A weaker network that has no classes is told none.
    weight 1 changes nothing, 0 is the weaker one. Goes wherever a denoiser goes. Raises
    ValueError for a weight that is not finite, or an interval that does not rise.
    Source: Ho & Salimans 2022, eq 6; Karras et al. 2024 (autoguidance).
    """

    def __init__(
        self,
        denoiser: Denoise,
        weight: float,
        weaker: Denoise | None = None,
        interval: tuple[float, float] = (0.0, math.inf),
    ):
        super().__init__()
        if not math.isfinite(weight):
            raise ValueError(f"weight = {weight}: a number")
        if not interval[0] < interval[1]:
            raise ValueError(f"interval {interval}: wanted low < high")
        self.denoiser = denoiser
        self.weaker = weaker
        self.weight = weight
        self.interval = interval
        # of the state, so that paths of two guidances never mix
        self.register_buffer("guidance", torch.tensor([weight, *interval]))

    @property
    def noise(self) -> Noise:
        """The noise levels of the good denoiser."""
        return noise_of(self.denoiser)

    @property
    def config(self):
        """The network of the good denoiser, where it says."""
        return getattr(self.denoiser, "config", None)

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        sigma: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        guess = self.denoiser(x, sigma, labels)
        low, high = self.interval
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        inside = (level > low) & (level <= high)
        if self.weight == 1 or not inside.any():
            return guess
        weak = self._weak(x, sigma, labels)
        inside = inside.reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(inside, weak + self.weight * (guess - weak), guess)

    def _weak(self, x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        if self.weaker is None:
            return self.denoiser(x, sigma, None)
        knows = getattr(getattr(self.weaker, "config", None), "labels", True)
        return self.weaker(x, sigma, labels if knows else None)
