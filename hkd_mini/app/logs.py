"""What a training command shows and leaves behind: a progress bar, log.jsonl,
TensorBoard events, the weights and how they were made.

Of several processes the first one speaks; the others only train.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO, cast

import torch
from torch import nn

from ..engine.checkpoint import BEFORE, CHECKPOINT
from ..engine.config import Step, TrainConfig
from ..engine.files import try_folder, write_atomic
from ..engine.precision import choose, log
from ..engine.weights import WEIGHTS, Saved
from ..hkd.objective import Objective
from ..onestep.students import Matched
from .machine import device, first_process

RECORD = "training.json"  # how the weights beside it were made


def data_of(name: str) -> dict | None:
    """What the model in the folder `name` was trained on, where that was written down:
    for a student, what its teacher was.
    """
    try:
        said = json.loads(pathlib.Path(name, RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = said.get("data") if isinstance(said, dict) else None
    return found if isinstance(found, dict) else None


def check_trained_on(name: str, data: str | None) -> None:
    """ValueError where the model `name` would be judged, without `data`, against
    CIFAR-10, and its own record says that it was trained on something else.
    """
    trained = data_of(name)
    if data is None and trained and not trained.get("cifar10"):
        raise ValueError(
            f"{name} was trained on {trained.get('where')}, not on CIFAR-10: give "
            "--data, the folder of the pictures that it should be like"
        )


def claim(out: str, resume: bool) -> None:
    """Look at the folder `out` before a run writes into it.

    Raises FileExistsError for weights there, or a checkpoint, that the run would
    overwrite: with `resume` it goes on from a checkpoint. Where there is none, it says
    so. OSError for a place that cannot be written (`files.try_folder`).
    """
    try_folder(out)
    folder = pathlib.Path(out)
    # a method of several stages keeps one for each
    begun = [
        path
        for name in (CHECKPOINT, BEFORE)
        for path in (*folder.glob(name), *folder.glob(f"stage-*/{name}"))
    ]
    weights = [*folder.glob(WEIGHTS)]
    if (begun or weights) and not (begun and resume):
        cure = "--resume to go on, or another folder" if begun else "use another folder"
        raise FileExistsError(f"{(begun + weights)[0]} is there already: {cure}")
    if resume and not begun:
        log.info("%s: no checkpoint to resume, starting anew", out)


def go_on(log: pathlib.Path, step: int) -> None:
    """Leave in the file `log` what was written before `step`, which comes next: a run
    that was killed had logged more steps than it had saved.
    """
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            before = json.loads(line)["step"] < step
        except (ValueError, KeyError, TypeError):  # a line that was cut by the end
            continue
        kept += [line + "\n"] if before else []
    write_atomic(log, "".join(kept).encode())


def logged(steps: Iterator[Step], config: TrainConfig, out: str) -> Step | None:
    """Run a training loop to its end with a progress bar, log.jsonl and, where
    installed, TensorBoard events in `out`; the last step.

    `steps` is the loop, as `fit` yields it, `config` what it was started with. Of
    several processes the first one speaks; the others only train. A log that is there
    goes on after the steps that the run has kept.
    """
    from tqdm import tqdm

    speaks = first_process()
    folder = pathlib.Path(out)
    last = None
    bar = tqdm(
        total=config.images,
        unit="image",
        unit_scale=True,
        disable=not speaks,
        delay=0.01,
    )  # no bar before a step
    with contextlib.ExitStack() as until_the_end:
        until_the_end.enter_context(bar)
        kept: TextIO | None = None
        board: Any = None
        for last in steps:
            if kept is None:
                # resumed: what was done before is not this run's speed
                bar.initial = bar.n = last.images - config.batch
                kept = until_the_end.enter_context(_log(folder, last.step, speaks))
                board = _events(folder, last.images) if speaks else None
            kept.write(json.dumps(last._asdict()) + "\n")
            bar.update(last.images - bar.n)
            if last.step % 20 == 0 or last.stopped:
                shown = {"loss": last.loss, **last.terms}
                bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items()})
                shown |= {"lr": last.lr, "grad_norm": last.grad_norm}
                if board:
                    for name, value in shown.items():
                        board.add_scalar(name, value, last.images)
        if board:
            board.close()
    if last is not None and last.stopped:
        sys.exit(
            f"hkd-mini: stopped after step {last.step} and saved; go on with --resume"
            if speaks
            else 1
        )
    return last


def _log(folder: pathlib.Path, step: int, speaks: bool) -> TextIO:
    """log.jsonl as it was before `step`, to be gone on with, each line written at
    once.
    """
    if not speaks:
        return open(os.devnull, "w", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    go_on(folder / "log.jsonl", step)
    return open(folder / "log.jsonl", "a", encoding="utf-8", buffering=1)


def _events(folder: pathlib.Path, images: int) -> Any:
    """What writes TensorBoard's events from `images` on, where it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=images)


def finish(
    model: nn.Module,
    steps: Iterator[Step],
    config: TrainConfig,
    out: str,
    objective: Objective | None = None,
    **made_from: object,
) -> None:
    """Train, then write the averaged weights, of a pair the generator's, and how they
    were made beside the checkpoint, in the folder `out`.

    `steps` is the loop that trains `model`; `config` and `objective`, dataclasses, and
    what it was `made_from` (data, a teacher) are written down.
    """
    began = time.monotonic()
    last = logged(steps, config, out)
    if not first_process():
        return
    model = model.generator if isinstance(model, Matched) else model
    cast(Saved, model.cpu()).save_pretrained(out)
    made = {
        "config": dataclasses.asdict(config),
        "device": device(),
        "precision": last.precision if last else choose(config.precision, device()),
        "seconds": round(time.monotonic() - began),
        "torch": torch.__version__,
        **made_from,
    }
    if objective is not None:
        made["objective"] = dataclasses.asdict(objective)
    pathlib.Path(out, RECORD).write_text(
        json.dumps(made, indent=2) + "\n", encoding="utf-8"
    )
    print(out)
