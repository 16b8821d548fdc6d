"""The neighbours side by side: one protocol and one training loop for every one-step
method.

A student starts as a copy of the teacher, D(x; sigma), and its one step is D(sigma_max
n; sigma_max). What differs is what it is asked (`losses`), and that is all that an
entry of `METHODS` says: a loss, what it learns from, what a sample costs, how a student
is made, and in how many runs it is trained. To add a method, write its loss and its
entry.
Chapter: 17 "One-step generation, side by side".
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion.schedule import Denoise, noise_of
from ..engine.config import Step, TrainConfig
from ..engine.data import Images, batch_indices, rng_at, to_unit
from ..engine.loop import fit
from ..hkd.paths import Paths
from ..judge.distance import BUNDLED, Distance
from . import consistency, losses
from .kdm import KDM, kdm_loss
from .students import Matched, Student


class Stage(NamedTuple):
    """One of the runs of a method: further arguments of its loss, and its share of all
    training samples, as a weight.
    """

    arguments: dict
    weight: int = 1


class Method(NamedTuple):
    """A way to train a one-step student.

    `loss` has the signature of `losses`. `data` is "pairs" of a teacher's noises and
    ends, or "images". `cost` is what one training sample costs in evaluations of one of
    the networks: a forward pass 1, a gradient 2 more. `student` makes the module that
    is trained, with `sample(noise, labels=None)`, from the teacher. `metric` says
    whether the loss takes the distance `d`. Of several `stages` each one's student is
    the next one's teacher.
    """

    name: str
    loss: losses.Loss
    data: str
    cost: int
    student: Callable[[nn.Module], nn.Module] = Student.of
    metric: bool = False
    stages: tuple[Stage, ...] = (Stage({}),)


HALVING = tuple(
    Stage({"steps": steps}, 2 if steps == 1 else 1)
    for steps in (64, 32, 16, 8, 4, 2, 1)
)
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("KD", losses.knowledge_distillation, "pairs", 3, metric=True),
        Method("PD", losses.progressive_distillation, "images", 5, stages=HALVING),
        Method("1-RF", losses.rectified_flow, "images", 3),
        Method("2-RF", losses.rectified_flow, "pairs", 3),
        Method("2-RF++", losses.rectified_flow_plus, "pairs", 3, metric=True),
        Method("CD", consistency.consistency_distillation, "images", 6, metric=True),
        Method("CT", consistency.consistency_training, "images", 4, metric=True),
        Method("iCT", consistency.improved_consistency_training, "images", 4),
        Method("ECM", consistency.easy_consistency, "images", 4),
        Method("DMD", losses.distribution_matching, "pairs", 8, Matched.of, True),
        Method("KDM", kdm_loss, "pairs", 12, KDM.beside, True),
    )
}


def distil(
    student: nn.Module,
    method: str,
    data: Paths | Images | Tensor,
    config: TrainConfig,
    teacher: Denoise | None = None,
    perceptual: str = BUNDLED,
    out: str | None = None,
    resume: bool = False,
) -> Iterator[Step]:
    """Train a student, made by `METHODS[method].student`, by that method for as long as
    `config` says; yields as `loop.fit`, counted over all stages.

    `data`: a teacher's paths for "pairs" (`paths.Trajectories`, `paths.PathsInMemory`),
    `data.Images` or points (n, 2) for "images". `perceptual`: what looks at pictures
    where the loss takes a distance (`judge.distance.Distance.of`). The student is
    trained in place. Checkpoints go to `out`, of several stages to a folder each; with
    `resume` finished stages are taken as they are. Raises ValueError for an unknown
    method, or data of the other kind.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    paired = not isinstance(data, Images | Tensor)
    if paired != (chosen.data == "pairs"):
        raise ValueError(
            f"{method} learns from {chosen.data}, got {type(data).__name__}"
        )
    whole = sum(stage.weight for stage in chosen.stages)
    before = (0, 0)
    for number, stage in enumerate(chosen.stages):
        part = config
        folder = out
        if len(chosen.stages) > 1:
            part = replace(
                config,
                images=config.images * stage.weight // whole,
                seed=config.seed + sum(stage.arguments.values()),
            )
            folder = out and str(Path(out) / f"stage-{number}")
        run = _run(student, chosen, stage, data, part, teacher, perceptual)
        for step in run(out=folder, resume=resume):
            yield step._replace(
                step=step.step + before[0], images=step.images + before[1]
            )
            if step.stopped:
                return
        before = (before[0] + part.steps, before[1] + part.steps * part.batch)
        teacher = copy.deepcopy(student)


def _run(
    student: nn.Module,
    method: Method,
    stage: Stage,
    data: Paths | Images | Tensor,
    config: TrainConfig,
    teacher: Denoise | None,
    perceptual: str,
) -> Callable[..., Iterator[Step]]:
    """One stage as `fit` with everything but `out` and `resume` filled in."""
    frozen = teacher
    if isinstance(teacher, nn.Module):
        frozen = copy.deepcopy(teacher).requires_grad_(False)
    sigma_max = noise_of(student).sigma_max
    images = isinstance(data, Images)
    x = data.x if isinstance(data, Images) else data

    def batch(step: int, share: slice) -> dict[str, Tensor]:
        rng = rng_at(config.seed, step)
        index = batch_indices(len(x), config.batch, config.seed, step)[share]
        if isinstance(x, Tensor):
            x0 = to_unit(x[index]) if images else x[index]
            noise = torch.randn(config.batch, *x.shape[1:], generator=rng)[share]
        else:
            there = x.gather(index, torch.zeros(len(index), 1, dtype=torch.long))
            x0 = there["end"]
            noise = there["x"][:, 0] / sigma_max
        u = torch.rand(config.batch, generator=rng)[share]
        return {"x0": x0, "noise": noise, "u": u}

    pictures = batch(0, slice(0, 1))["x0"].ndim == 4
    distance = Distance.of(perceptual if pictures else "none")
    fixed = [part for part in (distance, frozen) if isinstance(part, nn.Module)]
    for part in (frozen, distance.perceptual) if config.compile else ():
        part.compile() if isinstance(part, nn.Module) else None
    given = dict(stage.arguments)
    if method.metric:
        given["d"] = lambda *pair_and_progress: distance(*pair_and_progress)[0]

    def loss(
        model: Denoise, x0: Tensor, noise: Tensor, u: Tensor, progress: float
    ) -> dict[str, Tensor]:
        for part in fixed:
            part.to(x0.device)
        return {"loss": method.loss(model, frozen, x0, noise, u, progress, **given)}

    asked = {"method": method.name, "perceptual": perceptual, **stage.arguments}
    return partial(fit, student, batch, loss, config, describe=asked)
