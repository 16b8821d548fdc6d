"""The command line: `hkd-mini data | features | teacher | trajectories | distill |
onestep | sample | evaluate | info`.

The commands chain: pictures, a teacher trained on them, the teacher's paths, a one-step
student distilled from those, samples, their distance to the pictures. Whatever is wrong
with what the user gave is said in one line, and the exit status is 2. Training commands
save on Ctrl-C or SIGTERM and go on with --resume; on several GPUs start them as
`accelerate launch -m hkd_mini ...`.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import tyro
from torch import nn

from ..diffusion.own import Own
from ..engine.precision import choose, log
from ..engine.stop import our_process
from . import commands, distilling, evaluation, integrating, logs, machine, samples
from .flags import UNGUIDED, Guidance
from .info import lines_about
from .machine import device
from .samples import decoded, read_labels
from .zoo import load_function, load_sampled

USER_ERRORS = (
    ValueError,
    OSError,
    ImportError,
    FloatingPointError,
)  # what the user can mend; all else is a bug and shows its trace
INTERRUPTED = (
    "stopped; whole files are kept, and a command with --resume goes on from them"
)


def sample(
    weights: str,
    n: int,
    out: str,
    seed: int = 0,
    steps: int = 18,
    classes: tuple[int, ...] = (),
    decoder: str | None = None,
    precision: str = "auto",
    compile: bool = False,
    guide: Guidance = UNGUIDED,
) -> None:
    """Draw samples: a sheet of pictures to look at, or arrays to compute with.

    FILE.png is one sheet, each class on rows of its own; FILE.npy has uint8 (N, h, w,
    3), or float32 (N, *shape) for points and latents; FILE.npz has the classes too; a
    name without an ending is a folder of PNGs.

    Example: hkd-mini sample --weights hkd-cifar10 --n 64 --out sheet.png

    Args:
        weights: bundled name or folder, of a one-step model or a teacher; or a teacher
            by module:function or of diffusers.
        n: number of samples.
        out: file to write, ending in .png, .npy or .npz, or a new folder.
        seed: seed of the noise.
        steps: Heun steps of a teacher (2 steps - 1 evaluations); all others take one
            evaluation.
        classes: classes of the samples, in turn, for a model that has some; without,
            they are drawn.
        decoder: module:function that makes pictures of latents.
        precision: auto (bf16 where the device computes it natively, else fp32), bf16,
            tf32 or fp32.
        compile: compile the network first.
    """
    if n < 1:
        raise ValueError(f"n = {n}: wanted at least one sample")
    samples.ending_of(out)
    samples.try_place(out)
    model, decode = _ready(weights, decoder, compile, guide)
    network: Any = getattr(model.config, "network", model.config)
    samples.ending_of(out, pictures=network.bounded or decode is not None)
    samples.try_place(out, n * math.prod(network.shape) * (1 if network.bounded else 4))
    labels = evaluation.drawn_classes(model, n, seed, classes)
    x = evaluation.draw(model, n, seed, steps, labels=labels, precision=precision)
    x = x if decode is None else samples.decoded(x, decode)
    if x.dtype == torch.uint8:
        samples.save_images(x, out, labels)
    else:
        samples.save_numbers(x.contiguous().numpy(), out, labels)
    print(out)


def _ready(
    weights: str, decoder: str | None, compile: bool, guide: Guidance
) -> tuple[nn.Module, Callable | None]:
    """The model, guided if asked for, on this machine's device, and what decodes it."""
    model = load_sampled(weights)
    found = getattr(model, "decode", None) if isinstance(model, Own) else None
    decode = found if decoder is None else load_function(decoder)
    return machine.on_device(guide.apply(model), compile), decode


