"""The bundled models by name, any saved one by its folder, and a teacher by the name of
a function.

A folder's config.json says which class it holds; `load` opens it with that class. The
weights of what is bundled are verified against the list in data/MANIFEST.json.
"""

import importlib
import os
import pathlib
import sys
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..diffusion.schedule import Denoise
from ..diffusion.teacher import Denoiser
from ..engine import cifar10, data, points
from ..engine.weights import read_config, resolve
from ..hkd.config import PRESETS, HKDConfig
from ..hkd.model import HKD
from ..judge.classifier import Classifier
from ..onestep.kdm import KDM
from ..onestep.students import Student

MODELS = (HKD, Denoiser, Student, KDM, Classifier)
M = TypeVar("M", bound=nn.Module)


def load(name: str | os.PathLike) -> nn.Module:
    """A bundled model by name ("hkd-cifar10", "teacher-cifar10", "features-cifar10"),
    or one from a folder; in evaluation mode.

    Raises FileNotFoundError with the bundled names, ValueError for damaged weights or
    an unknown kind of model.
    """
    folder = resolve(name)
    kind = read_config(folder).get("model")
    for model in MODELS:
        if model.__name__ == kind:
            return model.from_folder(folder)
    known = ", ".join(m.__name__ for m in MODELS)
    raise ValueError(
        f"{folder}: holds a {kind!r}, wanted one of {known}; others load by their "
        "class's from_folder"
    )


def load_as(name: str, *kinds: type[M]) -> M:
    """`load(name)`, or a ValueError for a model of none of the `kinds`."""
    model = load(name)
    if not isinstance(model, kinds):
        raise ValueError(
            f"{name} is a {type(model).__name__}, wanted a "
            f"{' or '.join(k.__name__ for k in kinds)}"
        )
    return model


def load_teacher(name: str) -> Denoise:
    """A teacher: a bundled name, a folder, or "module:function", a denoiser (x, sigma,
    labels) -> guess in a module that can be imported or lies in the working directory.

    A function may carry its levels as an attribute `noise`, a `schedule.Noise`. Raises
    ValueError when the module has no such function, ImportError without the module.
    """
    module, _, function = name.partition(":")
    if not function or pathlib.Path(name).exists() or os.sep in name:
        return load_as(name, Denoiser)
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ValueError(f"{name}: {module} has no function {function}")
    return found


def preset(name: str) -> HKDConfig:
    """The configuration of the preset `name`, or a ValueError that lists them."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]


def open_data(where: str, shape: tuple[int, ...]) -> data.Images | Tensor:
    """Training data for models of `shape`: `where` is the name of a point set, a folder
    with CIFAR-10, one of pictures, or a file FILE.npy of float32 latents (n, *shape).

    Raises FileNotFoundError or ValueError, with the cure.
    """
    if len(shape) == 1 and where in points.POINT_SETS:
        return points.POINT_SETS[where](100_000, torch.Generator().manual_seed(0))
    if where.endswith(".npy"):
        return data.load_array(where, shape)
    if len(shape) == 1:
        raise ValueError(
            f"no point set {where!r}: there are {', '.join(points.POINT_SETS)}"
        )
    if not pathlib.Path(where).is_dir():
        raise FileNotFoundError(
            f"{where}: no such folder; `hkd-mini data cifar10 --root {where}` fetches "
            "CIFAR-10 into it"
        )
    patterns = ("[!.]*.bin", f"{cifar10.CIFAR10_FOLDER}/[!.]*.bin")
    binary = any(any(pathlib.Path(where).glob(pattern)) for pattern in patterns)
    if binary:
        images = cifar10.load_cifar10("train", where)
    else:
        images = data.load_images(where)
    if tuple(images.x.shape[1:]) != tuple(shape):
        raise ValueError(
            f"{where}: pictures of shape {tuple(images.x.shape[1:])}, wanted "
            f"{tuple(shape)}"
        )
    return images
