"""The commands that make models: data, features, teacher, trajectories, distill,
onestep.

Each is one function; its arguments are its flags and its docstring is its help. They
chain: pictures, a teacher trained on them, the teacher's paths, a student distilled
from those. Chapters: 10 "Training", 19 "Your own pictures".
"""

import dataclasses
from typing import Annotated

import torch
import tyro

from ..diffusion import released
from ..diffusion.teacher import Denoiser, train_teacher
from ..engine import cifar10
from ..engine.precision import checked
from ..hkd.make_paths import make
from ..hkd.recipes import RECIPES
from ..judge.classifier import CLASSIFIER_RECIPE, Classifier, train_classifier
from .estimate import announce
from .flags import (
    AS_EDM,
    AS_THE_RECIPE,
    UNGUIDED,
    Guidance,
    Levels,
    Training,
)
from .logs import claim, finish
from .machine import device, on_device, processes
from .zoo import load_as, load_teacher, open_data
from .zoo import preset as known


def data(name: tyro.conf.Positional[str], root: str | None = None) -> None:
    """Fetch and verify a data set, or say what is missing.

    Args:
        name: cifar10.
        root: folder to keep it in; default $HKD_MINI_DATA or the user's cache.
    """
    if name != "cifar10":
        raise ValueError(f"no data set {name!r}: there is cifar10")
    print(cifar10.fetch_cifar10(root))


def features(
    data: str,
    out: str,
    resume: bool = False,
    yes: bool = False,
    recipe: Training = AS_THE_RECIPE,
) -> None:
    """Train the classifier whose features measure distances (perceptual, Frechet).

    Args:
        data: folder with CIFAR-10.
        out: folder for weights, checkpoint and log.
        resume: go on from the checkpoint in --out.
        yes: begin even what the estimate says is beyond this machine.
    """
    claim(out, resume)
    config = recipe.apply(CLASSIFIER_RECIPE)
    images = cifar10.load_cifar10("train", data)
    torch.manual_seed(config.seed)
    model = Classifier()
    announce(model, tuple(images.x.shape[1:]), config, 3, yes=yes)
    steps = train_classifier(model, images, config, out=out, resume=resume)
    finish(model, steps, config, out)


def teacher(
    out: str,
    preset: str | None = None,
    data: str | None = None,
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    drop_labels: float = 0.0,
    resume: bool = False,
    yes: bool = False,
    recipe: Training = AS_THE_RECIPE,
    levels: Levels = AS_EDM,
) -> None:
    """Train a diffusion teacher with EDM's preconditioning and loss, or convert a
    released one.

    Args:
        out: folder for weights, checkpoint and log.
        preset: toy2d, cifar10-tiny, cifar10-mini, cifar10-mini-cond, 64x64-mini,
            cifar10, cifar10-cond or ffhq64.
        data: folder with CIFAR-10 or with pictures, FILE.npy of latents; for toy2d
            the name of a point set.
        start: bundled name or folder of a teacher to start from; classes it does not
            know start without effect. Or a checkpoint of EDM's, FILE.pkl: nothing in
            it is run. Without --preset and --data it is converted, into --out.
        drop_labels: share of classes withheld, for one network with classes and
            without.
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
    network = known(preset).network
    network = dataclasses.replace(network, noise=levels.apply(network.noise))
    config = recipe.apply(RECIPES[preset].teacher)
    images = open_data(data, network.shape)
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
    finish(model, steps, config, out)


def trajectories(
    teacher: str,
    n: int,
    out: str,
    times: int = 7,
    steps: int = 18,
    batch: int = 128,
    seed: int = 0,
    guesses: bool = True,
    no_class: float = 0.0,
    shape: tuple[int, ...] | None = None,
    precision: str = "auto",
    compile: bool = False,
    resume: bool = False,
    guide: Guidance = UNGUIDED,
) -> None:
    """Integrate the teacher's paths from noise to picture with Heun's method, and keep
    them.

    Args:
        teacher: bundled name or folder, or module:function, a denoiser of yours.
        n: number of paths.
        out: folder for the shards.
        times: points kept of each path, both ends included.
        steps: Heun steps (2 steps - 1 evaluations).
        batch: paths integrated at once.
        seed: seed of the noise.
        guesses: keep the teacher's guess at every kept point too, for --guess-weight:
            twice the disk, no further evaluation.
        no_class: share of the paths that are told no class, so that a student learns
            to go without; of a teacher that knows both.
        shape: shape of one x, for module:function.
        precision: auto (bf16 where the device computes it natively, else fp32), bf16,
            tf32 or fp32, of the network; the path itself is summed in float32. Resumed,
            auto is what the run began with.
        compile: compile the network first (a minute, then up to 1.7 times faster).
        resume: keep the whole shards in --out and make the missing ones.
    """
    from tqdm import tqdm

    checked(precision)
    # before anything moves: it gives each process its GPU
    state = processes()
    denoiser = on_device(guide.apply(load_teacher(teacher)), compile)
    config = getattr(denoiser, "config", None)
    if config is not None:
        shape = config.shape
    if shape is None:
        raise ValueError(f"{teacher}: a function; say --shape, that of one x")
    making = make(
        denoiser,
        shape,
        n,
        out,
        times=times,
        steps=steps,
        seed=seed,
        batch=batch,
        labels=getattr(config, "labels", 0),
        resume=resume,
        device=device(),
        precision=precision,
        guesses=guesses,
        no_class=no_class,
        share=(state.process_index, state.num_processes),
    )
    state.wait_for_everyone()  # all have seen the folder as it was
    with tqdm(
        total=n // state.num_processes, unit="path", disable=not state.is_main_process
    ) as bar:
        for done in making:
            bar.update(done - bar.n)
    if state.is_main_process:
        print(out)
