"""What each part of HKD is worth, and whether it is Koopman: many small models on the
same paths.

    python benchmarks/ablations.py         # each row that is missing: two hours
    python benchmarks/ablations.py "path"  # rows whose objective starts so

All rows distil the bundled `teacher-cifar10-tiny` (0.8 million parameters) with the
preset's recipe: the same 4,608 paths, the same initial weights and, at one seed, the
same batches; as many path visits, but for the rows that say how many. The rows of the
paper's table have three seeds. All are measured on 256 other paths and on 5,000
samples. Errors are mean squares on [-1, 1]; "idle" is the same with A set to 0 at
inference; the residual is that of `metrics.koopman_residual`, the mean over a
resolution's operators. Paths stay in runs/ablations, and a run that is stopped goes on.
One thread.
"""

import argparse
import datetime
import json
import pathlib
import platform
from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from checkerboard import Still, rounded

import hkd_mini
from hkd_mini import evaluation, metrics
from hkd_mini.losses import Distance, unit_contrast
from hkd_mini.model import HKD, PRESETS
from hkd_mini.schedule import SIGMA_MIN
from hkd_mini.spectrum import by_level
from hkd_mini.train import RECIPES, train
from hkd_mini.trajectories import Trajectories, make
from hkd_mini.weights import data_folder, write_atomic

RESULTS = data_folder() / "ablations" / "results.json"
CACHE = pathlib.Path("runs") / "ablations"
TEACHER = "teacher-cifar10-tiny"
PRESET = "cifar10-tiny"
PATHS = 4608
HELD_OUT = 256
TIMES = 10
SAMPLES = 5000


class Row(NamedTuple):
    """One model to train: what it may do, what the loss asks, and a seed. `visits`
    counts paths seen.
    """

    objective: str
    koopman: bool = True
    consistency: bool = True
    hierarchy: str = "full"
    encoder_time: str = "sigma"
    clock: str = "rho"
    spatial: str = "local"
    rate_A: float = 1.0
    path: float = 0.0
    linear: float = 0.0
    follow: bool = True
    onward: bool = False
    visits: int = RECIPES[PRESET].distill.images
    seed: int = 0


MODEL = ("koopman", "hierarchy", "encoder_time", "clock", "spatial")
LOSS = ("consistency", "rate_A", "path", "linear", "follow", "onward", "seed")


def grid() -> list[Row]:
    """All rows, the most important first."""
    full = Row("paper")
    table = [  # the paper's table 3, and the control that it lacks
        full,
        full._replace(objective="consistency, A = 0", koopman=False),
        full._replace(objective="one step", koopman=False, consistency=False),
        full._replace(objective="one step, A", consistency=False),
        full._replace(objective="paper, bottleneck", hierarchy="bottleneck"),
        full._replace(objective="paper, bottleneck only", hierarchy="bottleneck-only"),
    ]
    asked = {
        "path": 10.0,
        "rate_A": 10.0,
        "clock": "log",
        "follow": False,
        "onward": True,
    }
    moving = full._replace(objective="path+linear", linear=1.0, **asked)
    further = [
        moving,
        full._replace(objective="paper, told no time", encoder_time="none"),
        full._replace(
            objective="consistency, A = 0, told no time",
            encoder_time="none",
            koopman=False,
        ),
        moving._replace(objective="path", linear=0.0),
        moving._replace(objective="path+linear, rho clock", clock="rho"),
        moving._replace(objective="path+linear, shared A", spatial="shared"),
        moving._replace(objective="path+linear, told no time", encoder_time="none"),
        moving._replace(linear=0.3),
        moving._replace(linear=3.0),
        full._replace(objective="paper, shared A", spatial="shared"),
        full._replace(objective="paper, log clock", clock="log"),
        full._replace(objective="paper, edm clock", clock="edm"),
        moving._replace(objective="path+linear, any two times", onward=False),
        full._replace(objective="linear", linear=1.0, **{**asked, "path": 0.0}),
    ]
    # one is bundled
    longer = [
        row._replace(visits=60_000)
        for row in (moving, moving._replace(linear=4.0), full)
    ]
    seeds = [row._replace(seed=s) for s in (1, 2) for row in (*table, moving)]
    return [*table, *further[:4], *seeds, *further[4:], *longer]


def stored(n: int, seed: int) -> Trajectories:
    """n paths of the bundled small teacher, TIMES points each, kept in runs/."""
    folder = CACHE / f"paths-{n}-{seed}"
    teacher = hkd_mini.load(TEACHER)
    for _ in make(
        teacher,
        teacher.config.shape,
        n,
        folder,
        times=TIMES,
        seed=seed,
        resume=True,
        precision="auto",
    ):
        pass
    return Trajectories(folder)


