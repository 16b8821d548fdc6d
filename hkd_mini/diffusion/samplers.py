"""Samplers: plain functions of a denoiser and a falling list of noise levels.

Each returns the whole path, since paths are what a Koopman model learns from. Euler is
DDIM, Heun is EDM's second-order method, DDPM is the stochastic ancestor of both.
All take a `denoiser` (x, sigma, labels) -> guess and class indices `labels` (batch,),
or None; a ValueError for one of classes without them. Chapter: 8 "Diffusion as a flow".
Source: EDM algorithm 1; Song et al. 2021 (DDIM); Ho et al. 2020 (DDPM).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .schedule import Denoise


class Path(NamedTuple):
    """A sampled path: `sigmas` (K,) falling, `x` (K, batch, *shape) with x[0] the noise
    and x[-1] the picture, `nfe` evaluations, `guesses` (K - 1, batch, *shape) with
    guesses[k] = D(x[k]; sigmas[k]), which cost none of their own; None where the
    sampler does not say.
    """

    sigmas: Tensor
    x: Tensor
    nfe: int
    guesses: Tensor | None = None

    def every(self, k: int) -> "Path":
        """The same paths at every k-th point, both ends included. Raises ValueError if
        k is below 1 or does not divide K - 1.
        """
        if k < 1 or (len(self.x) - 1) % k:
            raise ValueError(
                f"every({k}) of {len(self.x)} points: wanted a divisor of "
                f"{len(self.x) - 1}, so that both ends stay"
            )
        guesses = None if self.guesses is None else self.guesses[::k]
        return Path(self.sigmas[::k], self.x[::k], self.nfe, guesses)


def classes_told(model: object, labels: Tensor | None) -> None:
    """ValueError for a `model` of classes that is asked for samples without `labels`:
    what it made would be of none, a blend. Of no class on purpose are labels -1, and
    where the network was trained without classes too, labels may be None.
    """
    config = getattr(model, "config", None)
    network = getattr(config, "network", config)
    classes = getattr(network, "labels", 0)
    if classes and labels is None and not getattr(network, "no_class", False):
        raise ValueError(
            f"no labels for a model of {classes} classes: give one for each sample, "
            f"0 to {classes - 1}, or -1 for a sample of no class"
        )


def _start(x: Tensor, sigmas: Tensor, denoiser: Denoise, labels: Tensor | None) -> None:
    classes_told(denoiser, labels)
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

    x_T (batch, *shape) already at level sigmas[0]; denoiser, labels as the module says.
    One evaluation a step. ValueError for levels that do not fall.
    Source: Song et al. 2021 (DDIM), in EDM's letters.
    """
    _start(x_T, sigmas, denoiser, labels)
    path = [x_T]
    guesses = []
    for t, s in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        guesses.append(denoiser(path[-1], t, labels))
        path.append(guesses[-1] + s / t * (path[-1] - guesses[-1]))
    return Path(sigmas, torch.stack(path), len(guesses), torch.stack(guesses))


@torch.no_grad()
def heun(
    denoiser: Denoise, x_T: Tensor, sigmas: Tensor, labels: Tensor | None = None
) -> Path:
    """EDM's deterministic sampler: an Euler step, then the mean of the slopes at both
    ends, except into sigma = 0.

    x_T (batch, *shape) already at level sigmas[0]; denoiser, labels as the module says.
    With karras_sigmas(N), 2N - 1 evaluations; order 2. ValueError for levels that do
    not fall.
    Source: EDM algorithm 1, which is EDM algorithm 2 without fresh noise.
    Source: HKD eq 1, in EDM's form dx/dsigma = (x - D) / sigma.
    """
    _start(x_T, sigmas, denoiser, labels)
    path = [x_T]
    guesses = []
    nfe = 0
    for t, s in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = path[-1]
        guesses.append(denoiser(x, t, labels))
        slope = (x - guesses[-1]) / t
        y = x + (s - t) * slope
        nfe = nfe + 1
        if s > 0:
            y = x + (s - t) * (slope + (y - denoiser(y, s, labels)) / s) / 2
            nfe = nfe + 1
        path.append(y)
    return Path(sigmas, torch.stack(path), nfe, torch.stack(guesses))


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
    x_T (batch, *shape) already at level sigmas[0]; `generator` draws the noise n;
    denoiser, labels as the module says. ValueError for levels that do not fall.
    Source: DDPM eq 7 (Ho et al. 2020), in EDM's letters.
    """
    _start(x_T, sigmas, denoiser, labels)
    path = [x_T]
    guesses = []
    for t, s in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        guess = denoiser(path[-1], t, labels)
        guesses.append(guess)
        r = (s / t) ** 2
        noise = torch.randn(x_T.shape, generator=generator, dtype=x_T.dtype).to(
            x_T.device
        )
        path.append(r * path[-1] + (1 - r) * guess + s * (1 - r) ** 0.5 * noise)
    return Path(sigmas, torch.stack(path), len(guesses), torch.stack(guesses))
