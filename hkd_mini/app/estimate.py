"""What a training run will take, said before it begins: time, memory, disk.

One evaluation of the network on a few examples is timed, and what it keeps for its
gradient is counted; the rest is multiplication. So the numbers are of this machine and
rough: what compiling saves, and what the optimiser and the data cost, is not in them. A
run that this machine cannot hold, or that would take days, is begun only by those who
say so. Chapter: 10 "Training".
"""

import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..engine.config import TrainConfig
from ..engine.precision import choose, computing, log
from ..hkd.model import HKD
from ..judge.classifier import Classifier
from ..onestep.students import Matched
from . import machine

DAYS = 3  # a run of more is asked about
COPIES = 5  # weights, gradient, average, two moments: float32 each
ENOUGH = 2**14  # numbers to time the network on


class Estimate(NamedTuple):
    """Weights of the network; seconds of the run; bytes of memory and of disk."""

    weights: int
    seconds: float
    memory: float
    disk: float


def announce(
    model: nn.Module,
    shape: tuple[int, ...],
    config: TrainConfig,
    cost: int,
    at_once: int = 1,
    yes: bool = False,
) -> None:
    """Say what training `model` on examples of `shape` by `config` will take, and ask
    where that is beyond this machine, unless `yes`.

    `cost` and `at_once` as in `estimate`. Raises ValueError where nobody can be asked,
    or the answer is no.
    """
    state = machine.processes()
    found = estimate(model, shape, config, cost, at_once)
    found = found._replace(seconds=found.seconds / state.num_processes)
    if state.is_main_process:
        log.info(
            "%.3g million weights; about %s for %s images, %.2g GB of memory, %.2g GB "
            "of disk",
            found.weights / 1e6,
            duration(found.seconds),
            f"{config.images:,}",
            found.memory / 1e9,
            found.disk / 1e9,
        )
    free = machine.free_memory()
    beyond = []
    if free is not None and found.memory > free:
        beyond.append(
            f"{found.memory / 1e9:.2g} GB of memory, of {free / 1e9:.2g} free"
        )
    if found.seconds > DAYS * 24 * 3600:
        beyond.append(f"about {duration(found.seconds)}")
    if not beyond or yes or not state.is_main_process:
        return
    why = f"this run is beyond this machine: it takes {' and '.join(beyond)}"
    if sys.stdin is None or not sys.stdin.isatty():
        raise ValueError(
            f"{why}; take a smaller preset, --batch or --images, or --yes to begin"
        )
    if input(f"hkd-mini: {why}. Begin? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("not begun")


def estimate(
    model: nn.Module,
    shape: tuple[int, ...],
    config: TrainConfig,
    cost: int,
    at_once: int = 1,
) -> Estimate:
    """Time, memory and disk of training `model` on examples of `shape` by `config`.

    `cost` is what an example costs in evaluations of the network (a forward pass counts
    1, a gradient 2 more), `at_once` how many points of it are in memory together.
    """
    few = max(2, min(config.batch, ENOUGH // math.prod(shape)))
    device = torch.device(machine.device())  # as a run names it
    training = model.training
    model.to(device).eval()
    some = torch.zeros(few, *shape, device=device)
    one = _evaluation(model, some[:1])
    once = _evaluation(model, some)
    with torch.random.fork_rng(), computing(choose(config.precision, device), device):
        of_one = _kept_bytes(one)  # weights in half precision among them
        took: list[float] = []
        kept = 0
        while not took or (len(took) < 3 and sum(took) < 2):  # the first one warms up
            began = time.monotonic()
            kept = _kept_bytes(once)
            took.append(time.monotonic() - began)
    each = (kept - of_one) / (few - 1)
    model.train(training)
    weights = sum(p.numel() for p in model.parameters())
    return Estimate(
        weights,
        config.steps * config.batch * cost * min(took) / few,
        4 * COPIES * weights + of_one + (config.batch * at_once - 1) * each,
        (3 * 16 + 2) * weights,  # two checkpoints, one under way, the weights
    )


def _evaluation(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """One evaluation of the network on x."""
    if isinstance(model, HKD):
        T = model.clock.T
        eps = model.clock.eps
        return lambda: model.decode(model.evolve(model.encode(x, T), T, eps))
    if isinstance(model, Classifier):
        return lambda: model(x)
    network = model.generator if isinstance(model, Matched) else model
    return lambda: network(x, 1.0)


def _kept_bytes(once: Callable[[], Tensor]) -> int:
    """Bytes that an evaluation keeps for its gradient, the weights aside."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter) and not x.is_leaf:
            storage = x.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        once().sum().item()  # waits for a GPU
    return sum(kept.values())


def duration(seconds: float | int) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(max(1.0, seconds))} seconds"


def _short(number: float | int) -> str:
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"
