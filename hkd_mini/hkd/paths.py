"""The teacher's paths on disk, read lazily.

Distillation visits each path many times, so paths are computed once (`make_paths`) and
kept in half precision: a folder of shard-00000.safetensors, ..., each with the levels,
seeds and labels of its paths in the header. Reading maps the files into memory: however
many paths there are, a batch costs a batch. Chapter: 10 "Training".
Source: HKD algorithm 1, line 1.
"""

import json
import os
import pathlib
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..diffusion.samplers import Path
from ..diffusion.schedule import Noise
from ..engine.files import check


@runtime_checkable
class Paths(Protocol):
    """A teacher's paths, as methods of distillation read them: on disk
    (`Trajectories`), in memory (`PathsInMemory`), or your own.
    """

    sigmas: Tensor
    """Levels of every path, (K,), falling."""

    def __len__(self) -> int: ...

    def gather(self, index: Tensor, at: Tensor) -> dict[str, Tensor]:
        """x (n, s, *shape) and sigma (n, s) at the points `at` (n, s) of the paths
        `index` (n,), end (n, *shape); guess (n, s, *shape) and labels if any. A guess
        is the teacher's D(x; sigma); at the end of a path it is the end.
        """
        ...


class PathsInMemory:
    """Paths as a sampler returns them, for `train`: `len`, `sigmas` and `gather` of
    `Trajectories`.

    path: a `samplers.Path`, x (K, n, *shape). For points, where a file would be the
    slowest part.
    """

    def __init__(self, path: Path):
        self.sigmas = path.sigmas
        self.x = path.x.transpose(0, 1).float().contiguous()
        self.guesses = None
        if path.guesses is not None:
            whole = torch.cat([path.guesses, path.x[-1:].to(path.guesses)])
            self.guesses = whole.transpose(0, 1).float().contiguous()

    def __len__(self) -> int:
        return len(self.x)

    def gather(self, index: Tensor, at: Tensor) -> dict[str, Tensor]:
        """x (n, s, *shape) and sigma (n, s) at the points `at` (n, s) of the paths
        `index` (n,), end (n, *shape); guess (n, s, *shape) if the sampler gave any.
        """
        batch = {
            "x": self.x[index[:, None], at],
            "sigma": self.sigmas[at].float(),
            "end": self.x[index, -1],
        }
        if self.guesses is None:
            return batch
        return batch | {"guess": self.guesses[index[:, None], at]}


NAME = "shard-{:05d}.safetensors"
ANY_SHARD = "shard-*.safetensors"


def header_of(path: pathlib.Path, verify: bool) -> tuple[dict, int]:
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
    stays flat however many there are. `teacher` is the fingerprint of what made them,
    `unguided` that of the teacher where it was guided; "" where nobody says.
    `classes` (n,) are those of the paths, -1 where none was told, or None;
    `no_class` says whether any was withheld.

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
        headers = [header_of(path, verify) for path in paths]
        first = headers[0][0]
        for path, (header, _) in zip(paths, headers, strict=True):
            if other := [
                k
                for k in first
                if k not in ("shard", "unguided", "noise") and header.get(k) != first[k]
            ]:
                raise ValueError(
                    f"{path}: {', '.join(other)} differ from {paths[0]}'s; one folder "
                    "holds one run"
                )
        self.folder = str(folder)
        self.teacher = first.get("teacher", "")
        self.unguided = first.get("unguided", "")
        self.noise = Noise(**first["noise"]) if "noise" in first else None
        self.labels = first.get("labels", 0)
        self.sigmas = torch.tensor(first["sigmas"], dtype=torch.float64)
        self.shape = tuple(first["shape"])
        self.steps = first["steps"]
        self.starts = torch.tensor([0] + [count for _, count in headers]).cumsum(0)
        self._files = [safe_open(path, framework="pt") for path in paths]
        self._slices = [file.get_slice("x") for file in self._files]
        self._guesses = [
            file.get_slice("guess") for file in self._files if "guess" in file.keys()
        ]
        self.classes = (
            torch.cat([f.get_tensor("labels") for f in self._files])
            if "labels" in self._files[0].keys()
            else None
        )
        self.no_class = self.classes is not None and bool((self.classes < 0).any())

    def __len__(self) -> int:
        return int(self.starts[-1])

    def path(self, index: int) -> Float[Tensor, "k ..."]:
        """The whole path `index`, float32 (K, *shape), noise first; IndexError for none
        there.
        """
        return self._row(self._slices, index)

    def guesses(self, index: int) -> Float[Tensor, "k ..."]:
        """What the teacher guessed at every point of path `index`, float32 (K, *shape),
        the last being the path's end; ValueError for paths made without.
        """
        if not self._guesses:
            raise ValueError(
                "these paths were stored without guesses; make them again with "
                "`hkd-mini trajectories`"
            )
        return self._guessed(index, self.path(index))

    def _guessed(self, index: int, path: Tensor) -> Tensor:
        return torch.cat([self._row(self._guesses, index), path[-1:]])

    def _row(self, slices: list, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        shard = int(torch.searchsorted(self.starts, index, right=True)) - 1
        row = index - int(self.starts[shard])
        return slices[shard][row : row + 1][0].float()

    def paths(self, index: Int[Tensor, " n"] | range) -> Float[Tensor, "k n ..."]:
        """The paths `index`, (K, n, *shape), as the samplers return them."""
        return torch.stack([self.path(int(i)) for i in index], dim=1)

    def gather(
        self, index: Int[Tensor, " n"], at: Int[Tensor, "n s"]
    ) -> dict[str, Tensor]:
        """For distillation: x (n, s, *shape) and sigma (n, s) at the points `at` of the
        paths `index`, end (n, *shape); guess (n, s, *shape) and labels if any.
        """
        chosen = lambda rows: torch.stack([r[k] for r, k in zip(rows, at, strict=True)])
        paths = [self.path(int(i)) for i in index]
        batch = {
            "x": chosen(paths),
            "sigma": self.sigmas[at].float(),
            "end": torch.stack([path[-1] for path in paths]),
        }
        if self._guesses:
            known = zip(index, paths, strict=True)
            batch["guess"] = chosen([self._guessed(int(i), path) for i, path in known])
        return (
            batch if self.classes is None else batch | {"labels": self.classes[index]}
        )
