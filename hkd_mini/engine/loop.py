"""The training loop, which knows nothing of what it trains: a generator of steps.

The loop is a generator: it yields a `Step` and leaves logs, plots and progress bars to
whoever iterates. Each batch is a pure function of (seed, step), and every process makes
its own share of it, so that a run resumed from a checkpoint, or spread over several
processes, sees the same pictures and noise as an undisturbed one; for a GPU it is made
ahead of time. Devices and processes are accelerate's:
`accelerate launch -m hkd_mini ...` or `torchrun` start them. Chapter: 10 "Training".
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

from torch import nn

from .border import inside
from .checkpoint import begun
from .config import Step, TrainConfig
from .run import Batch, Run, restore_parts
from .stop import stop_signal


def ahead(
    draw: Callable[[int], Batch], steps: range
) -> Generator[tuple[int, Batch], None, None]:
    """(step, draw(step)) for each of `steps`, the next one drawn by a thread
    meanwhile.
    """
    if not steps:
        return

    def drawn(step: int) -> Batch:
        with inside():  # each thread has a border of its own
            return draw(step)

    with ThreadPoolExecutor(1, "batches") as pool:
        coming = pool.submit(drawn, steps.start)
        for step in steps:
            batch = coming.result()
            if step + 1 < steps.stop:
                coming = pool.submit(drawn, step + 1)
            yield step, batch


def fit(
    model: nn.Module,
    batch: Callable[[int, slice], Batch],
    loss: Callable,
    config: TrainConfig,
    out: str | None = None,
    resume: bool = False,
    groups: list[dict] | None = None,
    describe: dict | None = None,
    prefetch: bool | None = None,
) -> Iterator[Step]:
    """Train `model` in place, yielding after every step; when the loop ends the model
    holds the averaged weights.

    `batch(step, share)` returns tensors: of the global batch of `config.batch` examples
    the rows `share`, a slice. `loss(model, progress=..., **batch)` returns a dict of
    scalars with "loss". `groups`, the optimiser's parameter groups {"params": list,
    "scale": factor on the learning rate}, default to one of all trained weights. With
    `out`, checkpoints go to that folder, and SIGINT or SIGTERM saves one and ends the
    loop (`Step.stopped`; for long steps see `stop`); `resume` takes up the last whole
    one, which must have the same `config` and `describe`, whatever else the run depends
    on. Two are kept, and a damaged one is passed over by name. `prefetch` draws the
    next batch in a thread while a step runs: by itself only for a GPU, since on a CPU
    the thread competes with the step. Raises FloatingPointError for a loss that
    is not finite, with the step and seed that reproduce its batch; FileExistsError for
    a checkpoint in `out` without `resume`, ValueError for one of another run;
    ImportError without accelerate.
    """
    run = Run(model, loss, config, out, groups, describe)
    if not resume and run.path is not None and begun(run.path):
        raise FileExistsError(
            f"{run.path}: a run is there already; resume it (--resume), or use another "
            "folder"
        )
    start = run.load() if resume else 0
    began = time.monotonic()
    draw = lambda step: batch(step, run.share)
    todo = range(start, config.steps)
    if prefetch is None:
        prefetch = run.device.type != "cpu"
    drawn = ahead(draw, todo) if prefetch else ((step, draw(step)) for step in todo)
    with stop_signal(run.leave) as stop, contextlib.closing(drawn):
        for step, share in drawn:
            terms, norm = run.step(step, share)
            stopped = run.agree(stop.is_set())
            run.stopped = stopped
            done = step + 1
            if stopped or done % config.checkpoint == 0 or done == config.steps:
                run.save(done)
            value = terms.pop("loss")
            seconds = time.monotonic() - began
            images = done * config.batch
            lr = config.lr_at(step)
            precision = run.precision
            yield Step(
                done, images, value, terms, lr, norm, seconds, stopped, precision
            )
            run.told = True
            if stopped:
                break
    model.load_state_dict(run.ema.state_dict())
    if config.compile:
        restore_parts(model)
    model.eval()
