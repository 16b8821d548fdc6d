"""The commands that make students from a teacher: distill, onestep.

`distill` is HKD's own; `onestep` trains by any of the methods beside it. Both read what
they learn from, train by the preset's recipe with the changes that were asked for, and
leave weights, log and checkpoint in one folder. Chapters: 10 "Training", 17 "One-step
generation, side by side".
"""

import dataclasses

import torch
from torch import Tensor

from ..diffusion.networks import MLPConfig
from ..diffusion.schedule import Denoise
from ..diffusion.teacher import Denoiser
from ..diffusion.unet import UNetConfig
from ..engine.data import Images
from ..hkd.distil import train
from ..hkd.make_paths import of_teacher
from ..hkd.model import HKD
from ..hkd.paths import Paths, Trajectories
from ..hkd.recipes import RECIPES
from ..judge.distance import BUNDLED
from ..onestep.methods import METHODS, distil
from .estimate import announce
from .flags import (
    AS_IT_IS,
    AS_THE_PRESET,
    AS_THE_RECIPE,
    AS_WIDE,
    Asked,
    Network,
    Shape,
    Training,
    Widths,
)
from .logs import claim, data_of, finish
from .zoo import Teacher, load_as, load_teacher, open_data
from .zoo import preset as known


def distill(
    teacher: str,
    trajectories: str,
    out: str,
    preset: str | None = None,
    resume: bool = False,
    yes: bool = False,
    widths: Network = AS_WIDE,
    shape: Shape = AS_IT_IS,
    asked: Asked = AS_THE_PRESET,
    recipe: Training = AS_THE_RECIPE,
) -> None:
    """Distil a teacher's paths into a one-step HKD.

    Its network is the teacher's. Of a teacher that is a function or diffusers', whose
    tensors start nothing, the paths alone are used; then the network is the preset's.

    Example: hkd-mini distill --teacher runs/t --trajectories runs/paths --out runs/hkd

    Args:
        teacher: bundled name or folder, whose paths they are, guided or not; or
            module:function, or a folder of diffusers'.
        trajectories: folder made by `hkd-mini trajectories`.
        out: folder for weights, checkpoint and log.
        preset: how long, how fast, what is asked; default toy2d for points,
            images32-mini for 32 x 32 pixels and less, images64-mini for more.
        resume: go on from the checkpoint in --out.
        yes: begin even what the estimate says is beyond this machine.
    """
    claim(out, resume)
    source = load_teacher(teacher)
    paths = Trajectories(trajectories, verify=False)  # read whole below
    preset = preset or _usual(paths)
    wish = shape.apply(known(preset))
    network = _network(source, wish.network, widths, paths)
    wish = dataclasses.replace(wish, network=network)
    config = recipe.apply(RECIPES[preset].distill)
    objective = asked.apply(RECIPES[preset].objective)
    torch.manual_seed(config.seed)  # of a new network's weights
    model = (
        HKD.from_teacher(source, wish) if isinstance(source, Denoiser) else HKD(wish)
    )
    paths = paths_for(trajectories, model.config.network.shape, source)
    points = objective.times if objective.consistency else 1
    announce(model, model.config.network.shape, config, 3 * points, points, yes)
    # training draws the same numbers whichever way the model was made
    torch.manual_seed(config.seed)
    steps = train(model, paths, config, objective, out=out, resume=resume)
    data = data_of(teacher)
    finish(model, steps, config, out, objective, teacher=teacher, data=data)


def _usual(paths: Trajectories) -> str:
    """The preset of a recipe that suits what the paths are of."""
    if len(paths.shape) == 1:
        return "toy2d"
    return "images32-mini" if paths.shape[-1] <= 32 else "images64-mini"


