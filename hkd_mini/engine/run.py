"""The state of a run: a model, its average, the optimiser, devices.

`loop.fit` moves it. Devices and processes are accelerate's, weights, moments and sums
are float32, and the networks compute in the run's precision. Chapter: 10 "Training".
Source: Adam (Kingma & Ba 2015); EMA by half-life in images, EDM appendix F.2.
"""

import copy
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint
from .config import TrainConfig
from .files import try_folder
from .optimizer import optimizer_for
from .precision import choose, computing, float32_products, log

Batch = dict[str, Tensor]


class WithLoss(nn.Module):
    """A model and its loss as one module, so that data-parallel wrappers see every use
    of the weights. forward(batch, progress in [0, 1]) -> the loss's dict.
    """

    def __init__(self, model: nn.Module, loss: Callable):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        return self.loss(self.model, progress=progress, **batch)


def compile_parts(model: nn.Module) -> None:
    """Let torch.compile have every part of `model` that asks for it by a class
    attribute `compiles = True`, in place.
    """
    for part in model.modules():
        if getattr(part, "compiles", False):
            part.compile()


def restore_parts(model: nn.Module) -> None:
    """Undo `compile_parts`: the parts of `model` compute as they did before."""
    for part in model.modules():
        part._compiled_call_impl = None


def _room(model: nn.Module, out: pathlib.Path) -> int:
    """Bytes that a run may still write into `out`: two checkpoints, and the one under
    way, of the weights, their average and two moments.
    """
    names = (checkpoint.CHECKPOINT, checkpoint.BEFORE)
    there = sum((out / name).is_file() for name in names)
    one = sum(4 * p.numel() * p.element_size() for p in model.parameters())
    return (3 - there) * one


