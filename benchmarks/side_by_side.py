"""One-step generation, side by side: every method on one teacher, at one cost in
network evaluations.

    python benchmarks/side_by_side.py          # each row that is missing, the students
    python benchmarks/side_by_side.py HKD      # rows of methods whose names start so
    python benchmarks/side_by_side.py --sweep  # other costs; a network half as wide
    python benchmarks/side_by_side.py --steady # how evenly four of them train

On the checkerboard of chapter 7. A teacher of 132 thousand parameters is trained once;
every student starts from its weights (KDM, whose networks are others, from scratch) and
may spend 4 million evaluations of a network for one point: a forward pass counts 1, a
gradient 2 more, and a teacher's path 35. So a method that asks much of each sample sees
fewer of them. Batch, learning rate and average are the same for all and nobody was
tuned: one try each, three seeds. "sw" is the sliced Wasserstein distance of 10,000
samples to fresh data, in units of the data's deviation, "floor" that of two sets of
data; "end" the relative error to the ends of 2,000 held-out teacher paths, which
methods that learn the data and not the paths need not hit; "spike" the largest loss of
the run's second half over the median of the 101 around it. The teacher and the students
of seed 0 are kept beside the table, in half precision, with the ends of the first 1,000
noises. "steady" asks of each run's second half how far the gradient's norms, before
they are clipped, spread: the deviation of their logarithms, and the largest over the
median. Two processes of one thread.
"""

import statistics
from dataclasses import replace

import numpy as np
import torch
from common import (
    HKDS,
    PATH_COST,
    RUNS,
    add,
    device,
    in_two_processes,
    in_words,
    lacks,
    parser,
    rounded,
    spike,
    today,
)

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import Path, ddpm, euler, heun
from hkd_mini.diffusion.schedule import SIGMA_MAX, karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser, train_teacher
from hkd_mini.engine.config import Step, TrainConfig
from hkd_mini.engine.files import read_tensors, write_tensors
from hkd_mini.engine.points import checkerboard
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.hkd.paths import PathsInMemory
from hkd_mini.hkd.recipes import RECIPES
from hkd_mini.judge import metrics
from hkd_mini.onestep.methods import METHODS, distil
from hkd_mini.onestep.students import Matched

RESULTS = data_folder() / "side-by-side" / "toy2d.json"
# seed 0, one file: "method/weight", and "method/ends" of 1,000 noises
STUDENTS = RESULTS.with_suffix(".safetensors")
STEADY = RESULTS.with_name("steady.json")
CACHE = RUNS / "side-by-side"
WIDTH = 80
NARROW = 40
BUDGET = 4_000_000
PATHS = 20_000
SAMPLES = 10_000
SHOWN = 1_000
RECIPE = TrainConfig(
    batch=128,
    lr=1e-3,
    warmup=0,
    decay=0.5,
    ema_halflife=25_000,
    checkpoint=10**9,
)
TIMES = 3
SEEDS = 3
ASKED_TO_BE_STEADY = ("HKD", "HKD, A = 0", "CD", "ECM")
STEPS = {"DDPM 1000": 1000, "DDIM 10": 10, "DDIM 100": 100, "EDM 35": 18}
# KDM's networks are halves, as networks for points go
COSTS = {name: method.cost for name, method in METHODS.items()} | {"KDM": 12 / 2}
PAIRED = {name for name, method in METHODS.items() if method.data == "pairs"} | set(
    HKDS
)


def board(n: int, seed: int) -> torch.Tensor:
    """n fresh points of the data."""
    return checkerboard(n, torch.Generator().manual_seed(seed))


def noise(n: int, seed: int) -> torch.Tensor:
    """n unit noises."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def teacher(width: int = WIDTH) -> Denoiser:
    """The network that all start from, trained once and kept."""
    folder = CACHE / f"teacher-{width}"
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        model = Denoiser(MLPConfig(width=width))
        for _ in train_teacher(model, board(100_000, 0), RECIPES["toy2d"].teacher):
            pass
        model.save_pretrained(folder)
    return Denoiser.from_folder(folder)


def paths(model: Denoiser, n: int, seed: int) -> Path:
    """n paths of the teacher, by Heun's method on 18 levels."""
    return heun(model, SIGMA_MAX * noise(n, seed), karras_sigmas(18).float())


