"""Make what data/ holds besides the weights: reference statistics, held-out paths,
checksums.

    python benchmarks/bundle.py --data cifar  # statistics, held-out paths, checksums
    python benchmarks/bundle.py               # MANIFEST.json alone

The weights themselves come from the commands in their model cards. Run this after
replacing any file, and commit the manifest.
"""

import shutil

import torch
from common import WEIGHT, parser, sha256, write

import hkd_mini
from hkd_mini.app.evaluation import REFERENCE
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd import make_paths
from hkd_mini.judge import features, metrics

DATA = data_folder()
KINDS = (
    "*.safetensors",
    "config.json",
    "claims.json",
    "results.json",
    "neighbours.json",
    "spectrum.json",
    "editing.json",
    "modes.json",
    "toy2d.json",
    "steady.json",
    "teacher-recipes.json",
    "guidance.json",
    "stopping.json",
    "shapes64.json",
    "cifar10-mini.json",
    "kdm.json",
)
HELD_OUT = 32  # paths
SEED = 2  # that no training used


def reference(data: str) -> None:
    """Mean and covariance of the training pictures in the bundled classifier's
    features.
    """
    extract = features.classifier_features(hkd_mini.load("features-cifar10"))
    stats = metrics.statistics(
        features.in_batches(load_cifar10("train", data).x, extract)
    )
    metrics.save_statistics(
        DATA / REFERENCE,
        stats,
        torch.float32,
        pictures="CIFAR-10, 50,000 training pictures",
    )


def paths() -> None:
    """Paths of the bundled teacher from noises that no training used, 10 of the 19
    points of each with their guesses: float32 network, half precision on disk. They
    are guided, with classes at random.
    """
    teacher = Guided(hkd_mini.load("teacher-cifar10"), WEIGHT)
    folder = DATA / "trajectories-cifar10"
    shutil.rmtree(folder, ignore_errors=True)
    how = {"times": 10, "seed": SEED, "batch": 32, "labels": teacher.config.labels}
    for done in make_paths.make(teacher, teacher.config.shape, HELD_OUT, folder, **how):
        print(f"{done} of {HELD_OUT} paths")


def manifest() -> None:
    """SHA-256 of every file that loading verifies."""
    files = sorted(path for kind in KINDS for path in DATA.rglob(kind))
    sums = {path.relative_to(DATA).as_posix(): sha256(path) for path in files}
    write(DATA / "MANIFEST.json", sums)
    print(f"MANIFEST.json: {len(sums)} files")


if __name__ == "__main__":
    ask = parser(__doc__)
    ask.add_argument("--data", help="folder with CIFAR-10")
    options = ask.parse_args()
    if options.data:
        reference(options.data)
        paths()
    manifest()
