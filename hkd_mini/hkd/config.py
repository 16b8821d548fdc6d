"""What an HKD is: its network, its operators, its clock; and the presets that name one.

A configuration is saved with the weights. `PRESETS` holds the small models that two
cores can train and the paper's. Chapter: 9 "The architecture".
Source: HKD appendix D.4, EDM appendix F.1.
"""

from dataclasses import dataclass, field, replace

from ..diffusion.networks import MLPConfig
from ..diffusion.schedule import CLOCK_OF
from ..diffusion.unet import UNetConfig


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
    spatial: str = "local"
    """local (A at every location) or shared."""
    koopman: bool = True
    """Off fixes A at 0."""
    hierarchy: str = "full"
    """full, bottleneck (skips pass unevolved) or bottleneck-only (skips dropped)."""

    def __post_init__(self):
        allowed = {
            "clock": tuple(CLOCK_OF),
            "encoder_time": ("sigma", "none"),
            "spatial": ("local", "shared"),
            "hierarchy": ("full", "bottleneck", "bottleneck-only"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: one of {', '.join(values)}"
                )


# about 7 million parameters; 2x2 patches, since here compute is short (design page)
_MINI = UNetConfig(
    channels=80, mult=(1, 2), blocks=2, attention=(8,), patch=2, adaptive_scale=True
)

PRESETS: dict[str, HKDConfig] = {
    "toy2d": HKDConfig(MLPConfig()),
    "cifar10-mini": HKDConfig(_MINI),
    "cifar10-mini-cond": HKDConfig(replace(_MINI, labels=10)),
    # about 0.8 million: what ablations with several seeds can afford
    "cifar10-tiny": HKDConfig(replace(_MINI, channels=32, blocks=1)),
    # about 3 million: a folder of pictures of your own
    "64x64-mini": HKDConfig(replace(_MINI, resolution=64, channels=40, mult=(1, 2, 2))),
    "cifar10": HKDConfig(UNetConfig(dropout=0.13)),  # EDM's DDPM++ widths
    "cifar10-cond": HKDConfig(UNetConfig(dropout=0.13, labels=10)),
    "ffhq64": HKDConfig(UNetConfig(resolution=64, mult=(1, 2, 2, 2), dropout=0.05)),
}
