"""hkd_mini: from Koopman operators to one-step image generation, in folders that are
the parts of a book.

    model = hkd_mini.load("hkd-cifar10")
    images = model.sample(torch.randn(16, 3, 32, 32))  # unit noise in, [-1, 1] out
    hkd_mini.save_images(images, "sheet.png")

In import order: `engine`, `koopman`, `diffusion`, `judge`, `hkd`, `onestep`, `app`.
Each folder's preface says what stands in it and where to start.
"""

from .app.samples import save_images
from .app.zoo import load
from .engine import border
from .engine.config import Step, TrainConfig
from .hkd.config import PRESETS, HKDConfig
from .hkd.distil import train
from .hkd.model import HKD
from .hkd.objective import Objective
from .hkd.spectra import spectrum

__version__ = "0.1.0"
__all__ = [
    "HKD",
    "HKDConfig",
    "Objective",
    "PRESETS",
    "Step",
    "TrainConfig",
    "load",
    "save_images",
    "spectrum",
    "train",
]

border.guard(__name__)  # what users give is looked at where it comes in
