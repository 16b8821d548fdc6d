"""Teachers that others trained: EDM's released checkpoints.

They are pickles that carry code; `pickles` reads their tensors without running it. Our
U-Net has EDM's layout, so the tensors of a DDPM++ checkpoint ("vp") move into a
`Denoiser` unchanged, under new names, and become a teacher or the start of one:
`hkd-mini teacher --from FILE.pkl`. NCSN++ checkpoints ("ve") have blocks that ours
lacks. EDM's weights are CC BY-NC-SA 4.0: yours to fetch and to use under that licence;
none is bundled. Chapter: 8 "Diffusion as a flow".
Source: EDM table 1, EDM appendix F.1 (Karras et al. 2022).
"""

import hashlib
import json
import os
import pathlib
from dataclasses import replace
from typing import Any

import torch

from ..engine.files import write_atomic
from .edm_names import of, plain, renamed, tensors_of
from .layers import Embedding
from .pickle_machine import Stub
from .pickles import parse
from .schedule import Noise
from .teacher import Denoiser
from .unet import Decoder, Encoder, UNetConfig

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
    Source: EDM table 1, EDM appendix F.1.
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
    """Write EDM's checkpoint at `path` as a folder of ours, in float32, with its
    origin.json; returns `out`. Raises as `edm_teacher`.
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
    sigma_data = of(ema, "sigma_data")
    tensors = renamed(tensors_of(ema))
    if type(sigma_data) is not float or not 0 < sigma_data < 1e6:
        raise ValueError(f"sigma_data = {plain(sigma_data)}: wanted a deviation")
    config = _config(of(ema, "_modules").get("model"))
    config = replace(config, noise=Noise(sigma_data=sigma_data))
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


def _config(model: object) -> UNetConfig:
    """EDM's arguments of a SongUNet as our configuration."""
    if not isinstance(model, Stub) or model.name != "SongUNet":
        name = model.name[:40] if isinstance(model, Stub) else "missing"
        raise ValueError(
            f"network {name}: only EDM's SongUNet has our layout (DhariwalUNet is "
            "ADM's)"
        )
    given = of(model, "_init_kwargs")
    values: dict[str, Any] = {}
    if not isinstance(given, dict) or plain(of(model, "_init_args")) != ():
        raise ValueError("a network whose arguments are not all recorded by name")
    for name, want in FIXED.items():
        if (has := plain(given.get(name, want))) != want:
            raise ValueError(
                f"{name} = {has}, wanted {want}: only DDPM++ (vp) has our layout; "
                "NCSN++ (ve) has a Fourier embedding "
                "of the noise level, residual inputs on the way down and a wider "
                "resampling filter"
            )
    for name, (ours, default, least, most) in ARGUMENTS.items():
        values[ours] = value = plain(given.get(name, default))
        numbers = value if isinstance(default, tuple) else (value,)
        if type(numbers) is not tuple or not all(
            type(v) is int and least <= v <= most for v in numbers
        ):
            raise ValueError(
                f"{name} = {value}: wanted whole numbers from {least} to {most}"
            )
    if (out := plain(given.get("out_channels"))) != values["in_channels"]:
        raise ValueError(
            f"out_channels = {out}: wanted as many as in_channels, "
            f"{values['in_channels']}"
        )
    dropout = plain(given.get("dropout", 0.1))
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout}: wanted a number from 0 to below 1")
    return UNetConfig(dropout=float(dropout), **values)