def images(name: str, budget: int) -> int:
    """How many training samples a method's budget buys."""
    left = budget - (PATHS * PATH_COST if name in PAIRED else 0)
    return int(left / cost(name))


def cost(name: str) -> float:
    """What one training sample costs, in evaluations of the teacher's network."""
    return HKDS[name][2] * TIMES if name in HKDS else COSTS[name]


def untrained(name: str, source: Denoiser) -> torch.nn.Module:
    """A method's student before training."""
    if name in HKDS:
        return HKD.from_teacher(source, HKDConfig(source.config, **HKDS[name][0]))
    return METHODS[name].student(source)


def trained(
    name: str, seed: int, budget: int, width: int
) -> tuple[torch.nn.Module, list[Step]]:
    """A method's student and the steps of its training."""
    torch.manual_seed(seed)
    source = teacher(width)
    config = replace(RECIPE, images=images(name, budget), seed=seed)
    pairs = PathsInMemory(paths(source, PATHS, 1)) if name in PAIRED else None
    student = untrained(name, source)
    if name in HKDS:
        asked = Objective(times=TIMES, perceptual="none", **HKDS[name][1])
        run = train(student, pairs, config, asked)
    else:
        run = distil(
            student, name, board(100_000, 0) if pairs is None else pairs, config, source
        )
    return student, list(run)


@torch.no_grad()
def made(
    name: str, model: torch.nn.Module, start: torch.Tensor, seed: int = 0
) -> torch.Tensor:
    """Points from unit noise, by the student or by a many-step reference."""
    if name in STEPS:
        x = SIGMA_MAX * start
        levels = karras_sigmas(STEPS[name]).float()
        if name.startswith("DDPM"):
            return ddpm(
                model, x, levels, generator=torch.Generator().manual_seed(seed)
            ).x[-1]
        return (heun if name.startswith("EDM") else euler)(model, x, levels).x[-1]
    return model.sample(start)


