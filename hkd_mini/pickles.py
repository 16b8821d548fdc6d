"""Reading a pickle without running it.

A pickle is a program for a small stack machine, and Python's reader lets that program
import what it names and call it: to load such a file is to run it. Here the program
runs on a machine of our own that has the harmless instructions alone. They make
numbers, text, containers, tensors and `Stub`s, which do nothing. A name in the file,
such as that of a tensor's builder, only selects a function of ours from `NAMES`; any
other name, and any other instruction, is refused by name. Neither `pickle` nor
`torch.load` takes part, also where a tensor's bytes hold a pickle in their turn. The
lists are what EDM's checkpoints need (`released`); weights of our own are never pickles
(`weights`). Chapter: 8 "Diffusion as a flow".
Source: documentation of Python's pickletools; torch's old file format.
"""

import io
import math
import os
import pathlib
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

# a file of EDM's has about a tenth of that; a bound on what a small file can grow to
INSTRUCTIONS = 1_000_000
PLAIN = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
FILLED = {
    "APPEND": list,
    "APPENDS": list,
    "SETITEM": dict,
    "SETITEMS": dict,
    "ADDITEMS": set,
}
SCALARS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.IntStorage": torch.int32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
}


@dataclass(eq=False, repr=False)
class Stub:
    """What stands for an object of a pickle: the name of its class, its arguments and
    attributes; it does nothing.
    """

    name: str
    args: tuple = ()
    state: object = field(default_factory=dict)


@dataclass(frozen=True)
class _Named:
    """A name on the list, as it lies on the machine's stack."""

    name: str


