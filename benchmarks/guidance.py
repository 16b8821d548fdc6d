"""What guidance buys, and what it costs, weight by weight.

    python benchmarks/guidance.py --data cifar

The Frechet distance of guided samples in our judge's features and in the second
judge's, precision and recall, and the share of asked classes that the second judge
finds, for classifier-free guidance at all levels and between two of them, and for
autoguidance by a smaller teacher. All rows draw from the same noises, a tenth of them
for each class, by Heun's method on nine levels. Two threads: ten minutes.
"""

import math

import torch
from common import device, fill, in_words, parser, weights

import hkd_mini
from hkd_mini.app import evaluation, machine
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.weights import data_folder
from hkd_mini.judge import metrics
from hkd_mini.judge.classifier import share_found
from hkd_mini.judge.distance import JUDGE, SECOND
from hkd_mini.judge.features import classifier_features, in_batches

RESULTS = data_folder() / "guidance.json"
TEACHER = "teacher-cifar10"
WEAKER = "teacher-cifar10-tiny"
STEPS = 9
SEED = 0
EVERYWHERE = [0.0, None]
MIDDLE = [0.2, 3.0]
ROWS = [
    {"kind": kind, "weight": weight, "interval": interval}
    for kind, interval, chosen in (
        ("class", EVERYWHERE, (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)),
        ("class", MIDDLE, (1.5, 2.0, 3.0, 4.0)),
        ("weaker", EVERYWHERE, (1.5, 2.0)),
    )
    for weight in chosen
]


def measured(row: dict, judges: dict, real: dict) -> dict:
    """What a row's samples score, beside the features `real` of true pictures. The
    interval's None is infinity, which JSON does not have.
    """
    open_ = lambda name: machine.on_device(hkd_mini.load(name), compile=row["n"] > 200)
    low, high = row["interval"]
    interval = (low, math.inf if high is None else high)
    weaker = open_(WEAKER) if row["kind"] == "weaker" else None
    denoiser = Guided(open_(TEACHER), row["weight"], weaker, interval)
    labels = torch.arange(row["n"]) % 10
    x = evaluation.draw(
        denoiser, row["n"], SEED, row["steps"], labels=labels, precision="auto"
    )
    fakes = {k: torch.cat(list(in_batches(x, look))) for k, look in judges.items()}
    found = {
        f"frechet_{k}": metrics.frechet_distance(
            metrics.statistics([fakes[k]]), metrics.statistics([real[k]])
        )
        for k in judges
    }
    few = evaluation.MANIFOLD
    shares = metrics.precision_recall(real["ours"][:few], fakes["ours"][:few])
    found_class = share_found(hkd_mini.load(SECOND), x, labels)
    return {**found, **shares._asdict(), "class_found": found_class}


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("--data", required=True, help="the folder with CIFAR-10")
    ask.add_argument("--n", type=int, default=1_000, help="samples a row")
    options = ask.parse_args()
    judges = {
        k: classifier_features(hkd_mini.load(name))
        for k, name in (("ours", JUDGE), ("second", SECOND))
    }
    pictures = load_cifar10("train", options.data).x
    real = {k: torch.cat(list(in_batches(pictures, f))) for k, f in judges.items()}
    about = {
        "what": in_words(__doc__),
        "weights": weights(TEACHER, WEAKER, JUDGE, SECOND),
        "device": device(),
        "seed": SEED,
    }
    fill(
        RESULTS,
        ({**row, "n": options.n, "steps": STEPS} for row in ROWS),
        lambda row: measured(row, judges, real),
        about,
        ("frechet_ours", "frechet_second", "precision", "recall", "class_found"),
    )


if __name__ == "__main__":
    main()
