"""Reading a pickle without running it.

The program in the file runs on `pickle_machine`, and a name in it, such as that of a
tensor's builder, selects a function of ours from `NAMES`. Neither `pickle` nor
`torch.load` takes part, also where a tensor's bytes hold a pickle in their turn. The
list is what EDM's checkpoints need (`released`); weights of our own are never pickles.
Chapter: 8 "Diffusion as a flow".
Source: documentation of Python's pickletools; torch's old file format.
"""

import io
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from .pickle_machine import MAGIC, STORAGES, Stub, _fill, _Machine

SCALARS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


def _tensor(
    machine: _Machine,
    storage: object,
    offset: object,
    size: object,
    stride: object,
    *_ignored,
) -> Tensor:
    """A view of a storage, after its numbers were checked: no more elements than are
    there, none beyond the end.
    """
    if (
        not isinstance(storage, Tensor)
        or storage.ndim != 1
        or not type(size) is type(stride) is tuple
    ):
        raise ValueError("a tensor without a storage, size and stride")
    numbers = [offset, *size, *stride]
    n = len(storage)
    if (
        len(size) != len(stride)
        or len(size) > 8
        or not all(type(i) is int and 0 <= i <= n for i in numbers)
    ):
        raise ValueError(
            f"a tensor whose size and stride do not fit its storage of {n}"
        )
    if (
        not 1 <= math.prod(size) <= n
        or offset + sum((i - 1) * j for i, j in zip(size, stride)) >= n
    ):
        raise ValueError(f"a tensor that reaches beyond its storage of {n}")
    assert isinstance(offset, int)  # checked with the other numbers
    machine.viewed -= math.prod(size) * storage.dtype.itemsize
    if machine.viewed < 0:
        raise ValueError("tensors that hold more bytes than the file")
    return storage.as_strided(size, stride, offset)


def _parameter(
    _: _Machine, data: object, requires_grad: object, hooks: object
) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError(f"a parameter made of a {type(data).__name__}")
    return data


def _scalar(_: _Machine, dtype: object, raw: object) -> float | int | bool:
    """One number of numpy's. Types that hold Python objects are refused: their bytes
    would be addresses.
    """
    if (
        not isinstance(dtype, Stub)
        or dtype.name != "numpy.dtype"
        or not isinstance(dtype.state, tuple)
    ):
        raise ValueError("a numpy scalar without its type")
    code, order = [
        value if type(value) is str else ""
        for value in (*dtype.args[:1], *dtype.state[1:2], "", "")
    ][:2]
    if code not in SCALARS or order not in {"<", ">", "=", "|"}:
        raise ValueError(
            f"a numpy scalar of type {code[:20]!r} in byte order {order[:20]!r}"
        )
    kind = np.dtype(order + code)
    if not isinstance(raw, bytes) or len(raw) != kind.itemsize:
        raise ValueError(
            f"a numpy scalar of type {code!r} whose bytes are not {kind.itemsize}"
        )
    return np.frombuffer(raw, kind)[0].item()


def _persistent(_: _Machine, meta: object) -> Stub:
    """EDM's own classes: the name and the attributes; the source file that comes with
    them is left unread.
    """
    match meta:
        case {"type": str(kind), "class_name": str(name), "state": dict(state)} if (
            kind == "class"
        ):
            return Stub(name, state=state)
    raise ValueError("a persistent object without a class_name and a state")


def _set(_: _Machine, items: object = ()) -> set:
    made: set[Any] = set()
    _fill(made, set, list(items) if isinstance(items, list | tuple) else [None])
    return made


NAMES: dict[str, Callable] = {
    "collections.OrderedDict": lambda machine: {},
    "builtins.set": _set,
    "dnnlib.util.EasyDict": lambda machine: {},
    "numpy.dtype": lambda machine, *args: Stub("numpy.dtype", args),
    "numpy.core.multiarray.scalar": _scalar,  # numpy 1; numpy 2 moved it
    "numpy._core.multiarray.scalar": _scalar,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.nn.modules.container.ModuleDict": lambda machine: Stub("ModuleDict"),
    "torch.storage._load_from_bytes": lambda machine, raw: machine.storage(raw),
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
}


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors, by name, of a file in torch's old format: five small pickles, then
    every storage, a count and its bytes; nothing in it is ever run.

    Raises FileNotFoundError for a missing file, ValueError that names what is refused.
    """
    content = pathlib.Path(path).read_bytes()
    stream = io.BytesIO(content)
    machine = _Machine(len(content))
    asked: dict[str, Any] = {
        "collections.OrderedDict": lambda machine: {},
        # a tensor's description: its storage is further on in the file
        "torch._utils._rebuild_tensor_v2": lambda machine, *described: described,
    }
    asked |= STORAGES
    try:
        parts: list[Any] = [machine.run(stream, asked) for _ in range(5)]
        magic, version, system, state, keys = parts
        if (magic, version) != MAGIC or system.get("little_endian") is not True:
            raise ValueError("not a file of torch's old format, little-endian")
        kinds = {d[0][2]: STORAGES[d[0][1].name] for d in state.values()}
        storages = {key: machine.numbers(stream, kinds[key]) for key in keys}
        return {
            name: _tensor(machine, storages[described[0][2]], *described[1:])
            for name, described in state.items()
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: refused: {str(error)[:300]}") from error


def read_pickle(path: str | os.PathLike) -> object:
    """What the pickle at `path` describes, as numbers, text, containers, tensors and
    `Stub` objects; nothing in it is ever run.

    Takes memory of about three times the file and a few hundred MB at most, whatever
    lengths and sizes the file claims. Raises FileNotFoundError for a missing file,
    ValueError that names the first thing refused, or says that the file is cut or
    broken.
    """
    return parse(pathlib.Path(path).read_bytes(), path)


def parse(content: bytes, path: str | os.PathLike = "pickle") -> object:
    """As `read_pickle`, from `content`, a file's bytes; `path` is for messages."""
    try:
        return _Machine(len(content)).run(io.BytesIO(content), NAMES)
    except (IndexError, KeyError) as error:
        raise ValueError(
            f"{path}: refused: a broken pickle ({str(error)[:100]})"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: refused: {str(error)[:300]}") from error
