"""What each part of HKD is worth, and whether it is Koopman: many small models on the
same paths.

    python benchmarks/ablations.py         # each row that is missing: two hours
    python benchmarks/ablations.py "path"  # rows whose objective starts so

All rows distil the bundled `teacher-cifar10-tiny` (0.8 million parameters) with the
preset's recipe: the same 4,608 paths, the same initial weights and, at one seed, the
same batches; as many path visits, but for the rows that say how many. The rows of the
paper's table have three seeds. All are measured on 256 other paths, by
`hkd_mini.hkd.probe`, and on 5,000 samples. Errors are mean squares on [-1, 1]; "idle"
is the same with A set to 0 at inference; the residual is `koopman_residual`, the mean
over a resolution's operators. Paths stay in runs/ablations, and a run that is stopped
goes on. One thread.
"""

from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from common import RUNS, device, fill, parser, rounded, stored, teacher_paths

import hkd_mini
from hkd_mini.app import evaluation
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.config import PRESETS
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.hkd.probe import probe
from hkd_mini.hkd.recipes import RECIPES
from hkd_mini.hkd.spectra import by_level

RESULTS = data_folder() / "ablations" / "results.json"
CACHE = RUNS / "ablations"
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


def measure(model: HKD, held_out: Trajectories) -> dict:
    """What the chapters' tables show, on held-out paths and in samples; see the
    module's preface.
    """
    found = probe(model, held_out)
    moving = found.with_A
    idle = found.without_A
    levels = by_level(model).values()
    by_resolution = lambda values: [values[i].mean().item() for i in levels]
    samples = evaluation.draw(model, SAMPLES, seed=0)
    return {
        "frechet": evaluation.evaluate(samples)["frechet"],
        "end": moving.error_at_the_end.item(),
        "end_mid": moving.error_at_the_end_from.mean().item(),
        "end_idle": idle.error_at_the_end.item(),
        "mid": moving.error_on_the_way.mean().item(),
        "mid_worst": moving.error_on_the_way.max().item(),
        "mid_idle": idle.error_on_the_way.mean().item(),
        "residual": by_resolution(moving.mean_residual),
        "residual_most": moving.mean_residual.max().item(),
        "residual_idle": by_resolution(idle.mean_residual),
        "rate": found.largest_rates.max().item(),
    }


def trained(row: Row, paths: Trajectories) -> HKD:
    """The model of a row, distilled from the bundled small teacher."""
    torch.compiler.reset()  # a process compiles the same code for eight models at most
    torch.manual_seed(row.seed)
    config = replace(PRESETS[PRESET], **{name: getattr(row, name) for name in MODEL})
    model = HKD.from_teacher(hkd_mini.load(TEACHER), config)
    recipe = replace(RECIPES[PRESET].distill, images=row.visits, seed=row.seed)
    objective = replace(
        RECIPES[PRESET].objective,
        consistency=row.consistency,
        lr_scale_A=row.rate_A,
        path_weight=row.path,
        linear_weight=row.linear,
        detach_noisier=row.follow,
        later_only=row.onward,
    )
    for _ in train(model, paths, recipe, objective):
        pass
    return model


def teacher_frechet() -> float:
    """What no row can be expected to beat: the teacher's own samples, 35 evaluations
    each.
    """
    samples = evaluation.draw(hkd_mini.load(TEACHER), SAMPLES, seed=0, precision="auto")
    return evaluation.evaluate(samples)["frechet"]


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument(
        "objective", nargs="?", default="", help="only rows whose objective starts so"
    )
    options = ask.parse_args()
    torch.set_num_threads(1)
    paths = teacher_paths(CACHE, TEACHER, PATHS, seed=1, times=TIMES)
    held_out = teacher_paths(CACHE, TEACHER, HELD_OUT, seed=2, times=TIMES)
    known = stored(RESULTS).get("teacher_frechet")
    about = {
        "command": "python benchmarks/ablations.py",
        "device": device(),
        "teacher": f"{TEACHER}, 18 Heun steps, {PATHS} paths of {TIMES} points, "
        f"{HELD_OUT} held out",
        "teacher_frechet": known or rounded(teacher_frechet()),
        "recipe": asdict(RECIPES[PRESET].distill)
        | {"objective": asdict(RECIPES[PRESET].objective)},
    }
    fill(
        RESULTS,
        [r._asdict() for r in grid() if r.objective.startswith(options.objective)],
        lambda row: measure(trained(Row(**row), paths), held_out),
        about,
        show=("frechet", "end", "end_idle", "mid", "residual"),
    )


if __name__ == "__main__":
    main()
