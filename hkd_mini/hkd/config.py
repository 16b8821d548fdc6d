"""What an HKD is: its network, its operators, its clock; and the presets that name one.

A configuration is saved with the weights. `PRESETS` holds the small models that two
cores can train and the paper's. Chapter: 9 "The architecture".
Source: HKD appendix D.4, EDM appendix F.1.
"""

import math
from dataclasses import dataclass, field, replace

from ..diffusion.networks import MLPConfig
from ..diffusion.schedule import CLOCK_OF, Noise
from ..diffusion.unet import UNetConfig
from ..engine.config import at_least


@dataclass(frozen=True)
class HKDConfig:
    """A network and how its states move. Raises ValueError for an unknown name.

    Source: HKD appendix D.4; HKD table 3 (what `koopman` and `hierarchy` turn off).
    """

    network: UNetConfig | MLPConfig = field(default_factory=UNetConfig)
    """The network that is cut into encoder and decoder, and its noise levels."""
    clock: str = "rho"
    """The time in which states are linear: rho, edm, log or sigma."""
    encoder_time: str = "sigma"
    """sigma tells the encoder the noise level, as the paper does; none lets it see x
    alone, so that states are observables in Koopman's sense."""
    anchored: bool = False
    """Whether the encoder names each pair where it is largest on the way, at T or at
    eps, and A brings it from there to t, so that the encoder uses A as well. What is
    learned is then the same all along a path."""
    spatial: str = "local"
    """local (A at every location) or shared."""
    koopman: bool = True
    """Off fixes A at 0."""
    hierarchy: str = "full"
    """full, bottleneck (skips pass unevolved) or bottleneck-only (skips dropped)."""
    readout: str = "network"
    """network (half a U-Net decodes, as in the paper) or linear (the whole U-Net
    encodes, and the picture is a linear map of the evolved states)."""
    pairs: int = 48
    """Pairs of channels of each state with the linear read-out of pictures."""
    rates: tuple[float, float] = (0.0, 0.0)
    """Growth rates at first, spread over the pairs from one to the other, over the way
    from picture to noise; the paper's start at 0."""

    def __post_init__(self):
        allowed = {
            "clock": tuple(CLOCK_OF),
            "encoder_time": ("sigma", "none"),
            "spatial": ("local", "shared"),
            "hierarchy": ("full", "bottleneck", "bottleneck-only"),
            "readout": ("network", "linear"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: one of {', '.join(values)}"
                )
        if self.readout == "linear" and self.hierarchy != "full":
            raise ValueError(
                f"hierarchy = {self.hierarchy!r} is of skips, which the linear "
                "read-out has none of"
            )
        if self.anchored and self.encoder_time == "none":
            raise ValueError(
                "anchored states are brought to the time t, which encoder_time = "
                "'none' keeps from the encoder"
            )
        at_least(self, pairs=1)
        if isinstance(self.rates, list):  # as JSON gives them
            object.__setattr__(self, "rates", tuple(self.rates))
        if (
            not isinstance(self.rates, tuple)
            or len(self.rates) != 2
            or not all(map(math.isfinite, self.rates))
        ):
            raise ValueError(f"rates = {self.rates}: two finite numbers")

    @property
    def state_shapes(self) -> list[tuple[int, int, int]]:
        """(d, h, w) of every state, fine to coarse: the network's own, or with the
        linear read-out of pictures one a resolution.
        """
        network = self.network
        if self.readout == "network" or isinstance(network, MLPConfig):
            return network.state_shapes
        return [(2 * self.pairs, r, r) for r, _ in network.widths]


# 2x2 patches, since here compute is short (design page)
_MINI = UNetConfig(
    channels=80, mult=(1, 2), blocks=2, attention=(8,), patch=2, adaptive_scale=True
)
# about 4 million parameters, classes and none: the bundled models. Below level 0.14 the
# teacher adds grain that no picture has (chapter 8), so there its paths end
_BUNDLED = UNetConfig(
    noise=Noise(sigma_min=0.14),
    channels=48,
    blocks=1,
    attention=(8, 4),
    labels=10,
    patch=2,
    adaptive_scale=True,
    no_class=True,
)

PRESETS: dict[str, HKDConfig] = {
    "toy2d": HKDConfig(MLPConfig()),
    # states named where they are largest, and decoded by a linear map
    "cifar10-mini": HKDConfig(
        _BUNDLED,
        anchored=True,
        spatial="shared",
        readout="linear",
        rates=(-8.0, 8.0),
    ),
    "cifar10-mini-paper": HKDConfig(_BUNDLED),
    # about 0.8 million: what ablations with several seeds can afford
    "cifar10-tiny": HKDConfig(replace(_MINI, channels=32, blocks=1)),
    # about 4.5 and 3 million: folders of pictures of your own
    "images32-mini": HKDConfig(replace(_MINI, channels=64)),
    "images64-mini": HKDConfig(
        replace(_MINI, resolution=64, channels=40, mult=(1, 2, 2))
    ),
    "cifar10": HKDConfig(UNetConfig(dropout=0.13)),  # EDM's DDPM++ widths
    "cifar10-cond": HKDConfig(UNetConfig(dropout=0.13, labels=10)),
    "ffhq64": HKDConfig(UNetConfig(resolution=64, mult=(1, 2, 2, 2), dropout=0.05)),
}
