"""Checkpoints that attack, lie or do not fit: refused by name, before anything runs and
before memory is spent.
"""

import functools
import hashlib
import importlib
import io
import json
import os
import pickle
import pickletools
import random
import re
import struct
import subprocess
import tracemalloc
from collections import OrderedDict

import edm_files
import numpy as np
import pytest
import torch
import torch._dynamo  # it derives from pickle.Unpickler, which a test takes away
from commands import ends
from PIL import Image
from torch import nn

from hkd_mini.app.zoo import load
from hkd_mini.diffusion import pickles, released
from hkd_mini.diffusion.pickle_machine import INSTRUCTIONS, Stub
from hkd_mini.diffusion.pickles import parse, read_pickle
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.recipes import RECIPES


class Call:
    """Pickled as a call: the oldest attack there is."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Own:
    """A class of the attacker's, with a method that unpickling would call."""

    def __setstate__(self, state):
        raise AssertionError("this ran")

    def __getstate__(self):
        return {"a": 1}


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    """Nothing that a test reads may unpickle or run: each way to do so is wired to
    fail, and a file shows it.
    """
    path = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(path))

    def trap(*args, **kwargs):
        path.touch()
        raise AssertionError("this ran")

    def arm():
        doors = [
            (pickle, ("load", "loads", "Unpickler", "_Unpickler")),
            (os, ("system", "popen")),
            (torch, ("load",)),
            (subprocess, ("Popen",)),
        ]
        for where, names in doors:
            for name in names:
                monkeypatch.setattr(where, name, trap)

    yield arm
    assert not path.exists(), "the file ran"


def refused(content, match):
    with pytest.raises(ValueError, match=match) as caught:
        parse(content, "FILE")
    assert (
        str(caught.value).startswith("FILE: refused: ") and len(str(caught.value)) < 400
    )


def program(*parts, protocol=4):
    return b"\x80" + bytes([protocol]) + b"".join(parts) + b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


TOUCH = "touch $CANARY"
PYTHON = "open(__import__('os').environ['CANARY'], 'w')"
CALLS = [
    (os.system, TOUCH),
    (eval, PYTHON),
    (exec, PYTHON),
    (compile, PYTHON, "x", "eval"),
    (__import__, "antigravity"),
    (open, "canary-of-hkd-mini", "w"),
    (getattr, "", "format"),
    (subprocess.Popen, ["touch", "x"]),
    (importlib.import_module, "antigravity"),
    (functools.partial, print, 1),
    (pickle.loads, b"N."),
    (type, "x", (), {}),
    (torch.load, "x.pt"),
    (torch.hub.load, "a/b", "c"),
    (np.load, "x.npy"),
    (bytearray, 10**10),
    (range, 10**18),
]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)
def test_calls_are_refused_by_name(canary, call, protocol):
    content = pickle.dumps({"ema": Call(*call)}, protocol)
    canary()
    refused(
        content,
        r"is not on the list" if protocol else r"instruction|is not on the list",
    )
    if protocol == 4:
        refused(
            content,
            re.escape(
                f".{call[0].__name__}' is not on the list of names; nothing was "
                "imported or run"
            ),
        )


def test_classes_of_the_attackers_own(canary):
    contents = [
        pickle.dumps(thing, p)
        for p in (2, 4)
        for thing in (Own(), Own, [nn.Linear(1, 1)], nn.Sequential())
    ]
    canary()
    for content in contents:
        refused(content, "is not on the list of names")


