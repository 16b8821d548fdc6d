"""Train a teacher and its two students on one GPU, in the minutes that there are.

    python benchmarks/gpu_training.py pack --data cifar --out carry    # at home
    python benchmarks/gpu_training.py warm teacher --out runs/warm     # on the GPU
    python benchmarks/gpu_training.py train --pack carry-0 carry-1 --out runs/gpu
    python benchmarks/gpu_training.py train --pack carry-0 --out runs/rehearsal \
        --seconds 200 --small                                 # the rehearsal: on a CPU

For a GPU that is lent for minutes and reaches nothing. Pictures travel as lossless
sheets, in folders of at most `--mib` each, one a journey. `--seconds` are shared out
among the stages: the teacher, conditional and not in one network; its guidance, by the
weight that samples are best with, and its guided paths; then `hkd`, by the objective
that makes A work, and `hkd-paper`, by the paper's. A stage's learning rate follows the
clock, so that it is 0 when its time is over, whatever the GPU's pace. Pictures, noise
and paths stay on the GPU, and a step does not wait for the one before, as the trainer
of the package does. A step is compiled as one graph, and a break in it is an error:
`warm` finds it in half a minute, puts the code into torch's cache, and tells the pace;
rehearse it at home with the GPU's own version of torch. Weights in half precision and a
log lie in `--out`; judge them at home. The last line is one JSON object.
"""

import argparse
import copy
import itertools
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from common import parser, write
from PIL import Image
from torch import Tensor, nn

import hkd_mini
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.samplers import Path, heun
from hkd_mini.diffusion.schedule import lognormal_sigmas
from hkd_mini.diffusion.teacher import Denoiser, edm_loss
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.border import inside
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import Images, mirrored, to_uint8, to_unit
from hkd_mini.engine.optimizer import optimizer_for
from hkd_mini.engine.precision import choose, computing
from hkd_mini.engine.run import compile_parts
from hkd_mini.hkd.config import PRESETS
from hkd_mini.hkd.distil import groups
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import hkd_loss
from hkd_mini.hkd.recipes import RECIPES
from hkd_mini.judge import metrics
from hkd_mini.judge.classifier import share_found
from hkd_mini.judge.distance import JUDGE, SECOND, Distance
from hkd_mini.judge.features import classifier_features, in_batches

Given = dict[str, Tensor]

SIDE = 50  # pictures along a sheet
UNTIL = {"teacher": 0.42, "paths": 0.54, "hkd": 0.83, "hkd-paper": 0.98}  # of the time
# share of classes withheld from the teacher, and
DROPPED = RECIPES["cifar10-mini"].drop_labels
NO_CLASS = 0.10  # of paths
WEIGHTS = (1.25, 1.5, 2.0, 2.5, 3.0)  # of guidance, to choose from
FOUND = 0.88  # share of classes found, below which a distance counts for more
SAMPLES = 4_096  # for each of the weights, on
FEW = 9  # levels; paths have
LEVELS = 18
NETWORK = PRESETS["cifar10-mini"].network
SMALL = replace(NETWORK, channels=16, mult=(1, 2), attention=(8,))
TEACHER = TrainConfig(
    batch=1024,
    lr=1.5e-3,
    muon=0.03,
    warmup=100_000,
    decay=0.4,
    ema_halflife=300_000,
    compile=True,
)
STUDENT = replace(
    TEACHER,
    batch=256,
    lr=1e-3,
    muon=0.02,
    warmup=20_000,
    decay=0.6,
    ema_halflife=20_000,
)
AT_ONCE = 2048  # paths
STUDENTS = {"hkd": "cifar10-mini", "hkd-paper": "cifar10-mini-paper"}  # presets
WARM = 10  # first steps of a stage, which compile and do not count
EVERY = 50  # steps a line of the log, and a wait
SAVE = 60.0  # seconds between averages on disk


# --- the pictures


def pack(data: str, out: pathlib.Path, mib: float) -> None:
    """Training pictures as lossless sheets of SIDE x SIDE, with their labels, in
    folders `out`-0, `out`-1, ... of at most `mib` each.
    """
    images = load_cifar10("train", data)
    each = SIDE**2
    weight = math.inf
    k = -1
    for start in range(0, len(images.x) - each + 1, each):
        x = images.x[start : start + each].numpy()
        sheet = x.reshape(SIDE, SIDE, 3, 32, 32).transpose(0, 3, 1, 4, 2)
        flat = sheet.reshape(SIDE * 32, SIDE * 32, 3)
        file = out.parent / f"{out.name}.webp"
        Image.fromarray(flat).save(file, lossless=True, quality=100, method=4)
        size = file.stat().st_size
        if weight + size > mib * 2**20:
            k = k + 1
            weight = 0
            folder = out.parent / f"{out.name}-{k}"
            folder.mkdir()
        file.rename(folder / f"{start:05d}.webp")
        labels = images.labels[start : start + each].numpy().astype(np.uint8)
        np.save(folder / f"{start:05d}.npy", labels)
        weight += size
    print(f"{start + each} pictures in {k + 1} folders")


