"""Is it Koopman? Measurements on paths that a model was not trained on.

Three questions. Does one step arrive, and does it still when A is set to 0? Can any
time of a path be reached from any other? Do the states of a true path move as
exp(A (t - s)) says? The last one, the residual, is 0 for an invariant subspace and
needs no picture at all. `probe` asks all of them at once, each with A and without.
Chapters: 7 "One step in the plane", 11 "What one step buys", 12 "Theorems".
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .model import Lifting
from .paths import Paths
from .residual import centred_gap, relative_gaps
from .residual import koopman_residual as koopman_residual  # measured alone, too
from .residual import residual_by_time as residual_by_time
from .terms import unit_contrast


class Still(NamedTuple):
    """A model with A = 0 in the evolution: encoder and decoder are `model`'s, and
    states stay where they are.

    Shows what A moves. An anchored encoder uses A too: here it keeps it.
    """

    model: Lifting

    def encode(
        self, x_t: Tensor, t: float | Tensor, labels: Tensor | None = None
    ) -> list[Tensor]:
        """The model's own states (batch, d_l, h_l, w_l)."""
        return self.model.encode(x_t, t, labels)

    def evolve(
        self, states: list[Tensor], t: float | Tensor, s: float | Tensor
    ) -> list[Tensor]:
        """The states themselves, whatever the times: e^{0 (s - t)} = 1."""
        return states

    def decode(self, states: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The model's own picture of the states (batch, *shape)."""
        return self.model.decode(states, labels)


class Answers(NamedTuple):
    """What one way of moving states achieves on n held-out paths.

    k counts the noisy points of a path, noise first, and not its end, the picture.
    levels counts states, as `encode` lists them. An error is the mean square of
    what is decoded less what is wanted, over paths, colours and places, in units of the
    pictures squared: divide by their variance for a share.

    error_at_the_end: of one step, from noise to picture.
    error_at_the_end_from: the same from every time of the path; the first is the one
    above. None if not asked for.
    error_on_the_way: from noise to every time of the path, where the noisy point at
    unit contrast is wanted (`terms.unit_contrast`).
    error_of_guesses: the same where the teacher's guess is; None for paths without.
    error_between: error_on_the_way from any time (row) to any time (column) on the
    first paths; None if not asked for.
    residual: |evolve(encode(x_T), T, t) - encode(x_t)| / |encode(x_t)| at every t, mean
    over paths (`residual_by_time`). The first row is 0.
    centred_residual: mean square of the same gap over the variance of encode(x_t), so
    that what is the same on every path does not count (`centred_gap`). The first row
    is 0.
    """

    error_at_the_end: Float[Tensor, ""]
    error_at_the_end_from: Float[Tensor, " k"] | None
    error_on_the_way: Float[Tensor, " k"]
    error_of_guesses: Float[Tensor, " k"] | None
    error_between: Float[Tensor, "k k"] | None
    residual: Float[Tensor, "k levels"]
    centred_residual: Float[Tensor, "k levels"]

    @property
    def mean_residual(self) -> Float[Tensor, " levels"]:
        """`koopman_residual`: the mean of `residual` over every t but T."""
        return self.residual.sum(0) / (len(self.residual) - 1)

    @property
    def mean_centred_residual(self) -> Float[Tensor, " levels"]:
        """The mean of `centred_residual` over every t but T."""
        return self.centred_residual.sum(0) / (len(self.centred_residual) - 1)


class Probe(NamedTuple):
    """What held-out paths say about a model.

    with_A: what the model achieves. without_A: the same with A = 0 in the evolution;
    where both are alike, A moves nothing that counts. largest_rates: the largest |alpha
    + i beta| of each state times T - eps, so that clocks compare: e-folds or radians on
    the way from noise to picture. size_of_states: mean norm of each state of the noise.
    """

    with_A: Answers
    without_A: Answers
    largest_rates: Float[Tensor, " levels"]
    size_of_states: Float[Tensor, " levels"]


class _HeldOut(NamedTuple):
    """Paths as a model meets them: times and states of all noisy points, the points at
    unit contrast and the guesses there, and the end.
    """

    t: list[float]
    states: list[list[Tensor]]
    wish: list[Tensor]
    guesses: list[Tensor] | None
    end: Tensor
    labels: Tensor | None


@torch.no_grad()
def probe(
    model: Lifting,
    paths: Paths,
    labels: Int[Tensor, " n"] | None = None,
    between: int = 0,
    from_every_time: bool = True,
) -> Probe:
    """Measure a model on paths that it was not trained on, with A and with A = 0.

    `model` is an HKD, or has its `encode`, `evolve`, `decode`, `clock`, `noise` and
    `generators`; `paths` are what `train` takes (`Trajectories`, `PathsInMemory`), all
    of them used at once. `labels` are their classes, by default those stored with
    them. `between` is the number of paths for `error_between`, which costs k^2
    decodings of each; without `from_every_time` there is no `error_at_the_end_from`,
    and less than half of the other decodings. Raises ValueError for paths of fewer than
    3 points or another first noise level than the model's, for labels or `between` that
    do not fit, or for a state that is 0.
    """
    held_out = _held_out(model, paths, labels)
    if not 0 <= between <= len(held_out.end):
        raise ValueError(
            f"between = {between}: wanted 0 to {len(held_out.end)}, as many as there "
            "are paths"
        )
    asked = (held_out, model.clock.eps, between, from_every_time)
    span = model.clock.T - model.clock.eps
    return Probe(
        _answers(model, *asked),
        _answers(Still(model), *asked),
        _largest_rates(model) * span,
        torch.stack([z.flatten(1).norm(dim=1).mean() for z in held_out.states[0]]),
    )


def _largest_rates(model) -> Float[Tensor, " levels"]:
    return torch.stack([g.eigenvalues().abs().max() for g in model.generators])


def _held_out(model, paths: Paths, labels: Tensor | None) -> _HeldOut:
    n = len(paths)
    sigmas = paths.sigmas
    k = len(sigmas)
    first = model.noise.sigma_max
    if n < 1 or k < 3 or not abs(float(sigmas[0]) / first - 1) < 1e-6:
        raise ValueError(
            f"{n} paths of {k} points from level {float(sigmas[0]):.6g}: wanted at "
            f"least 1 of 3 points, from the model's sigma_max = {first:.6g}"
        )
    batch = paths.gather(torch.arange(n), torch.arange(k).expand(n, k))
    labels = batch.get("labels") if labels is None else labels
    if labels is not None and len(labels) != n:
        raise ValueError(f"{len(labels)} labels for {n} paths")
    device = model.generators[0].A.device
    labels = None if labels is None else labels.to(device)
    x = batch["x"].to(device).transpose(0, 1).contiguous()
    noisy = sigmas[:-1].clamp(min=model.noise.sigma_min)
    # encoders take float32; the first time is T itself, as it is in `sample`
    t = [model.clock.T, *model.clock.time(noisy).float().tolist()[1:]]
    contrast = model.noise.sigma_data
    guesses = batch.get("guess")
    return _HeldOut(
        t,
        [model.encode(point, time, labels) for point, time in zip(x, t)],
        [unit_contrast(y, s[None].float(), contrast) for y, s in zip(x, sigmas[:-1])],
        None if guesses is None else list(guesses.to(device).transpose(0, 1)[:-1]),
        x[-1],
        labels,
    )


def _answers(
    model, held_out: _HeldOut, eps: float, between: int, from_every_time: bool
) -> Answers:
    t, states, wish, guesses, end, labels = held_out
    pictures = _pictures(model, states[0], t[0], [*t, eps], labels)
    way = []
    guessed = []
    for k, picture in enumerate(itertools.islice(pictures, len(t))):
        way.append(_error(picture, wish[k]))
        guessed += [] if guesses is None else [_error(picture, guesses[k])]
    at_end = _error(next(pictures), end)
    ends = [at_end]
    residual = []
    centred = []
    for z, s in zip(states[1:] if from_every_time else [], t[1:]):
        (picture,) = _pictures(model, z, s, [eps], labels)
        ends.append(_error(picture, end))
    for z, u in zip(states, t):
        moved = model.evolve(states[0], t[0], u)
        residual.append(relative_gaps(moved, z, u))
        centred.append(torch.stack([centred_gap(a, b) for a, b in zip(moved, z)]))
    return Answers(
        at_end,
        torch.stack(ends) if from_every_time else None,
        torch.stack(way),
        torch.stack(guessed) if guessed else None,
        _between(model, held_out, between) if between else None,
        torch.stack(residual),
        torch.stack(centred),
    )


def _between(model, held_out: _HeldOut, n: int) -> Float[Tensor, "k k"]:
    """Errors on the first n paths, from the time of each row to that of each column."""
    t, states, wish, _, _, labels = held_out
    labels = None if labels is None else labels[:n]
    rows = []
    for some, s in zip(states, t):
        pictures = _pictures(model, [z[:n] for z in some], s, t, labels)
        rows.append(torch.stack([_error(x, y[:n]) for x, y in zip(pictures, wish)]))
    return torch.stack(rows)


def _pictures(
    model, states: list[Tensor], t: float, times: list[float], labels: Tensor | None
) -> Iterator[Tensor]:
    """What states at time t decode to when they are moved to each of `times`."""
    picture = None
    for u in times:
        moved = model.evolve(states, t, u)
        # where states stand still, one picture serves all times
        if picture is None or moved is not states:
            picture = model.decode(moved, labels)
        yield picture


def _error(picture: Tensor, wish: Tensor) -> Float[Tensor, ""]:
    return (picture - wish).square().mean()
