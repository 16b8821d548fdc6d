"""Metrics: how far samples are from the data, and how far a lift is from a Koopman
representation.

Two clouds of features are compared as Gaussians, by the Frechet distance: one number,
blind to all but two moments, and biased by the number of samples, so only equal numbers
are compared. Precision and recall split it: the share of samples inside the data's
manifold, the share of the data inside the samples'. The Koopman residual asks something
else: do the states of a true path move as exp(A (t - s)) says? It is 0 for an invariant
subspace and needs no picture at all. Features come from the bundled classifier
(offline; the numbers are its own and compare with nothing outside this package) or from
Inception (the literature's FID). Everything is accumulated in float64, in flat memory.
Chapters: 11 "What one step buys", 12 "Theorems".
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from .data import to_uint8, to_unit
from .weights import read_tensors, write_tensors

Extractor = Callable[[Num[Tensor, "batch 3 h w"]], Float[Tensor, "batch dim"]]


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
    """Mean and covariance of a stream of feature batches of any sizes, one batch in
    memory.

    Batches merge by the update of Chan, Golub and LeVeque (1979), which does not cancel
    as sums of squares do. Raises ValueError for fewer than 2 vectors in all, another
    width on the way, or a value that is not finite.
    """
    n = 0
    mean = 0.0
    scatter = 0.0
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
    squared feature units.

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
    """Write a safetensors file with mean, cov and, in its header, n and the remarks of
    `about`; atomic.
    """
    tensors = {"mean": stats.mean.to(dtype), "cov": stats.cov.to(dtype)}
    write_tensors(path, tensors, {**about, "n": str(stats.n)})


def load_statistics(path: str | os.PathLike) -> Statistics:
    """Read what `save_statistics` wrote, as float64. FileNotFoundError or ValueError
    names a bad file.
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
    ValueError unless 1 <= k < n and m.
    Source: Kynkaanniemi et al. 2019, eqs 1 and 2.
    """
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k={k} neighbours with {len(real)} real and {len(fake)} fake; wanted 1 "
            "<= k < both"
        )
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
    """Distance of two clouds of equally many points: root mean square, over random
    directions, of W2 along the line.

    On a line the best plan pairs the sorted points. In the points' units; two clouds of
    one distribution are not at 0, so print theirs beside it.
    Source: Rabin et al. 2012.
    """
    axes = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    shadows = [
        (x.double() @ (axes / axes.norm(dim=0))).sort(dim=0).values for x in (a, b)
    ]
    return float((shadows[0] - shadows[1]).square().mean().sqrt())


def residual_by_time(
    model,
    path_x: Float[Tensor, "k batch ..."],
    times: Float[Tensor, " k"],
    labels: Int[Tensor, " batch"] | None = None,
    source: int | None = None,
) -> Float[Tensor, "k levels"]:
    """|evolve(encode(x_s), s, t) - encode(x_t)| / |encode(x_t)| at every t of the path,
    mean over the batch.

    `model` has `encode` and `evolve`; path_x (K, batch, *shape) are teacher paths at
    its times `times`; s is times[source], by default the greatest: noise. One column
    per operator (as `encode` lists states), one row per t; the row of s is 0. Raises
    ValueError for unlike lengths, fewer than 2 times, or a state that is 0, where the
    ratio means nothing.
    """
    if len(path_x) != len(times) or len(times) < 2:
        raise ValueError(
            f"{len(path_x)} points of a path and {len(times)} times; wanted as many, "
            "at least 2"
        )
    source = int(torch.as_tensor(times).argmax()) if source is None else source
    s = float(times[source])
    with torch.no_grad():
        start = model.encode(path_x[source], s, labels)
        return torch.stack(
            [
                _residual(model, start, s, x, float(t), labels)
                for x, t in zip(path_x, times)
            ]
        )


def koopman_residual(
    model,
    path_x: Float[Tensor, "k batch ..."],
    times: Float[Tensor, " k"],
    labels: Int[Tensor, " batch"] | None = None,
    source: int | None = None,
) -> Float[Tensor, " levels"]:
    """Mean of `residual_by_time` over every t but s, one number >= 0 per operator; 0:
    states move linearly.

    With A set to 0 it is the relative distance between encode(x_s) and encode(x_t): the
    number to compare with.
    """
    rows = residual_by_time(model, path_x, times, labels, source)
    return rows.sum(0) / (len(rows) - 1)  # the row of s is exactly 0


def _residual(
    model, start: list[Tensor], s: float, x: Tensor, t: float, labels: Tensor | None
) -> Tensor:
    moved = model.evolve(start, s, t)
    wish = model.encode(x, t, labels)
    sizes = [z.double().flatten(1).norm(dim=1) for z in wish]
    if any((size == 0).any() for size in sizes):
        raise ValueError(
            f"a state of encode(x_t, {t:.4g}) is 0, and the residual is relative to "
            "its size"
        )
    gaps = [
        (y.double() - z.double()).flatten(1).norm(dim=1) for y, z in zip(moved, wish)
    ]
    return torch.stack([(gap / size).mean() for gap, size in zip(gaps, sizes)])


def in_batches(
    images: Num[Tensor, "n 3 h w"], extract: Extractor, batch: int = 256
) -> Iterator[Tensor]:
    """Features of `images`, `batch` at a time, for `statistics(in_batches(images,
    extract))`.
    """
    return (extract(part) for part in images.split(batch))


def classifier_features(classifier: nn.Module) -> Extractor:
    """Pictures, uint8 or floats in [-1, 1], to `classifier.embed`'s (batch, dim), on
    the classifier's device.

    Raises ValueError for a classifier in training mode (its features would depend on
    the batch), and, when called, for floats outside [-1, 1].
    """
    if classifier.training:
        raise ValueError("the classifier is in training mode: call .eval() first")
    device = next(classifier.parameters()).device

    @torch.no_grad()
    def extract(images: Num[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        return classifier.embed(_unit(images).to(device)).float()

    return extract


def _unit(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return to_unit(images)
    if not images.abs().max() <= 1:
        raise ValueError(
            f"pictures reach {images.abs().max():.4g}: wanted uint8, or floats in "
            "[-1, 1]"
        )
    return images.float()


def inception_features(device: str | torch.device = "cpu") -> Extractor:
    """The 2048 features of FID's Inception v3, through torch-fidelity: pictures as in
    `classifier_features`.

    torch-fidelity downloads the weights (91 MB) once, and unpickles them: the one place
    where this package has to trust another's file. Raises ImportError without
    torch-fidelity, OSError without the weights; both say what to do.
    Source: Heusel et al. 2017; Obukhov et al. 2020.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (
            FeatureExtractorInceptionV3,
        )
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"Inception features need torch-fidelity ({error}): `pip install "
            "torch-fidelity`, "
            "and losses.mend_torchvision() where torchvision does not load"
        ) from error
    try:
        net = (
            FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
            .eval()
            .to(device)
        )
    except OSError as error:
        raise OSError(
            f"no Inception weights ({error}): go online once, {torch.hub.get_dir()} "
            "keeps them; or "
            "use classifier_features"
        ) from error

    @torch.no_grad()
    def extract(images: Num[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        pixels = images if images.dtype == torch.uint8 else to_uint8(_unit(images))
        return net(pixels.to(device))[0].float()

    return extract