@torch.no_grad()
def measure(model: HKD, held_out: Trajectories) -> dict:
    """What the chapters' tables show, on held-out paths and in samples; see the
    module's preface.
    """
    x = held_out.paths(range(len(held_out)))
    clock = model.clock
    times = clock.time(held_out.sigmas[:-1].clamp(min=SIGMA_MIN)).float()
    t = times.tolist()
    T = clock.T
    eps = clock.eps
    error = lambda a, b: (a - b).square().mean().item()
    states = [model.encode(point, time) for point, time in zip(x, t)]
    wish = [
        unit_contrast(point, sigma[None].float())
        for point, sigma in zip(x, held_out.sigmas[:-1])
    ]
    picture = lambda z, s, u: model.decode(model.evolve(z, s, u))
    mean = lambda values: sum(values) / len(values)
    residual = metrics.koopman_residual(model, x[:-1], times)
    still = metrics.koopman_residual(Still(model), x[:-1], times)
    levels = by_level(model).values()
    samples = evaluation.draw(model, SAMPLES, seed=0)
    return {
        "frechet": evaluation.evaluate(samples)["frechet"],
        "end": error(picture(states[0], T, eps), x[-1]),
        "end_mid": mean([error(picture(z, s, eps), x[-1]) for z, s in zip(states, t)]),
        "end_idle": error(model.decode(states[0]), x[-1]),
        "mid": mean([error(picture(states[0], T, u), y) for y, u in zip(wish, t)]),
        "mid_worst": max(error(picture(states[0], T, u), y) for y, u in zip(wish, t)),
        "mid_idle": mean([error(model.decode(states[0]), y) for y in wish]),
        "residual": [residual[i].mean().item() for i in levels],
        "residual_most": residual.max().item(),
        "residual_idle": [still[i].mean().item() for i in levels],
        "rate": max(float(g.eigenvalues().abs().max()) for g in model.generators)
        * (T - eps),
    }


def trained(row: Row, paths: Trajectories) -> HKD:
    """The model of a row, distilled from the bundled small teacher."""
    torch.compiler.reset()  # a process compiles the same code for eight models at most
    torch.manual_seed(row.seed)
    config = replace(PRESETS[PRESET], **{name: getattr(row, name) for name in MODEL})
    model = HKD.from_teacher(hkd_mini.load(TEACHER), config)
    recipe = replace(
        RECIPES[PRESET].distill,
        images=row.visits,
        **{name: getattr(row, name) for name in LOSS},
    )
    for _ in train(model, paths, recipe, Distance.of(recipe.perceptual)):
        pass
    plain = HKD(config).eval()  # not compiled: measured at batch sizes of other kinds
    plain.load_state_dict(model.state_dict())
    return plain


def teacher_frechet() -> float:
    """What no row can be expected to beat: the teacher's own samples, 35 evaluations
    each.
    """
    samples = evaluation.draw(hkd_mini.load(TEACHER), SAMPLES, seed=0, precision="auto")
    return evaluation.evaluate(samples)["frechet"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "objective", nargs="?", default="", help="only rows whose objective starts so"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = stored(PATHS, seed=1)
    held_out = stored(HELD_OUT, seed=2)
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    about = {
        "command": "python benchmarks/ablations.py",
        "device": f"{platform.machine()} CPU, 1 thread, torch {torch.__version__}",
        "teacher": f"{TEACHER}, 18 Heun steps, {PATHS} paths of {TIMES} points, "
        f"{HELD_OUT} held out",
        "teacher_frechet": old.get("teacher_frechet") or rounded(teacher_frechet()),
        "recipe": asdict(RECIPES[PRESET].distill),
    }
    write_atomic(
        RESULTS,
        (json.dumps({**about, "rows": old.get("rows", [])}, indent=1) + "\n").encode(),
    )
    for row in grid():
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
        done = any(all(old[k] == v for k, v in row._asdict().items()) for old in rows)
        if done or not row.objective.startswith(options.objective):
            continue
        found = {
            k: rounded(v) for k, v in measure(trained(row, paths), held_out).items()
        }
        line = {**row._asdict(), **found, "date": str(datetime.date.today())}
        write_atomic(
            RESULTS,
            (json.dumps({**about, "rows": [*rows, line]}, indent=1) + "\n").encode(),
        )
        print(
            row.objective,
            row.seed,
            *(
                f"{k} {found[k]}"
                for k in ("frechet", "end", "end_idle", "mid", "residual")
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
