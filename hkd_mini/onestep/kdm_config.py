"""What a KDM is: its networks, its operator, its noise; and the presets that name one.

A configuration is saved with the weights. Chapter: 16 "Its sibling, KDM".
Source: Berman et al. 2025 (KDM, arXiv 2505.13358), and its published code.
"""

from dataclasses import dataclass, field, replace

from ..diffusion.networks import MLPConfig
from ..diffusion.unet import UNetConfig
from ..engine.config import at_least


@dataclass(frozen=True)
class KDMConfig:
    """What a KDM is: its networks, and its operator.

    `operator` is "dense" or "decomposed" (P B P^-1, eigenvalues in the unit disc).
    `project` (pictures) is the length of the latent after a linear layer, 0 for the
    whole one-channel picture. `noise` is the deviation of what is added to latents in
    training; `adversarial` and `eigen` weigh the two further losses, 0 where they are
    off.
    Source: KDM sizes, KDM latent noise.
    """

    network: UNetConfig | MLPConfig = field(default_factory=UNetConfig)
    operator: str = "dense"
    project: int = 0
    noise: float = 0.4
    adversarial: float = 0.0
    eigen: float = 0.0

    def __post_init__(self):
        at_least(self, project=0, noise=0, adversarial=0, eigen=0)
        if self.operator not in ("dense", "decomposed"):
            raise ValueError(
                f'operator = {self.operator!r}: one of "dense", "decomposed"'
            )
        if self.latent % 2 and self.operator == "decomposed":
            raise ValueError(
                f"a latent of {self.latent} numbers: 2x2 blocks need an even one"
            )

    @property
    def latent(self) -> int:
        """Length of the latent vector."""
        if isinstance(self.network, MLPConfig):
            return self.network.state
        return self.project or self.network.resolution**2


MINI = UNetConfig(
    channels=48, mult=(1, 2), blocks=2, attention=(8,), patch=2, adaptive_scale=True
)

# KDM's repository: CIFAR-10, then 64 x 64
_AS_PUBLISHED = UNetConfig(channels=64, mult=(1, 2, 2, 2), dropout=0.1)
KDM_PRESETS: dict[str, KDMConfig] = {
    "toy2d": KDMConfig(MLPConfig(state=256, width=256)),
    "cifar10-mini": KDMConfig(MINI),
    "cifar10": KDMConfig(_AS_PUBLISHED, adversarial=0.01),
    "cifar10-cond": KDMConfig(replace(_AS_PUBLISHED, labels=10), adversarial=0.01),
    "64x64": KDMConfig(
        replace(_AS_PUBLISHED, resolution=64, channels=32),
        project=512,
        adversarial=0.01,
    ),
}
