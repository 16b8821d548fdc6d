"""EDM's U-Net, cut at its waist.

A U-Net goes down, keeping one feature map per block, and up again, taking them back
last in first out. Cut between, it is an encoder that lifts x to a list of states z^(l)
and a decoder that reads them: HKD puts its linear dynamics on the cut. The structure is
DDPM++ as EDM (Karras et al. 2022) trains it: positional embedding of the noise level,
group norm, residual blocks scaled by sqrt(1/2), attention at one resolution. Names
follow EDM's, so that its `model.enc.32x32_block0.conv0.weight` is our
`encoder.blocks.32x32_block0.conv0.weight`; `Encoder` has the whole map. `patch=2` folds
2x2 pixels into channels first: a quarter of the locations, for machines with little
compute. Chapter: 9 "The architecture".
Source: EDM appendix F.1; Song et al. 2021 (DDPM++).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..engine.config import at_least, at_most, counts
from .layers import can_be_halved, conv, linear, norm
from .schedule import EDM, Noise


@dataclass(frozen=True)
class UNetConfig:
    """Widths of the U-Net. The defaults are EDM's unconditional CIFAR-10 network, 55.7
    million parameters.

    channels * mult[i] is the width at resolution resolution / patch / 2^i; `attention`
    lists resolutions (after the patch). `labels` is the number of classes, 0 for none.
    `adaptive_scale` adds a noise-dependent scale to the shift (EDM's own CIFAR-10 nets
    have the shift alone). `out_channels` is 0 where they are those of the input.
    `noise` are the levels that the network is trained for. `bounded` says that its
    values are pictures, which samples are clipped to [-1, 1] for, and not latents.
    `no_class` says that it was trained with classes withheld too, so that they may be
    left out.
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
    noise: Noise = EDM
    bounded: bool = True
    no_class: bool = False

    def __post_init__(self):
        at_least(self, blocks=0, channels=2, labels=0, out_channels=0, dropout=0)
        at_least(self, resolution=1, in_channels=1)
        at_most(self, blocks=1000, dropout=1, resolution=2**15)
        for name in ("mult", "attention"):
            object.__setattr__(self, name, counts(name, getattr(self, name)))
        if self.patch not in (1, 2):
            raise ValueError(f"patch = {self.patch}: 1 (as EDM) or 2 (2x2 in one)")
        if not self.mult:
            raise ValueError("mult = (): at least one level")
        can_be_halved(self.resolution, len(self.mult) - 1, self.patch)

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


class UNetBlock(nn.Module):
    """A residual block, c_in to c_out channels, told the noise level by `emb` numbers;
    `resample` by 2 ("down", "up") and `attention` at will. Widths are of `config`.
    """

    takes_skip = False  # a decoder's: whether a state is joined to its input

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
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def _attend(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        # one head; EDM interleaves q, k, v channel by channel
        qkv = self.qkv(self.norm2(x)).reshape(b, 1, c, 3, h * w)
        q, k, v = (t.transpose(-1, -2) for t in qkv.unbind(3))
        a = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return (x + self.proj(a.reshape(b, c, h, w))) * 0.5**0.5


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

    compiles = True

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
    """The way up, `states` and emb (batch, emb) to F (batch, c, r, r): bottleneck
    first, then one skip per block, last in first out.
    """

    compiles = True

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
                block = UNetBlock(c + skips.pop(), width, emb, config, "", attention)
                block.takes_skip = True
                self.blocks[f"{name}_block{i}"] = block
                c = width
        out = (config.out_channels or config.in_channels) * self.patch**2
        self.out_norm = norm(c)
        self.out_conv = conv(c, out, 3, gain=1e-5)

    def rise(self, states: list[Tensor], emb: Tensor) -> list[Tensor]:
        """What leaves the last block of every resolution, fine to coarse."""
        skips = list(states)  # `*skips, x =` is no list to torch 2.11's compiler
        x = skips.pop()
        found: list[Tensor] = []
        for block in self.blocks.values():
            if block.resample == "up":
                found.insert(0, x)
            x = torch.cat([x, skips.pop()], dim=1) if block.takes_skip else x
            x = block(x, emb)
        return [x, *found]

    def forward(self, states: list[Tensor], emb: Tensor) -> Tensor:
        x = self.rise(states, emb)[0]
        return F.pixel_shuffle(self.out_conv(F.silu(self.out_norm(x))), self.patch)
