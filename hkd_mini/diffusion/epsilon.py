"""Networks that guess the noise of a discrete schedule, such as DDPM's and those of
diffusers, as teachers.

Chapter: 8 "Diffusion as a flow".
Source: Ho et al. 2020 (DDPM).
"""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .schedule import Noise, expand


class FromEpsilon(nn.Module):
    """A denoiser D(x; sigma) from a network that guesses the noise, by `from_epsilon`.

    forward(x (batch, *shape), sigma a number or (batch,), labels (batch,) or None) ->
    x's shape and dtype.
    """

    def __init__(self, eps_model: Callable, sigmas: np.ndarray):
        super().__init__()
        self.eps_model = eps_model
        self.sigmas = sigmas
        self.noise = Noise(float(sigmas[0]), float(sigmas[-1]))

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        sigma: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        level = expand(sigma, x.double())
        least, *_, most = self.sigmas
        if not ((level > 0) & (level <= most * (1 + 1e-9))).all():
            raise ValueError(
                f"sigma = {float(level.max()):.6g}: this network knows levels up to "
                f"{most:.6g}; start there"
            )
        level = level.clamp(least, most)
        place = np.interp(
            level.flatten().log().cpu(),
            np.log(self.sigmas),
            np.arange(len(self.sigmas)),
        )
        dtype = next((p.dtype for p in self.parameters()), x.dtype)
        t = torch.as_tensor(
            place, dtype=torch.promote_types(dtype, torch.float32), device=x.device
        ).expand(len(x))
        given = {} if labels is None else {"class_labels": labels}
        # sigma multiplies whatever the guess is rounded by
        with torch.autocast(x.device.type, enabled=False):
            guess = self.eps_model((x / (1 + level**2).sqrt()).to(dtype), t, **given)
        eps = guess if isinstance(guess, Tensor) else guess.sample
        if eps.shape != x.shape:
            raise ValueError(
                f"the network gave {tuple(eps.shape)} for x of {tuple(x.shape)}: "
                "wanted the noise alone"
            )
        return (x - level * eps).to(x.dtype)


def from_epsilon(
    eps_model: Callable, alphas_cumprod: Sequence[float] | Float[Tensor, "steps"]
) -> FromEpsilon:
    """The denoiser behind a network that guesses the noise of a discrete,
    variance-preserving schedule.

    D(x; sigma) = x - sigma eps(x / sqrt(1 + sigma^2), t(sigma)),  sigma_i = sqrt((1 -
    abar_i) / abar_i).

    eps_model(x, t, class_labels=) takes x (batch, *shape) and t (batch,), in steps from
    0; it returns the noise, or an object with the noise as `sample`, as diffusers'
    UNet2DModel does. alphas_cumprod: abar_i, falling within (0, 1). Between steps t is
    interpolated in log sigma: rounded to a step, the level would be wrong by a fifth
    near the picture, and D would jump, where Heun's method loses its order. Below
    sigma_0 (0.01 in DDPM) D is that at sigma_0, off by about as much; above the last
    level D raises ValueError, since there the guess means nothing. The paths of such a
    teacher can be distilled, but its tensors cannot start an HKD. Raises ValueError for
    another schedule.
    Source: DDPM eq 4; EDM section 2.
    """
    abar = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
    if (
        abar.ndim != 1
        or len(abar) < 2
        or not ((abar > 0) & (abar < 1)).all()
        or not (abar.diff() < 0).all()
    ):
        raise ValueError(
            f"alphas_cumprod of shape {tuple(abar.shape)}: wanted a falling list "
            "within (0, 1)"
        )
    return FromEpsilon(eps_model, ((1 - abar) / abar).sqrt().numpy())


def diffusers_teacher(
    source: str | os.PathLike | nn.Module,
    alphas_cumprod: Sequence[float] | Float[Tensor, "steps"] | None = None,
) -> FromEpsilon:
    """A denoiser from diffusers: `source` is a folder such as a copy of
    google/ddpm-cifar10-32, or a UNet2DModel, which needs its `alphas_cumprod`.

    A folder holds the network's config.json and safetensors, beside
    scheduler_config.json or in unet/ and scheduler/; pickled weights are refused.
    Raises ImportError without diffusers, FileNotFoundError, and ValueError for networks
    that guess something else than the noise.
    """
    if isinstance(source, nn.Module):
        if alphas_cumprod is None:
            raise ValueError(
                "a model without its schedule: give alphas_cumprod, which its "
                "scheduler has"
            )
        return from_epsilon(source.eval(), alphas_cumprod)
    unet, schedule = (
        d if (d := pathlib.Path(source, part)).is_dir() else pathlib.Path(source)
        for part in ("unet", "scheduler")
    )
    for file in (unet / "config.json", schedule / "scheduler_config.json"):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; wanted a folder of diffusers'"
            )
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "a folder of diffusers' is read by diffusers: pip install diffusers"
        ) from error
    scheduler = diffusers.DDPMScheduler.from_pretrained(schedule)
    if scheduler.config.prediction_type != "epsilon":
        raise ValueError(
            f"{source}: guesses {scheduler.config.prediction_type!r}, wanted 'epsilon'"
        )
    model = diffusers.UNet2DModel.from_pretrained(unet, use_safetensors=True)
    return from_epsilon(
        model.eval(),
        scheduler.alphas_cumprod if alphas_cumprod is None else alphas_cumprod,
    )
