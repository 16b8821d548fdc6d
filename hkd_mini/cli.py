"""The command line: `hkd-mini data | features | teacher | trajectories | distill |
sample | evaluate`.

Each command is one function; its arguments are its flags and its docstring is its help.
The commands chain: pictures, a teacher trained on them, the teacher's paths, an HKD
distilled from those, samples, their distance to the pictures. Whatever is wrong with
what the user gave is said in one line, and the exit status is 2. Training commands save
on Ctrl-C or SIGTERM and go on with --resume; on several GPUs start them as `accelerate
launch -m hkd_mini ...`.
"""

import dataclasses
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from . import data as datasets
from . import evaluation, released
from . import trajectories as stored
from .classifier import Classifier
from .loop import Step, TrainConfig, compile_parts
from .model import HKD, PRESETS, HKDConfig, load
from .precision import checked, choose, log
from .teacher import Denoiser
from .train import FEATURES, RECIPES, train, train_classifier, train_teacher

USER_ERRORS = (
    ValueError,
    OSError,
    ImportError,
    FloatingPointError,
)  # what the user can mend; all else is a bug and shows its trace


@dataclasses.dataclass(frozen=True)
class Changes:
    """What to change in the preset's recipe; unset flags keep it."""

    images: int | None = None
    """Training examples to see in all."""
    batch: int | None = None
    """Examples a step, over all processes."""
    lr: float | None = None
    """Peak learning rate."""
    precision: str | None = None
    """auto (bf16 where the device computes it natively, else fp32), bf16, tf32 (CUDA)
    or fp32.
    """
    compile: bool | None = None
    """Compile the networks first (a minute, then up to 1.4 times faster)."""
    checkpoint: int | None = None
    """Steps between checkpoints."""
    seed: int | None = None
    """Seed of data order, noise and initial weights."""
    drop_labels: float | None = None
    """Teacher: share of classes withheld, for one network with classes and without."""
    times: int | None = None
    """Distillation: points of each path a step (s)."""
    rate_A: float | None = None
    """Distillation: A's learning rate over that of the rest."""
    path: float | None = None
    """Distillation: weight of path decoding, which makes A needed."""
    linear: float | None = None
    """Distillation: weight of latent linearity."""
    follow: bool | None = None
    """Distillation: whether the noisier state is a fixed target of linearity."""
    onward: bool | None = None
    """Distillation: ask only for points of the path nearer to the picture."""
    perceptual: str | None = None
    """Distillation: cifar (bundled), a folder made by `hkd-mini features`, alex, vgg,
    squeeze (LPIPS), none.
    """

    def apply(self, recipe: TrainConfig) -> TrainConfig:
        return dataclasses.replace(
            recipe, **{k: v for k, v in vars(self).items() if v is not None}
        )


Recipe = Annotated[Changes, tyro.conf.arg(name="")]


def device() -> str:
    """The GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def first_process() -> bool:
    """Whether this process speaks and writes for all: always, unless started by
    torchrun or `accelerate launch`.
    """
    return processes().is_main_process


def processes():
    """This process among those that run the command together; without a GPU accelerate
    has to be told so.
    """
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


def known(name: str) -> HKDConfig:
    """A preset's configuration, or a ValueError that lists them."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]


def pictures(where: str, shape: tuple[int, ...]) -> datasets.Images | Tensor:
    """Training data for models of `shape`: the name of a 2-D set, a folder with
    CIFAR-10, or one of pictures.
    """
    if len(shape) == 1:
        if where not in datasets.POINT_SETS:
            raise ValueError(
                f"no point set {where!r}: there are {', '.join(datasets.POINT_SETS)}"
            )
        return datasets.POINT_SETS[where](100_000, torch.Generator().manual_seed(0))
    if not pathlib.Path(where).is_dir():
        raise FileNotFoundError(
            f"{where}: no such folder; `hkd-mini data cifar10 --root {where}` fetches "
            "CIFAR-10 into it"
        )
    binary = any(
        any(pathlib.Path(where).glob(pattern))
        for pattern in ("*.bin", f"{datasets.CIFAR10_FOLDER}/*.bin")
    )
    images = (
        datasets.load_cifar10("train", where) if binary else datasets.load_images(where)
    )
    if tuple(images.x.shape[1:]) != tuple(shape):
        raise ValueError(
            f"{where}: pictures of shape {tuple(images.x.shape[1:])}, the preset "
            f"wants {tuple(shape)}"
        )
    return images