def unpacked(folders: list[pathlib.Path]) -> Images:
    """The pictures of packages."""
    files = sorted((f for folder in folders for f in folder.glob("*.webp")), key=str)
    parts = []
    labels = []
    for file in files:
        sheet = np.asarray(Image.open(file))
        side = sheet.shape[0] // 32
        apart = sheet.reshape(side, 32, side, 32, 3).transpose(0, 2, 4, 1, 3)
        parts.append(apart.reshape(-1, 3, 32, 32))
        labels.append(np.load(file.with_suffix(".npy")))
    names = tuple(str(k) for k in range(10))
    told = torch.from_numpy(np.concatenate(labels)).long()
    return Images(torch.from_numpy(np.concatenate(parts)), told, names)


def endless(n: int, batch: int, device: str) -> Iterator[Tensor]:
    """Batches of indices below n, all once before any comes again."""
    left = torch.empty(0, dtype=torch.long, device=device)
    while True:
        while len(left) < batch:
            left = torch.cat([left, torch.randperm(n, device=device)])
        yield left[:batch]
        left = left[batch:]


# --- training by the clock


def learn(
    name: str,
    model: nn.Module,
    loss: Callable[[Given, Tensor], Given],
    batches: Iterator[Given],
    config: TrainConfig,
    until: float,
    out: pathlib.Path,
    parts: list[dict] | None = None,
) -> tuple[nn.Module, dict]:
    """Train `model` on `batches` until the clock says `until`, `parts` as the
    optimiser's groups; its average, saved in `out`, and what there is to say of it.

    A loss that is not finite ends the stage, with the average that was saved last.
    """
    device = next(model.parameters()).device
    precision = choose(config.precision, device)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = optimizer_for(model.train(), config, parts, fused=True)
    objective = torch.compile(loss, fullgraph=True) if config.compile else loss
    trained = [p for p in model.parameters() if p.requires_grad]
    averaged = list(average.parameters())
    progress = torch.zeros((), device=device)
    first = began = saved = time.monotonic()
    line: dict = {}
    with (out / f"{name}.jsonl").open("w") as log:
        for step in itertools.count():
            if step == WARM:
                began = time.monotonic()
            share = (time.monotonic() - began) / max(until - began, 1e-9)
            share = min(share, 1.0) if step >= WARM else 0.0
            up = min(1.0, (step + 1) * config.batch / config.warmup)
            for group in optimizer.param_groups:
                rate = config.lr * min(up, (1 - share) / config.decay)
                group["lr"] = rate * group["scale"]
            progress.fill_(share)
            with computing(precision, device):
                terms = objective(next(batches), progress)
            terms["loss"].backward()
            nn.utils.clip_grad_norm_(trained, config.clip)
            optimizer.step()
            optimizer.zero_grad()
            beta = config.ema_beta(step)
            with torch.no_grad():
                torch._foreach_lerp_(averaged, list(model.parameters()), 1 - beta)
            if step % EVERY and step != WARM - 1 and share < 1:
                continue
            found = torch.stack([v.detach().float() for v in terms.values()]).tolist()
            seconds = time.monotonic() - began
            line = {"images": (step + 1) * config.batch, "seconds": round(seconds, 1)}
            line |= {k: round(v, 5) for k, v in zip(terms, found, strict=True)}
            log.write(json.dumps(line) + "\n")
            log.flush()
            if not np.isfinite(found).all():
                kept = type(model).from_folder(out / name)
                average.load_state_dict(kept.state_dict())
                break
            if share >= 1:
                break
            if time.monotonic() - saved > SAVE or step <= WARM:
                average.save_pretrained(out / name)
                saved = time.monotonic()
    average.save_pretrained(out / name)
    counted = line["images"] - WARM * config.batch
    pace = {"images_per_second": round(counted / max(line["seconds"], 1e-9))}
    compiling = {"until_warm": round(began - first, 1)}
    print(name, line | pace | compiling, flush=True)
    return average, line | pace | compiling


def placed(model: nn.Module, device: str) -> nn.Module:
    """A model on its device, in the layout that convolutions are fastest in."""
    return model.to(device).to(memory_format=torch.channels_last)


