"""Samples, drawn and judged: what `hkd-mini sample` and `hkd-mini evaluate` do, for
scripts.

Judged against the training pictures with the features of one fixed network: the Frechet
distance between two Gaussians fitted to the features, and the shares of samples
(precision) and pictures (recall) inside each other's manifold. The default network is
the bundled CIFAR-10 classifier, offline; its distances rank models on this data and are
not the FID of papers, which needs Inception. The same classifier also serves as HKD's
perceptual loss, so a student may please it: compare with "inception" where you can.
Chapter: 11 "What one step buys".
Source: Heusel et al. 2017 (FID), Kynkaanniemi et al. 2019 (precision, recall).
"""

import os
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..diffusion.samplers import heun
from ..diffusion.schedule import noise_of
from ..engine.data import Images, checked_seed, rng_at, to_uint8, unit_noise
from ..engine.precision import choose, computing
from ..engine.weights import data_folder, resolve
from ..judge import metrics
from ..judge.classifier import Classifier
from ..judge.features import (
    Extractor,
    classifier_features,
    imagenet_features,
    in_batches,
    inception_features,
)
from .zoo import open_data

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
    where = next(model.parameters()).device
    seed = checked_seed(seed)
    out = []
    noise = unit_noise(n, network.shape, seed)
    if sample is None and steps < 2:
        raise ValueError(f"steps = {steps}: a teacher takes at least 2")
    precision = choose(precision, where)
    if labels is None and network.labels:
        labels = torch.randint(network.labels, (n,), generator=rng_at(seed, 1))
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


def read_samples(path: str | os.PathLike) -> Tensor:
    """The .npy file `path` of uint8 (n, h, w, 3) as (n, 3, h, w). Raises ValueError for
    anything else, pickles included.
    """
    try:
        # refuses pickles and archives, and looks at the length
        x = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
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
    "cifar" (the bundled classifier), or the folder of a classifier.

    Raises ValueError for a folder with another model, FileNotFoundError for none.
    """
    if features == "inception":
        return inception_features(device=device)
    if features == "imagenet":
        return imagenet_features(device=device)
    folder = resolve("features-cifar10" if features == "cifar" else features)
    return classifier_features(Classifier.from_folder(folder).to(device))


def sheet(x: Float[Tensor, "n 3 h w"], columns: int, gap: int = 2) -> np.ndarray:
    """Pictures x in [-1, 1] side by side, `columns` a row, `gap` pixels apart, on
    BACKGROUND: uint8 (height, width, 3), to be looked at.
    """
    n, _, h, w = x.shape
    rows = -(-n // columns)
    out = torch.tensor(BACKGROUND, dtype=torch.uint8).repeat(
        rows * (h + gap) - gap, columns * (w + gap) - gap, 1
    )
    for k, picture in enumerate(to_uint8(x)):
        i = k // columns * (h + gap)
        j = k % columns * (w + gap)
        out[i : i + h, j : j + w] = picture.permute(1, 2, 0)
    return out.numpy()


@torch.no_grad()
def evaluate(
    samples: Tensor,
    data: str | None = None,
    features: str = "cifar",
    device: str = "cpu",
    real: int | None = None,
) -> dict:
    """Frechet distance of uint8 samples (n, 3, h, w), with precision and recall when
    `data` names a folder with pictures of their size.

    The reference is the training pictures in `data`, CIFAR-10's or others, or the
    bundled statistics of CIFAR-10's ("cifar" features only); `features` are as in
    `extractor`, and look on `device`. `real` takes only the first so many training
    pictures. Returns a dict of plain numbers, and in words the reference.
    Raises ValueError for samples of another size, other features, or any but "cifar"
    without `data`.
    """
    shape = tuple(samples.shape[1:])
    if data is None and shape != (3, 32, 32) or len(shape) != 3 or shape[0] != 3:
        raise ValueError(
            f"samples of shape {tuple(samples.shape)}: wanted (n, 3, 32, 32), the "
            "size of CIFAR-10, or data, a folder with pictures of their size"
        )
    if real is not None and (real < 2 or data is None):
        raise ValueError(
            f"real = {real} pictures, data {data}: at least 2, of CIFAR-10's folder"
        )
    if data is None and features != "cifar":
        raise ValueError(
            f"features {features!r} need data, CIFAR-10's folder: only those of "
            '"cifar" have bundled statistics'
        )
    extract = extractor(features, device)
    fake = torch.cat(list(in_batches(samples, extract)))
    if data is None:
        statistics = metrics.load_statistics(data_folder() / REFERENCE)
        shares = {}
    else:
        images = open_data(data, shape)
        if not isinstance(images, Images):
            raise ValueError(f"{data}: a file of numbers, wanted a folder of pictures")
        seen = torch.cat(list(in_batches(images.x[:real], extract)))
        statistics = metrics.statistics([seen])
        shares = metrics.precision_recall(seen[:MANIFOLD], fake[:MANIFOLD])._asdict()
    frechet = metrics.frechet_distance(metrics.statistics([fake]), statistics)
    return {
        "frechet": frechet,
        **shares,
        "n": len(samples),
        "n_real": statistics.n,
        "reference": data or f"CIFAR-10's statistics, bundled as {REFERENCE}",
        "features": features,
    }
