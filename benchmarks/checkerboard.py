"""Is it Koopman? Train HKD on the paths of a checkerboard, objective by objective, and
measure what A does.

    python benchmarks/checkerboard.py              # each row that is missing: an hour
    python benchmarks/checkerboard.py path+linear  # rows whose objective starts so
    python benchmarks/checkerboard.py --keep DIR   # and chapter 7's models and paths

The teacher is exact: the best denoiser of 4096 points, 36 Heun steps, every second
point of a path kept. All models see the same 20,000 paths and are measured on 2,000
others. Errors are shares of the data's variance, the residual is that of
`metrics.koopman_residual`, the centred residual a share of the states' variance; "idle"
is the same with A set to 0, "clock" with one shift for all states. Paths and models
stay in runs/checkerboard, so that a run that is stopped goes on, and measuring again is
quick. One thread.
"""

import argparse
import datetime
import json
import pathlib
import platform
from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hkd_mini import metrics
from hkd_mini.data import checkerboard
from hkd_mini.loop import TrainConfig
from hkd_mini.losses import unit_contrast
from hkd_mini.model import HKD, HKDConfig
from hkd_mini.networks import MLPConfig
from hkd_mini.schedule import SIGMA_MAX, karras_sigmas
from hkd_mini.teacher import Path, exact_denoiser, heun
from hkd_mini.train import PathsInMemory, train
from hkd_mini.weights import data_folder, read_tensors, write_atomic, write_tensors

RESULTS = data_folder() / "checkerboard" / "results.json"
CACHE = pathlib.Path("runs") / "checkerboard"
POINTS = 4096
STEPS = 36
PATHS = 20_000
HELD_OUT = 2_000
LONG = 12_000  # iterations of the two models that chapter 7 looks at
# objective and folder; seed 0
KEPT = {"paper": "paper", "path+linear+infinitesimal": "moving"}
NETWORK = MLPConfig(width=80)
RECIPE = TrainConfig(
    images=384_000,
    batch=128,
    times=3,
    lr=1e-3,
    decay=0.5,
    checkpoint=10**9,
    perceptual="none",
    ema_halflife=25_000,
    precision="fp32",
)


class Row(NamedTuple):
    """One model to train: what the loss asks, what the model may do, and a seed."""

    objective: str
    path: float = 0.0
    linear: float = 0.0
    infinitesimal: float = 0.0
    follow: bool = True
    koopman: bool = True
    encoder_time: str = "sigma"
    clock: str = "rho"
    dimension: int = 64
    iterations: int = 3000
    seed: int = 0


def grid() -> list[Row]:
    """All rows, the most important first."""
    three = range(3)
    paper = Row("paper")
    path = Row("path", path=1.0)
    linear = path._replace(objective="path+linear", linear=0.1)
    both = path._replace(
        objective="path+linear, both give way", linear=0.1, follow=False
    )
    full = linear._replace(objective="path+linear+infinitesimal", infinitesimal=0.001)
    still = [
        row._replace(koopman=False)
        for row in (paper, paper._replace(encoder_time="none"))
    ]
    return [
        paper._replace(objective="untrained", iterations=0),
        *(row._replace(seed=s) for s in three for row in (paper, path, linear, full)),
        *(row._replace(iterations=LONG) for row in (paper, full)),
        *(
            row._replace(seed=s)
            for row in (*still, paper._replace(encoder_time="none"))
            for s in three
        ),
        paper._replace(objective="linear", linear=0.1),
        paper._replace(objective="infinitesimal", infinitesimal=0.001),
        path._replace(koopman=False),
        *(both._replace(seed=s) for s in three),
        *(row._replace(linear=w) for w in (0.01, 1.0) for row in (linear, both)),
        *(row._replace(iterations=LONG) for row in (both, path)),
        *(row._replace(dimension=d) for d in (16, 256, 4) for row in (full, paper)),
        full._replace(encoder_time="none"),
        linear._replace(clock="edm"),
        *(linear._replace(linear=w) for w in (0.03, 0.3)),
        *(
            row._replace(iterations=LONG, seed=s)
            for s in (1, 2)
            for row in (paper, full)
        ),
    ]


