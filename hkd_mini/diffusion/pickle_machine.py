"""A stack machine that runs the harmless instructions of a pickle alone.

A pickle is a program for a small stack machine, and Python's reader lets that program
import what it names and call it: to load such a file is to run it. This machine makes
numbers, text, containers and `Stub` objects, which do nothing; a name in the file only
selects one of the functions that it is given, and any other name, and any other
instruction, is refused by name. Chapter: 8 "Diffusion as a flow".
Source: documentation of Python's pickletools; torch's old file format.
"""

import io
import pickletools
from dataclasses import dataclass, field
from typing import Any

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

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.IntStorage": torch.int32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
}

MAGIC = (0x1950A86A20F9469CFC6C, 1001)  # how a file in torch's old format begins


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
        stack: list[Any] = []
        below: list[list[Any]] = []
        memo: dict[Any, Any] = {}
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
                    named, args = _pop(stack, 2)
                    stack.append(self.make(named, args, names))
                case "BUILD":
                    (state,) = _pop(stack, 1)
                    _build(stack[-1], state, names)
                # the reference to a storage is its description
                case "BINPERSID" if STORAGES.keys() <= names.keys() and stack:
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
        """A storage in torch's old format: five small pickles, a count, the bytes."""
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
        if (magic, version) != MAGIC or keys != [key]:
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

    def numbers(self, stream: io.BytesIO, dtype: torch.dtype) -> Tensor:
        """One storage of a whole file in torch's old format: a count, and its bytes."""
        count = int.from_bytes(stream.read(8), "little")
        self.copied -= count * dtype.itemsize
        if count < 1 or self.copied < 0:
            raise ValueError("storages that hold more bytes than the file")
        raw = stream.read(count * dtype.itemsize)
        if len(raw) != count * dtype.itemsize:
            raise ValueError("a storage that is cut")
        return torch.frombuffer(bytearray(raw), dtype=dtype)


def _pop(stack: list, n: int) -> list:
    if len(stack) < n:
        raise IndexError("an instruction that wants more than the stack holds")
    taken = stack[-n:]
    del stack[-n:]
    return taken


def _build(target: object, state: object, names: dict) -> None:
    """Attributes for a stub; those of a state's dictionary are left unread."""
    if type(target) is dict and STORAGES.keys() <= names.keys():
        return
    if not isinstance(target, Stub) or not isinstance(state, dict | tuple):
        found = f"{type(target).__name__} from a {type(state).__name__}"
        raise ValueError(f"BUILD of a {found}")
    target.state = state


def _fill(target: Any, kind: type, items: list) -> None:
    """Put items into a list, a dictionary (key, value, key, ...) or a set."""
    found = type(target)
    if found is not kind:
        raise ValueError(f"items of a {kind.__name__} for a {found.__name__}")
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
