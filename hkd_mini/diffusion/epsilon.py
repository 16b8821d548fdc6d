"""Networks of a discrete schedule, such as DDPM's and those of diffusers, as teachers.

They guess the noise, the picture, or v, a mixture of the two that has the same size at
every level. All three say the same thing, and are read here as D(x; sigma), at the
levels that their schedule has. Chapters: 8 "Diffusion as a flow", 19 "Your own
pictures".
Source: Ho et al. 2020 (DDPM); Salimans & Ho 2022 (v).
"""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..engine.from_json import read_json
from ..engine.mend import mend_torchvision
from .own import About
from .schedule import Noise, expand

PREDICTIONS = ("epsilon", "v_prediction", "sample")  # diffusers' words
# of diffusers, those whose levels are alphas_cumprod
SCHEDULERS = (
    "DDIM DDPM DEISMultistep DPMSolverMultistep DPMSolverSinglestep EulerDiscrete "
    "EulerAncestralDiscrete HeunDiscrete KDPM2Discrete LMSDiscrete PNDM UniPCMultistep"
).split()


class FromEpsilon(nn.Module):
    """A denoiser D(x; sigma) from a network of a discrete schedule, by `from_epsilon`.

    forward(x (batch, *shape), sigma a number or (batch,), labels (batch,) or None) ->
    x's shape and dtype.
    """

    config: About | None = None  # what a network from diffusers says of itself

    def __init__(
        self, eps_model: Callable, sigmas: np.ndarray, prediction: str = "epsilon"
    ):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction {prediction!r}: one of {', '.join(PREDICTIONS)}"
            )
        self.eps_model = eps_model
        self.sigmas = sigmas
        self.prediction = prediction
        self.noise = Noise(float(sigmas[0]), float(sigmas[-1]))

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        sigma: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        level = expand(sigma, x.double())
        least, *_, most = self.sigmas
        if not ((level > 0) & (level <= most * (1 + 1e-6))).all():
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
        shrink = 1 / (1 + level**2).sqrt()
        # sigma multiplies whatever the guess is rounded by
        with torch.autocast(x.device.type, enabled=False):
            said = self.eps_model((x * shrink).to(dtype), t, **given)
        guess = said if isinstance(said, Tensor) else said.sample
        if guess.shape != x.shape:
            raise ValueError(
                f"the network gave {tuple(guess.shape)} for x of {tuple(x.shape)}: "
                "wanted the noise alone"
            )
        if self.prediction == "sample":
            return guess.to(x.dtype)
        if self.prediction == "v_prediction":  # v = shrink eps - sigma shrink x0
            return (shrink**2 * x - level * shrink * guess).to(x.dtype)
        return (x - level * guess).to(x.dtype)


def from_epsilon(
    eps_model: Callable,
    alphas_cumprod: Sequence[float] | Float[Tensor, "steps"],
    prediction: str = "epsilon",
) -> FromEpsilon:
    """The denoiser behind a network that guesses the noise of a discrete,
    variance-preserving schedule, or (`prediction`) the picture or v.

    With c = 1 / sqrt(1 + sigma^2), sigma_i = sqrt((1 - abar_i) / abar_i) and the
    network F(c x, t(sigma)): D = x - sigma F ("epsilon"), F ("sample"), or c^2 x -
    sigma c F ("v_prediction").

    eps_model(x, t, class_labels=) takes x (batch, *shape) and t (batch,), in steps from
    0; it returns the noise, or an object with the noise as `sample`, as diffusers'
    UNet2DModel does. alphas_cumprod: abar_i, falling within (0, 1). Between steps t is
    interpolated in log sigma: rounded to a step, the level would be wrong by a fifth
    near the picture, and D would jump, where Heun's method loses its order. Below
    sigma_0 (0.01 in DDPM) D is that at sigma_0, off by about as much; above the last
    level D raises ValueError, since there the guess means nothing. The paths of such a
    teacher can be distilled, but its tensors cannot start an HKD. Raises ValueError for
    another schedule.
    Source: DDPM eq 4; EDM section 2; Salimans & Ho 2022, appendix D (v).
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
    return FromEpsilon(eps_model, ((1 - abar) / abar).sqrt().numpy(), prediction)


def is_diffusers(folder: str | os.PathLike) -> bool:
    """Whether `folder` looks like one that diffusers wrote."""
    path = pathlib.Path(folder)
    if (path / "model_index.json").is_file() or (path / "unet").is_dir():
        return True
    try:
        return "_class_name" in read_json(path / "config.json")
    except (OSError, ValueError):
        return False


def diffusers_teacher(
    source: str | os.PathLike | nn.Module,
    alphas_cumprod: Sequence[float] | Float[Tensor, "steps"] | None = None,
    prediction: str = "epsilon",
) -> FromEpsilon:
    """A denoiser from diffusers: `source` is a folder such as a copy of
    google/ddpm-cifar10-32, or a UNet2DModel, which needs its `alphas_cumprod`, and its
    `prediction` where it does not guess the noise.

    A folder holds the network's config.json and safetensors, beside
    scheduler_config.json or in unet/ and scheduler/; pickled weights are refused. The
    teacher's noise ends where the schedule does. Raises ImportError without diffusers,
    FileNotFoundError, and ValueError for a scheduler of another kind.
    """
    if isinstance(source, nn.Module):
        if alphas_cumprod is None:
            raise ValueError(
                "a model without its schedule: give alphas_cumprod, which its "
                "scheduler has"
            )
        teacher = from_epsilon(source.eval(), alphas_cumprod, prediction)
        teacher.config = _about(source)
        return teacher
    unet, schedule = (
        d if (d := pathlib.Path(source, part)).is_dir() else pathlib.Path(source)
        for part in ("unet", "scheduler")
    )
    for file in (unet / "config.json", schedule / "scheduler_config.json"):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; wanted a folder of diffusers'"
            )
    said = read_json(schedule / "scheduler_config.json")
    kind = said.get("_class_name", "DDPMScheduler")
    if kind.removesuffix("Scheduler") not in SCHEDULERS:
        raise ValueError(
            f"{source}: a {kind}, whose levels are not those of a list of "
            "alphas_cumprod; wrap it as a function of yours (module:function)"
        )
    diffusers = _diffusers()
    scheduler = diffusers.DDPMScheduler.from_pretrained(schedule)
    model = diffusers.UNet2DModel.from_pretrained(unet, use_safetensors=True)
    return diffusers_teacher(
        model,
        scheduler.alphas_cumprod if alphas_cumprod is None else alphas_cumprod,
        scheduler.config.prediction_type,
    )


def _diffusers():
    mend_torchvision()  # which diffusers imports where it finds it
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "a folder of diffusers' is read by diffusers: pip install diffusers"
        ) from error
    return diffusers


def _about(model: nn.Module) -> About | None:
    """Shape and classes, where the network's own configuration says them."""
    said = getattr(model, "config", None)
    side = getattr(said, "sample_size", None)
    if said is None or side is None:
        return None
    sides = (side, side) if isinstance(side, int) else tuple(side)
    return About((said.in_channels, *sides), said.num_class_embeds or 0)
