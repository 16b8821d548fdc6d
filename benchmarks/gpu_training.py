"""Train a teacher and its two students on one GPU, in the minutes that there are.

    python benchmarks/gpu_training.py pack --data cifar --out carry      # at home
    python benchmarks/gpu_training.py train --pack carry --out runs/gpu  # on the GPU
    python benchmarks/gpu_training.py train --pack carry --out runs/rehearsal \
        --minutes 3 --small                                # the rehearsal: on a CPU

For a GPU that is lent for minutes and reaches nothing: pictures travel as lossless
sheets of at most `--mib` (45 by default, 27,500 of CIFAR-10's 50,000 training
pictures), and need no package there but torch, accelerate, jaxtyping, safetensors,
huggingface_hub, scipy and pillow. `--minutes` are shared out among the stages: half of
them the teacher, conditional and not in one network; a tenth its guided paths; the rest
`hkd`, by the objective that makes A work, and `hkd-paper`, by the paper's. Every stage
first measures its own pace and then takes on what fits, so its learning rate has fallen
to 0 when its time is over. Weights in half precision and a log lie in `--out`; judge
them at home, with `hkd-mini evaluate`. The last line is one JSON object.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from common import ANCHORED, GUESS, LINEAR, parser, write
from PIL import Image

from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.teacher import Denoiser, train_teacher
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.config import Step, TrainConfig
from hkd_mini.engine.data import Images
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.make_paths import SHARD, make
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.hkd.paths import Trajectories

SIDE = 50  # pictures along a sheet
MINUTES = {"teacher": 0.5, "paths": 0.1, "hkd": 0.2, "hkd-paper": 0.2}
DROPPED = 0.15  # share of classes withheld
WEIGHT = 1.5  # of guidance
NETWORK = UNetConfig(
    channels=64,
    mult=(1, 2, 2),
    blocks=1,
    attention=(8, 4),
    patch=2,
    adaptive_scale=True,
    labels=10,
    no_class=True,
)
SMALL = replace(NETWORK, channels=16, mult=(1, 2), attention=(8,))
TEACHER = TrainConfig(
    batch=512,
    lr=1.5e-3,
    muon=0.03,
    warmup=20_000,
    decay=0.4,
    ema_halflife=200_000,
    compile=True,
    checkpoint=2_000,
)
STUDENT = replace(TEACHER, batch=128, lr=1e-3, muon=0.01, ema_halflife=20_000)
ASKED = Objective(times=2, partners="own", **GUESS, **LINEAR)
STUDENTS = {"hkd": (ANCHORED, ASKED), "hkd-paper": ({}, Objective(times=2))}
PROBE = 40  # steps whose pace is measured, and
WARM = 20  # the first ones, which compile


# --- the pictures


def pack(data: str, out: pathlib.Path, mib: float) -> None:
    """Training pictures as lossless sheets of SIDE x SIDE, with their labels, until
    they weigh `mib`.
    """
    images = load_cifar10("train", data)
    out.mkdir(parents=True)
    weight = 0
    each = SIDE**2
    for k in range(len(images.x) // each):
        x = images.x[k * each : (k + 1) * each].numpy()
        sheet = x.reshape(SIDE, SIDE, 3, 32, 32).transpose(0, 3, 1, 4, 2)
        file = out / f"pictures-{k:02d}.webp"
        flat = sheet.reshape(SIDE * 32, SIDE * 32, 3)
        Image.fromarray(flat).save(file, lossless=True, quality=100, method=4)
        if weight + file.stat().st_size > mib * 2**20:
            file.unlink()
            break
        weight += file.stat().st_size
    count = len(list(out.glob("*.webp"))) * each
    np.save(out / "labels.npy", images.labels[:count].numpy().astype(np.uint8))
    print(f"{count} pictures, {weight / 2**20:.1f} MiB")


def unpacked(folder: pathlib.Path) -> Images:
    """The pictures of a package."""
    sheets = [np.asarray(Image.open(f)) for f in sorted(folder.glob("*.webp"))]
    parts = [
        s.reshape(SIDE, 32, SIDE, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
        for s in sheets
    ]
    labels = torch.from_numpy(np.load(folder / "labels.npy")).long()
    names = tuple(str(k) for k in range(10))
    return Images(torch.from_numpy(np.concatenate(parts)), labels, names)


# --- the stages


def fitting(
    start: Callable[[TrainConfig], Iterator[Step]], config: TrainConfig, seconds: float
) -> TrainConfig:
    """`config` with as many examples as fit into `seconds`, what it takes to find the
    pace included.
    """
    first = time.monotonic()
    for step in start(replace(config, images=PROBE * config.batch)):
        if step.step == WARM:
            warm = time.monotonic()
    now = time.monotonic()
    pace = (now - warm) / (PROBE - WARM)
    # the run itself warms up once more, from compiled code
    left = seconds - 1.3 * (now - first)
    return replace(config, images=max(PROBE, int(left / pace)) * config.batch)


def run(
    name: str,
    fresh: Callable[[], torch.nn.Module],
    start: Callable[..., Iterator[Step]],
    config: TrainConfig,
    seconds: float,
    out: pathlib.Path,
) -> tuple[torch.nn.Module, dict]:
    """Train what `fresh` makes for so many seconds, and save it; the model, and what
    there is to say of it.
    """
    began = time.monotonic()
    config = fitting(lambda c: start(fresh(), c), config, seconds)
    model = fresh()
    line: dict = {}
    with (out / f"{name}.jsonl").open("w") as log:
        for step in start(model, config):
            if step.step % 50 == 0 or step.images + config.batch > config.images:
                line = {"images": step.images, "loss": round(step.loss, 5)}
                log.write(json.dumps(line | {"seconds": round(step.seconds, 1)}) + "\n")
                log.flush()
    model.save_pretrained(out / name)
    return model, line | {"seconds": round(time.monotonic() - began)}


def paths_of(
    teacher: Denoiser, seconds: float, folder: pathlib.Path, device: str
) -> Trajectories:
    """As many guided paths with their guesses as fit, at least one shard."""
    began = time.monotonic()
    guided = Guided(teacher.to(device), WEIGHT)
    shards = 0
    while not shards or (time.monotonic() - began) * (1 + 1 / shards) < seconds:
        shards += 1
        how = {"times": 10, "seed": 1, "labels": 10, "no_class": DROPPED}
        how |= {"batch": SHARD, "precision": "auto", "device": device, "resume": True}
        for _ in make(guided, teacher.config.shape, shards * SHARD, folder, **how):
            pass
    return Trajectories(folder)


def trained(options: argparse.Namespace) -> dict:
    """All stages, and one line about each."""
    out = pathlib.Path(options.out)
    out.mkdir(parents=True)
    network = SMALL if options.small else NETWORK
    few = {"batch": 8, "compile": False} if options.small else {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {k: 60 * options.minutes * part for k, part in MINUTES.items()}
    images = unpacked(pathlib.Path(options.pack))
    told: dict = {"device": device, "pictures": len(images.x)}

    def new() -> Denoiser:
        torch.manual_seed(0)
        return Denoiser(network)

    learn = lambda model, config: train_teacher(model, images, config, DROPPED)
    config = replace(TEACHER, **few)
    teacher, told["teacher"] = run(
        "teacher", new, learn, config, seconds["teacher"], out
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = paths_of(teacher, seconds["paths"], pathlib.Path(folder), device)
        told["paths"] = len(paths)
        teacher = teacher.cpu()
        for name, (changes, asked) in STUDENTS.items():
            make_student = lambda c=changes: HKD.from_teacher(
                teacher, HKDConfig(network=network, **c)
            )
            distil = lambda m, c, a=asked: train(m, paths, c, a)
            config = replace(STUDENT, **few)
            _, told[name] = run(name, make_student, distil, config, seconds[name], out)
            write(out / "told.json", told)
    return told


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("what", choices=("pack", "train"))
    ask.add_argument("--data", help="pack: the folder with CIFAR-10")
    ask.add_argument("--pack", help="train: what pack has written")
    ask.add_argument("--out", required=True)
    ask.add_argument("--mib", type=float, default=45)
    ask.add_argument("--minutes", type=float, default=8)
    ask.add_argument("--small", action="store_true", help="the rehearsal's network")
    options = ask.parse_args()
    if options.what == "pack":
        return pack(options.data, pathlib.Path(options.out), options.mib)
    print(json.dumps(trained(options)))


if __name__ == "__main__":
    main()
