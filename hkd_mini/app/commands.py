"""The commands that begin with pictures: data, features, teacher.

Each is one function; its arguments are its flags and its docstring is its help.
Commands chain: pictures, a teacher trained on them, the teacher's paths
(`integrating`), a student distilled from those (`distilling`). Chapters: 10 "Training",
19 "Your own pictures".
"""

import dataclasses
from typing import Annotated

import torch
import tyro

from ..diffusion import released
from ..diffusion.networks import MLPConfig
from ..diffusion.teacher import Denoiser, train_teacher
from ..diffusion.unet import UNetConfig
from ..engine import cifar10
from ..engine.data import Images
from ..engine.precision import log
from ..hkd.recipes import RECIPES
from ..judge.classifier import (
    CLASSIFIER_RECIPE,
    Classifier,
    ClassifierConfig,
    train_classifier,
)
from .estimate import announce
from .flags import (
    AS_EDM,
    AS_THE_JUDGE,
    AS_THE_RECIPE,
    AS_WIDE,
    Levels,
    Look,
    Network,
    Training,
)
from .logs import claim, finish
from .zoo import described, load_as, open_data
from .zoo import preset as known


def data(name: tyro.conf.Positional[str], root: str | None = None) -> None:
    """Fetch and verify a data set, or say what is missing.

    Your own pictures need no such step: give their folder to the other commands.

    Example: hkd-mini data cifar10 --root cifar

    Args:
        name: cifar10.
        root: folder to keep it in; default $HKD_MINI_DATA or the user's cache.
    """
    if name != "cifar10":
        raise ValueError(
            f"no data set {name!r}: there is cifar10; a folder of your own goes to "
            "--data of the other commands"
        )
    print(cifar10.fetch_cifar10(root))


def features(
    data: str,
    out: str,
    resolution: int = 32,
    skip_broken: bool = False,
    resume: bool = False,
    yes: bool = False,
    look: Look = AS_THE_JUDGE,
    recipe: Training = AS_THE_RECIPE,
) -> None:
    """Train the classifier whose features measure distances (perceptual, Frechet).

    Pictures without classes have nothing to tell apart: judge them with `evaluate
    --features imagenet`.

    Example: hkd-mini features --data my-pictures --resolution 64 --out runs/features

    Args:
        data: folder with CIFAR-10, or with a folder of pictures for each class.
        out: folder for weights, checkpoint and log.
        resolution: side that pictures are cropped and resized to; CIFAR-10's is 32.
        skip_broken: leave out pictures that cannot be read.
        resume: go on from the checkpoint in --out.
        yes: begin even what the estimate says is beyond this machine.
    """
    claim(out, resume)
    config = recipe.apply(CLASSIFIER_RECIPE)
    if resolution % 8:
        raise ValueError(
            f"resolution = {resolution}: the classifier halves it three times, so a "
            f"multiple of 8, like {max(round(resolution / 8), 1) * 8}"
        )
    images = open_data(data, (3, resolution, resolution), skip_broken)
    if not isinstance(images, Images) or len(images.names) < 2:
        raise ValueError(
            f"{data}: one class, which leaves nothing to tell apart: put each class "
            "into a folder of its own, or judge with --features imagenet, and leave "
            "--perceptual as it is"
        )
    torch.manual_seed(config.seed)
    model = Classifier(look.apply(ClassifierConfig(classes=len(images.names))))
    announce(model, tuple(images.x.shape[1:]), config, 3, yes=yes)
    steps = train_classifier(model, images, config, out=out, resume=resume)
    finish(model, steps, config, out, data=described(images, data))


def teacher(
    out: str,
    preset: str | None = None,
    data: str | None = None,
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    drop_labels: float | None = None,
    skip_broken: bool = False,
    resume: bool = False,
    yes: bool = False,
    widths: Network = AS_WIDE,
    recipe: Training = AS_THE_RECIPE,
    levels: Levels = AS_EDM,
) -> None:
    """Train a diffusion teacher with EDM's preconditioning and loss, or convert a
    released one.

    Example: hkd-mini teacher --preset images64-mini --data my-pictures --out runs/t

    Args:
        out: folder for weights, checkpoint and log.
        preset: toy2d, cifar10-tiny, cifar10-mini, cifar10-mini-paper (the same
            network), images32-mini, images64-mini, cifar10, cifar10-cond or ffhq64.
        data: folder with CIFAR-10 or with pictures, FILE.npy of latents; for toy2d
            the name of a point set.
        start: bundled name or folder of a teacher to start from; classes it does not
            know start without effect. Or a checkpoint of EDM's, FILE.pkl: nothing in
            it is run. Without --preset and --data it is converted, into --out.
        drop_labels: share of classes withheld, for one network with classes and
            without; unset, the preset's.
        skip_broken: leave out pictures that cannot be read.
        resume: go on from the checkpoint in --out.
        yes: begin even what the estimate says is beyond this machine.
    """
    pickled = start if start is not None and start.endswith(".pkl") else None
    if pickled and preset is None and data is None:
        claim(out, resume=False)
        return print(released.convert(pickled, out))
    if preset is None or data is None:
        raise ValueError(
            "give --preset and --data; only --from FILE.pkl goes without both, which "
            "converts that file"
        )
    network = widths.apply(known(preset).network)
    if drop_labels is None:
        drop_labels = RECIPES[preset].drop_labels
    both = network.labels > 0 and drop_labels > 0
    noise = levels.apply(network.noise)
    network = dataclasses.replace(network, noise=noise, no_class=both)
    if data.endswith(".npy") and isinstance(network, UNetConfig):
        network = dataclasses.replace(network, bounded=False)
    config = recipe.apply(RECIPES[preset].teacher)
    images = open_data(data, network.shape, skip_broken)
    about = _look(images, data, network)
    claim(out, resume)
    torch.manual_seed(config.seed)
    first = None
    if pickled:
        first = released.edm_teacher(pickled, record=out)
    elif start is not None:
        first = load_as(start, Denoiser)
    model = first.widened(network) if first else Denoiser(network)
    announce(model, network.shape, config, 3, yes=yes)
    keep = {"out": out, "resume": resume}
    steps = train_teacher(model, images, config, drop_labels, **keep)
    finish(model, steps, config, out, data=about)


def _look(
    images: Images | torch.Tensor, where: str, network: UNetConfig | MLPConfig
) -> dict:
    """What there is to learn, said and written down; classes must be as many."""
    about = described(images, where)
    classes = about["classes"]
    if network.labels and classes != network.labels:
        raise ValueError(
            f"{where}: {classes} classes, and a network of {network.labels}: --labels "
            f"{classes if classes > 1 else 0}"
        )
    log.info(
        "%s: %d of shape %s in %d classes, deviation %.2f (--sigma-data is %g)",
        where,
        about["n"],
        tuple(about["shape"]),
        classes,
        about["deviation"],
        network.noise.sigma_data,
    )
    return about