@pytest.mark.parametrize(
    "words",
    [
        ("builtins", "eval"),
        ("posix", "system"),
        ("collections", "OrderedDict.__init__"),
        ("torch_utils.persistence", "exec"),
        ("torch", "_utils"),
        ("numpy", "dtype.__class__"),
        ("hkd_mini.diffusion.pickles", "parse"),
        ("", ""),
        ("torch.nn", "Module"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch.nn.modules.container", "ModuleDict.__call__"),
        ("__main__", "x"),
    ],
)
def test_names_near_the_list(canary, words):
    canary()
    for content in (
        program(name(*words)),
        program(f"c{words[0]}\n{words[1]}\n".encode(), protocol=2),
    ):
        refused(content, re.escape(f"{'.'.join(words)!r} is not on the list"))


def test_calls_of_what_is_no_name(canary):
    canary()
    for thing in (
        text("os.system"),
        b"N",
        b"}",
        b"]",
        b")",
        name("numpy", "dtype") + b")R",
    ):
        refused(program(thing, b")R"), "not of a name on the list")
        refused(program(thing, b")\x81"), "not of a name on the list")
    for arguments in (b"N", b"]", b"}"):
        refused(
            program(name("collections", "OrderedDict"), arguments, b"R"),
            "not of a name on the list",
        )
    refused(
        program(name("collections", "OrderedDict"), b"N\x85R"),
        "arguments that do not fit",
    )
    refused(
        program(name("torch.storage", "_load_from_bytes"), text("x"), b"\x85R"),
        "storage from a str",
    )
    for thing in (
        "torch.storage _load_from_bytes",
        "torch._utils _rebuild_parameter",
        "numpy._core.multiarray scalar",
    ):
        refused(program(name(*thing.split()), b")R"), "arguments that do not fit")


def test_attributes_stay_attributes(canary):
    """BUILD fills a stub's `state` and nothing else: no method, class or builder is
    within reach.
    """
    canary()
    make = name("torch.nn.modules.container", "ModuleDict") + b")\x81"
    stub = parse(
        program(
            make,
            b"}(",
            *(text(k) + text("evil") for k in ("__class__", "__setstate__", "name")),
            b"ub",
        )
    )
    assert type(stub) is Stub and stub.name == "ModuleDict" and not callable(stub)
    assert stub.state == {
        "__class__": "evil",
        "__setstate__": "evil",
        "name": "evil",
    } and not hasattr(stub, "__setstate__")
    for target in (
        b"}",
        b"]",
        b"N",
        text("x"),
        name("collections", "OrderedDict"),
        name("dnnlib.util", "EasyDict") + b")\x81",
    ):
        refused(program(target, b"}", b"b"), "BUILD of a ")
    refused(program(make, b"]b"), "BUILD of a Stub from a list")
    refused(program(make, text("x"), b"b"), "BUILD of a Stub from a str")


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (b"(cos\nsystem\no", "OBJ|GLOBAL|is not on the list"),
        (b"(ios\nsystem\n", "INST"),
        (b"\x82\x01", "EXT1"),
        (b"Pos.system\n", "PERSID"),
        (text("x") + b"Q", "BINPERSID"),
        (b"N0N", "POP"),
        (b"N2", "DUP"),
        (b"I1\n", "INT"),
        (b"L1L\n", "LONG"),
        (b"F1\n", "FLOAT"),
        (b"S'x'\n", "STRING"),
        (b"Vx\n", "UNICODE"),
        (b"(l", "LIST"),
        (b"(d", "DICT"),
        (b"\x97", "NEXT_BUFFER"),
        (b"N\x98", "READONLY_BUFFER"),
        (b"(\x91", "FROZENSET"),
        (b"\x8b\x01\0\0\0\1", "LONG4"),
        (b"N))\x92", "NEWOBJ_EX"),
        (b"\x96" + bytes(8), "BYTEARRAY8"),
        (b"g0\n", "GET"),
        (b"Np0\n", "PUT"),
    ],
)
def test_instructions_that_are_not_needed(canary, part, what):
    canary()
    refused(program(part), what)


LONG = 10 * 2**30


@pytest.mark.parametrize(
    "part",
    [
        b"\x8e" + struct.pack("<Q", LONG),
        b"\x8d" + struct.pack("<Q", LONG),
        b"\x96" + struct.pack("<Q", LONG),
        b"\x95" + struct.pack("<Q", LONG),
        b"B" + struct.pack("<I", 2**32 - 1),
        b"X" + struct.pack("<I", 2**32 - 1),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x8e" + b"\xff" * 8,
        b"T" + struct.pack("<i", 2**31 - 1),
        b"\x8b" + struct.pack("<i", -1),
        b"Nr" + struct.pack("<I", 2**32 - 1) + b"j" + struct.pack("<I", 2**32 - 2),
    ],
)
def test_lengths_of_gigabytes_take_no_memory(part):
    tracemalloc.start()
    try:
        refused(b"\x80\x04" + part + b"some bytes", ".")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_flood_of_instructions():
    refused(b"N" * (INSTRUCTIONS + 1), f"more than {INSTRUCTIONS} instructions")


