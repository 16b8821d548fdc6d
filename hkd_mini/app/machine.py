"""The machine that a command runs on: its device, and processes that share the work.

Without torchrun or `accelerate launch` there is one process, which speaks and writes.
A model that is compiled lies in memory as the compiler likes it.
"""

from typing import Any, TypeVar

import torch
from torch import nn

from ..diffusion.schedule import Denoise
from ..engine.run import compile_parts

D = TypeVar("D", bound=Denoise)


def device() -> str:
    """The GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def free_memory() -> int | None:
    """Bytes of memory that are free: the GPU's if there is one; None where nobody
    says.
    """
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        import psutil
    except ImportError:
        return None
    return psutil.virtual_memory().available


def first_process() -> bool:
    """Whether this process speaks and writes for all: always, unless started by
    torchrun or `accelerate launch`.
    """
    return processes().is_main_process


def processes():
    """This process among those that run the command together; without a GPU accelerate
    has to be told so.
    """
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


def on_device(model: D, compile: bool = False) -> D:
    """`model` on this machine's device, with `compile` compiled; functions stay."""
    if not isinstance(model, nn.Module):
        return model
    if compile:
        compile_parts(model)
    order = torch.channels_last if compile else torch.preserve_format
    # torch's types do not know this keyword
    layout: dict[str, Any] = {"memory_format": order}
    return model.to(device(), **layout)
