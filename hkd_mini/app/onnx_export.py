"""The model as files that a browser runs: two ONNX graphs, a list of rates, and noise.

A page keeps the states of `onnx_graphs.Lift` and asks `onnx_graphs.Draw` alone at every
move of a slider. Needs the package `onnx`. Chapter: 15 "A generator in your page".
"""

import gzip
import json
import math
import os
import pathlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.data import checked_seed
from ..engine.files import write_atomic
from ..hkd.model import HKD
from ..hkd.spectra import spectrum
from .onnx_graphs import graphs

NUMBERS = 3 * 32 * 32  # of a page's noise


def export(
    model: HKD, folder: str | os.PathLike, name: str, bits: int = 8
) -> dict[str, int]:
    """Write what a page needs of `model` to `folder`, each file under gzip, weights of
    8 or 16 bits; returns {file: bytes}.

    With `name` for NAME: NAME-lift.onnx.gz and NAME-draw.onnx.gz are the graphs;
    NAME-rates.bin.gz the rates as float32, all alphas and then all betas of the first
    state, then of the next; NAME.json says which clock between which noise levels, the
    shapes of the states and of their rates, how many classes there are, and whether
    none may be told.
    """
    folder = pathlib.Path(folder)
    sizes = {}
    levels = spectrum(model)
    rates = [part for lam in levels for part in (lam.real, lam.imag)]
    contents = {
        f"{name}-{part}.onnx": graph for part, graph in graphs(model, bits).items()
    }
    contents[f"{name}-rates.bin"] = (
        torch.cat([part.flatten() for part in rates]).numpy().astype("<f4").tobytes()
    )
    for file, content in contents.items():
        packed = gzip.compress(content, 9, mtime=0)
        write_atomic(folder / f"{file}.gz", packed)
        sizes[f"{file}.gz"] = len(packed)
    about = {
        "clock": model.config.clock,
        "T": model.clock.T,
        "eps": model.clock.eps,
        "states": model.state_shapes,
        "rates": [list(lam.shape) for lam in levels],
        "bits": bits,
        "sigma_min": model.noise.sigma_min,
        "sigma_max": model.noise.sigma_max,
        "classes": model.config.network.labels,
        "no_class": model.config.network.no_class,
    }
    write_atomic(folder / f"{name}.json", json.dumps(about).encode())
    return {**sizes, f"{name}.json": (folder / f"{name}.json").stat().st_size}


def seeded_uniform(seed: int, n: int, first: int = 0) -> Float[np.ndarray, " n"]:
    """n numbers in [0, 1) that a browser can draw again from the same number, from the
    `first` of the row on: mulberry32.

    Raises ValueError for a seed outside [0, 2^32).
    """
    seed = checked_seed(seed)
    with np.errstate(over="ignore"):  # the generator's state is a number modulo 2^32
        steps = np.arange(first + 1, first + n + 1, dtype=np.uint32)
        a = np.uint32(seed) + steps * np.uint32(0x6D2B79F5)
        t = (a ^ (a >> np.uint32(15))) * (a | np.uint32(1))
        t ^= t + (t ^ (t >> np.uint32(7))) * (t | np.uint32(61))
        return (t ^ (t >> np.uint32(14))) / 2**32


def seeded_noise(seed: int, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Unit noise of any `shape` that a browser can draw again from the same number:
    Box and Muller's pairs.

    Every two uniform numbers u, v give sqrt(-2 log(1 - u)) times cos(2 pi v) and sin(2
    pi v). Raises ValueError for a seed outside [0, 2^32).
    """
    n = math.prod(shape)
    u, v = seeded_uniform(checked_seed(seed), n + n % 2).reshape(-1, 2).T
    radius = np.sqrt(-2 * np.log1p(-u))
    angle = 2 * np.pi * v
    drawn = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[
        :n
    ]
    return torch.from_numpy(drawn.astype(np.float32)).reshape(shape)


def seeded_class(seed: int, classes: int) -> int:
    """The class that a page asks for where the reader leaves it open: from the uniform
    number that follows those of a picture's noise, one in `classes`.

    Raises ValueError for a seed outside [0, 2^32).
    """
    return int(classes * seeded_uniform(seed, 1, first=NUMBERS)[0])