def paths(n: int, seed: int, points: int = POINTS, steps: int = STEPS) -> Path:
    """n paths of the exact denoiser of `points` points, (steps/2 + 1, n, 2): every
    second point of each.
    """
    denoiser = exact_denoiser(checkerboard(points, torch.Generator().manual_seed(0)))
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).double()
    parts = [
        heun(denoiser, SIGMA_MAX * part, karras_sigmas(steps))
        for part in noise.split(250)
    ]
    return Path(
        parts[0].sigmas[::2],
        torch.cat([part.x[::2].float() for part in parts], 1),
        parts[0].nfe,
    )


def cached(n: int, seed: int) -> Path:
    """`paths`, kept in runs/."""
    file = CACHE / f"paths-{n}-{seed}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tuple(paths(n, seed)), file)
    return Path(*torch.load(file, weights_only=True))


@torch.no_grad()
def measure(model: HKD, held_out: Path) -> dict:
    """What the chapter's tables show, on held-out paths; see `results.json`'s
    "columns".
    """
    x = held_out.x
    clock = model.clock
    times = clock.time(held_out.sigmas[:-1]).float()
    t = times.tolist()
    T = clock.T
    eps = clock.eps
    share = lambda a, b: (
        (a - b).square().mean() / x[-1].var(0, correction=0).mean()
    ).item()
    picture = lambda states, s, u: model.decode(model.evolve(states, s, u))
    states = [model.encode(point, time) for point, time in zip(x, t)]
    wish = [
        unit_contrast(point, sigma[None])
        for point, sigma in zip(x, held_out.sigmas[:-1])
    ]
    common = [drift(model, states[0], T, u) for u in [*t, eps]]
    residual = metrics.residual_by_time(model, x[:-1], times)[:, 0]
    still = metrics.residual_by_time(Still(model), x[:-1], times)[:, 0]
    centred = torch.tensor(
        [spread(model.evolve(states[0], T, u)[0], z[0]) for z, u in zip(states, t)]
    )
    mean = lambda values: sum(values) / len(values)
    few = [[z[0][:400]] for z in states]
    any_two = [
        share(picture(z, s, u), y[:400])
        for z, s in zip(few, t)
        for y, u in zip(wish, t)
    ]
    any_two_idle = [share(model.decode(z), y[:400]) for z in few for y in wish]
    return {
        "end": share(picture(states[0], T, eps), x[-1]),
        "end_mid": mean([share(picture(z, s, eps), x[-1]) for z, s in zip(states, t)]),
        "end_idle": share(model.decode(states[0]), x[-1]),
        "end_clock": share(model.decode(common[-1]), x[-1]),
        "from_noise": mean(
            [share(picture(states[0], T, u), y) for y, u in zip(wish, t)]
        ),
        "from_noise_idle": mean([share(model.decode(states[0]), y) for y in wish]),
        "from_noise_clock": mean(
            [share(model.decode(z), y) for z, y in zip(common, wish)]
        ),
        "pairs": mean(any_two),
        "pairs_idle": mean(any_two_idle),
        "residual": (residual.sum() / (len(t) - 1)).item(),
        "centred": (centred.sum() / (len(t) - 1)).item(),
        "residual_idle": (still.sum() / (len(t) - 1)).item(),
        "centred_idle": sum(spread(states[0][0], z[0]) for z in states) / (len(t) - 1),
        "centred_clock": sum(
            spread(states[0][0] + (z[0] - states[0][0]).mean(0), z[0]) for z in states
        )
        / (len(t) - 1),
        "residual_by_time": residual.tolist(),
        "residual_idle_by_time": still.tolist(),
        "centred_by_time": centred.tolist(),
        "size": states[0][0].flatten(1).norm(dim=1).mean().item(),
        "rate": float(model.generators[0].eigenvalues().abs().max() * (T - eps)),
    }


