"""The model as files that a browser runs: two ONNX graphs with small weights, and a
list of rates.

Cut where the states are, an HKD falls into two graphs. `Lift` is the encoder: (x,
sigma) -> states. `Draw` is all the rest, and what it computes is linear up to its last
step: two bundles of states, each moved by its own time and weighed pair by pair, are
added and decoded,

    x = D(g e^{A dt} z + r e^{A dt'} z').

With r = 0 that is evolution under a mask; with r > 0 a band of a second picture is
mixed in. A page keeps z and asks `Draw` alone at every move of a slider. Weights of
layers are stored as half floats, or as bytes with one scale per output channel; a
session turns them into numbers once, when it loads. Rates, norms and biases stay as
they are. Needs the package `onnx`. Chapter: 15 "A generator in your page".
Source: HKD eqs 2 to 5; ONNX operator set 17.
"""

import copy
import gzip
import io
import json
import math
import os
import pathlib
import warnings

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from .koopman import KoopmanGenerator
from .model import HKD
from .networks import UNetConfig
from .schedule import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN
from .spectrum import spectrum
from .weights import write_atomic

OPSET = 17
SMALL = 1024  # tensors of fewer numbers are not worth a scale per channel


class Lift(nn.Module):
    """The encoder as one graph: x (1, 3, r, r) at noise level sigma (1,) -> the states,
    (1, d_l, h_l, w_l) each.

    Source: HKD eq 2.
    """

    def __init__(self, model: HKD):
        super().__init__()
        self.embedding = model.embedding
        self.encoder = model.encoder

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        scaled = x / (sigma * sigma + SIGMA_DATA**2).sqrt().reshape(1, 1, 1, 1)
        return tuple(self.encoder(scaled, self.embedding(sigma.log() / 4)))


class Told(nn.Module):
    """What a block of the decoder is told, which never changes: the constant in place
    of the layer that computes it.
    """

    def __init__(self, layer: nn.Linear, emb: Tensor):
        super().__init__()
        self.register_buffer("value", layer(emb).detach())

    def forward(self, emb: Tensor) -> Tensor:
        return self.value


class Draw(nn.Module):
    """Evolution, mask, mix and decoder as one graph: (dt, dt_ref, states, states_ref,
    gains, shares) -> picture.

    x = D(gain_l e^{A_l dt} z_l + share_l e^{A_l dt_ref} ref_l), dt and dt_ref of shape
    (1,), gains and shares (d_l/2, h_l, w_l), the other lists as `Lift` gives them. The
    decoder is always told the last noise level, so all that depends on it is a
    constant.
    Source: HKD eqs 3 to 5.
    """

    def __init__(self, model: HKD):
        super().__init__()
        self.generators = model.generators
        self.decoder = copy.deepcopy(model.decoder)
        emb = model.embedding(torch.tensor([math.log(SIGMA_MIN) / 4]))
        for block in self.decoder.blocks.values():
            block.affine = Told(block.affine, emb)
        self.register_buffer("emb", torch.zeros_like(emb))  # no block reads it

    def forward(self, dt: Tensor, dt_ref: Tensor, *parts: Tensor) -> Tensor:
        n = len(self.generators)
        states, refs, gains, shares = (parts[i * n : (i + 1) * n] for i in range(4))
        mixed = [
            moved(generator, z, dt, gain) + moved(generator, ref, dt_ref, share)
            for generator, z, ref, gain, share in zip(
                self.generators, states, refs, gains, shares, strict=True
            )
        ]
        return SIGMA_DATA * self.decoder(mixed, self.emb)


def moved(generator: KoopmanGenerator, z: Tensor, dt: Tensor, gain: Tensor) -> Tensor:
    """e^{A dt} z under a gain per pair: the generator's own formula, without the writes
    in place that a graph lacks.
    """
    alpha = generator.alpha.float()
    beta = generator.beta.float()
    growth = (alpha * dt).exp() * gain
    c = growth * (beta * dt).cos()
    s = growth * (beta * dt).sin()
    p, q = z.chunk(2, dim=1)
    return torch.cat([c * p + s * q, c * q - s * p], dim=1)


def is_rounded(name: str, weight: Tensor | np.ndarray) -> bool:
    """Whether a tensor is stored in fewer bits: the weight of a convolution or a linear
    layer, unless it is small.
    """
    return (
        name.endswith(".weight")
        and weight.ndim >= 2
        and math.prod(weight.shape) >= SMALL
    )


def to_bytes(
    weight: Float[np.ndarray, "out ..."],
) -> tuple[Int8[np.ndarray, "out ..."], Float[np.ndarray, " out"]]:
    """A layer's weight as bytes and one scale per output channel: w ~ scale * byte,
    scale = max |w| / 127.
    """
    peak = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(peak > 0, peak / 127, 1).astype(np.float32)
    return np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(
        np.int8
    ), scale


def rounded(model: HKD, bits: int = 8) -> HKD:
    """A copy of the model with the weights that the files hold, of 8 or 16 bits, as
    numbers again.

    The graphs compute this model; how far it is from the one that was given is a
    measurement (chapter 15). Raises ValueError for other numbers of bits.
    """
    if bits not in (8, 16):
        raise ValueError(
            f"bits = {bits}: 8 (a byte and a scale per channel) or 16 (half floats)"
        )
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if is_rounded(name, weight):
            stored, scale = to_bytes(weight.numpy())
            bytes_ = torch.from_numpy(
                stored * scale.reshape(-1, *[1] * (weight.ndim - 1))
            )
            weight.copy_(bytes_ if bits == 8 else weight.half())
    return model


