"""KDM on the checkerboard: does one matrix do it, do its latents keep cells together,
do they know outliers?

    python benchmarks/kdm_board.py             # each row that is missing: half an hour
    python benchmarks/kdm_board.py --keep DIR  # and the dense model of seed 0

The paths of chapter 7, first and last point; 12,000 iterations of 128, as chapter 7's
models have; dense and decomposed operators, three seeds. On 2,000 held-out noises:
"end", the error at the end as a share of the data's variance, beside HKD's; "cells",
the adjusted Rand index between the cells where the true paths end and a clustering
(k-means, 8 groups) of pushed latents K z_T + b, and of the noises themselves as a
control; "outliers", the area under the curve when the least density of a pushed latent
(distance to its 10th neighbour among 10,000 training pictures' latents) is to tell the
noises whose samples leave the board by more than a tenth of a cell, with the same for
the noises as a control. Intervals are 95 %, 1,000 bootstrap draws. One thread.
"""

import pathlib
from dataclasses import replace

import numpy as np
import torch
from common import device, fill, in_words, kept_board_paths, parser
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import Path
from hkd_mini.diffusion.schedule import SIGMA_MAX
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.files import read_tensors
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.paths import PathsInMemory
from hkd_mini.onestep.kdm import KDM
from hkd_mini.onestep.kdm_config import KDMConfig
from hkd_mini.onestep.methods import distil

RESULTS = data_folder() / "checkerboard" / "kdm.json"
HALF = 3**0.5 / 2  # half the side of the board, whose deviation is 1/2
RECIPE = TrainConfig(
    images=1_536_000,
    batch=128,
    lr=1e-3,
    warmup=0,
    decay=0.5,
    checkpoint=10**9,
    ema_halflife=25_000,
    precision="fp32",
)


def cell(x: np.ndarray) -> np.ndarray:
    """Which of the 16 squares of the board a point lies in (points outside: the nearest
    one's).
    """
    i, j = np.clip(np.floor((x.T / HALF + 1) * 2), 0, 3).astype(int)
    return 4 * i + j


def off_board(x: np.ndarray) -> np.ndarray:
    """How far a point is from the nearest filled square, in sides of a square."""
    side = HALF / 2
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    low = np.array(corners) * side - HALF
    gap = np.maximum(np.maximum(low - x[:, None], x[:, None] - low - side), 0)
    return np.linalg.norm(gap, axis=2).min(1) / side


def interval(measure, *arrays: np.ndarray, draws: int = 1000) -> list[float]:
    """The measure, and the 2.5 and 97.5 percent quantiles over resamplings of the
    points.
    """
    rng = np.random.default_rng(0)
    n = len(arrays[0])
    again = [
        measure(*(a[index] for a in arrays))
        for index in (rng.integers(0, n, n) for _ in range(draws))
    ]
    return [measure(*arrays), *np.quantile(again, [0.025, 0.975]).tolist()]


def groups(points: np.ndarray) -> np.ndarray:
    """k-means with 8 groups, the best of ten starts."""
    return KMeans(8, n_init=10, random_state=0).fit_predict(points)


def sparse(points: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Distance to the 10th nearest of `among`."""
    gaps = torch.cdist(
        torch.from_numpy(points).float(), torch.from_numpy(among).float()
    )
    return gaps.kthvalue(10, dim=1).values.numpy()


def trained(operator: str, seed: int, paths: Path) -> KDM:
    """A KDM of chapter 7's size."""
    torch.manual_seed(seed)
    model = KDM(KDMConfig(MLPConfig(state=64, width=128), operator, noise=0.1))
    for _ in distil(model, "KDM", PathsInMemory(paths), replace(RECIPE, seed=seed)):
        pass
    return model


@torch.no_grad()
def measure(model: KDM, x: torch.Tensor, train: torch.Tensor) -> dict:
    """What the chapter's tables show; x (2, 2000, 2) the held-out noises at sigma_max
    and their ends.
    """
    noise = x[0] / SIGMA_MAX
    end = x[-1]
    made = model.sample(noise)
    pushed = model.push(model.encode_noise(x[0]))
    cells = cell(end.numpy())
    out = off_board(made.numpy()) > 0.1
    shown = model.operator.eigenvalues()
    applied = torch.linalg.eigvals(model.operator.matrix().double())
    known = model.encode(train[:10_000]).numpy()
    return {
        "end": float((made - end).square().mean() / end.var(0, correction=0).mean()),
        "cells": interval(adjusted_rand_score, cells, groups(pushed.numpy())),
        "cells_of_noise": interval(adjusted_rand_score, cells, groups(noise.numpy())),
        "outliers": interval(roc_auc_score, out, sparse(pushed.numpy(), known)),
        "outliers_of_noise": interval(
            roc_auc_score, out, sparse(noise.numpy(), noise.numpy())
        ),
        "share_of_outliers": float(out.mean()),
        "eigenvalues_off": float((shown[:, None] - applied[None]).abs().amin(1).max()),
        "largest_eigenvalue": float(shown.abs().max()),
    }


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument(
        "--keep", type=pathlib.Path, help="folder for the dense model of seed 0"
    )
    options = ask.parse_args()
    torch.set_num_threads(1)
    whole = kept_board_paths(20_000, 1)
    paths = Path(whole.sigmas[[0, -1]], whole.x[[0, -1]], whole.nfe)
    file = data_folder() / "checkerboard" / "held-out.safetensors"
    held_out = read_tensors(file)[0]["x"][[0, -1]]
    about = {
        "what": in_words(__doc__),
        "command": "python benchmarks/kdm_board.py",
        "device": device(),
    }
    fill(
        RESULTS,
        [
            {"operator": operator, "seed": seed}
            for seed in range(3)
            for operator in ("dense", "decomposed")
        ],
        lambda row: measure(trained(**row, paths=paths), held_out, paths.x[-1]),
        about,
        show=("end", "cells", "cells_of_noise", "outliers", "outliers_of_noise"),
    )
    if options.keep:
        trained("dense", 0, paths).save_pretrained(options.keep)


if __name__ == "__main__":
    main()
