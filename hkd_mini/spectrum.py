"""Reading the generator: its eigenvalues are its parameters, so a spectrum costs nothing.

Each state of an HKD has d/2 eigenvalues alpha + i beta at every location (and their conjugates). In the model's clock a
mode changes by e^{alpha dt} and turns by beta dt; with T - eps = 1 (clock "rho") e^{-alpha} is its gain on the way from
noise to picture. A band is a set of modes chosen by the quantiles of a rate; bands of one state partition its modes, so
their masks sum to one and their parts of a state sum to the whole. Which band carries what is measured, never named
beforehand: the paper's own statements about "low" and "high" frequencies disagree. Chapter: 13 "Reading the spectrum".
Source: HKD appendix B.2, section 4.2.
"""

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from .model import HKD


def spectrum(model: HKD) -> list[Complex[Tensor, "pairs h w"]]:
    """Eigenvalues alpha + i beta of every state's generator, fine to coarse, the bottleneck's last: complex64 (d_l/2,
    h_l, w_l).

    Rates per unit of the model's clock; the conjugates are left out. With `spatial="shared"` h = w = 1. Source: HKD eq
    4.
    """
    return [generator.eigenvalues().cpu() for generator in model.generators]


def by_level(model: HKD) -> dict[tuple[int, int], list[int]]:
    """Which states belong to each resolution: {(h, w): indices of states}, fine to coarse."""
    levels: dict[tuple[int, int], list[int]] = {}
    for i, (_, h, w) in enumerate(model.state_shapes):
        levels.setdefault((h, w), []).append(i)
    return levels


def gains(model: HKD, t: float, s: float) -> list[Float[Tensor, "pairs h w"]]:
    """Factor by which the length of every pair changes from time t to time s: e^{alpha (s - t)}."""
    return [(lam.real * (s - t)).exp() for lam in spectrum(model)]


def rate(eigenvalues: Complex[Tensor, "..."], key: str = "alpha") -> Float[Tensor, "..."]:
    """What modes are sorted by: "alpha" (signed growth rate), "abs" (its magnitude), "beta" (magnitude of the
    frequency).

    Raises ValueError for another key. The paper's text says the first, its figure 4 the second.
    """
    keys = {"alpha": lambda v: v.real, "abs": lambda v: v.real.abs(), "beta": lambda v: v.imag.abs()}
    if key not in keys:
        raise ValueError(f"key = {key!r}: one of {', '.join(keys)}")
    return keys[key](eigenvalues)


def band_masks(
    eigenvalues: list[Complex[Tensor, "_ _ _"]], bands: int = 4, key: str = "alpha"
) -> list[Bool[Tensor, "bands _ _ _"]]:
    """Split every state's modes into `bands` equal parts by rank of a rate, lowest first: masks that sum to one
    everywhere.

    Equal rates (a generator that is all zero, say) are split in storage order, so that a band never is empty by
    accident. Give the states of one resolution alone to rank within a level. Raises ValueError for fewer than one band.
    """
    if bands < 1:
        raise ValueError(f"bands = {bands}: need at least 1")
    masks = []
    for lam in eigenvalues:
        rank = rate(lam, key).flatten().argsort(stable=True).argsort()
        band = (rank * bands // lam.numel()).reshape(lam.shape)
        masks.append(torch.stack([band == b for b in range(bands)]))
    return masks


def interval_masks(
    eigenvalues: list[Complex[Tensor, "_ _ _"]], low: float, high: float, key: str = "alpha"
) -> list[Bool[Tensor, "_ _ _"]]:
    """The modes whose rank lies between two quantiles, low included, high not (but 1 includes all): one mask per state.

    Raises ValueError unless 0 <= low <= high <= 1.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"quantiles from {low} to {high}: need 0 <= low <= high <= 1")
    masks = []
    for lam in eigenvalues:
        rank = rate(lam, key).flatten().argsort(stable=True).argsort().reshape(lam.shape)
        masks.append((rank >= low * lam.numel()) & (rank < high * lam.numel()))
    return masks
