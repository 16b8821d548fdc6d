"""Reading the generator: its eigenvalues are its parameters, so a spectrum costs
nothing.

Each state of an HKD has d/2 eigenvalues alpha + i beta at every location (and their
conjugates). In the model's clock a mode changes by e^{alpha dt} and turns by beta dt;
with T - eps = 1 (clock "rho") e^{-alpha} is its gain on the way from noise to picture.
A band is a set of modes chosen by the quantiles of a rate; bands of one state partition
its modes, so their masks sum to one and their parts of a state sum to the whole. Which
band carries what is measured, never named beforehand: the paper's own statements about
"low" and "high" frequencies disagree. Chapter: 13 "Reading the spectrum".
Source: HKD appendix B.2, section 4.2.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from .koopman import apply_mask
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
    Source: HKD eq 4.
    """
    return [generator.eigenvalues().cpu() for generator in model.generators]


def by_level(model: HKD) -> dict[tuple[int, int], list[int]]:
    """Which states belong to each resolution: {(h, w): indices of states}, fine to
    coarse.
    """
    levels: dict[tuple[int, int], list[int]] = {}
    for i, (_, h, w) in enumerate(model.state_shapes):
        levels.setdefault((h, w), []).append(i)
    return levels


def gains(model: HKD, t: float, s: float) -> list[Float[Tensor, "pairs h w"]]:
    """Factor by which the length of every pair changes from time t to time s: e^{alpha
    (s - t)}.
    """
    return [(lam.real * (s - t)).exp() for lam in spectrum(model)]


def readings(model: HKD, sigma: float = 1.0) -> list[Reading]:
    """Every state's rates in terms that compare across clocks; `sigma` is where the
    slope is taken.

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
    """What modes are sorted by: "alpha" (signed growth rate), "abs" (its magnitude),
    "beta" (magnitude of the frequency).

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

    Each state is ranked by itself, or together with the others of its group of `groups`
    (lists of indices that hold every state once; `by_level(model).values()` ranks a
    resolution jointly, as the paper does). Equal rates (a generator that is all zero,
    say) stand in storage order, so that no band is empty by accident. Raises ValueError
    for groups that leave a state out.
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

    Parts are equal within each state, or within each group of `groups` (see `ranks`).
    Raises ValueError for fewer than one band.
    """
    if bands < 1:
        raise ValueError(f"bands = {bands}: need at least 1")
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

    Raises ValueError unless 0 <= low <= high <= 1.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"quantiles from {low} to {high}: need 0 <= low <= high <= 1")
    return [(rank >= low) & (rank < high) for rank in ranks(eigenvalues, key, groups)]


@torch.no_grad()
def decode_bands(
    model: HKD,
    states: list[Float[Tensor, "batch _ _ _"]],
    masks: list[Bool[Tensor, "bands _ _ _"]],
    keep: bool = True,
    labels: Tensor | None = None,
) -> Float[Tensor, "bands batch ..."]:
    """What states decode to with one band alone (`keep`), or with one band taken out.

    `states` as `decode` takes them, at eps for a picture. Keeping one band asks the
    decoder about states that it never saw; taking one out stays closer to them, and is
    the fairer attribution.
    Source: HKD section 4.2.
    """
    chosen = [list(m if keep else ~m) for m in masks]
    return torch.stack(
        [
            model.decode([apply_mask(*zm) for zm in zip(states, part)], labels)
            for part in zip(*chosen)
        ]
    )


def scale_bands(
    states: list[Float[Tensor, "batch _ _ _"]],
    masks: list[Bool[Tensor, "bands _ _ _"]],
    factors: Float[Tensor, " bands"] | Sequence[float | int],
) -> list[Float[Tensor, "batch _ _ _"]]:
    """Every band of every state times its factor: 1 leaves it, 0 takes it out; scaling
    by 1 / factor undoes it.

    Modes in no band stay as they are. Raises ValueError unless there is one factor per
    band.
    """
    factors = torch.as_tensor(factors, dtype=torch.float32)
    if any(len(m) != len(factors) for m in masks):
        raise ValueError(
            f"{len(factors)} factors for {len(masks[0])} bands: wanted one each"
        )
    weights = (torch.where(m, factors[:, None, None, None], 1.0).prod(0) for m in masks)
    return [apply_mask(z, weight) for z, weight in zip(states, weights, strict=True)]


def cumulative_effect(
    eigenvalues: list[Complex[Tensor, "_ _ _"]],
    states: list[Float[Tensor, "batch _ _ _"]],
    masks: list[Bool[Tensor, "bands _ _ _"]],
    spans: Float[Tensor, " k"],
) -> list[Float[Tensor, "bands k batch"]]:
    """Share of every band in the energy that passed through a state from T down to T -
    span; over bands it sums to 1.

        CE_b(t) = int_t^T e_b(s) ds / sum_b' int_t^T e_b'(s) ds,
        e_b(s) = sum_{p in b} |w_p(T)|^2 e^{2 alpha_p (s-T)}

    `states` are those at T, `spans` the times T - t >= 0 travelled; at span 0 it is the
    limit, the share at T. In closed form, since every mode's energy is an exponential.
    The paper shows such curves and gives no formula: this definition is ours. Raises
    ValueError for a negative span.
    """
    if (spans < 0).any():
        raise ValueError(f"spans down to {float(spans.min())}: wanted T - t >= 0")
    shares = []
    for lam, z, mask in zip(eigenvalues, states, masks, strict=True):
        # (batch, pairs, h, w)
        energy = torch.stack(z.double().chunk(2, dim=1)).square().sum(0)
        x = -2 * lam.real.double() * spans.double().view(-1, 1, 1, 1)
        # of e^{2 alpha (s-T)} over the span
        mean = torch.where(x.abs() < 1e-8, 1 + x / 2, torch.expm1(x) / x)
        passed = torch.einsum("npij,kpij,bpij->bkn", energy, mean, mask.double())
        shares.append(passed / passed.sum(0))
    return shares


def rate_map(
    eigenvalues: Complex[Tensor, "pairs _ _"],
    state: Float[Tensor, "batch _ h w"],
    key: str = "alpha",
) -> Float[Tensor, "batch h w"]:
    """The rate that dominates at each location: the mean over the modes there, weighted
    with their energies.
    """
    energy = torch.stack(state.chunk(2, dim=1)).square().sum(0)
    return (energy * rate(eigenvalues, key)).sum(1) / energy.sum(1)


def radial_power(images: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch bins"]:
    """Power of square pictures by spatial frequency, n // 2 rings from 1 to n / 2
    cycles per picture.

    Entry k - 1 is the sum over the ring of radius k, rounded, of |F|^2 / n^4 with F the
    discrete Fourier transform: by Parseval the parts of the mean square, without the
    mean and the corners beyond n / 2. Raises ValueError if not square.
    """
    n = images.shape[-1]
    if images.shape[-2] != n:
        raise ValueError(f"pictures of {images.shape[-2]} x {n}: wanted square ones")
    power = torch.fft.fft2(images).abs().square() / n**4
    axis = torch.fft.fftfreq(n, 1 / n)
    ring = torch.hypot(axis[:, None], axis).round().long().flatten()
    sums = power.new_zeros(*images.shape[:-2], int(ring.max()) + 1)
    return sums.index_add(-1, ring, power.flatten(-2))[..., 1 : n // 2 + 1]


def mean_frequency(images: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch"]:
    """Mean spatial frequency of square pictures, weighted with their power: cycles per
    picture.
    """
    power = radial_power(images)
    return (power * torch.arange(1, power.shape[-1] + 1)).sum(-1) / power.sum(-1)
