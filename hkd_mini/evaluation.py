"""Samples, drawn and judged: what `hkd-mini sample` and `hkd-mini evaluate` do, for scripts.

Judged against the training pictures with the features of one fixed network: the Frechet distance between two Gaussians fitted to
the features, and the shares of samples (precision) and pictures (recall) inside each other's manifold. The default network is the
bundled CIFAR-10 classifier, offline; its distances rank models on this data and are not the FID of papers, which needs Inception.
The same classifier also serves as HKD's perceptual loss, so a student may please it: compare with "inception" where you can.
Chapter: 11 "What one step buys". Source: Heusel et al. 2017 (FID), Kynkaanniemi et al. 2019 (precision, recall).
"""

import os

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .data import load_cifar10, to_uint8
from .model import HKD, load
from .schedule import karras_sigmas
from .teacher import Denoiser, heun
from .weights import data_folder

REFERENCE = "reference-cifar10.safetensors"  # statistics of the training pictures in the bundled classifier's features
MANIFOLD = 5000  # pictures that precision and recall look at


@torch.no_grad()
def draw(
    model: HKD | Denoiser, n: int, seed: int, steps: int = 18, batch: int = 250, labels: Tensor | None = None
) -> Tensor:
    """n samples of an HKD (one evaluation each) or a teacher (2 steps - 1), uint8 (n, 3, h, w) or float32 (n, dim).

    Noise, and classes where the model has them and none are given, come from a generator seeded with `seed`, whatever the batch.
    """
    network = model.config.network if isinstance(model, HKD) else model.config
    where, rng, out = next(model.parameters()).device, torch.Generator().manual_seed(seed), []
    noise, levels = torch.randn(n, *network.shape, generator=rng), karras_sigmas(steps)
    if labels is None and network.labels:
        labels = torch.randint(network.labels, (n,), generator=rng)
    for i in range(0, n, batch):
        some, label = noise[i : i + batch].to(where), None if labels is None else labels[i : i + batch].to(where)
        x = model.sample(some, label) if isinstance(model, HKD) else heun(model, levels[0] * some, levels, label).x[-1]
        out.append(to_uint8(x).cpu() if x.ndim == 4 else x.float().cpu())
    return torch.cat(out)


def read_samples(path: str | os.PathLike) -> Tensor:
    """A .npy file of uint8 (n, h, w, 3) as (n, 3, h, w). Raises ValueError for anything else, pickles included."""
    try:
        x = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path}: not a .npy file of numbers ({error})") from error
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3:
        raise ValueError(f"{path}: {x.dtype} {x.shape}, wanted uint8 (n, height, width, 3)")
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def evaluate(samples: Tensor, data: str | None = None, features: str = "cifar", device: str = "cpu") -> dict:
    """Frechet distance of uint8 samples (n, 3, 32, 32), with precision and recall when `data` names CIFAR-10's folder.

    The reference is the training pictures in `data`, or the bundled statistics of them ("cifar" features only).
    Returns a dict of plain numbers. Raises ValueError for other features, or "inception" without `data`.
    """
    if features not in ("cifar", "inception") or features == "inception" and data is None:
        raise ValueError(f'features {features!r}, data {data}: "cifar", or "inception" together with data')
    bundled = features == "cifar"
    extract = metrics.classifier_features(load("features-cifar10").to(device)) if bundled else metrics.inception_features(device=device)
    fake = torch.cat(list(metrics.in_batches(samples, extract)))
    if data is None:
        real = metrics.load_statistics(data_folder() / REFERENCE)
        shares = {}
    else:
        seen = torch.cat(list(metrics.in_batches(load_cifar10("train", data).x, extract)))
        real, shares = metrics.statistics([seen]), metrics.precision_recall(seen[:MANIFOLD], fake[:MANIFOLD])._asdict()
    frechet = metrics.frechet_distance(metrics.statistics([fake]), real)
    return {"frechet": frechet, **shares, "n": len(samples), "n_real": real.n, "features": features}