def follow(steps: Iterator[Step], config: TrainConfig, out: str) -> Step | None:
    """Run a training loop to its end with a progress bar, log.jsonl and, where
    installed, TensorBoard events in `out`; the last step.

    Of several processes the first one speaks; the others only train.
    """
    from tqdm import tqdm

    folder = pathlib.Path(out)
    last = None
    speaks = first_process()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(folder / "tensorboard")) if speaks else None
    except ImportError:
        board = None
    bar = tqdm(
        total=config.images,
        unit="image",
        unit_scale=True,
        disable=not speaks,
        delay=0.01,
    )  # no bar before a step
    with (
        open(
            folder / "log.jsonl" if speaks else os.devnull, "a", encoding="utf-8"
        ) as log,
        bar,
    ):
        for last in steps:
            if not bar.n:  # resumed: what was done before is not this run's speed
                bar.initial = bar.n = last.images - config.batch
            log.write(json.dumps(last._asdict()) + "\n")
            bar.update(last.images - bar.n)
            if last.step % 20 == 0 or last.stopped:
                log.flush()
                bar.set_postfix(
                    loss=f"{last.loss:.4f}",
                    **{k: f"{v:.4f}" for k, v in last.terms.items()},
                )
                if board:
                    for name, value in {
                        "loss": last.loss,
                        "lr": last.lr,
                        "grad_norm": last.grad_norm,
                        **last.terms,
                    }.items():
                        board.add_scalar(name, value, last.images)
    if board:
        board.close()
    if last is not None and last.stopped:
        sys.exit(
            f"hkd-mini: stopped after step {last.step} and saved; go on with --resume"
            if speaks
            else 1
        )
    return last


def finish(
    model: nn.Module, steps: Iterator[Step], config: TrainConfig, out: str
) -> None:
    """Train, then write the averaged weights and how they were made beside the
    checkpoint.
    """
    began = time.monotonic()
    last = follow(steps, config, out)
    if not first_process():
        return
    model.cpu().save_pretrained(out)
    made = {
        "config": dataclasses.asdict(config),
        "device": device(),
        "precision": last.precision if last else choose(config.precision, device()),
        "seconds": round(time.monotonic() - began),
        "torch": torch.__version__,
    }
    pathlib.Path(out, "training.json").write_text(
        json.dumps(made, indent=2) + "\n", encoding="utf-8"
    )
    print(out)


def cmd_data(name: tyro.conf.Positional[str], root: str | None = None) -> None:
    """Fetch and verify a data set, or say what is missing.

    Args:
        name: cifar10.
        root: folder to keep it in; default $HKD_MINI_DATA or the user's cache.
    """
    if name != "cifar10":
        raise ValueError(f"no data set {name!r}: there is cifar10")
    print(datasets.fetch_cifar10(root))


def cmd_features(
    data: str, out: str, resume: bool = False, recipe: Recipe = Changes()
) -> None:
    """Train the classifier whose features measure distances (perceptual, Frechet).

    Args:
        data: folder with CIFAR-10.
        out: folder for weights, checkpoint and log.
        resume: go on from the checkpoint in --out.
    """
    config = recipe.apply(FEATURES)
    images = datasets.load_cifar10("train", data)
    torch.manual_seed(config.seed)
    classifier = Classifier()
    finish(
        classifier,
        train_classifier(classifier, images, config, out=out, resume=resume),
        config,
        out,
    )


