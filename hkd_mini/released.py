"""Teachers that others trained: EDM's released checkpoints, and networks that guess the
noise.

EDM's checkpoints are pickles that carry code; `pickles` reads their tensors without
running it. Our U-Net has EDM's layout, so the tensors of a DDPM++ checkpoint ("vp")
move into a `Denoiser` unchanged, under new names, and become a teacher or the start of
one: `hkd-mini teacher --from FILE.pkl`. NCSN++ checkpoints ("ve") have blocks that ours
lacks. EDM's weights are CC BY-NC-SA 4.0: yours to fetch and to use under that licence;
none is bundled. Networks that guess the noise of a discrete schedule, such as DDPM's
and those of diffusers, become teachers through `from_epsilon`. Chapter: 8 "Diffusion as
a flow".
Source: Karras et al. 2022 (EDM), table 1 and appendix F.1; Ho et al. 2020 (DDPM).
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .networks import Decoder, Embedding, Encoder, UNetConfig

# read_pickle belongs to this subject too
from .pickles import Stub, parse, read_pickle  # noqa: F401
from .schedule import SIGMA_DATA
from .teacher import Denoiser, expand
from .weights import write_atomic

ORIGIN = "origin.json"
LICENCE = "weights released with EDM: CC BY-NC-SA 4.0"
# EDM's name for an argument of its network: ours, EDM's default, the least and the most
# allowed here
ARGUMENTS = {
    "img_resolution": ("resolution", None, 1, 1024),
    "in_channels": ("in_channels", None, 1, 64),
    "model_channels": ("channels", 128, 1, 512),
    "channel_mult": ("mult", (1, 2, 2, 2), 1, 16),
    "num_blocks": ("blocks", 4, 1, 16),
    "attn_resolutions": ("attention", (16,), 1, 1024),
    "label_dim": ("labels", 0, 0, 10_000),
}
# what makes a SongUNet a DDPM++, which our blocks are
FIXED = {
    "embedding_type": "positional",
    "channel_mult_emb": 4,
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": (1, 1),
}
RENAMED = (
    (r"^model\.enc\.", "net.encoder.blocks."),
    (r"^model\.dec\.\d+x\d+_aux_(norm|conv)\.", r"net.decoder.out_\1."),
    (r"^model\.dec\.", "net.decoder.blocks."),
    (r"^model\.map_", "net.embedding.map_"),
)


def edm_teacher(
    path: str | os.PathLike, record: str | os.PathLike | None = None
) -> Denoiser:
    """EDM's checkpoint `path` as a Denoiser, in evaluation mode; every tensor as it is
    in the file, in float32.

    Takes DDPM++ networks ("vp") under EDM's preconditioning, with classes or without.
    The labels of EDM's augmentation are zero when one samples and their layer has no
    bias, so that layer is left out. With `record`, that folder gets an origin.json with
    the file's name and SHA-256. Raises FileNotFoundError, and ValueError for a file
    that is refused, or a network of another kind, with the reason.
    Source: EDM, table 1 and appendix F.1.
    """
    content = pathlib.Path(path).read_bytes()
    found = parse(content, path)
    try:
        ema = found.get("ema") if isinstance(found, dict) else None
        if not isinstance(ema, Stub):
            raise ValueError("no network under 'ema': wanted a checkpoint of EDM's")
        denoiser = _denoiser(ema)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if record is not None:
        name = pathlib.Path(path).name
        origin = {
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "licence": LICENCE,
        }
        write_atomic(
            pathlib.Path(record) / ORIGIN,
            (json.dumps(origin, indent=2) + "\n").encode(),
        )
    return denoiser


def convert(path: str | os.PathLike, out: str | os.PathLike) -> str:
    """Write EDM's checkpoint as a folder of ours, in float32, with its origin.json;
    `out`. Raises as `edm_teacher`.
    """
    edm_teacher(path, record=out)._save_pretrained(pathlib.Path(out), torch.float32)
    return str(out)


def _denoiser(ema: Stub) -> Denoiser:
    """The Denoiser that a network of the file describes, with its tensors."""
    if ema.name != "EDMPrecond":
        raise ValueError(
            f"preconditioning {ema.name[:40]}: only EDMPrecond, which EDM's released "
            "networks have"
        )
    sigma_data = _of(ema, "sigma_data")
    tensors = _renamed(_tensors(ema))
    if type(sigma_data) is not float or sigma_data != SIGMA_DATA:
        raise ValueError(f"sigma_data = {_plain(sigma_data)}: here it is {SIGMA_DATA}")
    config = _config(_of(ema, "_modules").get("model"))
    # shapes alone: whatever the file claims, little is allocated before they agree
    with torch.device("meta"):
        halves = {"encoder": Encoder(config), "decoder": Decoder(config)}
    wanted = {
        f"net.{part}.{name}": tuple(value.shape)
        for part, module in (
            halves | {"embedding": Embedding(config.channels, config.labels)}
        ).items()
        for name, value in module.state_dict().items()
    }
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(set(wanted) | set(given)):
        if given.get(name) != wanted.get(name):
            have = given.get(name, "not there")
            want = wanted.get(name, "nothing")
            raise ValueError(
                f"{name[:100]} is {have} in the file; the network it describes wants "
                f"{want}"
            )
    denoiser = Denoiser(config)
    denoiser.load_state_dict({name: value.float() for name, value in tensors.items()})
    return denoiser.eval()


def _of(stub: object, name: str) -> object:
    return (
        stub.state.get(name)
        if isinstance(stub, Stub) and isinstance(stub.state, dict)
        else None
    )


def _plain(value: object) -> object:
    """A number, text, or a tuple of some; None for all else, which might contain
    itself.
    """
    if (
        type(value) in (list, tuple)
        and len(value) <= 8
        and all(type(v) in (int, float) for v in value)
    ):
        return tuple(value)
    return (
        value
        if type(value) in (int, float) or type(value) is str and len(value) < 50
        else None
    )


def _config(model: object) -> UNetConfig:
    """EDM's arguments of a SongUNet as our configuration."""
    if not isinstance(model, Stub) or model.name != "SongUNet":
        name = model.name[:40] if isinstance(model, Stub) else "missing"
        raise ValueError(
            f"network {name}: only EDM's SongUNet has our layout (DhariwalUNet is "
            "ADM's)"
        )
    given = _of(model, "_init_kwargs")
    values = {}
    if not isinstance(given, dict) or _plain(_of(model, "_init_args")) != ():
        raise ValueError("a network whose arguments are not all recorded by name")
    for name, want in FIXED.items():
        if (has := _plain(given.get(name, want))) != want:
            raise ValueError(
                f"{name} = {has}, wanted {want}: only DDPM++ (vp) has our layout; "
                "NCSN++ (ve) has a Fourier embedding "
                "of the noise level, residual inputs on the way down and a wider "
                "resampling filter"
            )
    for name, (ours, default, least, most) in ARGUMENTS.items():
        values[ours] = value = _plain(given.get(name, default))
        numbers = value if isinstance(default, tuple) else (value,)
        if type(numbers) is not tuple or not all(
            type(v) is int and least <= v <= most for v in numbers
        ):
            raise ValueError(
                f"{name} = {value}: wanted whole numbers from {least} to {most}"
            )
    if (out := _plain(given.get("out_channels"))) != values["in_channels"]:
        raise ValueError(
            f"out_channels = {out}: wanted as many as in_channels, "
            f"{values['in_channels']}"
        )
    dropout = _plain(given.get("dropout", 0.1))
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout}: wanted a number from 0 to below 1")
    return UNetConfig(dropout=float(dropout), **values)


