"""Koopman operators: systems whose spectrum is known, and the ways to find one from
data.

`generator` is the object of the whole book: 2x2 blocks that move observables in closed
form. `systems` and `stochastic` are the ground on which methods are tried first, `dmd`
and `edmd` fit an operator to snapshots through a dictionary (`dictionaries`), and
`autoencoder` learns the dictionary. Start with `generator`. Chapters: 1 to 6 (Parts I
and II).
"""

from .autoencoder import KoopmanAutoencoder
from .dictionaries import Gaussians, Monomials, delays, gaussians, monomials
from .dmd import DMD, forecast, optimal_rank
from .edmd import EDMD, eigenfunctions, residuals
from .flows import System
from .generator import KoopmanGenerator, apply_mask
from .stochastic import Process
from .systems import linear, pendulum, slow_manifold, spiral, stuart_landau

__all__ = [
    "DMD",
    "EDMD",
    "Gaussians",
    "KoopmanAutoencoder",
    "KoopmanGenerator",
    "Monomials",
    "Process",
    "System",
    "apply_mask",
    "delays",
    "eigenfunctions",
    "forecast",
    "gaussians",
    "monomials",
    "linear",
    "optimal_rank",
    "pendulum",
    "residuals",
    "slow_manifold",
    "spiral",
    "stuart_landau",
]