class _Machine:
    """The stack machine that a pickle is a program for, with the harmless instructions
    only.
    """

    def __init__(self, size: int):
        self.instructions = INSTRUCTIONS  # left to run
        # bytes that storages, and tensors, may still hold: the file's in all
        self.copied = self.viewed = size

    def run(self, stream: io.BytesIO, names: dict) -> object:
        """Run one program, up to its STOP. `stream` lies in memory, so a false length
        reads no more than there is.
        """
        stack = []
        below = []
        memo = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self.instructions -= 1
            if self.instructions < 0:
                raise ValueError(f"more than {INSTRUCTIONS} instructions")
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case name if name in PLAIN:
                    stack.append(argument)
                case name if name in CONSTANTS:
                    stack.append(CONSTANTS[name])
                case name if name in EMPTY:
                    stack.append(EMPTY[name]())
                case "MARK":
                    below.append(stack)
                    stack = []
                case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                    memo[len(memo) if argument is None else argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                    stack.append(tuple(_pop(stack, int(name[-1]))))
                case "TUPLE":
                    items = stack
                    stack = below.pop()
                    stack.append(tuple(items))
                case "APPENDS" | "SETITEMS" | "ADDITEMS" as name:
                    items = stack
                    stack = below.pop()
                    _fill(stack[-1], FILLED[name], items)
                case "APPEND" | "SETITEM" as name:
                    items = _pop(stack, 1 if name == "APPEND" else 2)
                    _fill(stack[-1], FILLED[name], items)
                case "GLOBAL" | "STACK_GLOBAL":
                    words = argument.split(" ", 1) if argument else _pop(stack, 2)
                    stack.append(_named(words, names))
                case "REDUCE" | "NEWOBJ":
                    stack.append(self.make(*_pop(stack, 2), names))
                case "BUILD":
                    (state,) = _pop(stack, 1)
                    if not isinstance(stack[-1], Stub) or not isinstance(
                        state, dict | tuple
                    ):
                        raise ValueError(
                            f"BUILD of a {type(stack[-1]).__name__} from a "
                            f"{type(state).__name__}"
                        )
                    stack[-1].state = state
                # the reference to a storage is its description
                case "BINPERSID" if names is STORAGES and stack:
                    pass
                case "STOP":
                    return stack.pop()
                case name:
                    raise ValueError(f"instruction {name} is not on the list")
        raise ValueError("no STOP")

    def make(self, named: object, args: object, names: dict) -> object:
        """What a call on the list stands for, by our own builder."""
        if (
            not isinstance(named, _Named)
            or not isinstance(args, tuple)
            or not callable(names[named.name])
        ):
            raise ValueError(
                f"a call of a {type(named).__name__}, not of a name on the list"
            )
        try:
            return names[named.name](self, *args)
        except TypeError as error:
            raise ValueError(
                f"{named.name}: arguments that do not fit ({str(error)[:100]})"
            ) from error

    def storage(self, raw: object) -> Tensor:
        """The numbers of torch's old file format: five small pickles, a count, the
        bytes. Not by torch.load.
        """
        if not isinstance(raw, bytes):
            raise ValueError(f"a tensor's storage from a {type(raw).__name__}")
        stream = io.BytesIO(raw)
        self.copied = self.copied - len(raw)
        if self.copied < 0:
            raise ValueError("storages that hold more bytes than the file")
        magic, version, system, what, keys = (
            self.run(stream, STORAGES) for _ in range(5)
        )
        match what:
            case ("storage", _Named(name=kind), str(key), str(), int(count), None) if (
                type(count) is int
            ):
                dtype = STORAGES[kind]
                rest = raw[stream.tell() :]
            case _:
                raise ValueError("a tensor's storage that is not described as one")
        if (magic, version) != (0x1950A86A20F9469CFC6C, 1001) or keys != [key]:
            raise ValueError("a tensor's storage of another format")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError("a tensor's storage from a big-endian machine")
        if (
            count < 1
            or int.from_bytes(rest[:8], "little") != count
            or len(rest) != 8 + count * dtype.itemsize
        ):
            raise ValueError(
                f"a tensor's storage of {len(rest) - 8} bytes, which is not "
                f"{str(count)[:20]} of {dtype}"
            )
        return torch.frombuffer(bytearray(rest[8:]), dtype=dtype)


def _pop(stack: list, n: int) -> list:
    if len(stack) < n:
        raise IndexError("an instruction that wants more than the stack holds")
    taken = stack[-n:]
    del stack[-n:]
    return taken


def _fill(target: object, kind: type, items: list) -> None:
    """Put items into a list, a dictionary (key, value, key, ...) or a set."""
    if type(target) is not kind:
        raise ValueError(f"items of a {kind.__name__} for a {type(target).__name__}")
    keys = items[::2] if kind is dict else items if kind is set else []
    # hashing a deep tuple would overflow the interpreter's own stack
    if not all(type(key) is str for key in keys):
        raise ValueError(f"a {kind.__name__} whose keys are not text")
    if kind is dict:
        target.update(zip(keys, items[1::2], strict=True))
    else:
        (target.extend if kind is list else target.update)(items)


def _named(words: list, names: dict) -> _Named:
    if not all(type(word) is str for word in words):
        raise ValueError("a name that is not text")
    name = ".".join(words)
    if name not in names:
        raise ValueError(
            f"{name[:100]!r} is not on the list of names; nothing was imported or run"
        )
    return _Named(name)


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
    kind = np.dtype(code).newbyteorder(order)
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
    made = set()
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


def read_pickle(path: str | os.PathLike) -> object:
    """What a pickle describes, as numbers, text, containers, tensors and `Stub`
    objects; nothing in it is ever run.

    Takes memory of about three times the file and a few hundred MB at most, whatever
    lengths and sizes the file claims. Raises FileNotFoundError for a missing file,
    ValueError that names the first thing refused, or says that the file is cut or
    broken.
    """
    return parse(pathlib.Path(path).read_bytes(), path)


def parse(content: bytes, path: str | os.PathLike = "pickle") -> object:
    """As `read_pickle`, from a file's bytes; `path` is for messages."""
    try:
        return _Machine(len(content)).run(io.BytesIO(content), NAMES)
    except (IndexError, KeyError) as error:
        raise ValueError(
            f"{path}: refused: a broken pickle ({str(error)[:100]})"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: refused: {str(error)[:300]}") from error
