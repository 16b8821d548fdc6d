"""What each part of HKD is worth on pictures, what is asked of the states, and what A
does for it: many small models on the same paths.

    python benchmarks/ablations.py           # each row that is missing: 90 minutes
    python benchmarks/ablations.py rates     # one table: longer, asked, rates, parts

All rows distil the bundled `teacher-cifar10-tiny` (0.8 million parameters) with the
preset's recipe: the same 4,608 paths, the same initial weights of what the teacher has
and, at one seed, the same batches; `visits` counts paths seen, more in the table
"longer". All are measured on 256 other paths, by `hkd_mini.hkd.probe`, and on 5,000
samples, but for the table "rates", which asks about A alone. Errors are mean squares on
[-1, 1]; "idle" is the same with A set to 0 at inference; "guesses" are the errors to
the teacher's guesses at every level, from noise; "still" is what the path's end in
place of the guess would score; the residuals are means over times, one number an
operator, "centred" as a share of the states' variance over paths. Paths and models
stay in runs/ablations, and a run that is stopped goes on. Two processes of one thread.

They learn through perceptual-cifar10, and features-cifar10 judges them. The time is
that of a processor with bf16 units.
"""

from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from common import (
    ANCHORED,
    GUESS,
    LINEAR,
    READOUT,
    RUNS,
    add,
    device,
    in_two_processes,
    lacks,
    parser,
    rounded,
    stored,
    teacher_paths,
    today,
    weights,
)

import hkd_mini
from hkd_mini.app import evaluation
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.config import PRESETS
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.hkd.probe import probe
from hkd_mini.hkd.recipes import RECIPES

RESULTS = data_folder() / "ablations" / "results.json"
CACHE = RUNS / "ablations"
TEACHER = "teacher-cifar10-tiny"
PRESET = "cifar10-tiny"
OBJECTIVE = RECIPES[PRESET].objective
PATHS = 4608
HELD_OUT = 256
TIMES = 10
SAMPLES = 5000
SEEDS = range(3)
LONG = 60_000  # path visits of the model that is bundled


class Row(NamedTuple):
    """One model to train: a table and a name in it, the changes to the preset's
    configuration and to its objective, path visits, and a seed.
    """

    table: str
    name: str
    model: dict = {}
    asked: dict = {}
    visits: int = RECIPES[PRESET].distill.images
    seed: int = 0


# terms that make A needed, and what each is asked with
POINTS = {"path_weight": 10.0, "linear_weight": 1.0, "lr_scale_A": 10.0}
POINTS |= {"detach_noisier": False, "later_only": True}
# pairs that grow by up to e^14 towards the picture cannot be asked the other way
UNANCHORED = {**READOUT, "rates": (0.0, 14.0)}
LATER = {"later_only": True}


def grid() -> list[Row]:
    """All rows, table by table, the most important first. "paper" is the first row of
    every table, and trained once.
    """
    paper = Row("asked", "paper")
    best = Row("asked", "guesses, linear, read-out, anchored", ANCHORED, GUESS | LINEAR)
    asked = [
        paper,
        Row("asked", "points", {"clock": "log"}, POINTS),
        Row("asked", "guesses", {}, GUESS),
        Row("asked", "guesses, linear", {}, GUESS | LINEAR),
        Row("asked", "guesses, read-out", UNANCHORED, GUESS | LATER),
        Row("asked", "guesses, linear, read-out", UNANCHORED, GUESS | LINEAR | LATER),
        best,
    ]
    longer = [  # the first is bundled
        row._replace(table="longer", visits=LONG) for row in (best, paper)
    ]
    parts = [  # the paper's table 3, and the control that it lacks
        Row("parts", "A = 0", {"koopman": False}),
        Row("parts", "one step, A = 0", {"koopman": False}, {"consistency": False}),
        Row("parts", "one step", {}, {"consistency": False}),
        Row("parts", "bottleneck", {"hierarchy": "bottleneck"}),
        Row("parts", "bottleneck only", {"hierarchy": "bottleneck-only"}),
    ]
    rates = [
        Row("rates", f"{clock}, {scale:g}", {"clock": clock}, {"lr_scale_A": scale})
        for clock in ("rho", "edm", "log")
        for scale in (1.0, 5.0, 10.0, 20.0)
        if (clock, scale) != ("rho", 1.0)
    ]
    once = (asked, [*rates, *parts])
    seeds = [r._replace(seed=s) for rows in once for s in SEEDS for r in rows]
    return [*longer, *seeds]