def cmd_teacher(
    out: str,
    preset: str | None = None,
    data: str | None = None,
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    resume: bool = False,
    recipe: Recipe = Changes(),
) -> None:
    """Train a diffusion teacher with EDM's preconditioning and loss, or convert a
    released one.

    Args:
        out: folder for weights, checkpoint and log.
        preset: toy2d, cifar10-tiny, cifar10-mini, cifar10-mini-cond, cifar10,
            cifar10-cond or ffhq64.
        data: folder with CIFAR-10 or with pictures; for toy2d the name of a point set.
        start: bundled name or folder of a teacher to start from; classes it does not
            know start without effect. Or a checkpoint of EDM's, FILE.pkl: nothing in
            it is run. Without --preset and --data it is converted, into --out.
        resume: go on from the checkpoint in --out.
    """
    pickled = start is not None and start.endswith(".pkl")
    if pickled and preset is None and data is None:
        return print(released.convert(start, out))
    if preset is None or data is None:
        raise ValueError(
            "give --preset and --data; only --from FILE.pkl goes without both, which "
            "converts that file"
        )
    network = known(preset).network
    config = recipe.apply(RECIPES[preset].teacher)
    images = pictures(data, network.shape)
    torch.manual_seed(config.seed)
    first = (
        released.edm_teacher(start, record=out)
        if pickled
        else loaded(start, Denoiser)
        if start
        else None
    )
    denoiser = first.widened(network) if first else Denoiser(network)
    finish(
        denoiser,
        train_teacher(denoiser, images, config, out=out, resume=resume),
        config,
        out,
    )


def cmd_trajectories(
    teacher: str,
    n: int,
    out: str,
    times: int = 7,
    steps: int = 18,
    batch: int = 128,
    seed: int = 0,
    precision: str = "auto",
    compile: bool = False,
    resume: bool = False,
) -> None:
    """Integrate the teacher's paths from noise to picture with Heun's method, and keep
    them.

    Args:
        teacher: bundled name or folder.
        n: number of paths.
        out: folder for the shards.
        times: points kept of each path, both ends included.
        steps: Heun steps (2 steps - 1 evaluations).
        batch: paths integrated at once.
        seed: seed of the noise.
        precision: auto (bf16 where the device computes it natively, else fp32), bf16,
            tf32 or fp32, of the network; the path itself is summed in float32. Resumed,
            auto is what the run began with.
        compile: compile the network first (a minute, then up to 1.7 times faster).
        resume: keep the whole shards in --out and make the missing ones.
    """
    from tqdm import tqdm

    precision = checked(precision)
    # before anything moves: it gives each process its GPU
    state = processes()
    denoiser = loaded(teacher, Denoiser, compile=compile)
    where = device()
    config = denoiser.config
    make = stored.make(
        denoiser,
        config.shape,
        n,
        out,
        times=times,
        steps=steps,
        seed=seed,
        batch=batch,
        labels=config.labels,
        resume=resume,
        device=where,
        precision=precision,
        share=(state.process_index, state.num_processes),
    )
    state.wait_for_everyone()  # all have seen the folder as it was
    with tqdm(
        total=n // state.num_processes, unit="path", disable=not state.is_main_process
    ) as bar:
        for done in make:
            bar.update(done - bar.n)
    if state.is_main_process:
        print(out)


def cmd_distill(
    preset: str,
    teacher: str,
    trajectories: str,
    out: str,
    resume: bool = False,
    clock: str = "rho",
    encoder_time: str = "sigma",
    spatial: str = "local",
    hierarchy: str = "full",
    koopman: bool = True,
    consistency: bool = True,
    recipe: Recipe = Changes(),
) -> None:
    """Distil a teacher's paths into a one-step HKD.

    Args:
        preset: the teacher's preset.
        teacher: bundled name or folder.
        trajectories: folder made by `hkd-mini trajectories`.
        out: folder for weights, checkpoint and log.
        resume: go on from the checkpoint in --out.
        clock: the time in which states are linear: rho, edm, log or sigma.
        encoder_time: sigma (the paper) or none (observables of x alone).
        spatial: local (A at every location) or shared.
        hierarchy: full, bottleneck (skips pass unevolved) or bottleneck-only (skips
            dropped).
        koopman: off fixes A at 0.
        consistency: off trains at T alone.
    """
    options = dict(
        clock=clock,
        encoder_time=encoder_time,
        spatial=spatial,
        hierarchy=hierarchy,
        koopman=koopman,
    )
    model = HKD.from_teacher(
        loaded(teacher, Denoiser), dataclasses.replace(known(preset), **options)
    )
    config = dataclasses.replace(
        recipe.apply(RECIPES[preset].distill), consistency=consistency
    )
    paths = stored.Trajectories(trajectories)
    if paths.shape != tuple(model.config.network.shape):
        raise ValueError(
            f"{trajectories}: paths of shape {paths.shape}, the preset wants "
            f"{tuple(model.config.network.shape)}"
        )
    torch.manual_seed(config.seed)
    finish(model, train(model, paths, config, out=out, resume=resume), config, out)