def row(
    name: str, seed: int, budget: int = BUDGET, width: int = WIDTH
) -> tuple[dict, dict[str, torch.Tensor]]:
    """One method at one seed, trained and measured; where the first noises end; and the
    student's weights.
    """
    torch.set_num_threads(1)
    model, run = (
        (teacher(width), []) if name in STEPS else trained(name, seed, budget, width)
    )
    truth = paths(teacher(width), 2_000, 9)
    data = board(SAMPLES, 100 + seed)
    deviation = board(100_000, 0).std(0).mean()
    points = made(name, model, noise(SAMPLES, 10 + seed), seed)
    end = made(name, model, truth.x[0] / SIGMA_MAX, seed)
    directions = torch.Generator().manual_seed(0)
    network = model.generator if isinstance(model, Matched) else model
    found = {
        "method": name,
        "seed": seed,
        "budget": budget,
        "width": width,
        "sw": metrics.sliced_wasserstein(
            points / deviation, data / deviation, generator=directions
        ),
        "end": float((end - truth.x[-1]).square().mean() / truth.x[-1].square().mean()),
        "spike": spike([step.loss for step in run]),
        "evaluations": {
            "DDPM 1000": 1000,
            "DDIM 10": 10,
            "DDIM 100": 100,
            "EDM 35": 35,
        }.get(name, 1),
        "trained_on": images(name, budget) if run else 0,
        "cost": cost(name) if run else None,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    weights = (
        {}
        if name in STEPS
        else {k: v.detach().half() for k, v in network.named_parameters()}
    )
    return found, {"ends": points[:SHOWN].half(), **weights}


def steadiness(name: str, seed: int) -> dict:
    """How evenly a method trains: of the second half of a run."""
    torch.set_num_threads(1)
    run = trained(name, seed, BUDGET, WIDTH)[1]
    norms = np.array([step.grad_norm for step in run[len(run) // 2 :]])
    return {
        "method": name,
        "seed": seed,
        "spike": spike([step.loss for step in run]),
        "gradient_spread": float(np.log(norms).std()),
        "gradient_largest": float(norms.max() / np.median(norms)),
        "steps": len(run),
    }


def wanted(sweep: bool) -> list[tuple]:
    """Arguments of `row`, the references first."""
    students = (*HKDS, *METHODS)
    if sweep:
        cheap = [(n, 0, BUDGET // part, WIDTH) for n in students for part in (2, 4)]
        return cheap + [(n, 0, BUDGET, NARROW) for n in ("EDM 35", *students)]
    return [
        (name, seed, BUDGET, WIDTH)
        for seed in range(SEEDS)
        for name in (*STEPS, *students)
    ]


def floors() -> list[float]:
    """The distance of two sets of data, for each seed: what no method can beat."""
    scale = board(100_000, 0).std(0).mean()
    return [
        metrics.sliced_wasserstein(
            board(SAMPLES, 100 + s) / scale,
            board(SAMPLES, 200 + s) / scale,
            generator=torch.Generator().manual_seed(0),
        )
        for s in range(SEEDS)
    ]


def steady() -> None:
    """Measure what the table of steadiness lacks."""
    teacher()
    about = {
        "command": "python benchmarks/side_by_side.py --steady",
        "device": device("two processes"),
        "budget": BUDGET,
    }
    jobs = [(name, s) for s in range(SEEDS) for name in ASKED_TO_BE_STEADY]
    jobs = [j for j in jobs if lacks(STEADY, {"method": j[0], "seed": j[1]})]
    order = lambda r: (ASKED_TO_BE_STEADY.index(r["method"]), r["seed"])
    for line in in_two_processes(steadiness, jobs):
        add(STEADY, about, {**line, "date": today()}, order)
        print(rounded(line), flush=True)


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument(
        "method", nargs="?", default="", help="only methods whose names start so"
    )
    ask.add_argument(
        "--sweep",
        action="store_true",
        help="lower costs and a narrower network, seed 0",
    )
    ask.add_argument("--steady", action="store_true", help="how evenly four train")
    options = ask.parse_args()
    torch.set_num_threads(1)
    if options.steady:
        return steady()
    for width in (WIDTH, NARROW) if options.sweep else (WIDTH,):
        teacher(width)
    kept = {f"teacher/{k}": v.detach().half() for k, v in teacher().named_parameters()}
    kept["noise"] = noise(SHOWN, 10).half()
    kept |= read_tensors(STUDENTS)[0] if STUDENTS.is_file() else {}
    names = [*STEPS, *HKDS, *METHODS]
    key = lambda r: (r["budget"], r["width"], r["seed"], names.index(r["method"]))
    words = ("method", "seed", "budget", "width")
    jobs = [
        job
        for job in wanted(options.sweep)
        if job[0].startswith(options.method) and lacks(RESULTS, dict(zip(words, job)))
    ]
    floor = floors()
    about = {
        "what": in_words(__doc__),
        "command": "python benchmarks/side_by_side.py",
        "device": device("two processes"),
        "date": today(),
        "budget": BUDGET,
        "width": WIDTH,
        "floor": rounded(floor),
    }
    print(f"floor {statistics.mean(floor):.4f}")
    for line, weights in in_two_processes(row, jobs):
        add(RESULTS, about, line, order=key)
        if (line["seed"], line["budget"], line["width"]) == (0, BUDGET, WIDTH):
            kept |= {f"{line['method']}/{k}": v for k, v in weights.items()}
            write_tensors(STUDENTS, kept)
        print(" ".join(f"{k} {v}" for k, v in rounded(line).items()), flush=True)


if __name__ == "__main__":
    main()