def _tensors(stub: Stub) -> dict[str, Tensor]:
    """All parameters and buffers of a module and its parts, under the names that torch
    gives them.
    """
    found = {}
    seen = set()
    todo = [("", stub)]
    while todo:
        prefix, module = todo.pop()
        parameters, buffers, parts = (
            _of(module, kind) for kind in ("_parameters", "_buffers", "_modules")
        )
        if not all(
            isinstance(part, dict) and len(part) < 1000
            for part in (parameters, buffers, parts)
        ):
            raise ValueError(f"{prefix[:100] or 'ema'}: not a module")
        tensors = {
            prefix + k[:100]: v
            for k, v in (parameters | buffers).items()
            if v is not None
        }
        for name, value in tensors.items():
            if (
                not isinstance(value, Tensor)
                or not value.is_floating_point()
                or not value.isfinite().all()
            ):
                raise ValueError(f"{name[:100]}: not a tensor of finite numbers")
        found |= tensors
        todo += [
            (f"{prefix}{k[:100]}.", part)
            for k, part in parts.items()
            if part is not None
        ]
        used = {id(module)} | {id(value) for value in tensors.values()}
        # else small files describe huge networks
        if seen & used or len(used) <= len(tensors) or len(prefix) > 200:
            raise ValueError(
                f"{prefix[:100]}: a module or tensor that is used twice, or modules "
                "too deep"
            )
        seen |= used
    return found


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """EDM's names to ours; what has no counterpart is checked to be without effect."""
    new = {}
    for name, value in tensors.items():
        # halving as the mean of 2x2 pixels, doubling by repetition
        if name.endswith(".resample_filter"):
            if value.shape != (1, 1, 2, 2) or not (value == 0.25).all():
                raise ValueError(f"{name}: wanted the filter [1, 1]")
        elif name != "model.map_augment.weight":
            for pattern, replacement in RENAMED:
                name = re.sub(pattern, replacement, name)
            new[name] = value
    return new


class FromEpsilon(nn.Module):
    """A denoiser D(x; sigma) from a network that guesses the noise, by `from_epsilon`.

    forward(x (batch, *shape), sigma a number or (batch,), labels (batch,) or None) ->
    x's shape and dtype.
    """

    def __init__(self, eps_model: Callable, sigmas: np.ndarray):
        super().__init__()
        self.eps_model = eps_model
        self.sigmas = sigmas

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
        t = np.interp(
            level.flatten().log().cpu(),
            np.log(self.sigmas),
            np.arange(len(self.sigmas)),
        )
        dtype = next((p.dtype for p in self.parameters()), x.dtype)
        t = torch.as_tensor(
            t, dtype=torch.promote_types(dtype, torch.float32), device=x.device
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
    Source: DDPM, eq 4; EDM, section 2.
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
    """A denoiser from diffusers: a folder such as a copy of google/ddpm-cifar10-32, or
    a UNet2DModel and its schedule.

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
