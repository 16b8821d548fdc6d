"""What the scripts of this folder share: files of results that grow row by row, where a
number comes from, and what more than one of them trains on.

Each script is one measurement, run as `python benchmarks/NAME.py`, and imports nothing
of another: what two of them need is here. Python finds it beside the script that it
runs.
"""

import argparse
import concurrent.futures
import datetime
import hashlib
import json
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from scipy.ndimage import median_filter

import hkd_mini
from hkd_mini.app import evaluation, machine
from hkd_mini.diffusion.exact import exact_denoiser
from hkd_mini.diffusion.samplers import Path, heun
from hkd_mini.diffusion.schedule import SIGMA_MAX, karras_sigmas
from hkd_mini.engine.files import write_atomic
from hkd_mini.engine.points import checkerboard
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.paths import PathsInMemory, Trajectories
from hkd_mini.judge import metrics
from hkd_mini.judge.distance import SECOND
from hkd_mini.judge.features import in_batches

RUNS = pathlib.Path("runs")  # what a script keeps, so that a stopped run goes on


# --- the command line


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's preface, as it is written."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def in_words(doc: str) -> str:
    """What a script says it measures: the third paragraph of its preface, on one
    line.
    """
    return doc.split("\n\n")[2].replace("\n", " ")


# --- where a number comes from


def today() -> str:
    """The date, YYYY-MM-DD."""
    return str(datetime.date.today())


def device(*remarks: str) -> str:
    """The processor, how many threads a computation has, `remarks`, and torch's
    version.
    """
    n = torch.get_num_threads()
    threads = f"{n} thread{'s' * (n > 1)}"
    words = (f"{platform.machine()} CPU", threads, *remarks)
    return ", ".join((*words, f"torch {torch.__version__}"))


def sha256(path: pathlib.Path) -> str:
    """Hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(*names: str) -> dict[str, str]:
    """The bundled models that a number is about: {file in data/: SHA-256}."""
    files = [f"{name}/model.safetensors" for name in names]
    return {file: sha256(data_folder() / file) for file in files}


# --- files of results


def rounded(value):
    """Four significant digits are more than a repetition agrees on."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write(file: pathlib.Path, content: dict | list, indent: int | None = 1) -> None:
    """Content as JSON, whole or not at all."""
    write_atomic(file, (json.dumps(content, indent=indent) + "\n").encode())


def stored(file: pathlib.Path) -> dict:
    """What a file of results says; nothing if it is not there."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def lacks(file: pathlib.Path, row: dict) -> bool:
    """Whether no row of a file of results agrees with `row` on all that it says."""
    rows = stored(file).get("rows", [])
    row = json.loads(json.dumps(row))  # as it would be stored: lists for tuples
    return not any(all(old[k] == v for k, v in row.items()) for old in rows)


def add(
    file: pathlib.Path, about: dict, line: dict, order: Callable | None = None
) -> None:
    """One more row, rounded, among those that are there now; `about` goes before
    them. They stay in the order in which they came, or are sorted by the key `order`.
    """
    rows = [*stored(file).get("rows", []), rounded(line)]
    rows = rows if order is None else sorted(rows, key=order)
    write(file, {**about, "rows": rows})


def fill(
    file: pathlib.Path,
    wanted: Iterable[dict],
    measure: Callable[[dict], dict],
    about: dict,
    show: Iterable[str] = (),
) -> None:
    """Measure every row that the file lacks, and write each as soon as it is there.

    A row is what says which measurement it is; what `measure` finds and the date are
    added to it. `show` names the numbers that are printed.
    """
    for row in wanted:
        if lacks(file, row):
            found = rounded(measure(row))
            add(file, about, {**row, **found, "date": today()})
            print(*row.values(), *(f"{k} {found[k]}" for k in show), flush=True)


def in_two_processes(measure: Callable, wanted: Iterable[tuple]) -> Iterator:
    """measure(*w) for every w, in the order in which they end. An error ends them all,
    but for those that have begun.
    """
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(measure, *w) for w in wanted]
        try:
            for job in concurrent.futures.as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# --- time


def seconds(call: Callable, device: str) -> float:
    """How long a call takes, the device's queue included."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


# --- what is trained on


