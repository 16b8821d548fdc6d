"""The neighbours: every other way from noise to picture in one step.

`students` are what is trained. `losses` and `consistency` have a short function for
each method, `methods` the protocol that all of them are trained by, `kdm` the sibling
of HKD with one matrix on one latent vector. Start with `methods.METHODS`. Chapters: 16
and 17.
"""

from .kdm import KDM
from .kdm_config import KDM_PRESETS, KDMConfig
from .methods import METHODS, Method, distil
from .students import Matched, Student, one_step

__all__ = [
    "KDM",
    "KDMConfig",
    "KDM_PRESETS",
    "METHODS",
    "Matched",
    "Method",
    "Student",
    "distil",
    "one_step",
]