def view(size, stride, offset=0, n=6):
    rebuild = Call(
        torch._utils._rebuild_tensor_v2,
        torch.arange(n).float()._typed_storage(),
        offset,
        size,
        stride,
        False,
        OrderedDict(),
    )
    return pickle.dumps(rebuild)


def test_tensors_stay_within_their_storage():
    assert parse(view((2, 2), (1, 2), 1)).tolist() == [[1, 3], [2, 4]]
    assert parse(view((), (), 5)).item() == 5
    for size, stride in [
        ((7,), (1,)),
        ((10**6, 10**6), (0, 0)),
        ((2**62,), (0,)),
        ((2, 2), (1, 5)),
        ((2,), (-1,)),
        ((-1,), (1,)),
        ((1,), (10**30,)),
        ((3, 2), (1,)),
        ((0,), (1,)),
        ((1,) * 9, (1,) * 9),
        ((2.0,), (1,)),
        (("2",), (1,)),
        ([2], [1]),
        (None, None),
        ((True,), (1,)),
        ((10**30,), (1,)),
    ]:
        refused(view(size, stride), "a tensor (whose|that|without)")
    for offset in (6, -1, 2**70, None, 1.0):
        refused(view((1,), (1,), offset), "a tensor (whose|that)")
    for storage in (None, [1.0], torch.eye(2)):
        refused(
            pickle.dumps(
                Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
            ),
            "without a storage",
        )
    refused(
        pickle.dumps(Call(torch._utils._rebuild_parameter, [1], False, {})),
        "a parameter made of a list",
    )


def test_a_small_file_does_not_become_large_tensors():
    """One block of bytes, referred to over and over, would be gigabytes; so would many
    views of one storage.
    """
    raw = legacy()
    load_it = (
        name("torch.storage", "_load_from_bytes")
        + b"B"
        + struct.pack("<I", len(raw))
        + raw
        + b"q\x07\x85R"
    )
    again = name("torch.storage", "_load_from_bytes") + b"h\x07\x85R"
    assert parse(program(load_it)).tolist() == [0, 1, 2, 3, 4, 5]
    refused(program(b"](", load_it, again * 20, b"e"), "more bytes than the file")
    piece = torch.zeros(1000)
    many = pickle.dumps(
        [
            Call(torch._utils._rebuild_tensor_v2, s, 0, (1000,), (1,), False, {})
            for s in [piece._typed_storage()]
            for _ in range(3)
        ]
    )
    refused(many, "tensors that hold more bytes than the file")


@functools.cache
def parts():
    """torch's old file of one storage: five pickles, then the numbers."""
    stream = io.BytesIO()
    torch.save(
        torch.arange(6).float()._typed_storage(),
        stream,
        _use_new_zipfile_serialization=False,
    )
    raw = stream.getvalue()
    at = io.BytesIO(stream.getvalue())
    found = []
    for _ in range(5):
        begin = at.tell()
        list(pickletools.genops(at))
        found.append(raw[begin : at.tell()])
    return [*found, raw[at.tell() :]]


def legacy(**changes):
    return b"".join(changes.get(f"part{i}", part) for i, part in enumerate(parts()))


def carried(raw):
    """The bytes in an outer file, where a tensor's storage goes."""
    return program(
        name("torch.storage", "_load_from_bytes"),
        b"B",
        struct.pack("<I", len(raw)),
        raw,
        b"\x85R",
    )


