"""Samples as files: a sheet to look at, arrays to compute with, a folder to use.

The ending says which: FILE.png is one sheet of all pictures, a row or more for each
class; FILE.npy has the numbers, FILE.npz the classes beside them; a name without an
ending is a folder of PNGs, with a folder for each class. Chapters: 11 "What one step
buys", 19 "Your own pictures".
Source: numpy documentation (npy, npz).
"""

import io
import os
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor

from ..engine.data import to_uint8
from ..engine.files import try_file, try_folder, write_atomic
from .evaluation import BACKGROUND, sheet

ENDINGS = ("", ".npy", ".npz", ".png")


def ending_of(out: str | os.PathLike, pictures: bool = True) -> str:
    """The ending of `out`, one of ENDINGS. Raises ValueError for another, or for one of
    pictures where samples are none (`pictures`), FileExistsError for a folder of PNGs
    that holds something.
    """
    path = pathlib.Path(out)
    ending = path.suffix
    if ending not in ENDINGS:
        raise ValueError(
            f"out = {out}: wanted FILE.png (a sheet), a file that ends in .npy or "
            ".npz, or a folder for PNGs, without an ending"
        )
    if not pictures and ending not in (".npy", ".npz"):
        raise ValueError(
            f"out = {out}: these samples are no pictures: wanted a file that ends in "
            ".npy or .npz (or, of latents, a --decoder)"
        )
    if not ending and path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path} holds files already: give a new folder")
    return ending


def try_place(out: str | os.PathLike, size: float | int = 0) -> None:
    """Whether `size` bytes can be written to `out`, a file or a folder of PNGs, before
    they are made. Raises OSError where they cannot.
    """
    if pathlib.Path(out).suffix:
        try_file(out, size)
    else:
        try_folder(out, size)


def save_images(
    images: Num[Tensor, "n 3 h w"],
    out: str | os.PathLike,
    labels: Int[Tensor, " n"] | None = None,
    columns: int | None = None,
) -> None:
    """Write pictures, floats in [-1, 1] or bytes, to `out`: FILE.png, FILE.npy,
    FILE.npz, or a folder of PNGs.

    A sheet has `columns` pictures a row (default: about a square), with `labels` each
    class its own rows, in order. Arrays are uint8 (n, h, w, 3), under `samples`
    beside `labels` in FILE.npz. Raises ValueError for another ending.
    """
    ending = ending_of(out)
    x = images if images.dtype == torch.uint8 else to_uint8(images)
    x = x.detach().cpu()
    if ending == ".png":
        return write_atomic(out, _png(_by_class(x, labels, columns)))
    pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
    if ending:
        return save_numbers(pixels, out, labels)
    for k, picture in enumerate(pixels):
        name = f"{k:05d}.png" if labels is None else f"{int(labels[k])}/{k:05d}.png"
        write_atomic(pathlib.Path(out) / name, _png(picture))


def save_numbers(
    x: np.ndarray, out: str | os.PathLike, labels: Tensor | None = None
) -> None:
    """Write the array `x` to FILE.npy, or with its `labels` to FILE.npz, whole or not
    at all.
    """
    buffer = io.BytesIO()
    if pathlib.Path(out).suffix == ".npz":
        if labels is None:
            np.savez(buffer, samples=x)
        else:
            np.savez(buffer, samples=x, labels=labels.numpy())
    else:
        np.save(buffer, x)
    write_atomic(out, buffer.getvalue())


def read_labels(path: str | os.PathLike, n: int) -> Int[Tensor, " n"] | None:
    """The classes beside the n samples of FILE.npz; None for other files, and for one
    without. Raises ValueError for anything but n integers.
    """
    if pathlib.Path(path).suffix != ".npz":
        return None
    with np.load(path, allow_pickle=False) as file:
        labels = file["labels"] if "labels" in file else None
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise ValueError(
            f"{path}: labels {labels.dtype} {labels.shape}, wanted {n} integers"
        )
    return torch.from_numpy(labels.astype(np.int64))


def decoded(
    x: Tensor, decode: Callable[[Tensor], Tensor], batch: int = 50
) -> Num[Tensor, "n 3 h w"]:
    """Latents x (n, *shape) as pictures, bytes, `batch` at a time, by `decode`: latents
    to pictures in [-1, 1].

    Raises ValueError when that gives something else.
    """
    found = []
    for part in x.split(batch):
        with torch.no_grad():
            picture = decode(part)
        if not isinstance(picture, Tensor) or picture.shape[:2] != (len(part), 3):
            raise ValueError(
                f"the decoder gave {tuple(getattr(picture, 'shape', ()))} for latents "
                f"of {tuple(part.shape)}: wanted pictures (n, 3, h, w) in [-1, 1]"
            )
        found.append(to_uint8(picture).cpu())
    return torch.cat(found)


def _by_class(x: Tensor, labels: Tensor | None, columns: int | None) -> np.ndarray:
    """All pictures on one sheet; with `labels` a class begins a row."""
    if labels is None:
        return sheet(x, columns or int(np.ceil(len(x) ** 0.5)))
    groups = [x[labels == k] for k in labels.unique()]
    wide = columns or min(max(map(len, groups)), 16)
    rows = [sheet(group, wide) for group in groups]
    gap = np.full((6, *rows[0].shape[1:]), BACKGROUND, np.uint8)
    parts = [part for row in rows for part in (gap, row)][1:]
    return np.concatenate(parts)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