# --- the stages


def teach(
    images: Images,
    config: TrainConfig,
    network: UNetConfig,
    until: float,
    out: pathlib.Path,
    device: str,
) -> tuple[nn.Module, dict]:
    """A teacher of `images`."""
    torch.manual_seed(config.seed)
    model = placed(Denoiser(network), device)
    x = images.x.to(device)
    labels = images.labels.to(device)
    rng = torch.Generator(device).manual_seed(config.seed)

    def batches() -> Iterator[Given]:
        for index in endless(len(x), config.batch, device):
            flip = torch.rand(len(index), device=device) < 0.5
            told = torch.rand(len(index), device=device) >= DROPPED
            x0 = mirrored(to_unit(x[index]), flip)
            yield {
                "x0": x0,
                "sigma": lognormal_sigmas(len(index), rng),
                "noise": torch.randn_like(x0),
                "labels": torch.where(told, labels[index], -1),
            }

    loss = lambda given, progress: {"loss": edm_loss(model, **given)}
    return learn("teacher", model, loss, batches(), config, until, out)


def sampled(
    guided: Guided, n: int, steps: int, no_class: float, device: str
) -> tuple[Path, Tensor]:
    """n paths by Heun's method, and their classes: every one as often, or at random
    with a share of none.
    """
    labels = torch.arange(n, device=device) % 10
    labels = torch.where(torch.rand(n, device=device) < no_class, -1, labels)
    sigmas = guided.noise.sigmas(steps)
    noise = torch.randn(n, 3, 32, 32, device=device)
    x_T = (noise * sigmas[0]).half().float()
    with computing(choose("auto", device), device):
        return heun(guided, x_T, sigmas, labels), labels


def chosen(teacher: nn.Module, images: Images, n: int, device: str) -> list[dict]:
    """What each weight of guidance scores, the best one first."""
    judge, second = (hkd_mini.load(name).to(device) for name in (JUDGE, SECOND))
    look = classifier_features(judge)
    real = metrics.statistics(in_batches(images.x, look, 1000))
    rows = []
    for weight in WEIGHTS:
        guided = Guided(teacher, weight)
        torch.manual_seed(0)
        parts = [
            sampled(guided, min(AT_ONCE, n), FEW, 0.0, device)
            for _ in range(0, n, AT_ONCE)
        ]
        x = torch.cat([to_uint8(path.x[-1]) for path, _ in parts])
        fakes = metrics.statistics(in_batches(x, look, 1000))
        frechet = metrics.frechet_distance(fakes, real)
        found = share_found(second, x, torch.cat([t.cpu() for _, t in parts]))
        row = {"weight": weight, "frechet": frechet, "class_found": found}
        rows.append(row | {"n": len(x), "levels": FEW})
        print(rows[-1], flush=True)
    short = lambda r: min(1, max(r["class_found"], 0.01) / FOUND)
    return sorted(rows, key=lambda r: r["frechet"] / short(r))


def follow(guided: Guided, n: int, until: float, device: str) -> Given:
    """As many guided paths with their guesses as fit, at least n, in half precision."""
    kept = []
    began = time.monotonic()
    torch.manual_seed(1)
    while not kept or time.monotonic() + (time.monotonic() - began) / len(kept) < until:
        path, labels = sampled(guided, n, LEVELS, NO_CLASS, device)
        part = {"x": path.x, "guess": torch.cat([path.guesses, path.x[-1:]])}
        part = {k: v.half().transpose(0, 1).contiguous() for k, v in part.items()}
        kept.append(part | {"labels": labels})
        sigmas = path.sigmas
    found = {k: torch.cat([part[k] for part in kept]) for k in kept[0]}
    return found | {"sigmas": sigmas.float().to(device)}


def distil(
    name: str,
    teacher: nn.Module,
    paths: Given,
    config: TrainConfig,
    until: float,
    out: pathlib.Path,
    device: str,
) -> tuple[nn.Module, dict]:
    """One of the STUDENTS, of `paths`."""
    preset = STUDENTS[name]
    asked = RECIPES[preset].objective
    torch.manual_seed(config.seed)
    settings = replace(PRESETS[preset], network=teacher.config)
    model = placed(HKD.from_teacher(teacher.cpu(), settings), device)
    distance = Distance.of(asked.perceptual).to(device)
    distance = distance.to(memory_format=torch.channels_last)
    levels = len(paths["sigmas"]) - 1

    def batches() -> Iterator[Given]:
        for index in endless(len(paths["x"]), config.batch, device):
            at = torch.randint(levels, (len(index), asked.times), device=device)
            at[:, 0] = 0  # T
            there = index[:, None], at
            given = {
                "x": paths["x"][there].float(),
                "sigma": paths["sigmas"][at],
                "end": paths["x"][index, -1].float(),
                "labels": paths["labels"][index],
            }
            if asked.guess_weight:
                given["guess"] = paths["guess"][there].float()
            yield given

    def loss(given: Given, progress: Tensor) -> Given:
        return hkd_loss(model, distance, progress=progress, objective=asked, **given)

    parts = groups(model, asked.lr_scale_A)
    return learn(name, model, loss, batches(), config, until, out, parts)


