"""The teacher's paths on disk: made once, in shards, read lazily.

Distillation visits each path many times, so paths are computed once and kept in half precision: a folder of
shard-00000.safetensors, ..., each with the levels, seeds and labels of its paths in the header. A shard appears whole or not
at all, and depends only on its own seed, so a killed run continues where it stopped and several processes may share the work.
The noise is rounded to half precision *before* the teacher integrates it: what is stored is exactly where the path began.
Reading maps the files into memory: however many paths there are, a batch costs a batch.
Chapter: 10 "Training". Source: HKD algorithm 1, line 1 (solver, grid and number are not stated there; ours are EDM's).
"""
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .schedule import karras_sigmas
from .teacher import Denoise, heun
from .weights import write_tensors

SHARD = 512  # paths a file


def kept_levels(n: int, times: int) -> list[int]:
    """Which of a path's n + 1 points to keep: `times` of them, evenly spread, both ends included, all if times > n.

    Raises ValueError for fewer than 2.
    """
    if times < 2:
        raise ValueError(f"times = {times} points kept of each path: need at least its two ends")
    return torch.linspace(0, n, min(times, n + 1)).round().long().unique().tolist()


def noise_for(seed: int, shard: int, count: int, shape: tuple[int, ...]) -> Float[Tensor, "count ..."]:
    """Unit noise of one shard, already rounded to half precision: a function of (seed, shard)."""
    rng = torch.Generator().manual_seed(seed * 1_000_003 + shard)
    return torch.randn(count, *shape, generator=rng).half().float()


def make(
    denoiser: Denoise, shape: tuple[int, ...], n: int, out: str | os.PathLike, *, times: int = 7, steps: int = 18, seed: int = 0,
    batch: int = 128, labels: int = 0, resume: bool = False, device: str = "cpu", autocast: bool = False, share: tuple[int, int] = (0, 1),
    sampler: Callable = heun,
) -> Iterator[int]:
    """Integrate n paths and write them below `out`, yielding after every batch the number of paths done.

    shape of one x; `times` points kept of the steps + 1; `labels` > 0 draws a class for each path; `share` = (rank, world) makes
    only every world-th shard. With `resume`, whole shards are left alone. Raises FileExistsError for shards there without
    `resume`, ValueError when they are of another run.
    """
    out, sigmas = pathlib.Path(out), karras_sigmas(steps)
    keep = kept_levels(steps, times)
    header = {"sigmas": sigmas[keep].tolist(), "seed": seed, "shape": list(shape), "steps": steps}
    _check_existing(out, header, resume)
    done = 0
    for shard in range(share[0], math.ceil(n / SHARD), share[1]):
        count, path = min(SHARD, n - shard * SHARD), out / f"shard-{shard:05d}.safetensors"
        if path.exists():
            done += count
            yield done
            continue
        noise, rng = noise_for(seed, shard, count, shape), torch.Generator().manual_seed(seed * 1_000_003 + shard + 1)
        classes = torch.randint(0, labels, (count,), generator=rng) if labels else None
        parts = []
        for i in range(0, count, batch):
            x_T = (noise[i : i + batch] * sigmas[0]).half().float().to(device)
            some = None if classes is None else classes[i : i + batch].to(device)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                parts.append(sampler(denoiser, x_T, sigmas, some).x[keep].half().cpu().transpose(0, 1))
            done += len(x_T)
            yield done
        tensors = {"x": torch.cat(parts)} | ({} if classes is None else {"labels": classes})
        write_tensors(path, tensors, {"trajectories": json.dumps({**header, "shard": shard})})


def _check_existing(out: pathlib.Path, header: dict, resume: bool) -> None:
    shards = sorted(out.glob("shard-*.safetensors"))
    if shards and not resume:
        raise FileExistsError(f"{out} already holds {len(shards)} shards: --resume to continue, or another folder")
    for path in shards:
        there = _header(path)[0]
        if {k: there.get(k) for k in header} != header:
            raise ValueError(f"{path} is of another run (levels, seed, shape or steps differ); use another folder")


def _header(path: pathlib.Path) -> tuple[dict, int]:
    """A shard's description and its number of paths. Raises ValueError that names a damaged or foreign file."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["trajectories"]), file.get_slice("x").get_shape()[0]
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a whole shard of trajectories ({error}); delete it and make it again with --resume") from error


class Trajectories:
    """Stored paths: `len`, `sigmas` (K,) float64 falling, and rows on demand. Memory stays flat however many there are.

    Raises FileNotFoundError for a folder without shards, ValueError for a damaged shard or shards that do not belong together.
    """

    def __init__(self, folder: str | os.PathLike):
        paths = sorted(pathlib.Path(folder).glob("shard-*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"{folder}: no shard-*.safetensors there; make them with `hkd-mini trajectories`")
        headers = [_header(path) for path in paths]
        first = headers[0][0]
        for path, (header, _) in zip(paths, headers, strict=True):
            if header["sigmas"] != first["sigmas"] or header["shape"] != first["shape"]:
                raise ValueError(f"{path}: other levels or shape than {paths[0]}; one folder holds one run")
        self.sigmas, self.shape, self.steps = torch.tensor(first["sigmas"], dtype=torch.float64), tuple(first["shape"]), first["steps"]
        self.starts = torch.tensor([0] + [count for _, count in headers]).cumsum(0)
        self._files = [safe_open(path, framework="pt") for path in paths]
        self._slices = [file.get_slice("x") for file in self._files]
        self._labels = torch.cat([f.get_tensor("labels") for f in self._files]) if "labels" in self._files[0].keys() else None  # noqa: SIM118

    def __len__(self) -> int:
        return int(self.starts[-1])

    def path(self, index: int) -> Float[Tensor, "k ..."]:
        """One whole path, float32 (K, *shape), noise first."""
        if not 0 <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        shard = int(torch.searchsorted(self.starts, index, right=True)) - 1
        row = index - int(self.starts[shard])
        return self._slices[shard][row : row + 1][0].float()

    def paths(self, index: Int[Tensor, " n"] | range) -> Float[Tensor, "k n ..."]:
        """Several paths, (K, n, *shape), as the samplers return them."""
        return torch.stack([self.path(int(i)) for i in index], dim=1)

    def gather(self, index: Int[Tensor, " n"], at: Int[Tensor, "n s"]) -> dict[str, Tensor]:
        """For distillation: x (n, s, *shape) and sigma (n, s) at the points `at` of each path, end (n, *shape), labels if any."""
        paths = [self.path(int(i)) for i in index]
        batch = {
            "x": torch.stack([path[k] for path, k in zip(paths, at, strict=True)]),
            "sigma": self.sigmas[at].float(),
            "end": torch.stack([path[-1] for path in paths]),
        }
        return batch if self._labels is None else batch | {"labels": self._labels[index]}
