"""The teacher: a denoiser, and the ordinary differential equation that it turns noise
into pictures with.

A denoiser D(x; sigma) guesses the clean picture behind x = x0 + sigma n. Along
dx/dsigma = (x - D(x; sigma)) / sigma, the probability-flow ODE, noise at sigma_max
flows to data at 0, deterministically: a flow map, so a Koopman operator. Two denoisers
are known exactly (of a finite point set, of a Gaussian), which lets theory be tested;
the third is a network in EDM's preconditioning. A sampler is a plain function of a
denoiser and a list of levels; it returns the whole path. Chapters: 7 "One step in the
plane", 8 "Diffusion as a flow".
Source: Karras et al. 2022 (EDM), table 1, algorithm 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .networks import MLPConfig, Network, UNetConfig
from .schedule import SIGMA_DATA
from .weights import Saved

Denoise = Callable[..., Tensor]


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


class Denoiser(nn.Module, Saved):
    """A network in EDM's preconditioning: D(x; sigma) = c_skip x + c_out F(c_in x;
    c_noise).

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2), c_in = 1 /
    sqrt(sigma^2 + s^2), c_noise = ln(sigma) / 4, with s = `SIGMA_DATA` the data's
    deviation. x (batch, *shape), sigma a number or (batch,), labels (batch,) class
    indices or None. Returns x's shape in x's dtype.
    Source: EDM, table 1.
    """

    config_types = (UNetConfig, MLPConfig)

    def __init__(self, config: UNetConfig | MLPConfig):
        super().__init__()
        self.config = config
        self.net = Network(config)

    def widened(self, config: UNetConfig | MLPConfig) -> "Denoiser":
        """The same denoiser under `config`, which may differ from this one's in its
        number of classes and its dropout.

        Classes get weights of 0, so that until it is trained the new network ignores
        them. Raises ValueError for a network of another shape.
        """
        new = Denoiser(config)
        refusal = f"a network of {self.config} cannot start one of {config}"
        if self.config.labels not in (0, config.labels):
            raise ValueError(refusal)
        try:
            gaps = new.load_state_dict(self.state_dict(), strict=False)
        except RuntimeError as error:
            raise ValueError(refusal) from error
        if gaps.unexpected_keys or any(
            ".map_label." not in k for k in gaps.missing_keys
        ):
            raise ValueError(refusal)
        for name in gaps.missing_keys:
            nn.init.zeros_(new.get_parameter(name))
        return new

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        sigma: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        s = SIGMA_DATA
        level = expand(sigma, x)
        total = (level**2 + s**2).sqrt()
        c_noise = (level.flatten().log() / 4).expand(len(x)).float()
        out = self.net(
            (x / total).float(), c_noise, one_hot(labels, self.config.labels)
        )
        return s**2 / total**2 * x + level * s / total * out.to(x.dtype)


def one_hot(labels: Tensor | None, classes: int) -> Tensor | None:
    """Class indices as one-hot floats, -1 (no class) as zeros; None for None or for a
    network without classes.

    Raises ValueError for labels given to an unconditional network, or outside
    -1..classes - 1.
    """
    if labels is None:
        return None
    if not classes:
        raise ValueError(
            "labels were given, but this network has no classes (labels = 0 in its "
            "config)"
        )
    if labels.min() < -1 or labels.max() >= classes:
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())}: this network "
            f"knows 0 to {classes - 1}"
        )
    return F.one_hot(labels.long() + 1, classes + 1)[:, 1:].float()


def edm_loss(
    denoiser: Denoise,
    x0: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """Weighted squared error of the guess, a mean over batch and pixels.

    E[ (sigma^2 + s^2) / (sigma s)^2 |D(x0 + sigma n; sigma) - x0|^2 ]: the weight makes
    every level start at about 1. x0, noise (batch, *shape), sigma (batch,).
    Source: EDM, eq 2 and table 1.
    """
    level = expand(sigma, x0)
    weight = (level**2 + SIGMA_DATA**2) / (level * SIGMA_DATA) ** 2
    return (weight * (denoiser(x0 + level * noise, sigma, labels) - x0) ** 2).mean()


def exact_denoiser(points: Float[Tensor, "n ..."]) -> Denoise:
    """The best denoiser of a finite set: D(x; sigma) = sum_i softmax_i(-|x - y_i|^2 / 2
    sigma^2) y_i, no training.

    points (n, *shape); works in float64 whatever x is. Source: EDM appendix B.3.
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


class Path(NamedTuple):
    """A sampled path: `sigmas` (K,) falling, `x` (K, batch, *shape) with x[0] the noise
    and x[-1] the picture, `nfe` evaluations.
    """

    sigmas: Tensor
    x: Tensor
    nfe: int


def _start(x: Tensor, sigmas: Tensor) -> None:
    if sigmas.ndim != 1 or len(sigmas) < 2 or (sigmas.diff() >= 0).any():
        raise ValueError(
            f"sigmas must be a falling list of at least 2 levels, got {sigmas.tolist()}"
        )
    if len(x) == 0:
        raise ValueError("x_T has a batch of 0: give at least one noise")


@torch.no_grad()
def euler(
    denoiser: Denoise, x_T: Tensor, sigmas: Tensor, labels: Tensor | None = None
) -> Path:
    """Euler's method on the probability-flow ODE, which is DDIM: x_s = D + (s / t) (x_t
    - D).

    x_T (batch, *shape) already at level sigmas[0]; one evaluation a step.
    Source: Song et al. 2021 (DDIM) in EDM's letters.
    """
    _start(x_T, sigmas)
    path = [x_T]
    for t, s in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        guess = denoiser(path[-1], t, labels)
        path.append(guess + s / t * (path[-1] - guess))
    return Path(sigmas, torch.stack(path), len(sigmas) - 1)


@torch.no_grad()
def heun(
    denoiser: Denoise, x_T: Tensor, sigmas: Tensor, labels: Tensor | None = None
) -> Path:
    """EDM's deterministic sampler: an Euler step, then the mean of the slopes at both
    ends, except into sigma = 0.

    x_T (batch, *shape) already at level sigmas[0]. With karras_sigmas(N), 2N - 1
    evaluations; order 2.
    Source: EDM, algorithm 1.
    """
    _start(x_T, sigmas)
    path = [x_T]
    nfe = 0
    for t, s in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = path[-1]
        slope = (x - denoiser(x, t, labels)) / t
        y = x + (s - t) * slope
        nfe = nfe + 1
        if s > 0:
            y = x + (s - t) * (slope + (y - denoiser(y, s, labels)) / s) / 2
            nfe = nfe + 1
        path.append(y)
    return Path(sigmas, torch.stack(path), nfe)


@torch.no_grad()
def ddpm(
    denoiser: Denoise,
    x_T: Tensor,
    sigmas: Tensor,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Path:
    """Ancestral (stochastic) sampling: each step draws from the Gaussian posterior
    q(x_s | x_t, x0 = D).

    x_s = (s/t)^2 x_t + (1 - (s/t)^2) D + s sqrt(1 - (s/t)^2) n. One evaluation a step.
    Source: Ho et al. 2020, eq 7, in EDM's letters.
    """
    _start(x_T, sigmas)
    path = [x_T]
    for t, s in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        guess = denoiser(path[-1], t, labels)
        r = (s / t) ** 2
        noise = torch.randn(x_T.shape, generator=generator, dtype=x_T.dtype).to(
            x_T.device
        )
        path.append(r * path[-1] + (1 - r) * guess + s * (1 - r) ** 0.5 * noise)
    return Path(sigmas, torch.stack(path), len(sigmas) - 1)
