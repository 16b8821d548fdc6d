"""The bundled models by name, any saved one by its folder, and a teacher by the name of
a function.

A folder's config.json says which class it holds; `load` opens it with that class. The
weights of what is bundled are verified against the list in data/MANIFEST.json.
"""

import importlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..diffusion.epsilon import FromEpsilon, diffusers_teacher, is_diffusers
from ..diffusion.own import Own
from ..diffusion.teacher import Denoiser
from ..engine import cifar10, data, points
from ..engine.folders import load_images, packed_folder
from ..engine.hub import HUB
from ..engine.weights import read_config, resolve
from ..hkd.config import PRESETS, HKDConfig
from ..hkd.model import HKD
from ..judge.classifier import Classifier
from ..onestep.kdm import KDM
from ..onestep.students import Student

MODELS = (HKD, Denoiser, Student, KDM, Classifier)
M = TypeVar("M", bound=nn.Module)
Teacher = Denoiser | FromEpsilon | Own


def load(name: str | os.PathLike) -> nn.Module:
    """A bundled model by name ("hkd-cifar10", "teacher-cifar10", "features-cifar10"),
    one from a folder, or "hf://user/name" from the Hugging Face hub; in evaluation
    mode.

    Raises FileNotFoundError with the bundled names, ValueError for damaged weights or
    an unknown kind of model, and what `hub.fetch` raises.
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


def load_teacher(name: str) -> Teacher:
    """A teacher: a bundled name, a folder of ours or of diffusers', or
    "module:function", a denoiser (x, sigma) or (x, sigma, labels) -> guess in a module
    that can be imported or lies in the working directory.

    A function may carry attributes, as `diffusion.own.Own` reads them: its levels
    `noise`, the `shape` of one x, a number of `labels`, a `decode`. Raises ValueError
    when the module has no such function, ImportError without the module.
    """
    if not is_function(name):
        if is_diffusers(name):
            return diffusers_teacher(name)
        return load_as(name, Denoiser)
    return Own(load_function(name))


def is_function(name: str) -> bool:
    """Whether `name` is "module:function", and not a path with a colon in it, or a
    name of the hub.
    """
    _, _, function = name.partition(":")
    path = pathlib.Path(name).exists() or os.sep in name or name.startswith(HUB)
    return bool(function) and not path


def load_function(name: str) -> Callable:
    """The function behind "module:function"; errors as in `load_teacher`."""
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"{name}: wanted module:function")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ValueError(f"{name}: {module} has no function {function}")
    return found


def load_sampled(name: str) -> nn.Module:
    """What `hkd-mini sample` draws from: a one-step model or a teacher, by any of the
    names that `load_teacher` knows.

    Raises ValueError for a classifier, and for a function that does not say its shape.
    """
    if not (is_function(name) or is_diffusers(name)):
        return load_as(name, HKD, Denoiser, KDM)
    found = load_teacher(name)
    if found.config is None:
        raise ValueError(f"{name}: give the function an attribute shape, that of one x")
    return found


def preset(name: str) -> HKDConfig:
    """The configuration of the preset `name`, or a ValueError that lists them."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]


def open_data(
    where: str, shape: tuple[int, ...], skip_broken: bool = False
) -> data.Images | Tensor:
    """Training data for models of `shape`: `where` is the name of a point set, a folder
    with CIFAR-10, one of pictures, which are cropped and resized, or a file FILE.npy of
    float32 latents (n, *shape). `skip_broken` leaves out pictures that cannot be read.

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
    if is_cifar10(where):
        images = cifar10.load_cifar10("train", where)
    elif shape[0] != 3:
        raise ValueError(
            f"{where}: a folder of pictures, which have 3 channels, and x of shape "
            f"{tuple(shape)} is wanted: a file FILE.npy of float32"
        )
    else:
        images = load_images(where, shape[1], skip_broken, packed_folder())
    if tuple(images.x.shape[1:]) != tuple(shape):
        raise ValueError(
            f"{where}: pictures of shape {tuple(images.x.shape[1:])}, wanted "
            f"{tuple(shape)}; --resolution {images.x.shape[-1]} is theirs"
        )
    return images


def is_cifar10(where: str) -> bool:
    """Whether the folder `where` holds CIFAR-10's binary version."""
    patterns = ("[!.]*.bin", f"{cifar10.CIFAR10_FOLDER}/[!.]*.bin")
    return any(any(pathlib.Path(where).glob(pattern)) for pattern in patterns)


def described(images: data.Images | Tensor, where: str) -> dict:
    """What is written down of training data: where they were, how many, of which shape,
    how many classes, and their deviation, by 2,000 of them.
    """
    x = images.x if isinstance(images, data.Images) else images
    some = x[:: -(-len(x) // 2000)]  # of all classes, which are sorted
    values = data.to_unit(some) if x.dtype == torch.uint8 else some
    return {
        "where": where,
        "cifar10": is_cifar10(where),
        "n": len(x),
        "shape": list(x.shape[1:]),
        "classes": len(images.names) if isinstance(images, data.Images) else 0,
        "deviation": round(float(values.std()), 3),
    }
