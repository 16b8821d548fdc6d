"""The commands that make students from a teacher: distill, onestep.

`distill` is HKD's own; `onestep` trains by any of the methods beside it. Both read what
they learn from, train by the preset's recipe with the changes that were asked for, and
leave weights, log and checkpoint in one folder. Chapters: 10 "Training", 17 "One-step
generation, side by side".
"""

import dataclasses

import torch
from torch import Tensor

from ..diffusion.schedule import Denoise
from ..diffusion.teacher import Denoiser
from ..engine.data import Images
from ..hkd.distil import train
from ..hkd.make_paths import of_teacher
from ..hkd.model import HKD
from ..hkd.paths import Paths, Trajectories
from ..hkd.recipes import RECIPES
from ..onestep.methods import METHODS, distil
from .estimate import announce
from .flags import AS_IT_IS, AS_THE_PRESET, AS_THE_RECIPE, Asked, Shape, Training
from .logs import claim, finish
from .zoo import load_as, load_teacher, open_data
from .zoo import preset as known


def distill(
    preset: str,
    teacher: str,
    trajectories: str,
    out: str,
    resume: bool = False,
    yes: bool = False,
    shape: Shape = AS_IT_IS,
    asked: Asked = AS_THE_PRESET,
    recipe: Training = AS_THE_RECIPE,
) -> None:
    """Distil a teacher's paths into a one-step HKD.

    Args:
        preset: the teacher's preset.
        teacher: bundled name or folder, whose paths they are, guided or not; of
            module:function the paths alone are used.
        trajectories: folder made by `hkd-mini trajectories`.
        out: folder for weights, checkpoint and log.
        resume: go on from the checkpoint in --out.
        yes: begin even what the estimate says is beyond this machine.
    """
    claim(out, resume)
    source = load_teacher(teacher)
    wish = shape.apply(known(preset))
    noise = getattr(source, "noise", wish.network.noise)
    wish = dataclasses.replace(
        wish, network=dataclasses.replace(wish.network, noise=noise)
    )
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
    finish(model, steps, config, out, objective)


def onestep(
    method: str,
    teacher: str,
    out: str,
    trajectories: str | None = None,
    data: str | None = None,
    perceptual: str = "cifar",
    resume: bool = False,
    yes: bool = False,
    recipe: Training = AS_THE_RECIPE,
) -> None:
    """Train a one-step student by one of the methods of chapter 17.

    Unset flags are those of the preset toy2d for points, of cifar10-mini for pictures.

    Args:
        method: KD, PD, 1-RF, 2-RF, 2-RF++, CD, CT, iCT, ECM, DMD or KDM.
        teacher: bundled name or folder; the student starts from it.
        out: folder for weights, checkpoint and log.
        trajectories: folder made by `hkd-mini trajectories`, for methods that learn
            from pairs.
        data: folder with pictures, or the name of a point set, for the others.
        perceptual: cifar (bundled), a folder made by `hkd-mini features`, alex, vgg,
            squeeze (LPIPS) or none.
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
        learned = open_data(data, shape)
    claim(out, resume)
    config = recipe.apply(
        RECIPES["toy2d" if len(shape) == 1 else "cifar10-mini"].distill
    )
    torch.manual_seed(config.seed)
    student = chosen.student(source)
    announce(student, shape, config, chosen.cost, yes=yes)
    steps = distil(
        student, method, learned, config, source, perceptual, out=out, resume=resume
    )
    finish(student, steps, config, out)


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