def _network(
    source: Teacher,
    preset: UNetConfig | MLPConfig,
    widths: Network,
    paths: Trajectories,
) -> UNetConfig | MLPConfig:
    """The teacher's own network, or for one that has none of ours the preset's, with
    the `widths` asked for, at the size and the noise levels of its paths.
    """
    if isinstance(source, Denoiser):
        if type(source.config) is not type(preset):
            raise ValueError(
                f"the teacher's network is {source.config}, and the preset's is of "
                "another kind: leave --preset out"
            )
        if widths.apply(source.config) != source.config:
            raise ValueError(
                "the network is the teacher's, whose weights it starts from: leave "
                "out the flags of its widths"
            )
        return dataclasses.replace(source.config, no_class=paths.no_class)
    network = preset
    noise = paths.noise or source.noise
    if isinstance(preset, UNetConfig) and len(paths.shape) == 3:
        size = Widths(
            resolution=widths.resolution or paths.shape[-1],
            in_channels=widths.in_channels or paths.shape[0],
            labels=paths.labels if widths.labels is None else widths.labels,
        )
        bounded = source.config.bounded if source.config else paths.shape[0] == 3
        network = dataclasses.replace(size.apply(preset), bounded=bounded)
    elif isinstance(preset, MLPConfig):
        network = dataclasses.replace(preset, dim=paths.shape[0], labels=paths.labels)
    return dataclasses.replace(
        widths.apply(network), noise=noise, no_class=paths.no_class
    )


def onestep(
    method: str,
    teacher: str,
    out: str,
    trajectories: str | None = None,
    data: str | None = None,
    perceptual: str = BUNDLED,
    skip_broken: bool = False,
    resume: bool = False,
    yes: bool = False,
    recipe: Training = AS_THE_RECIPE,
) -> None:
    """Train a one-step student by one of the methods of chapter 17.

    Unset flags are those of the preset toy2d for points, of images32-mini for pictures.

    Example: hkd-mini onestep --method CD --teacher runs/t --data mine --out runs/cd

    Args:
        method: KD, PD, 1-RF, 2-RF, 2-RF++, CD, CT, iCT, ECM, DMD or KDM.
        teacher: bundled name or folder; the student starts from it.
        out: folder for weights, checkpoint and log.
        trajectories: folder made by `hkd-mini trajectories`, for methods that learn
            from pairs.
        data: folder with pictures, or the name of a point set, for the others.
        perceptual: perceptual-cifar10 (bundled), a folder made by `hkd-mini features`,
            cifar (the bundled judge), alex, vgg, squeeze (LPIPS) or none.
        skip_broken: leave out pictures that cannot be read.
        resume: go on from the checkpoint in --out.
        yes: begin even what the estimate says is beyond this machine.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}: there are {', '.join(METHODS)}")
    chosen = METHODS[method]
    source = load_as(teacher, Denoiser)
    shape = source.config.shape
    if chosen.data == "pairs":
        if trajectories is None:
            raise ValueError(f"{method} learns from pairs: give --trajectories")
        learned: Paths | Images | Tensor = paths_for(trajectories, shape, source)
    else:
        if data is None:
            raise ValueError(f"{method} learns from images: give --data")
        learned = open_data(data, shape, skip_broken)
    claim(out, resume)
    config = recipe.apply(
        RECIPES["toy2d" if len(shape) == 1 else "images32-mini"].distill
    )
    torch.manual_seed(config.seed)
    student = chosen.student(source)
    announce(student, shape, config, chosen.cost, yes=yes)
    steps = distil(
        student, method, learned, config, source, perceptual, out=out, resume=resume
    )
    about = data_of(teacher)
    finish(student, steps, config, out, teacher=teacher, data=about)


def paths_for(folder: str, shape: tuple[int, ...], teacher: Denoise) -> Trajectories:
    """The paths in a folder, or a ValueError when they have another shape or are of
    another teacher, guided or not.
    """
    paths = Trajectories(folder)
    if paths.shape != tuple(shape):
        raise ValueError(
            f"{folder}: paths of shape {paths.shape}, the preset wants {tuple(shape)}"
        )
    return of_teacher(paths, teacher)