def test_storages_that_attack(canary):
    """The second door of a pickled tensor: bytes that torch would unpickle in their
    turn.
    """
    evil = pickle.dumps(Call(os.system, TOUCH), 2)
    contents = [carried(legacy(**{f"part{i}": evil})) for i in range(5)]
    zipped = io.BytesIO()
    torch.save(Call(os.system, TOUCH), zipped)
    canary()
    assert parse(carried(legacy())).tolist() == [0, 1, 2, 3, 4, 5]
    for content in contents:
        refused(content, "'posix.system' is not on the list of names")
    refused(carried(zipped.getvalue()), "refused")
    for attack in (
        b"",
        b"\x80\x02N.",
        b"\x80\x02N." * 5,
        legacy()[:60],
        legacy()[:-1],
        legacy() + b"x",
    ):
        refused(carried(attack), ".")
    described = legacy().split(b"(X\x07\0\0\0storage")[1].split(b"Q.")[0]

    def with_description(old, new):
        assert described.count(old) == 1
        return carried(
            legacy(
                part3=b"\x80\x02(X\x07\0\0\0storage"
                + described.replace(old, new)
                + b"Q."
            )
        )

    assert parse(with_description(b"K\x06", b"K\x06")).tolist() == [0, 1, 2, 3, 4, 5]
    for count in (
        b"K\x05",
        b"K\x07",
        b"K\0",
        b"\x8a\x05" + (10**11).to_bytes(5, "little"),
        b"J\xff\xff\xff\xff",
    ):
        refused(
            with_description(b"K\x06", count),
            "a tensor's storage of 24 bytes, which is not",
        )
    refused(with_description(b"K\x06", b"\x88"), "not described as one")
    refused(
        with_description(b"torch\nFloatStorage", b"torch\nDoubleStorage"),
        "which is not 6 of torch.float64",
    )
    refused(
        with_description(b"torch\nFloatStorage", b"torch\nBoolStorage"),
        "'torch.BoolStorage' is not on the list",
    )
    refused(
        with_description(b"torch\nFloatStorage", b"os\nsystem"),
        "'os.system' is not on the list",
    )
    refused(
        carried(legacy(part2=pickle.dumps({"little_endian": False}, 2))), "big-endian"
    )
    refused(carried(legacy(part0=pickle.dumps(7, 2))), "another format")
    refused(carried(legacy(part4=pickle.dumps(["x"], 2))), "another format")
    # the outer file's names are not those of the inner one, nor the other way round
    refused(program(name("torch", "FloatStorage")), "is not on the list")
    refused(
        carried(
            legacy(part1=program(name("collections", "OrderedDict"), b")R", protocol=2))
        ),
        "is not on the list",
    )
    refused(
        carried(legacy(part1=program(b"ctorch\nFloatStorage\n)R", protocol=2))),
        "not of a name on the list",
    )


def test_numpy_numbers(canary):
    numbers = [
        np.float64(0.1),
        np.float32(0.5),
        np.float16(2),
        np.int64(-3),
        np.uint8(7),
        np.bool_(True),
        np.int32(9),
        np.dtype(">f8").type(4),
    ]
    contents = [pickle.dumps(numbers, protocol) for protocol in (3, 4, 5)]
    old = contents[1].replace(
        b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
    )
    canary()
    for content in (*contents, old):
        assert parse(content) == [n.item() for n in numbers]

    def scalar(code, raw, state=b"", order="<"):
        state = state or b"(K\x03" + text(order) + b"NNNK\0K\0K\0tb"
        make = name("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + state
        return program(
            name("numpy._core.multiarray", "scalar"),
            make,
            b"C",
            bytes([len(raw)]),
            raw,
            b"\x86R",
        )

    assert parse(scalar("f8", struct.pack(">d", 0.3), order=">")) == 0.3
    for code in (
        "O8",
        "O",
        "V8",
        "M8[s]",
        "U1",
        "S8",
        "f16",
        "i4,i4",
        "object",
        "x" * 1000,
        "",
    ):
        refused(scalar(code, bytes(8)), "a numpy scalar of type")
    for raw in (b"", bytes(7), bytes(9)):
        refused(scalar("f8", raw), "whose bytes are not 8")
    refused(scalar("f8", bytes(8), b"}b"), "without its type")
    refused(scalar("f8", bytes(8), order="O"), "in byte order 'O'")
    refused(
        program(
            name("numpy._core.multiarray", "scalar"),
            text("f8"),
            b"C\x08",
            bytes(8),
            b"\x86R",
        ),
        "without its type",
    )


def test_what_is_plain_comes_through():
    thing = {
        "a": [
            1,
            -2,
            2**40,
            -(2**70),
            0.5,
            float("inf"),
            None,
            True,
            False,
            "é",
            "x" * 300,
            b"\0\xff",
            b"y" * 300,
        ],
        "b": (),
        "c": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "d": {},
        "e": [{"f": {"g", "h"}}, set()],
    }
    thing["again"] = thing["a"]
    for protocol in (3, 4, 5):
        found = parse(pickle.dumps(thing, protocol))
        assert found == thing and found["again"] is found["a"]
    for dtype in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
    ):
        value = (10 * torch.randn(3, 4, 5)).to(dtype).transpose(0, 2)[1:]
        assert torch.equal(parse(pickle.dumps({"x": value}))["x"], value)
    made = parse(pickle.dumps(nn.ModuleDict()))
    assert made.name == "ModuleDict" and made.state["_parameters"] == {}


