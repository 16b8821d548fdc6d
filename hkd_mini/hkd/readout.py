"""A linear way out: the picture is a sum over modes of what each of them draws.

HKD's decoder is half a U-Net, so what a mode draws depends on all the others. Here the
whole U-Net comes before the evolution, and after it a linear map a resolution and
nothing else. Then the bands of a spectrum draw pictures that add up to the picture, and
a mode's rate is the time course of what it draws. A sample costs what it did. Chapters:
10 "Training", 13 "Reading the spectrum".
Source: ours; the linear read-out of DMD (Schmid 2010) behind HKD's encoder.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..diffusion.layers import conv, norm
from ..diffusion.networks import MLPConfig, PointEncoder, halves
from ..diffusion.unet import Decoder, Encoder, UNetConfig


class States(Decoder):
    """The way up, ending in one state a resolution, (batch, 2 pairs, r, r) each, fine
    to coarse: a linear map of normalised features in place of the last layer.
    """

    def __init__(self, config: UNetConfig, pairs: int):
        super().__init__(config)
        del self.out_norm, self.out_conv
        self.maps = nn.ModuleList(
            nn.Sequential(norm(width), nn.SiLU(), conv(width, 2 * pairs, 1))
            for _, width in config.widths
        )

    def forward(  # type: ignore[override]  # the last layer is another
        self, states: list[Tensor], emb: Tensor
    ) -> list[Tensor]:
        found = self.rise(states, emb)
        return [to_state(x) for to_state, x in zip(self.maps, found, strict=True)]


class WholeEncoder(nn.Module):
    """A U-Net, down and up, as an encoder: x, scaled, and emb to states, fine to
    coarse.
    """

    def __init__(self, config: UNetConfig, pairs: int):
        super().__init__()
        self.down = Encoder(config)
        self.up = States(config, pairs)

    def forward(
        self, x: Float[Tensor, "batch c r r"], emb: Float[Tensor, "batch emb"]
    ) -> list[Tensor]:
        return self.up(self.down(x, emb), emb)

    @staticmethod
    def names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A teacher's `weights` under the names that an HKD with this encoder has for
        them: its encoder is the way down, its decoder the way up.
        """
        new = {"encoder": "encoder.down", "decoder": "encoder.up"}
        parts = ((k.partition("."), v) for k, v in weights.items())
        return {f"{new.get(k[0], k[0])}.{k[2]}": v for k, v in parts}


class LinearReadout(nn.Module):
    """Evolved states to F (batch, c, r, r): a sum over resolutions of a 3x3
    convolution without bias, whose channels unfold into pixels. What it is told is
    ignored: it is linear in the states.
    """

    def __init__(self, config: UNetConfig, pairs: int):
        super().__init__()
        colours = config.out_channels or config.in_channels
        self.folds = [config.resolution // r for r, _ in config.widths]
        self.maps = nn.ModuleList(
            conv(2 * pairs, colours * fold**2, 3, gain=0.1) for fold in self.folds
        )
        for layer in self.maps:
            layer.register_parameter("bias", None)

    def forward(
        self, states: list[Tensor], emb: Tensor | None = None
    ) -> Float[Tensor, "batch c r r"]:
        parts = [
            F.pixel_shuffle(draw(z), fold)
            for draw, z, fold in zip(self.maps, states, self.folds, strict=True)
        ]
        return sum(parts[1:], parts[0])


class PointReadout(nn.Module):
    """The one state of a point, (batch, d, 1, 1), to (batch, dim): a matrix."""

    def __init__(self, config: MLPConfig):
        super().__init__()
        self.map = nn.Linear(config.state, config.dim, bias=False)

    def forward(
        self, states: list[Tensor], emb: Tensor | None = None
    ) -> Float[Tensor, "batch dim"]:
        return self.map(states[-1].flatten(1))


def two_sides(
    network: UNetConfig | MLPConfig, readout: str, pairs: int
) -> tuple[nn.Module, nn.Module]:
    """What comes before the evolution and what comes after it, for a `readout` of
    "network" or "linear", a ValueError for another; `pairs` a state for the linear one
    of pictures.
    """
    if readout not in ("network", "linear"):
        raise ValueError(f"readout = {readout!r}: one of network, linear")
    if readout == "network":
        return halves(network)
    if isinstance(network, MLPConfig):
        return PointEncoder(network), PointReadout(network)
    return WholeEncoder(network, pairs), LinearReadout(network, pairs)
