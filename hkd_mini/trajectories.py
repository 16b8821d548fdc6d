"""The teacher's paths on disk: made once, in shards, read lazily.

Distillation visits each path many times, so paths are computed once and kept in half
precision: a folder of shard-00000.safetensors, ..., each with the levels, seeds and
labels of its paths in the header. A shard appears whole or not at all, and depends only
on its own seed, so a killed run continues where it stopped and several processes may
share the work. The noise is rounded to half precision *before* the teacher integrates
it: what is stored is exactly where the path began. Reading maps the files into memory:
however many paths there are, a batch costs a batch. Chapter: 10 "Training".
Source: HKD algorithm 1, line 1 (solver, grid and number are not stated there; ours are
EDM's).
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .loop import generator
from .precision import choose, computing
from .schedule import karras_sigmas
from .teacher import Denoise, heun
from .weights import check, write_tensors

SHARD = 512  # paths a file
NAME = "shard-{:05d}.safetensors"
ANY_SHARD = "shard-*.safetensors"


def kept_levels(n: int, times: int) -> list[int]:
    """Which of a path's n + 1 points to keep: `times` of them, evenly spread, both ends
    included, all if times > n.

    Raises ValueError for fewer than 2.
    """
    if times < 2:
        raise ValueError(
            f"times = {times} points kept of each path: need at least its two ends"
        )
    return torch.linspace(0, n, min(times, n + 1)).round().long().unique().tolist()


def noise_for(
    seed: int, shard: int, count: int, shape: tuple[int, ...]
) -> Float[Tensor, "count ..."]:
    """Unit noise of one shard, already rounded to half precision: a function of (seed,
    shard).
    """
    return (
        torch.randn(count, *shape, generator=generator(seed, shard, 0)).half().float()
    )


def fingerprint(denoiser: Denoise) -> str:
    """The SHA-256 of a network's weights, so that shards of two teachers never mix; ""
    for a plain function.
    """
    digest = hashlib.sha256()
    for value in (
        denoiser.state_dict().values() if isinstance(denoiser, nn.Module) else ()
    ):
        digest.update(value.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest() if isinstance(denoiser, nn.Module) else ""


def make(
    denoiser: Denoise,
    shape: tuple[int, ...],
    n: int,
    out: str | os.PathLike,
    *,
    times: int = 7,
    steps: int = 18,
    seed: int = 0,
    batch: int = 128,
    labels: int = 0,
    resume: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
    share: tuple[int, int] = (0, 1),
    sampler: Callable = heun,
) -> Iterator[int]:
    """Integrate n paths and write them below `out`: an iterator of the number of paths
    done, after every batch.

    shape of one x; `times` points kept of the steps + 1; `labels` > 0 draws a class for
    each path; `share` = (rank, world) makes only every world-th shard. With `resume`,
    whole shards are left alone, and "auto" means the precision that they were made in.
    What is there already is looked at when this is called, before the iterator moves:
    processes that share the work can wait for one another in between. Raises
    FileExistsError for shards there without `resume`, ValueError when they are of
    another run, or for n or batch below 1.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n = {n} paths, {batch} at once: at least 1 of each")
    out = pathlib.Path(out)
    sigmas = karras_sigmas(steps)
    keep = kept_levels(steps, times)
    began = sorted(out.glob(ANY_SHARD)) if resume and precision == "auto" else []
    precision = choose(
        _header(began[0], verify=False)[0].get("precision", "auto")
        if began
        else precision,
        device,
    )
    header = {
        "sigmas": sigmas[keep].tolist(),
        "seed": seed,
        "shape": list(shape),
        "steps": steps,
        "labels": labels,
        "precision": precision,
        "teacher": fingerprint(denoiser),
    }
    whole = _existing(out, header, n, resume)

    def integrate(noise: Tensor, classes: Tensor | None) -> Tensor:
        x_T = (noise * sigmas[0]).half().float().to(device)
        with computing(precision, device):
            path = sampler(
                denoiser, x_T, sigmas, None if classes is None else classes.to(device)
            )
        return path.x[keep].half().cpu().transpose(0, 1)

    def shards() -> Iterator[int]:
        done = 0
        for shard in range(share[0], math.ceil(n / SHARD), share[1]):
            count = min(SHARD, n - shard * SHARD)
            if shard in whole:
                done += count
                yield done
                continue
            noise = noise_for(seed, shard, count, shape)
            rng = generator(seed, shard, 1)
            classes = (
                torch.randint(0, labels, (count,), generator=rng) if labels else None
            )
            parts = []
            for i in range(0, count, batch):
                parts.append(
                    integrate(
                        noise[i : i + batch],
                        None if classes is None else classes[i : i + batch],
                    )
                )
                done += len(parts[-1])
                yield done
            tensors = {"x": torch.cat(parts)} | (
                {} if classes is None else {"labels": classes}
            )
            write_tensors(
                out / NAME.format(shard),
                tensors,
                {"trajectories": json.dumps({**header, "shard": shard})},
            )

    return shards()