def test_nesting_and_loops_do_not_end_the_interpreter():
    deep = 100_000
    for nested in (
        b"]" * deep + b"a" * (deep - 1),
        b")" + b"\x85" * deep,
        b"(" * deep + b"t" * deep,
    ):
        found = parse(program(nested))
        assert type(found) in (list, tuple)
        del found
    make = name("torch.nn.modules.container", "ModuleDict") + b")\x81"
    chain = (
        b"".join([make + b"}" + text("_modules") for _ in range(10_000)])
        + b"N"
        + b"sb" * 10_000
    )
    parse(program(chain))
    refused(program(b"}", b")" + b"\x85" * deep, b"Ns"), "keys are not text")
    refused(program(b"\x8f(", b")" + b"\x85" * deep, b"\x90"), "keys are not text")
    refused(
        program(name("builtins", "set"), b"](", b")" + b"\x85" * deep, b"e\x85R"),
        "keys are not text",
    )
    loop = parse(program(b"]q\0h\0a"))
    assert loop[0] is loop
    doubled = b"]q\0" + b"".join(
        b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1])
        for i in range(200)
    )
    parse(program(doubled))  # 2^200 leaves, were one to visit them


def test_broken_programs():
    for content in (
        b"",
        b".",
        b"\x80\x04",
        b"\x80\x04.",
        b"hello",
        b"PK\x03\x04",
        b"\x80\x04h\0.",
        b"\x80\x04a.",
        b"\x80\x04t.",
        b"\x80\x04\x85.",
        b"\x80\x04}Ns.",
        b"\x80\x04}(NNue.",
        b"\x80\x04](K\1u.",
        b"\x80\x04N(e.",
        b"\x80\x04\x94.",
        b"\x80\x04}(X\1\0\0\0au.",
        b"\x80\x04NN\x93.",
        b"\x80\x04NR.",
        b"\x80\x04Nb.",
        b"\x80\x04\x8f(K\1\x90.",
        b"\x80\x04R.",
        b"\x80\x04N(.",
        b"\x80\x04X\1\0\0\0\xff.",
    ):
        refused(content, ".")
    with pytest.raises(FileNotFoundError):
        read_pickle("/nowhere/edm.pkl")
    assert pickles.read_pickle is read_pickle


@pytest.fixture(scope="module")
def small():
    return edm_files.content(
        edm_files.network(resolution=4, channels=8, mult=(1,), attention=())
    )


def test_cut_and_altered_files_are_refused_or_read_never_run(canary, small, tmp_path):
    canary()
    rng = random.Random(0)
    path = tmp_path / "x.pkl"
    read = 0
    for size in sorted(
        {0, 1, 2, 10, len(small) - 1} | {rng.randrange(len(small)) for _ in range(25)}
    ):
        refused(small[:size], ".")
    for _ in range(60):
        altered = bytearray(small)
        for _ in range(rng.choice((1, 1, 1, 5))):
            altered[rng.randrange(len(altered))] = rng.randrange(256)
        path.write_bytes(altered)
        try:
            released.edm_teacher(path)
            read += 1
        except ValueError as error:
            assert str(error).startswith(str(path)), error
    assert 10 < read < 60


def changed(**kwargs):
    """A small network in EDM's form, with other arguments of its SongUNet."""
    ema = edm_files.network()
    ema.model._init_kwargs.update(kwargs)
    return ema


