"""How far states are from a straight line: the Koopman residual.

A state of a true path is moved from time s to time t by exp(A (t - s)), and compared
with the state of the path at t. Relative to its size the gap is the residual, 0 for an
invariant subspace. Relative to its variance over paths it is the centred one, which
nothing that all paths share can make small. Chapters: 7 "One step in the plane", 11
"What one step buys", 12 "Theorems".
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .model import Moving


def residual_by_time(
    model: Moving,
    path_x: Float[Tensor, "k batch ..."],
    times: Float[Tensor, " k"],
    labels: Int[Tensor, " batch"] | None = None,
    source: int | None = None,
) -> Float[Tensor, "k levels"]:
    """|evolve(encode(x_s), s, t) - encode(x_t)| / |encode(x_t)| at every t of the path,
    mean over the batch.

    `model` has `encode` and `evolve`; path_x (K, batch, *shape) are teacher paths at
    its times `times`, of classes `labels`; s is times[source], by default the greatest:
    noise. One column per operator (as `encode` lists states), one row per t; the row of
    s is 0. Raises ValueError for unlike lengths, fewer than 2 times, or a state that is
    0, where the ratio means nothing.
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
                relative_gaps(
                    model.evolve(start, s, float(t)),
                    model.encode(x, float(t), labels),
                    float(t),
                )
                for x, t in zip(path_x, times)
            ]
        )


def koopman_residual(
    model: Moving,
    path_x: Float[Tensor, "k batch ..."],
    times: Float[Tensor, " k"],
    labels: Int[Tensor, " batch"] | None = None,
    source: int | None = None,
) -> Float[Tensor, " levels"]:
    """Mean of `residual_by_time` over every t but s, one number >= 0 per operator; 0:
    states move linearly.

    model, path_x, times, labels, source and errors as there. With A set to 0 it is the
    relative distance between encode(x_s) and encode(x_t): the number to compare with.
    """
    rows = residual_by_time(model, path_x, times, labels, source)
    return rows.sum(0) / (len(rows) - 1)  # the row of s is exactly 0


def relative_gaps(
    moved: list[Tensor], wish: list[Tensor], t: float
) -> Float[Tensor, " levels"]:
    """|moved - wish| / |wish| of each state (batch, ...), mean over the batch, in
    float64.

    Raises ValueError for a wish that is 0; t, its time, is named there.
    """
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


def centred_gap(
    moved: Float[Tensor, "batch ..."], z: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Mean |moved - z|^2 over the variance of z across the batch, in float64: 1 for a
    guess no better than the mean state.

    A constant in both adds nothing to either. nan where z is the same in the whole
    batch (a batch of one, say) and there is no variance to be a share of.
    """
    moved = moved.double().flatten(1)
    z = z.double().flatten(1)
    if (z == z[:1]).all():
        return torch.full_like(z[0, 0], torch.nan)
    return (moved - z).square().sum(1).mean() / z.var(0, correction=0).sum()
