"""Samples, drawn and judged: what `hkd-mini sample` and `hkd-mini evaluate` do, for
scripts.

Judged against the training pictures with the features of one fixed network: the Frechet
distance between two Gaussians fitted to the features, and the shares of samples
(precision) and pictures (recall) inside each other's manifold. The default network is a
bundled CIFAR-10 classifier, offline; its distances rank models on this data and are not
the FID of papers, which needs Inception. A student trained through that classifier may
please it: ask "judge-cifar10", of another architecture, which no training sees, or
"imagenet" too. The former also says whether samples show the class that was asked for.
Chapter: 11 "What one step buys".
Source: Heusel et al. 2017 (FID), Kynkaanniemi et al. 2019 (precision, recall).
"""

import os
import zipfile
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor, nn

from ..diffusion.samplers import heun
from ..diffusion.schedule import noise_of
from ..engine.data import Images, checked_seed, rng_at, to_uint8, unit_noise
from ..engine.folders import load_images
from ..engine.precision import choose, computing
from ..engine.weights import data_folder, resolve
from ..judge import metrics
from ..judge.classifier import Classifier, share_found
from ..judge.distance import JUDGE, SECOND, bundled
from ..judge.features import (
    Extractor,
    classifier_features,
    imagenet_features,
    in_batches,
    inception_features,
)
from .zoo import is_cifar10, open_data

# statistics of the training pictures in the bundled classifier's features
REFERENCE = "reference-cifar10.safetensors"
BACKGROUND = (253, 252, 249)  # the background of the book's figures
MANIFOLD = 5000  # pictures that precision and recall look at