class Run:
    """The state of a run: model, average, optimiser, devices; one `step` moves it,
    `save` and `load` keep it. Arguments as in `loop.fit`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable,
        config: TrainConfig,
        out: str | None = None,
        groups: list[dict] | None = None,
        describe: dict | None = None,
    ):
        # only training needs it: pip install "hkd-mini[train]"
        from accelerate import Accelerator

        if out == "":
            raise ValueError("out = '': wanted a folder, or None to keep nothing")
        if out is not None:
            try_folder(out, _room(model, pathlib.Path(out)))
        self.config = config
        self.path = pathlib.Path(out) / checkpoint.CHECKPOINT if out else None
        self.damaged = False  # whether the last checkpoint there is not worth keeping
        self.description = dataclasses.asdict(config) | (describe or {})
        # without a GPU accelerate has to be told, or each process trains alone
        self.accelerator = Accelerator(
            mixed_precision="no", cpu=not torch.accelerator.is_available()
        )
        world = self.accelerator.num_processes
        if config.batch % world:
            raise ValueError(
                f"batch {config.batch} does not divide among {world} processes"
            )
        self.share = slice(self.accelerator.process_index, None, world)
        self.device = self.accelerator.device
        # torch's types do not know this keyword
        layout: dict[str, Any] = {"memory_format": torch.channels_last}
        self.model = model.to(self.device).to(**layout).train()
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        fused = self.device.type in ("cpu", "cuda")
        self.adam = optimizer_for(model, config, groups, fused)
        if config.compile:
            compile_parts(model)
        self.objective, self.optimizer = self.accelerator.prepare(
            WithLoss(model, loss), self.adam
        )
        whole = model.state_dict(keep_vars=True)
        self.buffers = {
            k: v for k, v in whole.items() if not isinstance(v, nn.Parameter)
        }
        self.moving = threading.Lock()  # held while weights change
        self.stopped = False  # whether the loop is leaving by itself
        self.saved = 0  # steps that need no saving
        self.mark(0)

    @cached_property
    def precision(self) -> str:
        """What this run computes in: decided when first asked for, unless a checkpoint
        has said it before.
        """
        return choose(self.config.precision, self.device)

    def step(self, step: int, share: Batch) -> tuple[dict[str, float], float]:
        """One optimiser step on this process's share of the global batch; the loss
        terms and the gradient's norm.
        """
        config = self.config
        share = {k: v.to(self.device, non_blocking=True) for k, v in share.items()}
        for group in self.adam.param_groups:
            group["lr"] = config.lr_at(step) * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        with float32_products(self.precision, self.device):
            with computing(self.precision, self.device):
                terms = self.objective(share, step / config.steps)
            self.accelerator.backward(terms["loss"])
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), config.clip or float("inf")
        )
        found = torch.stack([*(v.detach().float() for v in terms.values()), norm])
        # one wait for a GPU, not one a term
        *values, norm = self.accelerator.reduce(found, "mean").tolist()
        values = dict(zip(terms, values, strict=True))
        if not np.isfinite([values["loss"], norm]).all():
            what = f"loss {values['loss']}, gradient norm {norm}"
            raise FloatingPointError(
                f"step {step}: {what}; its batch is a function of seed {config.seed}, "
                f"step {step}"
            )
        with self.moving:
            self.optimizer.step()
            self._average(config.ema_beta(step))
            self.mark(step + 1, told=False)
        return values, norm

    def mark(self, done: int, told: bool = True) -> None:
        """Note what a step changes before it moves the weights, random numbers and
        buffers, as they are after `done` steps; `told` once the loop has yielded.
        """
        self.done = done
        self.told = told
        kept = {f"model.{k}": v.clone() for k, v in self.buffers.items()}
        self.before_step = checkpoint.random_state(self.device) | kept

    def leave(self) -> str:
        """Save the run as it was before the step under way, beside the thread that is
        in it; what there is to go on from, "" where the loop leaves by itself.
        """
        while not (self.told or self.stopped):
            time.sleep(0.02)
        with self.moving:  # and never let go: the process ends
            if self.stopped:
                return ""
            where = f"stopped in step {self.done + 1}"
            if self.path is None or self.done == self.saved:
                return f"{where}, and nothing is lost"
            self.save(self.done, self.before_step)
            return f"{where}, saved after step {self.done}"

    @torch.no_grad()
    def _average(self, beta: float) -> None:
        torch._foreach_lerp_(
            list(self.ema.parameters()), list(self.model.parameters()), 1 - beta
        )
        for mine, its in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            mine.copy_(its)

    def agree(self, stop: bool) -> bool:
        """Whether any process was asked to stop: all must leave at the same step."""
        if self.accelerator.num_processes == 1:
            return stop
        asked = torch.tensor(float(stop), device=self.device)
        return bool(self.accelerator.reduce(asked, "sum"))

    def save(self, step: int, instead: dict[str, Tensor] | None = None) -> None:
        """Write the checkpoint of a run that has done `step` steps (the main process
        only); `instead` as in `checkpoint.save`.
        """
        if self.path is not None and self.accelerator.is_main_process:
            models = {"model": self.model, "ema": self.ema}
            state = (models, self.adam, self.device)
            checkpoint.save(
                self.path,
                *state,
                step,
                self.description,
                self.precision,
                keep=not self.damaged,
                instead=instead,
            )
            self.damaged = False
        self.saved = step

    def load(self) -> int:
        """Take up the last whole checkpoint in `out` if there is one; the number of
        steps it has done.
        """
        if self.path is None or not checkpoint.begun(self.path):
            return 0
        path, tensors, saved = checkpoint.latest(self.path)
        self.damaged = path != self.path
        began = saved["precision"]
        if self.config.precision == "auto":
            self.precision = choose(began, self.device)
        elif self.precision != began:
            log.warning(
                "%s was computed in %s, from here on it is %s",
                path,
                began,
                self.precision,
            )
        checkpoint.same_run(path, saved["config"], self.description)
        models = {"model": self.model, "ema": self.ema}
        checkpoint.restore(path, tensors, models, self.adam, self.device)
        self.mark(saved["step"])
        self.saved = saved["step"]
        return saved["step"]
