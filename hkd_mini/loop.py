"""The training loop, which knows nothing of what it trains: a generator of steps.

The loop is a generator: it yields a `Step` and leaves logs, plots and progress bars to
whoever iterates. Each batch is a pure function of (seed, step), drawn whole, then
shared out, so that a run resumed from a checkpoint, or spread over several processes,
sees the same pictures and noise as an undisturbed one. A checkpoint is one safetensors
file, written atomically, with all that the next step depends on: weights, their moving
average, Adam's moments, the step, the RNG. Devices and processes are accelerate's:
`accelerate launch -m hkd_mini ...` or `torchrun` start them. Chapter: 10 "Training".
Source: Adam (Kingma & Ba 2015); EMA by half-life in images, EDM appendix F.2; HKD
algorithm 1.
"""

import contextlib
import copy
import dataclasses
import json
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import networks
from .koopman import KoopmanGenerator
from .precision import checked, choose, computing, float32_products, log
from .weights import read_tensors, write_tensors

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast. `images`, `warmup` and `ema_halflife` count training
    examples; `decay` is the last part of the run over which the learning rate falls to
    zero (0: constant, as the HKD paper has it); `checkpoint` counts steps; `clip` is
    the largest gradient norm (0: none). `times` (HKD) is s: T and s - 1 uniform times
    per path; `consistency=False` keeps T alone. `rate_A` is A's learning rate over that
    of the rest: a generator starts at 0 and has to reach rates of 10. `drop_labels`
    (teachers) is the share of classes withheld, so that one network is conditional and
    not. `path`, `linear` and `infinitesimal` weigh terms that the paper does not have,
    `follow` says who gives way in them, `onward` asks for points nearer the picture
    alone (`losses.Weights`).
    """

    images: int = 100_000
    batch: int = 64
    lr: float = 1e-3
    rate_A: float = 1.0
    warmup: int = 5_000
    decay: float = 0.0
    ema_halflife: int = 50_000
    # the paper's 0.95 cannot be meant: coupled to Adam it collapses the model
    weight_decay: float = 0.0
    clip: float = 1.0
    # bf16 where the device has it natively, else fp32 (`precision.choose`)
    precision: str = "auto"
    compile: bool = False
    checkpoint: int = 500
    seed: int = 0
    times: int = 5
    consistency: bool = True
    # cifar (bundled), a classifier's folder, alex, vgg, squeeze (LPIPS), none
    perceptual: str = "cifar"
    drop_labels: float = 0.0
    path: float = 0.0
    linear: float = 0.0
    infinitesimal: float = 0.0
    follow: bool = True
    onward: bool = False

    def __post_init__(self):
        least = dict(
            images=1,
            batch=1,
            checkpoint=1,
            times=1,
            rate_A=0,
            drop_labels=0,
            path=0,
            linear=0,
            infinitesimal=0,
        )
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {bound}")
        checked(self.precision)

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
        """EMA's keep rate: a half-life that grows with the run (a 20th of the images
        seen) up to `ema_halflife`.
        """
        halflife = min(self.ema_halflife, 0.05 * (step + 1) * self.batch)
        return 0.5 ** (self.batch / max(halflife, 1e-8))


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


class Objective(nn.Module):
    """A model and its loss as one module, so that data-parallel wrappers see every use
    of the weights.
    """

    def __init__(self, model: nn.Module, loss: Callable):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        return self.loss(self.model, progress=progress, **batch)


def generator(seed: int, *where: int) -> torch.Generator:
    """The random numbers of one place in a run (a step, a shard): a function of (seed,
    *where) and nothing else.
    """
    state = np.random.SeedSequence([seed, *where]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


def groups(model: nn.Module, rate_A: float) -> list[dict]:
    """What the optimiser moves: all trained weights, and the generators' at `rate_A`
    times the learning rate.
    """
    of_A = {
        id(part.A) for part in model.modules() if isinstance(part, KoopmanGenerator)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = (
        ([p for p in trained if id(p) not in of_A], 1.0),
        ([p for p in trained if id(p) in of_A], rate_A),
    )
    return [{"params": part, "scale": scale} for part, scale in parts if part]


def compile_parts(model: nn.Module) -> None:
    """Let torch.compile have every encoder, decoder and generator of `model`, in
    place.
    """
    for part in model.modules():
        if isinstance(part, (networks.Encoder, networks.Decoder, KoopmanGenerator)):
            part.compile()


def fit(
    model: nn.Module,
    batch: Callable[[int], dict],
    loss: Callable,
    config: TrainConfig,
    out: str | None = None,
    resume: bool = False,
) -> Iterator[Step]:
    """Train `model` in place, yielding after every step; when the loop ends the model
    holds the averaged weights.

    `batch(step)` returns the global batch as tensors, `loss(model, progress=...,
    **batch)` a dict of scalars with "loss". With `out`, checkpoints go to that folder,
    and SIGINT or SIGTERM saves one and ends the loop (`Step.stopped`). Raises
    FloatingPointError for a loss that is not finite, with the step and seed that
    reproduce its batch; ValueError for a checkpoint of another configuration;
    ImportError without accelerate.
    """
    run = Run(model, loss, config, out)
    start = run.load() if resume else 0
    began = time.monotonic()
    with _stop_signal() as stop:
        for step in range(start, config.steps):
            terms, norm = run.step(step, batch(step))
            stopped = run.agree(stop.is_set())
            if (
                stopped
                or (step + 1) % config.checkpoint == 0
                or step + 1 == config.steps
            ):
                run.save(step + 1)
            value = terms.pop("loss")
            seconds = time.monotonic() - began
            images = (step + 1) * config.batch
            lr = config.lr_at(step)
            precision = run.precision
            yield Step(
                step + 1, images, value, terms, lr, norm, seconds, stopped, precision
            )
            if stopped:
                break
    model.load_state_dict(run.ema.state_dict())
    model.eval()


class Run:
    """The state of a run: model, average, optimiser, devices; one `step` moves it,
    `save` and `load` keep it.
    """

    def __init__(
        self, model: nn.Module, loss: Callable, config: TrainConfig, out: str | None
    ):
        # only training needs it: pip install "hkd-mini[train]"
        from accelerate import Accelerator

        self.config = config
        self.out = out
        # without a GPU accelerate has to be told, or each process trains alone
        self.accelerator = Accelerator(
            mixed_precision="no", cpu=not torch.accelerator.is_available()
        )
        if config.batch % self.accelerator.num_processes:
            raise ValueError(
                f"batch {config.batch} does not divide among "
                f"{self.accelerator.num_processes} processes"
            )
        device = self.accelerator.device
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        rule = {
            "weight_decay": config.weight_decay,
            "fused": device.type in ("cpu", "cuda"),
        }
        self.adam = torch.optim.Adam(groups(model, config.rate_A), config.lr, **rule)
        if config.compile:
            compile_parts(model)
        self.objective, self.optimizer = self.accelerator.prepare(
            Objective(model, loss), self.adam
        )

    @cached_property
    def precision(self) -> str:
        """What this run computes in: decided when first asked for, unless a checkpoint
        has said it before.
        """
        return choose(self.config.precision, self.accelerator.device)

    def step(
        self, step: int, batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], float]:
        """One optimiser step on this process's share of the global batch; the loss
        terms and the gradient's norm.
        """
        config = self.config
        rank = self.accelerator.process_index
        world = self.accelerator.num_processes
        share = {
            k: v[rank::world].to(self.accelerator.device, non_blocking=True)
            for k, v in batch.items()
        }
        for group in self.adam.param_groups:
            group["lr"] = config.lr_at(step) * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        with float32_products(self.precision, self.accelerator.device):
            with computing(self.precision, self.accelerator.device):
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
        self.optimizer.step()
        self._average(config.ema_beta(step))
        return values, norm

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
        return bool(
            self.accelerator.reduce(
                torch.tensor(float(stop), device=self.accelerator.device), "sum"
            )
        )

    def save(self, step: int) -> None:
        """Write the checkpoint of a run that has done `step` steps (the main process
        only).
        """
        if self.out is None or not self.accelerator.is_main_process:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for i, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{k}": v for k, v in state.items()}
        tensors["rng"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        meta = {
            "step": str(step),
            "config": json.dumps(dataclasses.asdict(self.config)),
            "precision": self.precision,
        }
        write_tensors(pathlib.Path(self.out) / CHECKPOINT, tensors, meta)

    def load(self) -> int:
        """Take up the checkpoint in `out` if there is one; the number of steps it has
        done.
        """
        path = pathlib.Path(self.out or ".") / CHECKPOINT
        if self.out is None or not path.exists():
            return 0
        tensors, meta = read_tensors(path)
        if not {"step", "config"} <= set(meta):
            raise ValueError(
                f"{path}: not a checkpoint of this program; use a new folder"
            )
        saved = json.loads(meta["config"])
        mine = dataclasses.asdict(self.config)
        self._keep_precision(meta.get("precision") or saved["precision"], path)
        # which may change: `_keep_precision` says so
        saved["precision"] = mine["precision"]
        if saved != mine:
            other = ", ".join(
                f"{k}: {saved.get(k)} there, {mine[k]} here"
                for k in mine
                if saved.get(k) != mine[k]
            )
            raise ValueError(
                f"{path} is of another configuration ({other}); resume with that one, "
                "or use a new folder"
            )
        part = lambda name: {
            k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)
        }
        try:
            self.model.load_state_dict(part("model."))
        except RuntimeError as error:
            raise ValueError(
                f"{path} is of another model ({str(error)[:300]}); use a new folder"
            ) from error
        self.ema.load_state_dict(part("ema."))
        state = self.adam.state_dict()
        weights = [p for group in self.adam.param_groups for p in group["params"]]
        for key, value in part("adam.").items():
            i, name = key.split(".")
            # fused Adam runs through memory: moments lie as weights do
            if value.shape == weights[int(i)].shape:
                value = torch.empty_like(weights[int(i)], device="cpu").copy_(value)
            state["state"].setdefault(int(i), {})[name] = value
        self.adam.load_state_dict(state)
        torch.set_rng_state(tensors["rng"])
        if "rng.cuda" in tensors and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.accelerator.device)
        return int(meta["step"])

    def _keep_precision(self, began: str, path: pathlib.Path) -> None:
        """Go on in the precision that a checkpoint's run began with, unless another one
        was asked for by name.
        """
        if self.config.precision == "auto":
            self.precision = choose(began, self.accelerator.device)
        elif self.precision != began:
            log.warning(
                "%s was computed in %s, from here on it is %s",
                path,
                began,
                self.precision,
            )


@contextlib.contextmanager
def _stop_signal():
    """An event that SIGINT and SIGTERM set, while the block runs in the main thread."""
    event = threading.Event()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            s: signal.signal(s, lambda *_: event.set())
            for s in (signal.SIGINT, signal.SIGTERM)
        }
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