def board_paths(n: int, seed: int, points: int = 4096, steps: int = 36) -> Path:
    """n paths of the exact denoiser of `points` points of the checkerboard, by Heun's
    method: x (steps/2 + 1, n, 2), every second point of each, and the guesses there.
    Chapter 7.
    """
    denoiser = exact_denoiser(checkerboard(points, torch.Generator().manual_seed(0)))
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).double()
    parts = [
        heun(denoiser, SIGMA_MAX * part, karras_sigmas(steps)).every(2)
        for part in noise.split(250)
    ]
    return Path(
        parts[0].sigmas,
        torch.cat([part.x.float() for part in parts], 1),
        parts[0].nfe,
        torch.cat([part.guesses.float() for part in parts], 1),
    )


def kept_board_paths(n: int, seed: int) -> Path:
    """`board_paths`, kept in runs/."""
    file = RUNS / "checkerboard" / f"guessed-{n}-{seed}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tuple(board_paths(n, seed)), file)
    return Path(*torch.load(file, weights_only=True))


def teacher_paths(
    folder: pathlib.Path, name: str, n: int, seed: int, **how
) -> Trajectories:
    """n paths of a bundled teacher, kept below `folder`; `how` goes to `make`."""
    out = folder / f"paths-{n}-{seed}"
    teacher = hkd_mini.load(name)
    asked = {"seed": seed, "resume": True, "precision": "auto", **how}
    for _ in make(teacher, teacher.config.shape, n, out, **asked):
        pass
    return Trajectories(out)


def held_out_paths() -> Trajectories:
    """The bundled paths of the guided `teacher-cifar10`, which no training used."""
    return Trajectories(data_folder() / "trajectories-cifar10")


def small_held_out_paths() -> PathsInMemory:
    """Those of `teacher-cifar10-tiny` from the same noises, which take seconds."""
    stored = held_out_paths()
    noise = stored.paths(range(len(stored)))[0]
    small = hkd_mini.load("teacher-cifar10-tiny")
    return PathsInMemory(heun(small, noise, karras_sigmas(18)).every(2))


WEIGHT = 2.5  # of the guidance that teacher-cifar10's students learned from
# who judges pictures, and what `--features` calls it
JUDGES = {"ours": "cifar", "second": SECOND, "imagenet": "imagenet"}


def judged(features: str, real: torch.Tensor, fakes: list[torch.Tensor]) -> list[dict]:
    """Frechet distance, precision and recall of several sets of samples, in the eyes of
    one judge, which looks at the real pictures once.
    """
    print(f"in the features of {features}", flush=True)
    extract = evaluation.extractor(features, machine.device())
    look = lambda x: torch.cat(list(in_batches(x, extract)))
    seen = look(real)
    reference = metrics.statistics([seen])
    found = []
    for x in fakes:
        fake = look(x)
        few = (f[: evaluation.MANIFOLD] for f in (seen, fake))
        distance = metrics.frechet_distance(metrics.statistics([fake]), reference)
        found.append({"frechet": distance, **metrics.precision_recall(*few)._asdict()})
    return found


# --- an HKD whose generators have to work

# what is asked of its states; the read-out is linear, and an encoder names each pair
# where it is largest on the way
GUESS = {"guess_weight": 4.0, "lr_scale_A": 10.0}
LINEAR = {"linear_weight": 0.1, "linear_scale": "variance", "detach_noisier": False}
READOUT = {"readout": "linear", "spatial": "shared"}
ANCHORED = {**READOUT, "rates": (-8.0, 8.0), "anchored": True}


# --- one-step methods side by side

# what one path of a teacher costs in evaluations: Heun's method on 18 levels
PATH_COST = 35
# HKD's variants: its configuration, what is asked of it, and what one of its times
# costs: path decoding decodes again, linearity encodes again
HKDS = {
    "HKD": ({}, {}, 3.0),
    "HKD, A = 0": ({"koopman": False}, {}, 3.0),
    "HKD-linear": ({}, {"path_weight": 1.0, "linear_weight": 0.1}, 6.0),
}


def spike(losses: list[float]) -> float | None:
    """The largest loss of a run's second half, over the median of the 101 losses around
    it.
    """
    late = np.array(losses[len(losses) // 2 :])
    return float((late / median_filter(late, 101)).max()) if losses else None
