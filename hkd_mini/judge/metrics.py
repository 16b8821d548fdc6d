"""Metrics: how far samples are from the data.

Two clouds of features are compared as Gaussians, by the Frechet distance: one number,
blind to all but two moments, and biased by the number of samples, so only equal numbers
are compared. Precision and recall split it: the share of samples inside the data's
manifold, the share of the data inside the samples'. Features come from `features`.
Everything is accumulated in float64, in flat memory. Chapter: 11 "What one step buys".
Source: Heusel et al. 2017 (FID), Kynkaanniemi et al. 2019 (precision, recall).
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.files import read_tensors, write_tensors


class Statistics(NamedTuple):
    """Mean (dim,) and unbiased covariance (dim, dim) of n feature vectors, float64."""

    mean: Float[Tensor, " dim"]
    cov: Float[Tensor, "dim dim"]
    n: int


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: samples that lie in the data's manifold, data that lie in the
    samples'.
    """

    precision: float
    recall: float


def statistics(features: Iterable[Float[Tensor, "_ dim"]]) -> Statistics:
    """Mean and covariance of `features`, a stream of batches of any sizes, one batch in
    memory.

    Batches merge by an update that does not cancel as sums of squares do. Raises
    ValueError for fewer than 2 vectors in all, another width on the way, or a value
    that is not finite.
    Source: Chan, Golub & LeVeque 1979.
    """
    n = 0
    mean = torch.tensor(0.0, dtype=torch.float64)
    scatter = mean
    for batch in features:
        x = batch.detach().double().cpu()
        if x.ndim != 2 or (n and x.shape[1] != len(mean)) or not x.isfinite().all():
            raise ValueError(
                f"got features {tuple(x.shape)} after {n} vectors; wanted finite "
                "(batch, dim)"
            )
        m = len(x)
        total = n + len(x)
        if not m:
            continue
        shift = x.mean(0) - mean
        scatter = (
            scatter
            + (x - x.mean(0)).T @ (x - x.mean(0))
            + shift[:, None] * shift * (n * m / total)
        )
        mean = mean + shift * (m / total)
        n = total
    if n < 2:
        raise ValueError(f"got {n} feature vectors, wanted at least 2 for a covariance")
    return Statistics(mean, scatter / (n - 1), n)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr (C_a^1/2 C_b C_a^1/2)^1/2 >= 0, in
    squared feature units, of the Gaussians of a and b.

    With C = F F^T the last trace is the sum of the singular values of F_a^T F_b: no
    square root of a nearly singular product, and exact without full rank. Raises
    ValueError for unlike widths, or a matrix that is no covariance.
    Source: Dowson and Landau 1982; as a distance of features (FID), Heusel et al. 2017.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of width {len(a.mean)} and {len(b.mean)}: wanted one extractor "
            "for both"
        )
    overlap = torch.linalg.svdvals(_factor(a.cov).T @ _factor(b.cov)).sum()
    shift = (a.mean.double() - b.mean.double()).square().sum()
    distance = shift + a.cov.double().trace() + b.cov.double().trace() - 2 * overlap
    return max(distance.item(), 0.0)  # equal Gaussians may come out at -1e-14


def _factor(cov: Tensor) -> Tensor:
    """F with F F^T = cov; an eigenvalue that rounding (to float32, say) made negative
    counts as 0.
    """
    if not cov.isfinite().all() or (cov - cov.T).abs().max() > 1e-5 * cov.abs().max():
        raise ValueError("not a covariance: wanted a finite, symmetric matrix")
    values, vectors = torch.linalg.eigh(cov.double())
    if values[0] < -1e-5 * values[-1].abs():
        raise ValueError(
            f"not a covariance: eigenvalues {values[0]:.3g} to {values[-1]:.3g}, "
            "wanted >= 0"
        )
    return vectors * values.clamp(min=0).sqrt()


def save_statistics(
    path: str | os.PathLike,
    stats: Statistics,
    dtype: torch.dtype = torch.float64,
    **about: str,
) -> None:
    """Write the safetensors file `path` with mean and cov of `stats`, as `dtype`, and,
    in its header, n and the remarks of `about`; atomic.
    """
    tensors = {"mean": stats.mean.to(dtype), "cov": stats.cov.to(dtype)}
    write_tensors(path, tensors, {**about, "n": str(stats.n)})


def load_statistics(path: str | os.PathLike) -> Statistics:
    """Read what `save_statistics` wrote to `path`, as float64. FileNotFoundError or
    ValueError names a bad file.
    """
    tensors, header = read_tensors(path)
    whole = set(tensors) == {"mean", "cov"} and all(
        t.isfinite().all() for t in tensors.values()
    )
    if not whole or not header.get("n", "").isdigit():
        raise ValueError(
            f"{path}: holds {sorted(tensors)} and {sorted(header)}, wanted finite "
            "mean, cov; n"
        )
    return Statistics(
        tensors["mean"].double(), tensors["cov"].double(), int(header["n"])
    )


def precision_recall(
    real: Float[Tensor, "n dim"],
    fake: Float[Tensor, "m dim"],
    k: int = 3,
    chunk: int = 1024,
) -> PrecisionRecall:
    """Shares of `fake` inside the manifold of `real`, and of `real` inside that of
    `fake`.

    A set's manifold is the union of balls about its points, each as wide as the
    distance to the k-th nearest other point. Memory: chunk rows of distances. Raises
    ValueError unless 1 <= k < n and m, and for features that are not finite.
    Source: Kynkaanniemi et al. 2019, eq 1, eq 2.
    """
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k={k} neighbours with {len(real)} real and {len(fake)} fake; wanted 1 "
            "<= k < both"
        )
    for name, points in (("real", real), ("fake", fake)):
        if not points.isfinite().all():
            raise ValueError(f"{name} holds features that are not finite")
    real = real.double()
    fake = fake.double()
    return PrecisionRecall(
        _share_inside(fake, real, k, chunk), _share_inside(real, fake, k, chunk)
    )


def _share_inside(points: Tensor, manifold: Tensor, k: int, chunk: int) -> float:
    # the nearest neighbour of a point is itself, at distance 0: hence k + 1
    parts = manifold.split(chunk)
    radii = torch.cat(
        [torch.cdist(part, manifold).kthvalue(k + 1, 1).values for part in parts]
    )
    inside = [
        (torch.cdist(part, manifold) <= radii).any(1) for part in points.split(chunk)
    ]
    return torch.cat(inside).double().mean().item()


def sliced_wasserstein(
    a: Float[Tensor, "n dim"],
    b: Float[Tensor, "n dim"],
    directions: int = 256,
    generator: torch.Generator | None = None,
) -> float:
    """Distance of two clouds a and b of equally many points: root mean square, over
    random directions, of W2 along the line.

    `generator` draws the `directions`. On a line the best plan pairs the sorted points.
    In the points' units; two clouds of one distribution are not at 0, so print theirs
    beside it.
    Source: Rabin et al. 2012.
    """
    axes = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    shadows = [
        (x.double() @ (axes / axes.norm(dim=0))).sort(dim=0).values for x in (a, b)
    ]
    return float((shadows[0] - shadows[1]).square().mean().sqrt())
