"""A small network for points beside the U-Net for pictures, and the two halves of
either as one.

Chapters: 7 "One step in the plane", 9 "The architecture".
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..engine.config import at_least, at_most
from .layers import Embedding, linear
from .schedule import EDM, Noise
from .unet import Decoder, Encoder, UNetConfig


@dataclass(frozen=True)
class MLPConfig:
    """Widths of the network for point sets in `dim` dimensions: one state of `state`
    numbers, `depth` hidden layers a side; `no_class` as in `UNetConfig`. Raises
    ValueError for a number below its bound.
    """

    dim: int = 2
    channels: int = 32
    width: int = 128
    depth: int = 3
    state: int = 64
    labels: int = 0
    noise: Noise = EDM
    no_class: bool = False

    def __post_init__(self):
        at_least(self, dim=1, channels=2, width=1, depth=0, state=1, labels=0)
        at_most(self, depth=1000)

    @property
    def bounded(self) -> bool:
        """Points have no bounds that samples could be clipped to."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one x: (dim,)."""
        return (self.dim,)

    @property
    def state_shapes(self) -> list[tuple[int, int, int]]:
        """(d, h, w) of the one state."""
        return [(self.state, 1, 1)]


class PointNet(nn.Module):
    """A residual MLP that is told the noise level: (batch, c_in) -> (batch, c_out),
    widths as in `config`.
    """

    def __init__(self, config: MLPConfig, c_in: int, c_out: int):
        super().__init__()
        emb = 4 * config.channels
        self.first = linear(c_in, config.width)
        self.last = linear(config.width, c_out)
        self.layers = nn.ModuleList(
            linear(config.width, config.width) for _ in range(config.depth)
        )
        self.affine = nn.ModuleList(
            linear(emb, config.width) for _ in range(config.depth)
        )

    def run(self, x: Float[Tensor, "batch c_in"], emb: Tensor) -> Tensor:
        """The network itself, x told `emb` (batch, emb); the two halves differ in what
        they take and give.
        """
        h = self.first(x)
        for layer, affine in zip(self.layers, self.affine, strict=True):
            h = h + layer(F.silu(h + affine(emb)))
        return self.last(F.silu(h))


class PointEncoder(PointNet):
    """Points x (batch, dim), told emb, to a list of one state (batch, state, 1, 1)."""

    def __init__(self, config: MLPConfig):
        super().__init__(config, config.dim, config.state)

    def forward(self, x: Float[Tensor, "batch dim"], emb: Tensor) -> list[Tensor]:
        return [self.run(x, emb)[:, :, None, None]]


class PointDecoder(PointNet):
    """`states`, a list of one, told emb, back to points (batch, dim)."""

    def __init__(self, config: MLPConfig):
        super().__init__(config, config.state, config.dim)

    def forward(self, states: list[Tensor], emb: Tensor) -> Float[Tensor, "batch dim"]:
        return self.run(states[-1].flatten(1), emb)


def halves(config: UNetConfig | MLPConfig) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of `config`: the U-Net's for pictures, two MLPs for
    points.
    """
    if isinstance(config, MLPConfig):
        return PointEncoder(config), PointDecoder(config)
    return Encoder(config), Decoder(config)


class Network(nn.Module):
    """Embedding, encoder and decoder, run as one: F(x; c_noise). Images take the U-Net,
    points the MLP. `labels` are one-hot (batch, classes), or None.
    """

    def __init__(self, config: UNetConfig | MLPConfig):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.channels, config.labels)
        self.encoder, self.decoder = halves(config)

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        c_noise: Float[Tensor, "batch"],
        labels: Tensor | None = None,
    ) -> Tensor:
        emb = self.embedding(c_noise, labels)
        return self.decoder(self.encoder(x, emb), emb)
