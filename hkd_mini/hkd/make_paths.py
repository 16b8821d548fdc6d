"""The teacher's paths, made once, in shards.

A shard appears whole or not at all, and depends only on its own seed, so a killed run
continues where it stopped and several processes may share the work. The noise is
rounded to half precision *before* the teacher integrates it: what is stored is exactly
where the path began. Chapter: 10 "Training".
Source: HKD algorithm 1, line 1 (no solver, grid or number there: ours are EDM's).
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..diffusion.guidance import Guided
from ..diffusion.samplers import Path, heun
from ..diffusion.schedule import Denoise, noise_of
from ..engine.data import checked_seed, in_whole_blocks, rng_at
from ..engine.files import try_folder, write_tensors
from ..engine.precision import choose, computing, log
from .paths import ANY_SHARD, NAME, Trajectories, header_of


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
    """Unit noise of one shard (count, *shape), already rounded to half precision: row k
    is a function of (seed, shard, k).
    """
    return in_whole_blocks(count, shape, rng_at(seed, shard, 0)).half().float()


def fingerprint(denoiser: Denoise) -> str:
    """The SHA-256 of the weights of `denoiser`, so that shards of two teachers never
    mix; "" for a plain function.
    """
    digest = hashlib.sha256()
    weights = denoiser.state_dict() if isinstance(denoiser, nn.Module) else {}
    for value in weights.values():
        digest.update(value.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest() if weights else ""


def unguided(denoiser: Denoise) -> Denoise:
    """The teacher itself where `denoiser` guides one, else `denoiser`."""
    return unguided(denoiser.denoiser) if isinstance(denoiser, Guided) else denoiser


def of_teacher(paths: Trajectories, teacher: Denoise) -> Trajectories:
    """`paths`, or a ValueError when their header says that another teacher than
    `teacher` made them. What it guided made is its own.

    Paths of a plain function, or older than this note, say nothing, and pass.
    """
    mine = fingerprint(teacher)
    whose = {paths.teacher, paths.unguided} - {""}
    if whose and mine not in whose:
        raise ValueError(
            f"{paths.folder}: paths of another teacher: the SHA-256 of its weights is "
            f"{paths.teacher[:12]}, of this one's {mine[:12] or 'unknown'}; give the "
            "one that made them, or make them again with this one"
        )
    return paths


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
    no_class: float = 0.0,
    resume: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
    share: tuple[int, int] = (0, 1),
    guesses: bool = True,
    sampler: Callable = heun,
) -> Iterator[int]:
    """Integrate n paths and write them below `out`: an iterator of the number of paths
    done, after every batch.

    `sampler` follows `denoiser` on `device`; with `guesses` what the denoiser says at
    every kept point is stored beside it, at twice the disk and no further evaluation.
    shape of one x; `times` points kept of the steps + 1; `seed` is the noises';
    `labels` > 0 draws a class for each path, and `no_class` is the share of them that
    get none (-1); `share` = (rank, world) makes only every world-th shard. With
    `resume`, whole shards are left alone, and "auto" means the precision that they were
    made in. What is there is looked at when this is called, before the iterator moves:
    processes that share the work can wait for one another. Raises FileExistsError for
    shards there without `resume`, ValueError when they are of another run, for n or
    batch below 1, or for a sampler that gives no guesses when they are asked for.
    """
    _check(n, batch, steps, no_class, out)
    try_folder(out, 2 * n * min(times, steps + 1) * math.prod(shape) * (1 + guesses))
    out = pathlib.Path(out)
    sigmas = noise_of(denoiser).sigmas(steps)
    keep = kept_levels(steps, times)
    began = sorted(out.glob(ANY_SHARD)) if resume and precision == "auto" else []
    precision = choose(
        header_of(began[0], verify=False)[0].get("precision", "auto")
        if began
        else precision,
        device,
    )
    header = {
        "sigmas": sigmas[keep].tolist(),
        "seed": checked_seed(seed),
        "shape": list(shape),
        "steps": steps,
        "labels": labels,
        "precision": precision,
        "teacher": fingerprint(denoiser),
        "guesses": guesses,
        "no_class": no_class,
    }
    whole = _existing(out, header, n, resume)
    header |= _newer(denoiser)

    def integrate(noise: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
        x_T = (noise * sigmas[0]).half().float().to(device)
        with computing(precision, device):
            told = None if classes is None else classes.to(device)
            path = sampler(denoiser, x_T, sigmas, told)
        return _kept(path, keep, guesses)

    def shards() -> Iterator[int]:
        done = 0
        for shard in range(share[0], math.ceil(n / SHARD), share[1]):
            count = min(SHARD, n - shard * SHARD)
            if shard in whole:
                done += count
                yield done
                continue
            noise = noise_for(seed, shard, count, shape)
            classes = _classes(rng_at(seed, shard, 1), count, labels, no_class)
            parts = []
            for i in range(0, count, batch):
                some = None if classes is None else classes[i : i + batch]
                parts.append(integrate(noise[i : i + batch], some))
                done += len(parts[-1]["x"])
                yield done
            tensors = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
            tensors |= {} if classes is None else {"labels": classes}
            about = {"trajectories": json.dumps({**header, "shard": shard})}
            write_tensors(out / NAME.format(shard), tensors, about)

    return shards()


def _check(
    n: int, batch: int, steps: int, no_class: float, out: str | os.PathLike
) -> None:
    if n < 1 or batch < 1:
        raise ValueError(f"n = {n} paths, {batch} at once: at least 1 of each")
    if steps < 2:
        raise ValueError(f"steps = {steps}: at least 2")
    if not 0 <= no_class <= 1:
        raise ValueError(f"no_class = {no_class}: a share, 0 to 1")
    if str(out) == "":
        raise ValueError("out = '': wanted a folder")


def _newer(denoiser: Denoise) -> dict:
    """What a shard says beside, and older ones of the same run may lack."""
    guided = isinstance(denoiser, Guided)
    own = {"unguided": fingerprint(unguided(denoiser))} if guided else {}
    return {"noise": vars(noise_of(denoiser)), **own}


def _classes(
    rng: torch.Generator, count: int, labels: int, no_class: float
) -> Tensor | None:
    """A class for each of `count` paths, -1 for none; None where there are none. Those
    of a whole shard are drawn, so that a path's does not hang on how many there are.
    """
    if not labels:
        return None
    classes = torch.randint(0, labels, (SHARD,), generator=rng)
    without = torch.rand(SHARD, generator=rng) < no_class
    return torch.where(without, -1, classes)[:count]


def _kept(path: Path, keep: list[int], guesses: bool) -> dict[str, Tensor]:
    """The points `keep` of paths (n, len(keep), *shape) in half precision, and the
    guesses at all but the last.
    """
    if guesses and path.guesses is None:
        raise ValueError("this sampler gives no guesses: ask for guesses=False")
    kept = {"x": path.x[keep]}
    if path.guesses is not None and guesses:
        kept["guess"] = path.guesses[keep[:-1]]
    return {k: v.half().cpu().transpose(0, 1) for k, v in kept.items()}


def _existing(out: pathlib.Path, header: dict, n: int, resume: bool) -> set[int]:
    """The shards in `out` that are whole and of this run; one cut short by a smaller n
    is made again.
    """
    paths = sorted(out.glob(ANY_SHARD))
    whole = set()
    if resume and not paths:
        log.info("%s: no shards to resume, starting anew", out)
    if paths and not resume:
        raise FileExistsError(
            f"{out} already holds {len(paths)} shards: --resume to continue, or "
            "another folder"
        )
    for path in paths:
        there, count = header_of(path, verify=True)
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


SHARD = 512  # paths a file