def _existing(out: pathlib.Path, header: dict, n: int, resume: bool) -> set[int]:
    """The shards in `out` that are whole and of this run; one cut short by a smaller n
    is made again.
    """
    paths = sorted(out.glob(ANY_SHARD))
    whole = set()
    if paths and not resume:
        raise FileExistsError(
            f"{out} already holds {len(paths)} shards: --resume to continue, or "
            "another folder"
        )
    for path in paths:
        there, count = _header(path, verify=True)
        if other := [k for k in header if there.get(k) != header[k]]:
            raise ValueError(
                f"{path} is of another run ({', '.join(other)} differ); use another "
                "folder"
            )
        wish = min(SHARD, n - there["shard"] * SHARD)
        if count > wish:
            raise ValueError(
                f"{path} holds {count} paths of a run of more than n = {n}; use "
                "another folder, or that n"
            )
        whole |= {there["shard"]} if count == wish else set()
    return whole


def _header(path: pathlib.Path, verify: bool) -> tuple[dict, int]:
    """A shard's description and its number of paths. ValueError names a damaged,
    foreign or renamed file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["trajectories"])
            count = file.get_slice("x").get_shape()[0]
        if verify:
            check(path)
        if path.name != NAME.format(header["shard"]) or not {
            "sigmas",
            "shape",
            "steps",
        } <= set(header):
            raise KeyError(f"its header says {NAME.format(header['shard'])}")
        return header, count
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a whole shard of trajectories ({error}); delete it and make "
            "it again with --resume"
        ) from error


class Trajectories:
    """Stored paths: `len`, `sigmas` (K,) float64 falling, and rows on demand. Memory
    stays flat however many there are.

    With `verify` every shard is read once, in pieces, and must have the SHA-256 of its
    header. Raises FileNotFoundError for a folder without shards, ValueError for a
    damaged shard or shards that do not belong together.
    """

    def __init__(self, folder: str | os.PathLike, verify: bool = True):
        paths = sorted(pathlib.Path(folder).glob(ANY_SHARD))
        if not paths:
            raise FileNotFoundError(
                f"{folder}: no shard-*.safetensors there; make them with `hkd-mini "
                "trajectories`"
            )
        headers = [_header(path, verify) for path in paths]
        first = headers[0][0]
        for path, (header, _) in zip(paths, headers, strict=True):
            if other := [
                k for k in first if k != "shard" and header.get(k) != first[k]
            ]:
                raise ValueError(
                    f"{path}: {', '.join(other)} differ from {paths[0]}'s; one folder "
                    "holds one run"
                )
        self.sigmas = torch.tensor(first["sigmas"], dtype=torch.float64)
        self.shape = tuple(first["shape"])
        self.steps = first["steps"]
        self.starts = torch.tensor([0] + [count for _, count in headers]).cumsum(0)
        self._files = [safe_open(path, framework="pt") for path in paths]
        self._slices = [file.get_slice("x") for file in self._files]
        self._labels = (
            torch.cat([f.get_tensor("labels") for f in self._files])
            if "labels" in self._files[0].keys()
            else None
        )

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

    def gather(
        self, index: Int[Tensor, " n"], at: Int[Tensor, "n s"]
    ) -> dict[str, Tensor]:
        """For distillation: x (n, s, *shape) and sigma (n, s) at the points `at` of
        each path, end (n, *shape), labels if any.
        """
        paths = [self.path(int(i)) for i in index]
        batch = {
            "x": torch.stack([path[k] for path, k in zip(paths, at, strict=True)]),
            "sigma": self.sigmas[at].float(),
            "end": torch.stack([path[-1] for path in paths]),
        }
        return (
            batch if self._labels is None else batch | {"labels": self._labels[index]}
        )