@torch.no_grad()
def draw(
    model: nn.Module,
    n: int,
    seed: int,
    steps: int = 18,
    batch: int = 250,
    labels: Tensor | None = None,
    precision: str = "fp32",
) -> Tensor:
    """n samples of a one-step model (one evaluation each) or a teacher (2 steps - 1),
    uint8 (n, 3, h, w), or float32 (n, *shape) where values have no bounds.

    Sample k is a function of (seed, k), its class too where the model has classes and
    none are given, whatever n, the batch and the device. `labels` (n,) are class
    indices. `precision` as in `precision.choose`. Raises ValueError for n or batch
    below 1, or a seed outside [0, 2^32).
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n = {n} samples, {batch} at once: at least 1 of each")
    config: Any = model.config
    network = getattr(config, "network", config)
    sample = getattr(model, "sample", None)
    # a plain function has no parameters
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    seed = checked_seed(seed)
    out = []
    noise = unit_noise(n, network.shape, seed)
    if sample is None and steps < 2:
        raise ValueError(f"steps = {steps}: a teacher takes at least 2")
    precision = choose(precision, where)
    if labels is None:
        labels = drawn_classes(model, n, seed)
    for i in range(0, n, batch):
        some = noise[i : i + batch].to(where)
        label = None if labels is None else labels[i : i + batch].to(where)
        with computing(precision, where):
            if sample is not None:
                x = sample(some, label)
            else:
                levels = noise_of(model).sigmas(steps)
                x = heun(model, levels[0] * some, levels, label).x[-1]
        out.append(to_uint8(x).cpu() if network.bounded else x.float().cpu())
    return torch.cat(out)


def drawn_classes(
    model: nn.Module, n: int, seed: int, classes: tuple[int, ...] | None = None
) -> Tensor | None:
    """The classes of samples 0 to n - 1 of `model` by `seed`, or `classes` in turn;
    None for a model without.

    Raises ValueError for classes that the model does not have.
    """
    config: Any = model.config
    known = getattr(config, "network", config).labels
    if classes:
        if not known or not all(0 <= k < known for k in classes):
            raise ValueError(
                f"classes {classes}: this model has {known or 'none'}, counted from 0"
            )
        return torch.tensor(classes).repeat(-(-n // len(classes)))[:n]
    if not known:
        return None
    return torch.randint(known, (n,), generator=rng_at(checked_seed(seed), 1))


def read_samples(path: str | os.PathLike) -> Tensor:
    """The .npy file `path` of uint8 (n, h, w, 3), an .npz file with these under
    `samples`, or a folder of pictures of one size, as (n, 3, h, w). Raises ValueError
    for anything else, pickles included.
    """
    if os.path.isdir(path):
        return load_images(os.fspath(path)).x
    try:
        if str(path).endswith(".npz"):
            with np.load(path, allow_pickle=False) as file:
                x = file["samples"]
        else:
            # refuses pickles and archives, and looks at the length
            x = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: not a whole .npy file of numbers ({error})"
        ) from error
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3:
        raise ValueError(
            f"{path}: {x.dtype} {x.shape}, wanted uint8 (n, height, width, 3)"
        )
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).contiguous()


def extractor(features: str, device: str = "cpu") -> Extractor:
    """What looks at the pictures, on `device`: `features` are "inception", "imagenet",
    "cifar" (the bundled judge), or the bundled name or folder of a classifier.

    Raises ValueError for a folder with another model, FileNotFoundError for none.
    """
    if features == "inception":
        return inception_features(device=device)
    if features == "imagenet":
        return imagenet_features(device=device)
    folder = resolve(bundled(features))
    return classifier_features(Classifier.from_folder(folder).to(device))


def sheet(x: Num[Tensor, "n 3 h w"], columns: int, gap: int = 2) -> np.ndarray:
    """Pictures x in [-1, 1], or bytes, side by side, `columns` a row, `gap` pixels
    apart, on BACKGROUND: uint8 (height, width, 3), to be looked at.
    """
    n, _, h, w = x.shape
    rows = -(-n // columns)
    out = torch.tensor(BACKGROUND, dtype=torch.uint8).repeat(
        rows * (h + gap) - gap, columns * (w + gap) - gap, 1
    )
    for k, picture in enumerate(x if x.dtype == torch.uint8 else to_uint8(x)):
        i = k // columns * (h + gap)
        j = k % columns * (w + gap)
        out[i : i + h, j : j + w] = picture.permute(1, 2, 0)
    return out.numpy()


def check_reference(
    shape: tuple[int, ...], data: str | None, features: str, real: int | None
) -> None:
    """Whether samples of `shape` can be judged at all, before any is drawn; the other
    arguments and the errors are those of `evaluate`.
    """
    if data is None and shape != (3, 32, 32) or len(shape) != 3 or shape[0] != 3:
        raise ValueError(
            f"samples of shape {tuple(shape)}: wanted (3, 32, 32), the size of "
            "CIFAR-10, or data, a folder with the pictures that they should be like"
        )
    if real is not None and (real < 2 or data is None):
        raise ValueError(f"real = {real} pictures, data {data}: at least 2, of data")
    if data is None and bundled(features) != JUDGE:
        raise ValueError(
            f"features {features!r} need data, CIFAR-10's folder or another: only "
            'those of "cifar" have bundled statistics'
        )


@torch.no_grad()
def evaluate(
    samples: Tensor,
    data: str | None = None,
    features: str = "cifar",
    device: str = "cpu",
    real: int | None = None,
    skip_broken: bool = False,
    labels: Int[Tensor, " n"] | None = None,
) -> dict:
    """Frechet distance of uint8 samples (n, 3, h, w), with precision and recall when
    `data` names a folder with pictures.

    The reference is the training pictures in `data`, CIFAR-10's or others, which are
    cropped and resized as for training, or the bundled statistics of CIFAR-10's
    ("cifar" features only); `features` are as in `extractor`, and look on `device`.
    `real` takes only the first so many training pictures, `skip_broken` leaves out
    what cannot be read. With `labels`, the classes that were asked for, and CIFAR-10 as
    the reference, `class_found` is the share in which the second judge finds them.
    Returns a dict of plain numbers that names the reference, its size and the features.
    Raises ValueError for samples of another size, other features, or any but "cifar"
    without `data`.
    """
    shape = tuple(samples.shape[1:])
    check_reference(shape, data, features, real)
    extract = extractor(features, device)
    if data is None:
        statistics = metrics.load_statistics(data_folder() / REFERENCE)
        reference = "CIFAR-10, bundled statistics of its training pictures"
        seen = None
    else:
        images = open_data(data, shape, skip_broken)
        if not isinstance(images, Images):
            raise ValueError(f"{data}: a file of numbers, wanted a folder of pictures")
        seen = torch.cat(list(in_batches(images.x[:real], extract)))
        statistics = metrics.statistics([seen])
        reference = f"CIFAR-10 in {data}" if is_cifar10(data) else data
    fake = torch.cat(list(in_batches(samples, extract)))
    shares = {}
    if seen is not None:
        shares = metrics.precision_recall(seen[:MANIFOLD], fake[:MANIFOLD])._asdict()
    if labels is not None and (data is None or is_cifar10(data)):
        second = Classifier.from_folder(resolve(SECOND)).to(device)
        shares["class_found"] = share_found(second, samples, labels)
    frechet = metrics.frechet_distance(metrics.statistics([fake]), statistics)
    return {
        "frechet": frechet,
        **shares,
        "n": len(samples),
        "n_real": statistics.n,
        "reference": reference,
        "size": list(shape[1:]),
        "features": features,
    }
