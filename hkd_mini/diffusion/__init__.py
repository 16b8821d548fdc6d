"""Diffusion as a flow: noise levels and clocks, networks, teachers and the samplers
that follow them.

`schedule` turns noise levels into time, `unet` and `networks` hold EDM's U-Net cut at
its waist, `teacher` is a denoiser and its training, `exact` two denoisers without any,
`samplers` integrates the probability flow. `released` and `epsilon` bring in teachers
that others trained; `pickles` reads their files without running them. Start with
`teacher` and `samplers.heun`. Chapters: 8 and 9.
"""

from .epsilon import diffusers_teacher, from_epsilon
from .exact import exact_denoiser, gaussian_denoiser
from .networks import MLPConfig, Network
from .released import edm_teacher
from .samplers import Path, ddpm, euler, heun
from .schedule import CLOCKS, Clock, karras_sigmas, lognormal_sigmas
from .teacher import Denoiser, edm_loss, train_teacher
from .unet import Decoder, Encoder, UNetConfig

__all__ = [
    "CLOCKS",
    "Clock",
    "Decoder",
    "Denoiser",
    "Encoder",
    "MLPConfig",
    "Network",
    "Path",
    "UNetConfig",
    "ddpm",
    "diffusers_teacher",
    "edm_loss",
    "edm_teacher",
    "euler",
    "exact_denoiser",
    "from_epsilon",
    "gaussian_denoiser",
    "heun",
    "karras_sigmas",
    "lognormal_sigmas",
    "train_teacher",
]