def does_not_fit(tmp_path, ema, match):
    path = tmp_path / "edm.pkl"
    path.write_bytes(edm_files.content(ema))
    with pytest.raises(ValueError, match=match) as caught:
        released.edm_teacher(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 400


ARCHITECTURES = [
    (
        dict(embedding_type="fourier"),
        "embedding_type = fourier, wanted positional: only DDPM.. .vp. has our layout",
    ),
    (
        dict(encoder_type="residual"),
        "encoder_type = residual, wanted standard: .*NCSN.. .ve. has a Fourier "
        "embedding",
    ),
    (
        dict(resample_filter=[1, 3, 3, 1]),
        "resample_filter = .1, 3, 3, 1., wanted .1, 1.: only DDPM",
    ),
    (dict(channel_mult_noise=2), "channel_mult_noise = 2, wanted 1"),
    (dict(channel_mult_emb=2), "channel_mult_emb = 2"),
    (dict(decoder_type="skip"), "decoder_type = skip"),
    (dict(out_channels=6), "out_channels = 6: wanted as many"),
    (
        dict(model_channels=10**9),
        "model_channels = 1000000000: wanted whole numbers from 1 to 512",
    ),
    (dict(num_blocks=10**9), "num_blocks = 1000000000"),
    (dict(channel_mult=[2] * 9), "channel_mult = None"),
    (dict(channel_mult=[]), "."),
    (dict(channel_mult=2), "channel_mult = 2"),
    (dict(model_channels="16"), "model_channels = 16: wanted whole numbers"),
    (dict(img_resolution=None), "img_resolution = None"),
    (dict(img_resolution=7), "resolution 7 cannot be halved"),
    (dict(model_channels=True), "model_channels = None"),
    (dict(dropout="0.1"), "dropout = 0.1: wanted a number"),
    (dict(dropout=-1.0), "dropout = -1.0"),
    (dict(label_dim=3), "net.embedding.map_label.bias is not there in the file"),
    (
        dict(model_channels=32),
        "affine.bias is .32,. in the file; the network it describes wants .64,.",
    ),
    (
        dict(num_blocks=2),
        "conv0.weight is .32, 48, 3, 3. in the file; the network it describes wants "
        ".32, 64, 3, 3.",
    ),
    (
        dict(model_channels=512, channel_mult=[16] * 2, num_blocks=16),
        "the network it describes wants",
    ),
    (dict(attn_resolutions=[8, 4]), "is not there in the file"),
]


@pytest.mark.parametrize(("arguments", "match"), ARCHITECTURES)
def test_architectures_that_are_not_ours(tmp_path, arguments, match):
    does_not_fit(tmp_path, changed(**arguments), match)


def test_networks_of_other_kinds(tmp_path):
    ema = edm_files.network()
    for kind in ("VPPrecond", "VEPrecond", "iDDPMPrecond"):
        other = edm_files.network()
        other.__class__ = type(kind, (edm_files.Persistent,), {})
        does_not_fit(tmp_path, other, f"preconditioning {kind}: only EDMPrecond")
    other = edm_files.network()
    other.model.__class__ = type("DhariwalUNet", (edm_files.Persistent,), {})
    does_not_fit(
        tmp_path, other, "network DhariwalUNet: only EDM's SongUNet has our layout"
    )
    for sigma_data in (1, -1.0, float("inf"), None, "0.5"):
        ema.sigma_data = sigma_data
        does_not_fit(tmp_path, ema, "sigma_data = .*: wanted a deviation")
    other = edm_files.network()
    other.model._init_args = (8,)
    does_not_fit(tmp_path, other, "not all recorded by name")
    for content in ({}, [], {"ema": None}, {"ema": {"model": 1}}, {"net": 1}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="no network under 'ema'"):
            released.edm_teacher(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": nn.ModuleDict()}))
    with pytest.raises(ValueError, match="preconditioning ModuleDict"):
        released.edm_teacher(tmp_path / "x.pkl")


def test_tensors_that_do_not_belong(tmp_path):
    def altered(change):
        ema = edm_files.network()
        change(ema.model)
        return ema

    def tie(net):
        net.map_layer1.weight = net.enc["8x8_conv"].weight

    def loop(net):
        net.enc["again"] = net.map_layer0

    def spoil(net):
        net.map_layer0.bias[3] = float("nan")

    def extend(net):
        net.map_augment.bias = nn.Parameter(torch.ones(16))

    def widen(net):
        net.enc["4x4_down"].conv0.resample_filter = (
            torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1]))[None, None]
            / 64
        )

    def drop(net):
        del net.dec["8x8_block1"]

    def whole(net):
        net.map_layer0.weight = nn.Parameter(
            torch.ones(64, 16, dtype=torch.int64), requires_grad=False
        )

    for change, match in (
        (tie, "used twice"),
        (loop, "used twice"),
        (spoil, "model.map_layer0.bias: not a tensor of finite numbers"),
        (
            extend,
            "net.embedding.map_augment.bias is .16,. in the file; the network it "
            "describes wants nothing",
        ),
        (widen, "enc.4x4_down.conv0.resample_filter: wanted the filter"),
        (drop, "is not there in the file"),
        (whole, "model.map_layer0.weight: not a tensor of finite numbers"),
    ):
        does_not_fit(tmp_path, altered(change), match)