def loaded(name: str, *kinds: type, compile: bool = False) -> nn.Module:
    """A model by name or folder, on this machine's device, compiled if wished;
    ValueError for another kind.
    """
    model = load(name)
    if not isinstance(model, kinds):
        raise ValueError(
            f"{name} is a {type(model).__name__}, wanted a "
            f"{' or '.join(k.__name__ for k in kinds)}"
        )
    if compile:
        compile_parts(model)
    return model.to(
        device(),
        memory_format=torch.channels_last if compile else torch.preserve_format,
    )


def cmd_sample(
    weights: str,
    n: int,
    out: str,
    seed: int = 0,
    steps: int = 18,
    precision: str = "auto",
    compile: bool = False,
) -> None:
    """Draw samples into a .npy file: uint8 (N, 32, 32, 3) for pictures, float32 (N, 2)
    for points.

    Args:
        weights: bundled name or folder, of an HKD or a teacher.
        n: number of samples.
        out: file to write, ending in .npy.
        seed: seed of the noise.
        steps: Heun steps of a teacher (2 steps - 1 evaluations); an HKD takes one
            evaluation.
        precision: auto (bf16 where the device computes it natively, else fp32), bf16,
            tf32 or fp32.
        compile: compile the network first.
    """
    if n < 1 or not out.endswith(".npy"):
        raise ValueError(
            f"n = {n}, out = {out}: wanted at least one sample and a file that ends "
            "in .npy"
        )
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    x = evaluation.draw(
        loaded(weights, HKD, Denoiser, compile=compile),
        n,
        seed,
        steps,
        precision=precision,
    )
    np.save(out, (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).contiguous().numpy())
    print(out)


def cmd_evaluate(
    data: str | None = None,
    samples: str | None = None,
    weights: str | None = None,
    n: int = 5000,
    seed: int = 0,
    steps: int = 18,
    features: str = "cifar",
    real: int | None = None,
    precision: str = "auto",
    compile: bool = False,
) -> None:
    """Frechet distance, precision and recall of samples; the last line is one JSON
    object.

    Args:
        data: folder with CIFAR-10 (its 50,000 training pictures); without it, the
            bundled statistics and no precision.
        samples: file written by `hkd-mini sample`.
        weights: or draw the samples from these weights.
        n: how many to draw.
        seed: seed of the noise.
        steps: Heun steps of a teacher.
        features: cifar (the bundled classifier), a folder made by `hkd-mini features`,
            or inception (downloads its weights once).
        real: compare with the first so many of the training pictures in --data only;
            default all.
        precision: auto (bf16 where the device computes it natively, else fp32), bf16,
            tf32 or fp32, of the network that draws.
        compile: compile the network first.
    """
    if (samples is None) == (weights is None):
        raise ValueError("give either --samples FILE.npy or --weights NAME_OR_DIR")
    began = time.monotonic()
    precision = choose(precision, device())
    if samples is None:
        model = loaded(weights, HKD, Denoiser, compile=compile)
        fake = evaluation.draw(model, n, seed, steps, precision=precision)
    else:
        fake = evaluation.read_samples(samples)
    result = evaluation.evaluate(fake, data, features, device(), real)
    print(
        json.dumps(
            result
            | {"source": weights or samples, "seed": seed, "computed_in": precision}
            | {"seconds": round(time.monotonic() - began, 1)}
        )
    )


COMMANDS = {
    name[4:]: function
    for name, function in globals().items()
    if name.startswith("cmd_")
}


def main(args: list[str] | None = None) -> None:
    """Run one command; what the user can mend ends in one line on standard error and
    exit status 2.
    """
    logging.basicConfig(format="hkd-mini: %(message)s")
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="hkd-mini", description=__doc__.split("\n\n")[1], args=args
        )
    except USER_ERRORS as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"hkd-mini: {message}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
