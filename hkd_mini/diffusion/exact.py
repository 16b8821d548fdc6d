"""Two denoisers that are known exactly, of a finite point set and of a Gaussian: what
theory is tested on.

Chapters: 7 "One step in the plane", 8 "Diffusion as a flow".
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .schedule import Denoise, expand


def exact_denoiser(points: Float[Tensor, "n ..."]) -> Denoise:
    """The best denoiser of a finite set: D(x; sigma) = sum_i softmax_i(-|x - y_i|^2 / 2
    sigma^2) y_i, no training.

    points (n, *shape); works in float64 whatever x is.
    Source: EDM appendix B.3.
    """
    flat = points.double().flatten(1)

    def denoise(
        x: Tensor, sigma: float | Tensor, labels: Tensor | None = None
    ) -> Tensor:
        z = x.double().flatten(1)
        level = expand(sigma, x.double().flatten(1))
        weights = torch.softmax(-(torch.cdist(z, flat) ** 2) / (2 * level**2), dim=1)
        return (weights @ flat).reshape(x.shape).to(x.dtype)

    return denoise


def gaussian_denoiser(
    mean: Float[Tensor, "dim"], cov: Float[Tensor, "dim dim"]
) -> Denoise:
    """The best denoiser of N(mean, cov): D(x; sigma) = mean + cov (cov + sigma^2 I)^-1
    (x - mean). x is (batch, dim).
    """
    lam, basis = torch.linalg.eigh(cov.double())
    mean = mean.double()

    def denoise(
        x: Tensor, sigma: float | Tensor, labels: Tensor | None = None
    ) -> Tensor:
        level = expand(sigma, x.double())
        y = (x.double() - mean) @ basis * (lam / (lam + level**2))
        return (mean + y @ basis.T).to(x.dtype)

    return denoise
