"""hkd_mini: from Koopman operators to one-step image generation, in modules that a book
explains.

model = hkd_mini.load("hkd-cifar10") images = model.sample(torch.randn(16, 3, 32, 32))
# unit noise in, images in [-1, 1] out
"""

from .loop import Step, TrainConfig
from .model import HKD, PRESETS, HKDConfig, load
from .spectrum import spectrum
from .train import train

__version__ = "0.1.0"
__all__ = [
    "HKD",
    "HKDConfig",
    "PRESETS",
    "Step",
    "TrainConfig",
    "load",
    "spectrum",
    "train",
]
