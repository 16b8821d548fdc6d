"""The tensors of one of EDM's networks, found in its file and given our names.

The file describes modules inside modules; every tensor must be of finite numbers and be
used once, since a small file could describe a huge network otherwise. Chapter: 8
"Diffusion as a flow".
Source: EDM appendix F.1 (Karras et al. 2022); the names in its checkpoints.
"""

import re
from typing import Any

from torch import Tensor

from .pickle_machine import Stub

RENAMED = (
    (r"^model\.enc\.", "net.encoder.blocks."),
    (r"^model\.dec\.\d+x\d+_aux_(norm|conv)\.", r"net.decoder.out_\1."),
    (r"^model\.dec\.", "net.decoder.blocks."),
    (r"^model\.map_", "net.embedding.map_"),
)


def of(stub: object, name: str) -> Any:
    """What a stub's state holds under a name; None for anything else."""
    return (
        stub.state.get(name)
        if isinstance(stub, Stub) and isinstance(stub.state, dict)
        else None
    )


def plain(value: Any) -> Any:
    """`value` if it is a number, text, or a tuple of some; None for all else, which
    might contain itself.
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


def tensors_of(stub: Stub) -> dict[str, Tensor]:
    """All parameters and buffers of the module that `stub` describes, and of its parts,
    under the names that torch gives them; ValueError for what is none.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    todo = [("", stub)]
    while todo:
        prefix, module = todo.pop()
        parameters, buffers, parts = (
            of(module, kind) for kind in ("_parameters", "_buffers", "_modules")
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


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under our names for EDM's; what has no counterpart is checked to be
    without effect.
    """
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
