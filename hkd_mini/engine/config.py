"""How long and how fast a model is trained, and what each step of it reports.

Both know nothing of what is trained: what a model minimises stands beside its losses.
Chapter: 10 "Training".
Source: Adam (Kingma & Ba 2015); EMA by half-life in images, EDM appendix F.2.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .data import checked_seed
from .precision import checked


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast.

    `weight_decay` is 0: the HKD paper's 0.95 cannot be meant, coupled to Adam it
    collapses the model. Raises ValueError for a number below its bound, or a precision
    that there is not.
    """

    images: int = 100_000
    """Training examples to see in all."""
    batch: int = 64
    """Examples a step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 5_000
    """Examples over which the learning rate rises."""
    decay: float = 0.0
    """Last part of the run over which the learning rate falls to 0 (0: constant)."""
    ema_halflife: int = 50_000
    """Half-life of the averaged weights, in examples."""
    weight_decay: float = 0.0
    """Adam's weight decay."""
    muon: float = 0.0
    """Learning rate of Muon for the filters inside, beside Adam for the rest (0: Adam
    for all)."""
    clip: float = 1.0
    """Largest gradient norm (0: no limit)."""
    precision: str = "auto"
    """auto (bf16 where the device computes it natively, else fp32), bf16, tf32 (CUDA)
    or fp32."""
    compile: bool = False
    """Compile the networks first (a minute, then up to 1.4 times faster)."""
    checkpoint: int = 500
    """Steps between checkpoints."""
    seed: int = 0
    """Seed of data order, noise and initial weights."""

    def __post_init__(self):
        at_least(self, images=1, batch=1, checkpoint=1, lr=0, warmup=0, clip=0)
        at_least(self, ema_halflife=0, weight_decay=0, decay=0, muon=0)
        if self.decay > 1:
            raise ValueError(f"decay = {self.decay}: a share of the run, 0 to 1")
        checked(self.precision)
        object.__setattr__(self, "seed", checked_seed(self.seed))  # numpy's is no JSON

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        return max(1, self.images // self.batch)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear fall over the last
        `decay` of the run.
        """
        up = min(1.0, (step + 1) * self.batch / max(self.warmup, 1))
        down = min(1.0, (self.steps - step) / max(self.decay * self.steps, 1.0))
        return self.lr * min(up, down)

    def ema_beta(self, step: int) -> float:
        """EMA's keep rate of a step, in [0, 1): a half-life that grows with the run (a
        20th of the images seen) up to `ema_halflife`.
        """
        halflife = min(self.ema_halflife, 0.05 * (step + 1) * self.batch)
        return 0.5 ** (self.batch / max(halflife, 1e-8))


def at_least(config: object, **bounds: float | int) -> None:
    """ValueError when a field of `config` is below its bound, or not a finite
    number.
    """
    for name, bound in bounds.items():
        if not bound <= getattr(config, name) < math.inf:
            raise ValueError(
                f"{name} = {getattr(config, name)}: at least {bound}, and finite"
            )


def at_most(config: object, **bounds: float | int) -> None:
    """ValueError when a field of `config` is above its bound."""
    for name, bound in bounds.items():
        if not getattr(config, name) <= bound:
            raise ValueError(f"{name} = {getattr(config, name)}: at most {bound}")


def counts(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """`values`, a list of JSON's too, as a tuple; ValueError, with `name`, for what is
    no whole number from 1 on.
    """
    found = tuple(values)
    if not all(isinstance(v, int) and 0 < v < 2**31 for v in found):
        raise ValueError(f"{name} = {found}: whole numbers from 1 on")
    return found


class Step(NamedTuple):
    """What one step reports: its number (from 1), images seen, loss and its parts,
    learning rate, gradient norm before clipping, seconds since the loop began (or
    resumed), whether a stop signal ended the run here, and the precision that it was
    computed in.
    """

    step: int
    images: int
    loss: float
    terms: dict[str, float]
    lr: float
    grad_norm: float
    seconds: float
    stopped: bool
    precision: str