def graphs(model: HKD, bits: int = 8) -> dict[str, bytes]:
    """The two graphs {"lift": ..., "draw": ...} of the model with weights of 8 or 16
    bits, serialized.

    Raises ValueError for a model of points, with classes, without skips, or with an
    encoder that is not told sigma.
    """
    config = model.config
    if (
        not isinstance(config.network, UNetConfig)
        or config.network.labels
        or config.encoder_time != "sigma"
    ):
        raise ValueError(
            f"{config}: need a U-Net without classes whose encoder is told sigma"
        )
    if config.hierarchy == "bottleneck-only":
        raise ValueError('hierarchy = "bottleneck-only": need the skips')
    model = rounded(model, bits)
    states = [torch.zeros(1, *shape) for shape in model.state_shapes]
    pairs = [torch.ones(d // 2, h, w) for d, h, w in model.state_shapes]
    names = {
        part: [f"{part}{i}" for i in range(len(states))]
        for part in ("z", "ref", "gain", "share")
    }
    one = torch.ones(1)
    x = torch.zeros(1, *config.network.shape)
    lift = _trace(Lift(model), (x, one), ["x", "sigma"], names["z"], bits)
    inputs = ["dt", "dt_ref", *(name for part in names.values() for name in part)]
    draw = _trace(
        Draw(model),
        (one, one, *states, *states, *pairs, *pairs),
        inputs,
        ["image"],
        bits,
    )
    return {"lift": lift, "draw": draw}


def _trace(
    module: nn.Module,
    arguments: tuple,
    inputs: list[str],
    outputs: list[str],
    bits: int,
) -> bytes:
    """One module as a graph, its large weights stored small behind a DequantizeLinear
    or a Cast.
    """
    import onnx

    file = io.BytesIO()
    # the older exporter says that there is a newer one, which needs a second package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            file,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load_from_string(file.getvalue())
    kept = []
    nodes = []
    node = onnx.helper.make_node
    array = onnx.numpy_helper.from_array
    for tensor in proto.graph.initializer:
        name = tensor.name
        weight = onnx.numpy_helper.to_array(tensor)
        if not is_rounded(name, weight):
            kept.append(tensor)
        elif bits == 16:
            kept.append(array(weight.astype(np.float16), f"{name}.half"))
            nodes.append(
                node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
            )
        else:
            stored, scale = to_bytes(weight)
            kept += [array(stored, f"{name}.bytes"), array(scale, f"{name}.scale")]
            nodes.append(
                node(
                    "DequantizeLinear",
                    [f"{name}.bytes", f"{name}.scale"],
                    [name],
                    axis=0,
                )
            )
    nodes += proto.graph.node
    for field, values in ((proto.graph.initializer, kept), (proto.graph.node, nodes)):
        del field[:]
        field.extend(values)
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True)


def export(
    model: HKD, folder: str | os.PathLike, name: str, bits: int = 8
) -> dict[str, int]:
    """Write what a page needs, each file under gzip, weights of 8 or 16 bits; returns
    {file: bytes}.

    NAME-lift.onnx.gz and NAME-draw.onnx.gz are the graphs; NAME-rates.bin.gz the rates
    as float32, all alphas and then all betas of the first state, then of the next;
    NAME.json says which clock, and the shapes of the states.
    """
    folder = pathlib.Path(folder)
    sizes = {}
    rates = [part for lam in spectrum(model) for part in (lam.real, lam.imag)]
    contents = {
        f"{name}-{part}.onnx": graph for part, graph in graphs(model, bits).items()
    }
    contents[f"{name}-rates.bin"] = (
        torch.cat([part.flatten() for part in rates]).numpy().astype("<f4").tobytes()
    )
    for file, content in contents.items():
        packed = gzip.compress(content, 9, mtime=0)
        write_atomic(folder / f"{file}.gz", packed)
        sizes[f"{file}.gz"] = len(packed)
    about = {
        "clock": model.config.clock,
        "T": model.clock.T,
        "eps": model.clock.eps,
        "states": model.state_shapes,
        "bits": bits,
    }
    write_atomic(
        folder / f"{name}.json", json.dumps({**about, "sigma_max": SIGMA_MAX}).encode()
    )
    return {**sizes, f"{name}.json": (folder / f"{name}.json").stat().st_size}


def seeded_noise(seed: int, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Unit noise that a browser can draw again from the same number: mulberry32, then
    Box and Muller's pairs.

    Every two uniform numbers u, v give sqrt(-2 log(1 - u)) times cos(2 pi v) and sin(2
    pi v). Raises ValueError for a seed outside [0, 2^32).
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}: need 0 <= seed < 2^32")
    n = math.prod(shape)
    with np.errstate(over="ignore"):  # the generator's state is a number modulo 2^32
        a = np.uint32(seed) + np.arange(1, n + n % 2 + 1, dtype=np.uint32) * np.uint32(
            0x6D2B79F5
        )
        t = (a ^ (a >> np.uint32(15))) * (a | np.uint32(1))
        t ^= t + (t ^ (t >> np.uint32(7))) * (t | np.uint32(61))
        u, v = ((t ^ (t >> np.uint32(14))) / 2**32).reshape(-1, 2).T
    radius = np.sqrt(-2 * np.log1p(-u))
    angle = 2 * np.pi * v
    drawn = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[
        :n
    ]
    return torch.from_numpy(drawn.astype(np.float32)).reshape(shape)
