"""A checkpoint: one file with all that the next step depends on.

Weights, their moving average, Adam's moments, the step, the state of torch's random
numbers, and a description of the run. The file is safetensors, written whole or not at
all. A run resumes from the checkpoint of the same description alone: another
configuration, objective or model is refused with what differs. The last two are kept:
where the last is damaged, a run goes on from the one before. Chapter: 10 "Training".
"""

import json
import pathlib

import torch
from torch import Tensor, nn

from .files import read_tensors, write_tensors
from .precision import log

CHECKPOINT = "checkpoint.safetensors"
BEFORE = "checkpoint-before.safetensors"


def save(
    path: pathlib.Path,
    models: dict[str, nn.Module],
    adam: torch.optim.Optimizer,
    device: torch.device,
    step: int,
    description: dict,
    precision: str,
    keep: bool = True,
    instead: dict[str, Tensor] | None = None,
) -> None:
    """Write the state of a run that has done `step` steps to `path`: `models` by name,
    the moments of `adam`, random numbers (of `device` too), and what `same_run`
    compares, the `description`, with the `precision` that it computed in. With `keep`
    the checkpoint that was there stays, as BEFORE. `instead` has what is written in
    place of what has moved on since: random numbers, buffers; in a hurry, so that the
    disk is not waited for.
    """
    tensors = {
        f"{name}.{k}": v
        for name, m in models.items()
        for k, v in m.state_dict().items()
    }
    for i, state in adam.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v for k, v in state.items()}
    tensors |= random_state(device) | (instead or {})
    meta = {
        "step": str(step),
        "config": json.dumps(description),
        "precision": precision,
    }
    before = path.with_name(BEFORE) if keep else None
    write_tensors(path, tensors, meta, before, durable=instead is None)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random numbers, those of `device` too, as a checkpoint has
    it.
    """
    found = {"rng": torch.get_rng_state()}
    if device.type == "cuda":
        found["rng.cuda"] = torch.cuda.get_rng_state(device)
    return found


def begun(path: pathlib.Path) -> bool:
    """Whether there is a checkpoint at `path`, or the one before it."""
    return path.exists() or path.with_name(BEFORE).exists()


def latest(path: pathlib.Path) -> tuple[pathlib.Path, dict[str, Tensor], dict]:
    """The checkpoint at `path` as `read`, or the one before where that is damaged or
    missing, which is said; and which of the two it is.

    Raises what `read` raises of the one at `path` when neither can be read.
    """
    before = path.with_name(BEFORE)
    try:
        return path, *read(path)
    except (FileNotFoundError, ValueError) as error:
        try:
            tensors, saved = read(before)
        except (FileNotFoundError, ValueError):
            raise error from None
        log.warning("%s; going on from %s, step %d", error, before, saved["step"])
        return before, tensors, saved


def read(path: pathlib.Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors of the checkpoint at `path`, and its {"step", "config", "precision"}.

    Raises ValueError for a file that is not a checkpoint of this program.
    """
    tensors, meta = read_tensors(path)
    if not {"step", "config"} <= set(meta):
        raise ValueError(f"{path}: not a checkpoint of this program; use a new folder")
    config = json.loads(meta["config"])
    began = meta.get("precision") or config["precision"]
    return tensors, {"step": int(meta["step"]), "config": config, "precision": began}


def same_run(path: pathlib.Path, saved: dict, mine: dict) -> None:
    """ValueError, with what differs, when the checkpoint at `path` is of another run:
    description `saved` there, `mine` here. Precision may differ: whoever resumes says
    so. What an older version did not know of was off.
    """
    names = [k for k in {**mine, **saved} if k != "precision"]
    other = ", ".join(
        f"{k}: {saved.get(k)} there, {mine.get(k)} here"
        for k in names
        if saved.get(k) != mine.get(k) and (k in saved or mine[k])
    )
    if other:
        raise ValueError(
            f"{path} is of another configuration ({other}); resume with that one, or "
            "use a new folder"
        )


def restore(
    path: pathlib.Path,
    tensors: dict[str, Tensor],
    models: dict[str, nn.Module],
    adam: torch.optim.Optimizer,
    device: torch.device,
) -> None:
    """Put a checkpoint's tensors where they came from: into `models`, `adam` and the
    random numbers of `device`. ValueError, with `path`, for those of another model.
    """
    part = lambda name: {
        k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)
    }
    try:
        for name, model in models.items():
            model.load_state_dict(part(f"{name}."))
    except RuntimeError as error:
        raise ValueError(
            f"{path} is of another model ({str(error)[:300]}); use a new folder"
        ) from error
    state = adam.state_dict()
    weights = [p for group in adam.param_groups for p in group["params"]]
    for key, value in part("adam.").items():
        i, name = key.split(".")
        # fused Adam runs through memory: moments lie as weights do
        if value.shape == weights[int(i)].shape:
            value = torch.empty_like(weights[int(i)], device="cpu").copy_(value)
        state["state"].setdefault(int(i), {})[name] = value
    adam.load_state_dict(state)
    torch.set_rng_state(tensors["rng"])
    if "rng.cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