def drift(model: HKD, start: list[Tensor], T: float, u: float) -> list[Tensor]:
    """The states at T with the evolution to u replaced by its mean over the batch: one
    shift for all, a bare clock.
    """
    return [
        z + (moved - z).mean(0) for z, moved in zip(start, model.evolve(start, T, u))
    ]


def spread(guess: Tensor, z: Tensor) -> float:
    """Mean |guess - z|^2 over the variance of z: 1 for a guess no better than the mean
    state.
    """
    guess = guess.double().flatten(1)
    z = z.double().flatten(1)
    return float((guess - z).square().sum(1).mean() / z.var(0, correction=0).sum())


class Still(NamedTuple):
    """A model with A = 0, for the residual to be compared with."""

    model: HKD

    def encode(self, *where):
        return self.model.encode(*where)

    def evolve(self, states, t, s):
        return states


def trained(row: Row, data: Path) -> HKD:
    """The model of a row: from runs/ if it is there, else from scratch."""
    torch.manual_seed(row.seed)
    network = replace(NETWORK, state=row.dimension)
    model = HKD(
        HKDConfig(network, row.clock, row.encoder_time, koopman=row.koopman)
    ).eval()
    file = CACHE / (
        "-".join(str(value).replace(", ", "_") for value in row) + ".safetensors"
    )
    if file.exists():
        model.load_state_dict(read_tensors(file)[0])
    elif row.iterations:
        asked = {
            name: getattr(row, name)
            for name in ("path", "linear", "infinitesimal", "follow", "seed")
        }
        for _ in train(
            model,
            PathsInMemory(data),
            replace(RECIPE, images=row.iterations * RECIPE.batch, **asked),
        ):
            pass
        write_tensors(file, model.state_dict())
    return model


def rounded(value):
    """Four significant digits are more than a repetition agrees on."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "objective", nargs="?", default="", help="only rows whose objective starts so"
    )
    parser.add_argument(
        "--keep", type=pathlib.Path, help="save the long runs' models below this folder"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = cached(PATHS, seed=1)
    held_out = cached(HELD_OUT, seed=2)
    about = {
        "command": "python benchmarks/checkerboard.py",
        "device": f"{platform.machine()} CPU, 1 thread, torch {torch.__version__}",
        "teacher": f"exact denoiser of {POINTS} points, {STEPS} Heun steps, "
        f"{PATHS} paths, {HELD_OUT} held out",
        "recipe": asdict(RECIPE),
        "network": asdict(NETWORK),
    }
    if options.keep:
        tensors = {"x": held_out.x, "sigmas": held_out.sigmas}
        write_tensors(
            options.keep / "held-out.safetensors", tensors, {"nfe": str(held_out.nfe)}
        )
    for row in grid():
        rows = (
            json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
            if RESULTS.exists()
            else []
        )
        done = any(all(old[k] == v for k, v in row._asdict().items()) for old in rows)
        if not row.objective.startswith(options.objective) or done and not options.keep:
            continue
        model = trained(row, data)
        if (
            options.keep
            and row.iterations == LONG
            and row.seed == 0
            and row.objective in KEPT
        ):
            model.save_pretrained(options.keep / KEPT[row.objective])
        if not done:
            found = {k: rounded(v) for k, v in measure(model, held_out).items()}
            line = {**row._asdict(), **found, "date": str(datetime.date.today())}
            content = json.dumps({**about, "rows": [*rows, line]}, indent=1)
            write_atomic(RESULTS, (content + "\n").encode())
            print(
                row.objective,
                *(
                    f"{k} {found[k]}"
                    for k in ("end", "end_idle", "pairs", "residual", "centred")
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
