"""The command line: `hkd-mini data | features | teacher | trajectories | distill |
onestep | sample | evaluate`.

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
import pathlib
import sys
import time

import numpy as np
import torch
import tyro

from ..diffusion.teacher import Denoiser
from ..engine.files import try_file
from ..engine.precision import choose, log
from ..engine.stop import our_process
from ..hkd.model import HKD
from ..onestep.kdm import KDM
from . import commands, distilling, evaluation, machine
from .flags import UNGUIDED, Guidance
from .machine import device
from .zoo import load_as

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
    precision: str = "auto",
    compile: bool = False,
    guide: Guidance = UNGUIDED,
) -> None:
    """Draw samples into a .npy file: uint8 (N, 32, 32, 3) for pictures, float32 (N,
    *shape) for points and latents.

    Args:
        weights: bundled name or folder, of a one-step model or a teacher.
        n: number of samples.
        out: file to write, ending in .npy.
        seed: seed of the noise.
        steps: Heun steps of a teacher (2 steps - 1 evaluations); all others take one
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
    try_file(out)
    model = guide.apply(load_as(weights, HKD, Denoiser, KDM))
    network = getattr(model.config, "network", model.config)
    try_file(out, n * math.prod(network.shape) * (1 if network.bounded else 4))
    model = machine.on_device(model, compile)
    x = evaluation.draw(model, n, seed, steps, precision=precision)
    pictures = x.dtype == torch.uint8
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    np.save(out, (x.permute(0, 2, 3, 1) if pictures else x).contiguous().numpy())
    print(out)


def evaluate(
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
    guide: Guidance = UNGUIDED,
) -> None:
    """Frechet distance, precision and recall of samples; the last line is one JSON
    object.

    Args:
        data: folder with CIFAR-10 (its 50,000 training pictures) or with pictures;
            without it, CIFAR-10's bundled statistics and no precision.
        samples: file written by `hkd-mini sample`.
        weights: or draw the samples from these weights.
        n: how many to draw.
        seed: seed of the noise.
        steps: Heun steps of a teacher.
        features: cifar (the bundled classifier), a folder made by `hkd-mini features`,
            imagenet (a package), or inception (downloads its weights once).
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
        assert weights is not None  # one of the two was given
        model = guide.apply(load_as(weights, HKD, Denoiser, KDM))
        model = machine.on_device(model, compile)
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
    function.__name__: function
    for function in (
        commands.data,
        commands.features,
        commands.teacher,
        commands.trajectories,
        distilling.distill,
        distilling.onestep,
        sample,
        evaluate,
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
        print(f"hkd-mini: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nhkd-mini: {INTERRUPTED}", file=sys.stderr)
        sys.exit(130)


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