def evaluate(
    data: str | None = None,
    samples: str | None = None,
    weights: str | None = None,
    n: int = 5000,
    seed: int = 0,
    steps: int = 18,
    features: str = "cifar",
    real: int | None = None,
    decoder: str | None = None,
    skip_broken: bool = False,
    precision: str = "auto",
    compile: bool = False,
    guide: Guidance = UNGUIDED,
) -> None:
    """Frechet distance, precision and recall of samples; the last line is one JSON
    object, which names the reference, its size and the features, and for CIFAR-10's
    classes the share that a second judge finds.

    Example: hkd-mini evaluate --weights runs/hkd --data my-pictures --n 300

    Args:
        data: folder with pictures, cropped and resized to the samples' size, or with
            CIFAR-10 (its 50,000 training pictures); without it, CIFAR-10's bundled
            statistics and no precision.
        samples: file written by `hkd-mini sample`, or a folder of pictures.
        weights: or draw the samples from these weights.
        n: how many to draw; distances of different numbers do not compare.
        seed: seed of the noise.
        steps: Heun steps of a teacher.
        features: cifar (the bundled judge), judge-cifar10 (the second one), a folder
            made by `hkd-mini features`, imagenet (a package), or inception (downloads).
        real: compare with the first so many of the training pictures in --data only;
            default all.
        decoder: module:function that makes pictures of latents.
        skip_broken: leave out pictures of --data that cannot be read.
        precision: auto (bf16 where the device computes it natively, else fp32), bf16,
            tf32 or fp32, of the network that draws.
        compile: compile the network first.
    """
    if (samples is None) == (weights is None):
        raise ValueError("give either --samples FILE.npy or --weights NAME_OR_DIR")
    if n < 2:
        raise ValueError(f"n = {n}: a distance takes at least 2 samples")
    began = time.monotonic()
    precision = choose(precision, device())
    if samples is None:
        assert weights is not None  # one of the two was given
        logs.check_trained_on(weights, data)
        model, decode = _ready(weights, decoder, compile, guide)
        network: Any = getattr(model.config, "network", model.config)
        if decode is None:
            evaluation.check_reference(network.shape, data, features, real)
        labels = evaluation.drawn_classes(model, n, seed)
        how: dict[str, Any] = {"labels": labels, "precision": precision}
        fake = evaluation.draw(model, n, seed, steps, **how)
        fake = fake if decode is None else decoded(fake, decode)
    else:
        fake = evaluation.read_samples(samples)
        labels = read_labels(samples, len(fake))
    asked = (fake, data, features, device(), real, skip_broken, labels)
    result = evaluation.evaluate(*asked)
    print(
        json.dumps(
            result
            | {"source": weights or samples, "seed": seed, "computed_in": precision}
            | {"seconds": round(time.monotonic() - began, 1)}
        )
    )


def info(name: tyro.conf.Positional[str]) -> None:
    """Say what a model is: card, shapes, rates, and whether its generator is needed.

    Example: hkd-mini info hkd-cifar10-tiny

    Args:
        name: bundled name or folder of any model, or a teacher by module:function.
    """
    print("\n".join(lines_about(name)))


COMMANDS = {
    function.__name__: function
    for function in (
        commands.data,
        commands.features,
        commands.teacher,
        integrating.trajectories,
        distilling.distill,
        distilling.onestep,
        sample,
        evaluate,
        info,
    )
}


def main(args: list[str] | None = None) -> None:
    """Run one command, of `args` or else of the command line; what the user can mend
    ends in one line on standard error and exit status 2.
    """
    logging.basicConfig(format="hkd-mini: %(message)s")
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    try:
        _no_empty(sys.argv[1:] if args is None else args)
        with our_process():
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="hkd-mini",
                description=__doc__.split("\n\n")[1],
                args=args,
            )
    except USER_ERRORS as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"hkd-mini: {message}{_next(args)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nhkd-mini: {INTERRUPTED}", file=sys.stderr)
        sys.exit(130)


def _next(args: list[str] | None) -> str:
    """What to do next, after any error: look at the command's example."""
    command = (sys.argv[1:] if args is None else args)[:1]
    known = command[0] if command and command[0] in COMMANDS else ""
    return f" [an example: hkd-mini {known} --help]" if known else ""


def _no_empty(args: list[str]) -> None:
    """An empty word is a variable that a script did not set, and Path("") is the
    current folder.
    """
    for before, word in zip(["", *args], args, strict=False):
        flag, equals, value = word.partition("=")
        if not word.strip() or (equals and flag.startswith("--") and not value.strip()):
            raise ValueError(
                f"{flag.strip() or before} is empty: say what, or leave it out"
            )


if __name__ == "__main__":
    main()
