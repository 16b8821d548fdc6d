"""Reading the generator: its eigenvalues are its parameters, so a spectrum costs
nothing.

Each state of an HKD has d/2 eigenvalues alpha + i beta at every location (and their
conjugates). In the model's clock a mode changes by e^{alpha dt} and turns by beta dt;
with T - eps = 1 (clock "rho") e^{-alpha} is its gain on the way from noise to picture.
A band is a set of modes chosen by the quantiles of a rate; bands of one state partition
its modes, so their masks sum to one and their parts of a state sum to the whole. What a
band draws is measured in `bands`. Chapter: 13 "Reading the spectrum".
Source: HKD appendix B.2, HKD section 4.2.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from ..koopman.generator import KoopmanGenerator
from .model import HKD


class Reading(NamedTuple):
    """What the eigenvalues of one state say, each (d/2, h, w).

    growth: alpha, per unit of the clock. period: 2 pi / |beta|, in units of the clock,
    inf for a mode that does not turn. gain: e^{alpha (eps - T)}, the factor of its
    length from noise to picture. turns: beta (T - eps) / (2 pi), signed. slope: alpha
    |dt / d ln sigma| at one noise level, the growth rate per e-fold of noise there.
    """

    growth: Float[Tensor, "pairs h w"]
    period: Float[Tensor, "pairs h w"]
    gain: Float[Tensor, "pairs h w"]
    turns: Float[Tensor, "pairs h w"]
    slope: Float[Tensor, "pairs h w"]


def spectrum(model: HKD) -> list[Complex[Tensor, "pairs h w"]]:
    """Eigenvalues alpha + i beta of every state's generator, fine to coarse, the
    bottleneck's last: complex64 (d_l/2, h_l, w_l).

    Rates per unit of the model's clock; the conjugates are left out. With
    `spatial="shared"` h = w = 1.
    Source: HKD eq 4, HKD appendix B.2.
    """
    generators = (cast(KoopmanGenerator, generator) for generator in model.generators)
    return [generator.eigenvalues().cpu() for generator in generators]


def by_level(model: HKD) -> dict[tuple[int, int], list[int]]:
    """Which states of `model` belong to each resolution: {(h, w): indices of states},
    fine to coarse.
    """
    levels: dict[tuple[int, int], list[int]] = {}
    for i, (_, h, w) in enumerate(model.state_shapes):
        levels.setdefault((h, w), []).append(i)
    return levels


def gains(model: HKD, t: float, s: float) -> list[Float[Tensor, "pairs h w"]]:
    """Factor by which the length of every pair of `model` changes from time t to time
    s: e^{alpha (s - t)}.
    """
    return [(lam.real * (s - t)).exp() for lam in spectrum(model)]


@torch.no_grad()
def at_largest(
    model: HKD, states: list[Float[Tensor, "batch _ _ _"]]
) -> list[Float[Tensor, "batch _ _ _"]]:
    """`states` at T, with every pair moved to where it is largest on the way: to eps if
    it grows towards the picture. It is what an `anchored` encoder names.

    A pair that fades is nothing at the picture, and one that grows nothing at the
    noise. These are states of no one time, which only a linear read-out can be asked
    about, pair by pair.
    """
    ends = (model.clock.eps, model.clock.T)
    noise = torch.full((1, 1, 1, 1), model.clock.T)
    parts = (cast(KoopmanGenerator, part) for part in model.generators)
    return [A(z, -A.since_anchor(noise, ends)) for A, z in zip(parts, states)]


def readings(model: HKD, sigma: float = 1.0) -> list[Reading]:
    """The rates of every state of `model` in terms that compare across clocks; `sigma`
    is where the slope is taken.

    Raises ValueError unless sigma is positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma = {sigma}: a noise level above 0 is wanted")
    clock = model.clock
    log_sigma = torch.tensor(math.log(sigma), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (pace,) = torch.autograd.grad(clock.time(log_sigma.exp()), log_sigma)
    span = clock.T - clock.eps
    return [
        Reading(
            lam.real,
            2 * math.pi / lam.imag.abs(),
            gain,
            lam.imag * span / (2 * math.pi),
            lam.real * float(pace),
        )
        for lam, gain in zip(spectrum(model), gains(model, clock.T, clock.eps))
    ]


def rate(
    eigenvalues: Complex[Tensor, "..."], key: str = "alpha"
) -> Float[Tensor, "..."]:
    """What modes of `eigenvalues` alpha + i beta are sorted by: "alpha" (signed growth
    rate), "abs" (its magnitude), "beta" (magnitude of the frequency).

    Raises ValueError for another key. The paper's text says the first, its figure 4 the
    second.
    """
    keys = {
        "alpha": lambda v: v.real,
        "abs": lambda v: v.real.abs(),
        "beta": lambda v: v.imag.abs(),
    }
    if key not in keys:
        raise ValueError(f"key = {key!r}: one of {', '.join(keys)}")
    return keys[key](eigenvalues)


def ranks(
    eigenvalues: list[Complex[Tensor, "_ _ _"]],
    key: str = "alpha",
    groups: Iterable[list[int]] | None = None,
) -> list[Float[Tensor, "_ _ _"]]:
    """Where each mode stands among the others: the share of them with a smaller rate,
    in [0, 1).

    `eigenvalues` as `spectrum` gives them, `key` as in `rate`. Each state is ranked by
    itself, or together with the others of its group of `groups` (lists of indices that
    hold every state once; `by_level(model).values()` ranks a resolution jointly, as the
    paper does). Equal rates (a generator that is all zero, say) stand in storage order,
    so that no band is empty by accident. Raises ValueError for groups that leave a
    state out.
    """
    groups = (
        [[i] for i in range(len(eigenvalues))]
        if groups is None
        else [list(group) for group in groups]
    )
    if sorted(i for group in groups for i in group) != list(range(len(eigenvalues))):
        raise ValueError(
            f"groups {groups}: wanted each of {len(eigenvalues)} states once"
        )
    found = [eigenvalues[0].real] * len(eigenvalues)
    for group in groups:
        rates = torch.cat([rate(eigenvalues[i], key).flatten() for i in group])
        order = rates.argsort(stable=True).argsort().double() / len(rates)
        for i, part in zip(group, order.split([eigenvalues[i].numel() for i in group])):
            found[i] = part.reshape(eigenvalues[i].shape)
    return found


def band_masks(
    eigenvalues: list[Complex[Tensor, "_ _ _"]],
    bands: int = 4,
    key: str = "alpha",
    groups: Iterable[list[int]] | None = None,
) -> list[Bool[Tensor, "bands _ _ _"]]:
    """Split the modes into `bands` equal parts by rank of a rate, lowest first: masks
    that sum to one everywhere.

    `eigenvalues` as `spectrum` gives them, `key` as in `rate`. Parts are equal within
    each state, or within each group of `groups` (see `ranks`). Raises ValueError for
    fewer than one band.
    """
    if not 1 <= bands <= 10**6:
        raise ValueError(f"bands = {bands}: need at least 1, at most a million")
    cuts = [i / bands for i in range(bands + 1)]
    parts = [
        interval_masks(eigenvalues, low, high, key, groups)
        for low, high in zip(cuts, cuts[1:])
    ]
    return [torch.stack(masks) for masks in zip(*parts)]


def interval_masks(
    eigenvalues: list[Complex[Tensor, "_ _ _"]],
    low: float,
    high: float,
    key: str = "alpha",
    groups: Iterable[list[int]] | None = None,
) -> list[Bool[Tensor, "_ _ _"]]:
    """The modes whose rank lies between two quantiles, low included, high not (but 1
    includes all): one mask per state.

    `eigenvalues`, `key` and `groups` as in `ranks`. Raises ValueError unless 0 <= low
    <= high <= 1.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"quantiles from {low} to {high}: need 0 <= low <= high <= 1")
    return [(rank >= low) & (rank < high) for rank in ranks(eigenvalues, key, groups)]