def trained(row: Row, paths: Trajectories) -> HKD:
    """The model of a row: from runs/ if it is there, else distilled from the bundled
    small teacher.
    """
    folder = CACHE / "models" / f"{row.table}, {row.name}, {row.seed}"
    if (folder / "config.json").is_file():
        return HKD.from_pretrained(folder)
    torch.compiler.reset()  # a process compiles the same code for eight models at most
    torch.manual_seed(row.seed)
    config = replace(PRESETS[PRESET], **row.model)
    model = HKD.from_teacher(hkd_mini.load(TEACHER), config)
    recipe = replace(RECIPES[PRESET].distill, images=row.visits, seed=row.seed)
    objective = replace(OBJECTIVE, **row.asked)
    for _ in train(model, paths, recipe, objective):
        pass
    model.save_pretrained(folder)
    return model


def measure(model: HKD, held_out: Trajectories) -> dict:
    """What the chapters' tables show, on held-out paths; see the script's preface."""
    found = probe(model, held_out)
    moving = found.with_A
    idle = found.without_A
    return {
        "end": moving.error_at_the_end.item(),
        "end_mid": moving.error_at_the_end_from.mean().item(),
        "end_idle": idle.error_at_the_end.item(),
        "guesses": moving.error_of_guesses.tolist(),
        "guesses_idle": idle.error_of_guesses.tolist(),
        "residual": moving.mean_residual.tolist(),
        "centred": moving.mean_centred_residual.tolist(),
        "centred_idle": idle.mean_centred_residual.tolist(),
        "rate": found.largest_rates.tolist(),
        "size": found.size_of_states.tolist(),
    }


def done(row: Row) -> tuple[Row, dict]:
    """A row and what it measures, for a process of its own."""
    torch.set_num_threads(1)
    paths, held_out = both()
    model = trained(row, paths)
    found = measure(model, held_out)
    if row.table != "rates":  # those are about A, at equal errors
        found["frechet"] = frechet(model)
    return row, found


def frechet(model: HKD | Denoiser) -> float:
    """The Frechet distance of a model's samples."""
    samples = evaluation.draw(model, SAMPLES, seed=0, precision="auto")
    return evaluation.evaluate(samples)["frechet"]


def both() -> tuple[Trajectories, Trajectories]:
    """The paths that all rows learn from, and those that they are measured on."""
    where = CACHE, TEACHER
    return (
        teacher_paths(*where, PATHS, seed=1, times=TIMES),
        teacher_paths(*where, HELD_OUT, seed=2, times=TIMES),
    )


def of_the_teacher(held_out: Trajectories) -> dict:
    """What no row can be expected to beat, the teacher's own samples at 35 evaluations
    each; and the error of a path's end as every guess, which is what standing still
    scores.
    """
    n = len(held_out)
    k = len(held_out.sigmas) - 1
    found = held_out.gather(torch.arange(n), torch.arange(k).expand(n, k))
    still = (found["guess"] - found["end"][:, None]).square().flatten(2).mean((0, 2))
    return {
        "frechet": frechet(hkd_mini.load(TEACHER)),
        "still": still.tolist(),
        "sigmas": held_out.sigmas.tolist(),
    }


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("table", nargs="?", help="only the rows of this table")
    options = ask.parse_args()
    torch.set_num_threads(1)
    held_out = both()[1]
    about = {
        "command": "python benchmarks/ablations.py",
        "device": device(),
        "teacher": f"{TEACHER}, 18 Heun steps, {PATHS} paths of {TIMES} points, "
        f"{HELD_OUT} held out",
        "weights": weights(TEACHER),
        "of_the_teacher": stored(RESULTS).get("of_the_teacher")
        or rounded(of_the_teacher(held_out)),
        "recipe": asdict(RECIPES[PRESET].distill) | {"objective": asdict(OBJECTIVE)},
    }
    wanted = [
        (row,)
        for row in grid()
        if options.table in (None, row.table) and lacks(RESULTS, row._asdict())
    ]
    for row, found in in_two_processes(done, wanted):
        add(RESULTS, about, {**row._asdict(), **found, "date": today()}, order)
        shown = (f"{k} {rounded(found[k])}" for k in ("end", "end_idle"))
        print(row.table, row.name, row.seed, *shown, flush=True)


def order(line: dict) -> int:
    """Rows stand as in `grid`, whenever they were measured."""
    names = [(row.table, row.name, row.seed) for row in grid()]
    return names.index((line["table"], line["name"], line["seed"]))


if __name__ == "__main__":
    main()
