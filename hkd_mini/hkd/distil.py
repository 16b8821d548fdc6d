"""Distillation: a teacher's paths become an HKD.

One thing is asked of the states lifted from any point of a teacher's path: evolved in
closed form to the end, they must decode to the path's end. Asked at T alone this is
reconstruction; asked at every time it is trajectory consistency. Chapter: 10
"Training".
Source: HKD algorithm 1, HKD appendix D.4.
"""

from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn

from ..engine.config import Step, TrainConfig
from ..engine.data import batch_indices, rng_at
from ..engine.loop import fit
from ..judge.distance import Distance
from ..koopman.generator import KoopmanGenerator
from .model import HKD, Lifting
from .objective import PAPER, Objective, hkd_loss
from .paths import Paths


def groups(model: nn.Module, lr_scale_A: float) -> list[dict]:
    """What the optimiser moves: all trained weights of `model`, and the generators' at
    `lr_scale_A` times the learning rate.
    """
    of_A = {
        id(part.A) for part in model.modules() if isinstance(part, KoopmanGenerator)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = (
        ([p for p in trained if id(p) not in of_A], 1.0),
        ([p for p in trained if id(p) in of_A], lr_scale_A),
    )
    return [{"params": part, "scale": scale} for part, scale in parts if part]


def places(
    objective: Objective, levels: int, n: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Where on n paths of `levels` points before their end to look: indices (n, s), of
    the kinds that `objective` asks for, drawn by `rng`.

    "at" is T and s - 1 uniform points. Decoding on the way and linearity get a partner
    "u" for each, uniform too (with `later_only` among those nearer the picture), or
    with partners "own" none, the infinitesimal term its neighbour "near".
    Source: HKD algorithm 1, lines 5 to 10; HKD definition 3.1 (the range of times).
    """
    count = objective.times - 1 if objective.consistency else 0
    at = torch.randint(0, levels, (n, count), generator=rng)
    at = torch.cat([torch.zeros(n, 1, dtype=torch.long), at], dim=1)  # 0 is T
    found = {"at": at}
    beside = objective.path_weight or objective.guess_weight or objective.linear_weight
    if beside and objective.partners == "drawn":
        if objective.later_only:
            further = torch.rand(at.shape, generator=rng) * (levels - at)
            found["u"] = at + further.long()
        else:
            found["u"] = torch.randint(0, levels, at.shape, generator=rng)
    if objective.infinitesimal_weight:
        found["near"] = torch.where(at + 1 < levels, at + 1, at - 1)
    return found


def guess_of(points: dict[str, Tensor]) -> Tensor:
    """The teacher's guesses at `points` of `Paths.gather`, or a ValueError where the
    paths carry none.
    """
    if "guess" not in points:
        raise ValueError(
            "guess_weight asks for the teacher's guesses, and these paths carry none: "
            "make them again with `hkd-mini trajectories`"
        )
    return points["guess"]


def train(
    model: HKD,
    trajectories: Paths,
    config: TrainConfig,
    objective: Objective = PAPER,
    distance: Distance | None = None,
    **keep,
) -> Iterator[Step]:
    """Distil a teacher's paths into `model`, an HKD: the states evolved from T and from
    s - 1 uniform times decode to their end.

    `trajectories` as `paths.Trajectories` or `paths.PathsInMemory`; `config` says how
    long and how fast, `objective` what is asked; `distance` defaults to l1 MSE + l2
    feature distance as `objective.perceptual` names it. Yields as `fit`, which also
    gets `keep` (out, resume).
    Source: HKD algorithm 1, HKD eq 6; the further terms are ours.
    """
    if distance is None:
        network = model.config.network
        pictures = network.bounded and network.shape[0] == 3
        distance = Distance(None)
        if pictures:
            distance = Distance.of(objective.perceptual, objective.texture_weight)
    if config.compile and distance.perceptual is not None:
        distance.perceptual.compile()
    levels = len(trajectories.sigmas) - 1

    def batch(step: int, share: slice) -> dict[str, Tensor]:
        rng = rng_at(config.seed, step)
        index = batch_indices(len(trajectories), config.batch, config.seed, step)
        where = places(objective, levels, len(index), rng)
        index = index[share]
        found = trajectories.gather(index, where.pop("at")[share])
        for name, points in where.items():
            there = trajectories.gather(index, points[share])
            found |= {f"x_{name}": there["x"], f"sigma_{name}": there["sigma"]}
            if name == "u" and objective.guess_weight:
                found["guess_u"] = guess_of(there)
        if objective.guess_weight and objective.partners == "own":
            guess_of(found)
        else:
            found.pop("guess", None)
        return found

    def loss(
        model: Lifting,
        x: Tensor,
        sigma: Tensor,
        end: Tensor,
        progress: float,
        labels: Tensor | None = None,
        **further: Tensor,
    ) -> dict[str, Tensor]:
        d = distance.to(x.device)
        return hkd_loss(model, d, x, sigma, end, progress, labels, objective, **further)

    yield from fit(
        model,
        batch,
        loss,
        config,
        groups=groups(model, objective.lr_scale_A),
        describe=asdict(objective),
        **keep,
    )