def test_the_command_converts(canary, capsys, tmp_path):
    path = tmp_path / "edm-vp.pkl"
    out = tmp_path / "teacher"
    path.write_bytes(edm_files.content(edm_files.network(classes=3)))
    canary()
    assert ends(capsys, "teacher", "--from", path, "--out", out)[:2] == (0, f"{out}\n")
    assert load(out).config == UNetConfig(8, 3, 16, (1, 2), 1, (4,), 0.13, 3)
    assert (
        json.loads((out / "origin.json").read_text())["sha256"]
        == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    for wrong, message in (
        (
            ("--preset", "cifar10"),
            "give --preset and --data; only --from FILE.pkl goes without both",
        ),
        (("--data", tmp_path), "give --preset and --data"),
        (("--preset", "cifar10", "--data", tmp_path / "nowhere"), "nowhere"),
    ):
        status, printed, error = ends(
            capsys, "teacher", "--from", path, "--out", tmp_path / "no", *wrong
        )
        assert (
            (status, printed) == (2, "") and error.count("\n") == 1 and message in error
        )
    for arguments in ((), ("--from", out)):
        status, printed, error = ends(
            capsys, "teacher", "--out", tmp_path / "no", *arguments
        )
        assert status == 2 and "give --preset and --data" in error
    status, printed, error = ends(
        capsys, "teacher", "--from", tmp_path / "none.pkl", "--out", tmp_path / "no"
    )
    assert status == 2 and "none.pkl" in error
    path.write_bytes(program(name("posix", "system"), text(TOUCH), b"\x85R"))
    status, printed, error = ends(
        capsys, "teacher", "--from", path, "--out", tmp_path / "no"
    )
    assert (
        status == 2
        and error.count("\n") == 1
        and "'posix.system' is not on the list of names" in error
    )
    assert not (tmp_path / "no").exists()


def test_training_goes_on_from_a_released_network(capsys, monkeypatch, tmp_path):
    """With data, the file is where training starts; a class that it does not know
    starts without effect.
    """
    network = UNetConfig(8, 3, 16, (1, 2), 1, (4,), 0.0, 2)
    monkeypatch.setitem(PRESETS, "small", HKDConfig(network))
    monkeypatch.setitem(RECIPES, "small", RECIPES["toy2d"])
    path = tmp_path / "edm-vp.pkl"
    out = tmp_path / "teacher"
    path.write_bytes(edm_files.content(edm_files.network()))
    rng = np.random.default_rng(0)
    for kind in ("a", "b"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
                tmp_path / "images" / kind / f"{i}.png"
            )
    options = [
        "--preset",
        "small",
        "--data",
        tmp_path / "images",
        "--images",
        8,
        "--batch",
        8,
        "--lr",
        1e-9,
    ]
    status, printed, error = ends(
        capsys, "teacher", "--from", path, "--out", out, *options
    )
    assert status == 0, error
    begun = released.edm_teacher(path)
    trained = load(out)
    assert (
        trained.config == network
        and json.loads((out / "origin.json").read_text())["file"] == "edm-vp.pkl"
    )
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # stored in half precision
        torch.testing.assert_close(
            trained(x, 0.7, torch.tensor([0, 1, 1])), begun(x, 0.7), rtol=0, atol=5e-3
        )
    assert (begun(x, 0.7) - x).abs().max() > 0.1
    cond = released.edm_teacher(path).widened(network)
    assert torch.equal(cond(x, 0.7, torch.tensor([1, 0, 1])), cond(x, 0.7))
