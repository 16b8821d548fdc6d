"""Hierarchical Koopman Diffusion: the model, its training, and how to read and edit it.

`model` encodes, evolves in closed form and decodes; `objective` says what is asked of
it; `make_paths` and `paths` hold the teacher's paths, `distil` trains on them by a
preset's recipe (`recipes`). `probe` and `residual` measure whether the states are a
Koopman representation, `spectra` and `bands` read the generator, `edit` changes
pictures on their way. Start with `model.HKD`. Chapters: 7 and 9 to 14.
"""

from .bands import cumulative_effect, decode_bands, scale_bands
from .config import PRESETS, HKDConfig
from .distil import train
from .edit import colourise, inject, inpaint
from .make_paths import make
from .model import HKD
from .objective import hkd_loss
from .paths import PathsInMemory, Trajectories
from .probe import Probe, Still
from .recipes import RECIPES, Recipe
from .residual import koopman_residual
from .spectra import band_masks, by_level, interval_masks, spectrum

__all__ = [
    "HKD",
    "HKDConfig",
    "PRESETS",
    "PathsInMemory",
    "Probe",
    "RECIPES",
    "Recipe",
    "Still",
    "Trajectories",
    "band_masks",
    "by_level",
    "colourise",
    "cumulative_effect",
    "decode_bands",
    "hkd_loss",
    "inject",
    "inpaint",
    "interval_masks",
    "koopman_residual",
    "make",
    "scale_bands",
    "spectrum",
    "train",
]
