"""What a band of modes draws: its picture, its share, its spatial frequencies.

A band is a mask over the modes of each state (`spectra.band_masks`). Which band carries
what is measured, never named beforehand: the paper's own statements about "low" and
"high" frequencies disagree. Chapter: 13 "Reading the spectrum".
Source: HKD appendix B.2, HKD section 4.2.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from ..koopman.generator import apply_mask
from .model import HKD
from .spectra import rate

# in cycles per picture of 32 x 32, from what colours it to its finest grain
RINGS = (0, 1.5, 4, 8, 12, 23)


@torch.no_grad()
def decode_bands(
    model: HKD,
    states: list[Float[Tensor, "batch _ _ _"]],
    masks: list[Bool[Tensor, "bands _ _ _"]],
    keep: bool = True,
    labels: Tensor | None = None,
) -> Float[Tensor, "bands batch ..."]:
    """What states decode to with one band alone (`keep`), or with one band taken out.

    `states` and `labels` as `model.decode` takes them, at eps for a picture; `masks` as
    `band_masks` gives them. Keeping one band asks the
    decoder about states that it never saw; taking one out stays closer to them, and is
    the fairer attribution.
    Source: HKD section 4.2, HKD figure 4.
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
    """Every band of `states` times its factor: 1 leaves it, 0 takes it out; scaling by
    1 / factor undoes it.

    `masks` as `band_masks` gives them, one of `factors` for each band. Modes in no band
    stay as they are. Raises ValueError unless there is one factor per band.
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

    `eigenvalues` as `spectrum` gives them, `masks` as `band_masks`; `states` are those
    at T, `spans` the times T - t >= 0 travelled; at span 0 it is the limit, the share
    at T. In closed form, since every mode's energy is an exponential. Raises ValueError
    for a negative span.
    Source: HKD figure 4, which shows such curves without a formula: this one is ours.
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
    with their energies in `state`. `eigenvalues` are that state's, `key` as in `rate`.
    """
    energy = torch.stack(state.chunk(2, dim=1)).square().sum(0)
    return (energy * rate(eigenvalues, key)).sum(1) / energy.sum(1)


def radial_power(images: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch bins"]:
    """Power of square `images` by spatial frequency, n // 2 rings from 1 to n / 2
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
    """Mean spatial frequency of square `images`, weighted with their power: cycles per
    picture.
    """
    power = radial_power(images)
    return (power * torch.arange(1, power.shape[-1] + 1)).sum(-1) / power.sum(-1)


def ring_power(
    images: Float[Tensor, "*batch h w"],
    edges: Sequence[float | int] = RINGS,
) -> Float[Tensor, "*batch rings"]:
    """Power of square `images` between two of `edges`, in cycles per picture, the lower
    included: float64, as shares of the mean square, the picture's mean and the corners
    among them.

    Unlike `radial_power`, with rings of one's own. Raises ValueError if not square, or
    for a ring without a frequency.
    """
    h, w = images.shape[-2:]
    if h != w:
        raise ValueError(f"pictures of {h} x {w}: wanted square ones")
    axis = torch.fft.fftfreq(h, 1 / h, device=images.device)
    radius = torch.hypot(axis[:, None], axis)
    rings = [(radius >= low) & (radius < high) for low, high in zip(edges, edges[1:])]
    if empty := [i for i, ring in enumerate(rings) if not ring.any()]:
        raise ValueError(f"edges {list(edges)}: no frequency in ring {empty[0]}")
    squared = torch.fft.fft2(images.double()).abs().square() / h**4
    return torch.stack([squared[..., ring].sum(-1) for ring in rings], -1)


def share_decided(
    guesses: Float[Tensor, "k n c h w"],
    ends: Float[Tensor, "n c h w"],
    edges: Sequence[float | int] = RINGS,
) -> Float[Tensor, "k rings"]:
    """How much of the pictures `ends` a teacher's `guesses` at k levels already know,
    by spatial frequency: 1 for all of a ring, 0 for no more than the mean picture.

    1 - sum |F(end) - F(guess)|^2 / sum |F(end) - F(mean)|^2 over pictures, colours and
    the frequencies between two of `edges`, in cycles per picture (the lower included);
    F is the discrete Fourier transform and the mean that of `ends`. Negative where a
    guess is worse than the mean. Raises ValueError for fewer than 2 pictures, a ring
    without a frequency, or pictures that are not square. Chapter 13.
    """
    if len(ends) < 2:
        raise ValueError(f"{len(ends)} picture: wanted at least 2")
    missed = ring_power(guesses - ends, edges).sum((-3, -2))
    return (1 - missed / ring_power(ends - ends.mean(0), edges).sum((0, 1))).float()
