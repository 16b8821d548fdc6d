"""Data: pictures as bytes, and batches that are a function of (seed, step).

A data set is a tensor: `Images` holds x, uint8 (N, 3, H, W), and one label per picture;
points in the plane are (n, 2) (`points`). Models see pictures in [-1, 1]. Nothing here
shuffles with a hidden state: `batch_indices` is a function of (seed, step), `rng_at`
gives the random numbers of one place in a run, and that is all that a training run must
know to resume inside an epoch. CIFAR-10 itself: `cifar10`.
"""

import math
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


class Images(NamedTuple):
    """Pictures with one label each: x uint8 (N, 3, H, W) in 0..255, labels (N,), the
    names of the classes.
    """

    x: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]
    names: tuple[str, ...]


def load_array(file: str | Path, shape: tuple[int, ...]) -> Float[Tensor, "n ..."]:
    """Points or latents from a .npy file of float32 (n, *shape), whole and finite.

    FileNotFoundError without the file; ValueError, naming it, for anything else.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file")
    x = np.load(file, allow_pickle=False)
    if x.dtype != np.float32 or x.shape[1:] != tuple(shape) or not np.isfinite(x).all():
        raise ValueError(
            f"{file}: {x.dtype} {x.shape}, wanted finite float32 (n, "
            f"{', '.join(map(str, shape))})"
        )
    return torch.from_numpy(x)


def to_unit(x: UInt8[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Bytes 0..255 as float32 in [-1, 1]: x / 127.5 - 1 (EDM's scaling)."""
    if x.dtype != torch.uint8:
        raise ValueError(f"to_unit got {x.dtype}, wanted torch.uint8 pixels")
    return x.float() / 127.5 - 1


def to_uint8(x: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Pictures in [-1, 1] as bytes: 127.5 x + 128, clipped to 0..255, truncated; undoes
    `to_unit` exactly.
    """
    return (x.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def checked_seed(seed: Any) -> int:
    """`seed` as a plain integer, numpy's too. Raises ValueError outside [0, 2^32):
    torch's generators on the CPU keep 32 bits, so 2^32 would be 0 again.
    """
    try:
        value = index(seed)
    except TypeError:
        value = -1
    if isinstance(seed, bool) or not 0 <= value < 2**32:
        raise ValueError(f"seed = {seed!r}: wanted an integer, 0 <= seed < 2^32")
    return value


def unit_noise(n: int, shape: tuple[int, ...], seed: int) -> Float[Tensor, "n ..."]:
    """n unit noises of `shape`, the k-th a function of (seed, k)."""
    rng = torch.Generator().manual_seed(checked_seed(seed))
    return in_whole_blocks(n, shape, rng)


def in_whole_blocks(
    n: int, shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "n ..."]:
    """n unit noises of `shape` by `generator`, of which the first k are those of n = k.

    torch fills a tensor in blocks of 16 numbers, and draws an unfinished last block
    again. So whole blocks are drawn, and what of the last is too much is dropped.
    """
    whole = 16 // math.gcd(16, math.prod(shape))
    return torch.randn(-(-n // whole) * whole, *shape, generator=generator)[:n]


def batch_indices(n: int, batch: int, seed: int, step: int) -> Int64[Tensor, " batch"]:
    """Indices in 0..n-1 of global batch `step` = 0, 1, ...: a stretch of one endless
    shuffled list.

    The list is one permutation of range(n) per epoch, drawn from (seed, epoch); batches
    run across epochs.
    """
    seed = checked_seed(seed)
    if n < 1 or not 1 <= batch <= 2**31 or step < 0:
        raise ValueError(
            f"got {n=}, {batch=}, {step=}; wanted n, batch >= 1 and step >= 0, and no "
            "batch beyond 2^31"
        )
    start = step * batch
    end = (step + 1) * batch
    epochs = range(start // n, (end - 1) // n + 1)
    return torch.cat(
        [_permutation(n, seed, e)[max(start - e * n, 0) : end - e * n] for e in epochs]
    )


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))


def rng_at(seed: int, *where: int) -> torch.Generator:
    """The random numbers of one place in a run (a step, a shard): a function of (seed,
    *where) and nothing else.
    """
    state = np.random.SeedSequence([checked_seed(seed), *where]).generate_state(
        1, np.uint64
    )
    return torch.Generator().manual_seed(int(state[0] >> 1))


def mirrored(
    x: Float[Tensor, "n c h w"], flip: Bool[Tensor, " n"]
) -> Float[Tensor, "n c h w"]:
    """Of the pictures x those of `flip` mirrored left to right, the others as they
    are.
    """
    return torch.where(flip[:, None, None, None], x.flip(-1), x)