def trained(options: argparse.Namespace) -> dict:
    """All stages, and what there is to say of each."""
    began = time.monotonic()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    until = {k: began + options.seconds * part for k, part in UNTIL.items()}
    few = {"batch": 8, "compile": False, "warmup": 64} if options.small else {}
    n = 16 if options.small else AT_ONCE
    images = unpacked([pathlib.Path(folder) for folder in options.pack])
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    told: dict = {"device": name, "torch": torch.__version__}
    told |= {"precision": choose("auto", device), "pictures": len(images.x)}
    config = replace(TEACHER, **few)
    network = SMALL if options.small else NETWORK
    teacher, told["teacher"] = teach(
        images, config, network, until["teacher"], out, device
    )
    write(out / "told.json", told)
    if config.compile:
        compile_parts(teacher)
    told["guidance"] = chosen(teacher, images, n if options.small else SAMPLES, device)
    guided = Guided(teacher, told["guidance"][0]["weight"])
    paths = follow(guided, n, until["paths"], device)
    told["paths"] = len(paths["x"])
    write(out / "told.json", told)
    for name in STUDENTS:
        config = replace(STUDENT, **few)
        _, told[name] = distil(name, teacher, paths, config, until[name], out, device)
        write(out / "told.json", told)
    told["seconds"] = round(time.monotonic() - began)
    write(out / "told.json", told)
    return told


def warm(options: argparse.Namespace) -> dict:
    """Compile one stage on random numbers, and tell its pace."""
    out = pathlib.Path(options.out)
    out.mkdir(parents=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    few = {"batch": 8, "compile": options.compile} if options.small else {}
    until = time.monotonic() + options.seconds
    torch.manual_seed(0)
    if options.stage == "teacher":
        x = torch.randint(256, (4096, 3, 32, 32), dtype=torch.uint8)
        images = Images(x, torch.arange(4096) % 10, tuple("0123456789"))
        config = replace(TEACHER, **few)
        return teach(images, config, NETWORK, until, out, device)[1]
    teacher = Denoiser(NETWORK).eval().requires_grad_(False)
    n = 8 if options.small else AT_ONCE
    if options.stage == "paths":
        teacher = placed(teacher, device)
        if options.compile or not options.small:
            compile_parts(teacher)
        guided = Guided(teacher, 2.0)
        sampled(guided, n, 2, 0.0, device)
        now = time.monotonic()
        path = sampled(guided, n, FEW, 0.0, device)[0].x[-1].sum().item()
        seconds = time.monotonic() - now
        each = 2 * n * (2 * FEW - 1)
        return {"evaluations_per_second": round(each / seconds), "sum": path}
    random = torch.randn(1024, LEVELS + 1, 3, 32, 32, device=device).half()
    sigmas = teacher.noise.sigmas(LEVELS).float().to(device)
    paths = {"x": random, "guess": random, "sigmas": sigmas}
    paths["labels"] = torch.arange(1024, device=device) % 10
    config = replace(STUDENT, **few)
    return distil(options.stage, teacher, paths, config, until, out, device)[1]


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("what", choices=("pack", "warm", "train"))
    ask.add_argument("stage", nargs="?", choices=tuple(UNTIL), help="warm: which one")
    ask.add_argument("--data", help="pack: the folder with CIFAR-10")
    ask.add_argument("--pack", nargs="+", help="train: what pack has written")
    ask.add_argument("--out", required=True)
    ask.add_argument("--mib", type=float, default=50, help="pack: of a folder")
    ask.add_argument("--seconds", type=float, default=540)
    ask.add_argument("--small", action="store_true", help="the rehearsal's sizes")
    ask.add_argument("--compile", action="store_true", help="warm, small: compile")
    options = ask.parse_args()
    if options.what == "pack":
        return pack(options.data, pathlib.Path(options.out), options.mib)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    with inside():
        print(json.dumps({"warm": warm, "train": trained}[options.what](options)))


if __name__ == "__main__":
    main()
