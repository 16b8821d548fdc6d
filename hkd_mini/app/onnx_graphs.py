"""The two ONNX graphs that a browser runs, traced from a model, with small weights.

Cut where the states are, an HKD falls into two graphs. `Lift` is the encoder: (x,
sigma) -> states. `Draw` is all the rest, and what it computes is linear up to its last
step: two bundles of states, each moved by its own time and weighed pair by pair, are
added and decoded,

    x = D(g e^{A dt} z + r e^{A dt'} z').

With r = 0 that is evolution under a mask; with r > 0 a band of a second picture is
mixed in. A model with classes is told one, as a row of zeros and a 1; zeros alone are
no class. Weights of layers are stored as half floats, or as bytes with one scale per
output channel; a session turns them into numbers once, when it loads. Rates, norms and
biases stay as they are. Needs the package `onnx`. Chapter: 15 "A generator in your
page".
Source: HKD eq 2, HKD eq 3, HKD eq 4, HKD eq 5; ONNX operator set 17.
"""

import copy
import io
import math
import warnings
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.unet import Decoder, UNetConfig
from ..hkd.model import HKD
from ..hkd.spectra import spectrum
from ..koopman.generator import KoopmanGenerator
from .onnx_weights import is_rounded, rounded, to_bytes

OPSET = 17


class Lift(nn.Module):
    """The encoder as one graph: x (1, 3, r, r) at noise level sigma (1,), and with
    classes told (1, classes) -> the states, (1, d_l, h_l, w_l) each.

    Source: HKD eq 2.
    """

    def __init__(self, model: HKD):
        super().__init__()
        self.embedding = model.embedding
        self.sigma_data = model.noise.sigma_data
        self.encoder = model.encoder
        self.clock = model.clock
        self.generators = model.generators if model.config.anchored else None

    def forward(
        self, x: Tensor, sigma: Tensor, told: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        scaled = x / (sigma * sigma + self.sigma_data**2).sqrt().reshape(1, 1, 1, 1)
        states = self.encoder(scaled, self.embedding(sigma.log() / 4, told))
        if self.generators is None:
            return tuple(states)
        t = self.clock.time(sigma).reshape(1, 1, 1, 1)
        ends = (self.clock.eps, self.clock.T)
        one = torch.ones(1, 1, 1)
        found = []
        for part, z in zip(self.generators, states, strict=True):
            A = cast(KoopmanGenerator, part)
            found.append(moved(A, z, A.since_anchor(t, ends), one))
        return tuple(found)


class Told(nn.Module):
    """What a block of the decoder is told, which never changes: the constant in place
    of the layer that computes it.
    """

    value: Tensor

    def __init__(self, layer: nn.Linear, emb: Tensor):
        super().__init__()
        self.register_buffer("value", layer(emb).detach())

    def forward(self, emb: Tensor) -> Tensor:
        return self.value


class Draw(nn.Module):
    """Evolution, mask, mix and decoder as one graph: (dt, dt_ref, states, states_ref,
    gains, shares) -> picture; half a network that has classes takes told (1, classes)
    after dt_ref.

    x = D(gain_l e^{A_l dt} z_l + share_l e^{A_l dt_ref} ref_l), dt and dt_ref of shape
    (1,), gains and shares one number for each rate of A_l ((d_l/2, h_l, w_l), or
    (d_l/2, 1, 1) where A is shared), the other lists as `Lift` gives them. The decoder
    is always told the last noise level, so without classes all that depends on what it
    is told is a constant.
    Source: HKD eq 3, HKD eq 4, HKD eq 5.
    """

    c_noise: Tensor

    def __init__(self, model: HKD):
        super().__init__()
        self.generators = model.generators
        self.sigma_data = model.noise.sigma_data
        self.decoder = copy.deepcopy(model.decoder)
        c_noise = torch.tensor([math.log(model.noise.sigma_min) / 4])
        # a linear read-out has no blocks, and is told nothing
        network = isinstance(self.decoder, Decoder)
        self.takes_class = network and model.config.network.labels > 0
        self.embedding = model.embedding if self.takes_class else None
        if network and not self.takes_class:
            emb = model.embedding(c_noise)
            for block in cast(Decoder, self.decoder).blocks.values():
                block.affine = Told(cast(nn.Linear, block.affine), emb)
        self.register_buffer("c_noise", c_noise)

    def forward(self, dt: Tensor, dt_ref: Tensor, *parts: Tensor) -> Tensor:
        emb = self.c_noise[:, None]  # no block reads it
        if self.embedding is not None:
            emb = self.embedding(self.c_noise, parts[0])
            parts = parts[1:]
        n = len(self.generators)
        states, refs, gains, shares = (parts[i * n : (i + 1) * n] for i in range(4))
        generators = (cast(KoopmanGenerator, part) for part in self.generators)
        mixed = [
            moved(generator, z, dt, gain) + moved(generator, ref, dt_ref, share)
            for generator, z, ref, gain, share in zip(
                generators, states, refs, gains, shares, strict=True
            )
        ]
        return self.sigma_data * self.decoder(mixed, emb)


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


def graphs(model: HKD, bits: int = 8) -> dict[str, bytes]:
    """The two graphs {"lift": ..., "draw": ...} of the model with weights of 8 or 16
    bits, serialized.

    Raises ValueError for a model of points, without skips, or with an encoder that is
    not told sigma.
    """
    config = model.config
    if not isinstance(config.network, UNetConfig) or config.encoder_time != "sigma":
        raise ValueError(f"{config}: need a U-Net whose encoder is told sigma")
    if config.hierarchy == "bottleneck-only":
        raise ValueError('hierarchy = "bottleneck-only": need the skips')
    model = rounded(model, bits)
    states = [torch.zeros(1, *shape) for shape in model.state_shapes]
    pairs = [torch.ones(lam.shape) for lam in spectrum(model)]
    names = {
        part: [f"{part}{i}" for i in range(len(states))]
        for part in ("z", "ref", "gain", "share")
    }
    one = torch.ones(1)
    x = torch.zeros(1, *config.network.shape)
    classes = torch.zeros(1, config.network.labels)
    told = {"told": classes} if config.network.labels else {}
    lift = {"x": x, "sigma": one, **told}
    drawing = Draw(model)
    draw = {"dt": one, "dt_ref": one, **(told if drawing.takes_class else {})}
    for part, values in (
        ("z", states),
        ("ref", states),
        ("gain", pairs),
        ("share", pairs),
    ):
        draw |= dict(zip(names[part], values, strict=True))
    return {
        "lift": _trace(Lift(model), lift, names["z"], bits),
        "draw": _trace(drawing, draw, ["image"], bits),
    }


def _trace(
    module: nn.Module,
    inputs: dict[str, Tensor],
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
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]  # the older exporter takes files in memory
            input_names=list(inputs),
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
