"""The networks: EDM's U-Net cut at its waist, and a small MLP for points.

A U-Net goes down, keeping one feature map per block, and up again, taking them back
last in first out. Cut between, it is an encoder that lifts x to a list of states z^(l)
and a decoder that reads them: HKD puts its linear dynamics on the cut. The structure is
DDPM++ as EDM (Karras et al. 2022) trains it: positional embedding of the noise level,
group norm, residual blocks scaled by sqrt(1/2), attention at one resolution. Names
follow EDM's, so that its `model.enc.32x32_block0.conv0.weight` is our
`encoder.blocks.32x32_block0.conv0.weight`; `Encoder` has the whole map. `patch=2` folds
2x2 pixels into channels first: a quarter of the locations, for machines with little
compute. Chapter: 9 "The architecture".
Source: EDM appendix F.1, Song et al. 2021 (DDPM++), method table of the book.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """Widths of the U-Net. The defaults are EDM's unconditional CIFAR-10 network, 55.7
    million parameters.

    channels * mult[i] is the width at resolution resolution / patch / 2^i; `attention`
    lists resolutions (after the patch). `labels` is the number of classes, 0 for none.
    `adaptive_scale` adds a noise-dependent scale to the shift (EDM's own CIFAR-10 nets
    have the shift alone). `out_channels` is 0 where they are those of the input.
    """

    resolution: int = 32
    in_channels: int = 3
    channels: int = 128
    mult: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.0
    labels: int = 0
    patch: int = 1
    adaptive_scale: bool = False
    out_channels: int = 0

    def __post_init__(self):
        for name in ("mult", "attention"):  # JSON gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.patch not in (1, 2):
            raise ValueError(
                f"patch = {self.patch}: 1 (EDM's layout) or 2 (2x2 pixels folded into "
                "channels)"
            )
        if self.resolution % (self.patch << (len(self.mult) - 1)):
            raise ValueError(
                f"resolution {self.resolution} cannot be halved {len(self.mult) - 1} "
                f"times at patch {self.patch}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one x: (in_channels, resolution, resolution)."""
        return (self.in_channels, self.resolution, self.resolution)

    @property
    def widths(self) -> list[tuple[int, int]]:
        """(resolution, channels) from fine to coarse."""
        return [
            (self.resolution // self.patch >> i, self.channels * m)
            for i, m in enumerate(self.mult)
        ]

    @property
    def state_shapes(self) -> list[tuple[int, int, int]]:
        """(d, h, w) of every state: a level's first skip has the width of the level
        above, then `blocks` of its own.
        """
        above = [self.channels] + [width for _, width in self.widths[:-1]]
        skips = [
            (d, res, res)
            for (res, width), c in zip(self.widths, above, strict=True)
            for d in [c] + [width] * self.blocks
        ]
        return [*skips, skips[-1]]


@dataclass(frozen=True)
class MLPConfig:
    """Widths of the network for point sets in `dim` dimensions: one state of `state`
    numbers, `depth` hidden layers a side.
    """

    dim: int = 2
    channels: int = 32
    width: int = 128
    depth: int = 3
    state: int = 64
    labels: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one x: (dim,)."""
        return (self.dim,)

    @property
    def state_shapes(self) -> list[tuple[int, int, int]]:
        """(d, h, w) of the one state."""
        return [(self.state, 1, 1)]


def conv(c_in: int, c_out: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps the size, Xavier-uniform weights times `gain`, bias zero
    (EDM appendix F.1).
    """
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


def linear(c_in: int, c_out: int) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(c_in, c_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def norm(channels: int) -> nn.GroupNorm:
    """Group norm over at most 32 groups of at least 4 channels (fewer where the
    channels do not divide).
    """
    groups = next(
        g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0
    )
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Embedding(nn.Module):
    """What a block is told: the noise level c_noise as sines and cosines, plus the
    class, through two layers.

    forward(c_noise (batch,), labels one-hot (batch, classes) or None) -> (batch, 4 *
    channels).
    """

    def __init__(self, channels: int, labels: int = 0):
        super().__init__()
        self.register_buffer(
            "freqs", 1e-4 ** torch.linspace(0, 1, channels // 2), persistent=False
        )
        self.map_label = linear(labels, channels) if labels else None
        self.map_layer0 = linear(channels, 4 * channels)
        self.map_layer1 = linear(4 * channels, 4 * channels)

    def forward(
        self, c_noise: Float[Tensor, "batch"], labels: Tensor | None = None
    ) -> Float[Tensor, "batch emb"]:
        angle = c_noise.float()[:, None] * self.freqs
        emb = torch.cat([angle.sin(), angle.cos()], dim=1)
        if self.map_label is not None:  # without labels EDM gives zeros: the bias alone
            labels = (
                emb.new_zeros(1, self.map_label.in_features)
                if labels is None
                else labels.float()
            )
            emb = emb + self.map_label(labels * math.sqrt(labels.shape[1]))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


class UNetBlock(nn.Module):
    """A residual block told the noise level, at will resampling by 2 (`"down"`, `"up"`)
    and with attention.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb: int,
        config: UNetConfig,
        resample: str = "",
        attention: bool = False,
    ):
        super().__init__()
        self.resample = resample
        self.adaptive = config.adaptive_scale
        self.dropout = config.dropout
        self.norm0 = norm(c_in)
        self.conv0 = conv(c_in, c_out, 3)
        self.affine = linear(emb, c_out * (2 if self.adaptive else 1))
        self.norm1 = norm(c_out)
        self.conv1 = conv(c_out, c_out, 3, gain=1e-5)
        self.skip = conv(c_in, c_out, 1) if c_in != c_out or resample else None
        if attention:
            self.norm2 = norm(c_out)
            self.qkv = conv(c_out, 3 * c_out, 1, 0.2**0.5)
            self.proj = conv(c_out, c_out, 1, 1e-5)
        self.attention = attention

    def forward(
        self, x: Float[Tensor, "batch c h w"], emb: Float[Tensor, "batch emb"]
    ) -> Tensor:
        h = self.conv0(self._resize(F.silu(self.norm0(x))))
        told = self.affine(emb)[:, :, None, None].to(h.dtype)
        if self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            h = F.silu(torch.addcmul(shift, self.norm1(h), scale + 1))
        else:
            h = F.silu(self.norm1(h + told))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = self._resize(x) if self.skip is None else self.skip(self._resize(x))
        x = (x + h) * 0.5**0.5
        return self._attend(x) if self.attention else x

    def _resize(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return (
            F.interpolate(x, scale_factor=2.0, mode="nearest")
            if self.resample == "up"
            else x
        )

    def _attend(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        # one head; EDM interleaves q, k, v channel by channel
        qkv = self.qkv(self.norm2(x)).reshape(b, 1, c, 3, h * w)
        q, k, v = (t.transpose(-1, -2) for t in qkv.unbind(3))
        a = (
            F.scaled_dot_product_attention(q, k, v)
            .transpose(-1, -2)
            .reshape(b, c, h, w)
        )
        return (x + self.proj(a)) * 0.5**0.5


class Encoder(nn.Module):
    """The way down: x, scaled, to a list of states, one per skip and one for the
    bottleneck.

    forward(x (batch, c, r, r), emb (batch, emb)) -> [(batch, d_l, h_l, w_l)], fine to
    coarse; shapes as `UNetConfig.state_shapes`.

    The last state is what enters the bottleneck: the same tensor as the last skip, but
    a state (and an operator) of its own. From EDM: `model.enc.X` -> `blocks.X`,
    `model.map_*` -> `Embedding`, `model.dec.X` -> Decoder's `blocks.X`, with
    `32x32_aux_norm` and `32x32_aux_conv` -> `out_norm` and `out_conv`; convolution,
    affine, qkv and norm tensors keep their shapes and order. At patch 1 that is the
    whole map.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.patch = config.patch
        emb = 4 * config.channels
        c = config.channels
        self.blocks = nn.ModuleDict()
        for level, (res, width) in enumerate(config.widths):
            name = f"{res}x{res}"
            if level == 0:
                self.blocks[f"{name}_conv"] = conv(
                    config.in_channels * self.patch**2, c, 3
                )
            else:
                self.blocks[f"{name}_down"] = UNetBlock(c, c, emb, config, "down")
            for i in range(config.blocks):
                self.blocks[f"{name}_block{i}"] = UNetBlock(
                    c, width, emb, config, attention=res in config.attention
                )
                c = width

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        x = F.pixel_unshuffle(x, self.patch)
        states = []
        for block in self.blocks.values():
            x = block(x, emb) if isinstance(block, UNetBlock) else block(x)
            states.append(x)
        return [*states, states[-1]]


class Decoder(nn.Module):
    """The way up: bottleneck first, then one skip per block, last in first out; F of
    shape (batch, c, r, r).
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.patch = config.patch
        emb = 4 * config.channels
        self.blocks = nn.ModuleDict()
        skips = [shape[0] for shape in config.state_shapes[:-1]]
        c = skips[-1]
        for level, (res, width) in reversed(list(enumerate(config.widths))):
            name = f"{res}x{res}"
            if level == len(config.mult) - 1:
                self.blocks[f"{name}_in0"] = UNetBlock(
                    c, c, emb, config, attention=True
                )
                self.blocks[f"{name}_in1"] = UNetBlock(c, c, emb, config)
            else:
                self.blocks[f"{name}_up"] = UNetBlock(c, c, emb, config, "up")
            for i in range(config.blocks + 1):
                attention = i == config.blocks and res in config.attention
                self.blocks[f"{name}_block{i}"] = UNetBlock(
                    c + skips.pop(), width, emb, config, attention=attention
                )
                c = width
        out = (config.out_channels or config.in_channels) * self.patch**2
        self.out_norm = norm(c)
        self.out_conv = conv(c, out, 3, gain=1e-5)

    def forward(self, states: list[Tensor], emb: Tensor) -> Tensor:
        *skips, x = states
        for name, block in self.blocks.items():
            x = block(
                torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb
            )
        return F.pixel_shuffle(self.out_conv(F.silu(self.out_norm(x))), self.patch)


class PointNet(nn.Module):
    """One half of the network for points: a residual MLP told the noise level; the
    encoder's output is one state (b, d, 1, 1).
    """

    def __init__(self, config: MLPConfig, encode: bool):
        super().__init__()
        self.encode = encode
        emb = 4 * config.channels
        c_in, c_out = (
            (config.dim, config.state) if encode else (config.state, config.dim)
        )
        self.first = linear(c_in, config.width)
        self.last = linear(config.width, c_out)
        self.layers = nn.ModuleList(
            linear(config.width, config.width) for _ in range(config.depth)
        )
        self.affine = nn.ModuleList(
            linear(emb, config.width) for _ in range(config.depth)
        )

    def forward(self, x, emb: Tensor):
        h = self.first(x if self.encode else x[-1].flatten(1))
        for layer, affine in zip(self.layers, self.affine, strict=True):
            h = h + layer(F.silu(h + affine(emb)))
        h = self.last(F.silu(h))
        return [h[:, :, None, None]] if self.encode else h


class Network(nn.Module):
    """Embedding, encoder and decoder, run as one: F(x; c_noise). Images take the U-Net,
    points the MLP.
    """

    def __init__(self, config: UNetConfig | MLPConfig):
        super().__init__()
        self.config = config
        points = isinstance(config, MLPConfig)
        self.embedding = Embedding(config.channels, config.labels)
        self.encoder = PointNet(config, encode=True) if points else Encoder(config)
        self.decoder = PointNet(config, encode=False) if points else Decoder(config)

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        c_noise: Float[Tensor, "batch"],
        labels: Tensor | None = None,
    ) -> Tensor:
        emb = self.embedding(c_noise, labels)
        return self.decoder(self.encoder(x, emb), emb)
