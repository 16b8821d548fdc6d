"""One-step generation, side by side, on CIFAR-10: seven methods, one teacher, at one
cost.

    python benchmarks/side_by_side_cifar.py --data cifar  # rows that are missing
    python benchmarks/side_by_side_cifar.py --data cifar --only CD

The teacher is `teacher-cifar10`, told no class and not guided; every student starts
from its weights (KDM, whose networks are others, from scratch) and may spend what HKD
spends: 4,608 teacher paths of 35 evaluations, and 32,000 of them visited at two times,
a gradient counted as two evaluations more: 353,280 in all. Methods that need no paths
spend it all on pictures. An evaluation is the cost of one pass of the teacher; one of
KDM's networks costs 0.76 of that. Batch, learning rate, decay and average are the same
for all, one try each, one seed; the distance d is the same wherever a method has one;
the weights of HKD-linear's terms are those of chapter 11. "second" is the distance of
5,000 samples to the training pictures in the features of `judge-cifar10`, with
precision and recall, "imagenet" that of the first 2,000 samples to the first 10,000
pictures in those of EfficientNet-Lite0; neither served as d. "end" is the mean square
to the ends of 256 held-out paths, which methods that learn the data need not hit;
"spike" the largest loss of the run's second half over the median of the 101 around it.
The last row is the teacher's own sampler. Beside the results go the first twelve
pictures of each method, of the same noises. Two processes of one thread; paths and
students stay in runs/side-by-side, so that to judge again costs minutes.
"""

import json
from dataclasses import asdict, replace

import torch
from common import (
    HKDS,
    JUDGES,
    PATH_COST,
    RUNS,
    add,
    device,
    in_two_processes,
    in_words,
    judged,
    lacks,
    parser,
    rounded,
    spike,
    teacher_paths,
    today,
    weights,
    write,
)

import hkd_mini
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import SIGMA_MAX
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import Images, to_uint8
from hkd_mini.engine.files import read_tensors, write_tensors
from hkd_mini.engine.precision import choose, computing
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.onestep.methods import METHODS, distil

RESULTS = data_folder() / "side-by-side" / "cifar10-mini.json"
# the first samples of every method, from the same noises
PICTURES = RESULTS.with_suffix(".safetensors")
CACHE = RUNS / "side-by-side"
TEACHER = "teacher-cifar10"
RECIPE = TrainConfig(
    images=32_000, batch=32, lr=5e-4, decay=0.4, ema_halflife=2_000, compile=True
)
OBJECTIVE = Objective(times=2)
PATHS = 4608
HELD_OUT = 256
SAMPLES = 5000
FEW = 2000  # of them, and REAL pictures, for the judge that takes long
REAL = 10_000
SHOWN = 12
BUDGET = PATHS * PATH_COST + 3 * RECIPE.images * OBJECTIVE.times
NAMES = ("KD", "CD", "ECM", "KDM", "HKD, A = 0", "HKD-linear", "HKD")
MANY = "EDM 35"  # the teacher itself
# of HKD-linear: path decoding and linearity, towards the picture
ASKED = {
    "path_weight": 10.0,
    "linear_weight": 1.0,
    "lr_scale_A": 10.0,
    "later_only": True,
}
# floating-point operations of one of its networks, as a share of the teacher's
KDM_PASS = 0.759


def cost(name: str) -> float:
    """What one training sample costs, in passes of the teacher."""
    if name == "KDM":
        return METHODS[name].cost * KDM_PASS
    return HKDS[name][2] * OBJECTIVE.times if name in HKDS else METHODS[name].cost


def needs_paths(name: str) -> bool:
    """Whether a method learns from the teacher's paths rather than from pictures."""
    return name in HKDS or METHODS[name].data == "pairs"


def images(name: str) -> int:
    """How many training samples a method's budget buys."""
    return int((BUDGET - (PATHS * PATH_COST if needs_paths(name) else 0)) / cost(name))


def stored(n: int, seed: int) -> Trajectories:
    """n paths of the bundled teacher, kept in runs/."""
    return teacher_paths(CACHE, TEACHER, n, seed)


def trained(
    name: str, seed: int, pictures: Images
) -> tuple[torch.nn.Module, list[float]]:
    """A method's student and its losses, both kept in runs/."""
    torch.compiler.reset()  # a process compiles the same code for eight models at most
    torch.manual_seed(seed)
    source = hkd_mini.load(TEACHER)
    folder = CACHE / "students" / f"{name}-{seed}"
    config = replace(RECIPE, images=images(name), seed=seed)
    if name in HKDS:
        asked = ASKED if name == "HKD-linear" else {}
        shape = HKDS[name][0] | ({"clock": "log"} if asked else {})
        student = HKD.from_teacher(source, HKDConfig(source.config, **shape))
    else:
        student = METHODS[name].student(source)
    kept = folder / "losses.json"
    if not kept.is_file():
        data = stored(PATHS, 1) if needs_paths(name) else pictures
        if name in HKDS:
            run = train(student, data, config, replace(OBJECTIVE, **asked))
        else:
            run = distil(student, name, data, config, source, OBJECTIVE.perceptual)
        losses = [step.loss for step in run]
        student.save_pretrained(folder)
        write(kept, losses)
    return type(student).from_pretrained(folder), json.loads(kept.read_text())


@torch.no_grad()
def made(model: torch.nn.Module, noise: torch.Tensor) -> torch.Tensor:
    """Pictures of unit noise in one evaluation, of the teacher in 35, in the fastest
    precision here, a batch at a time.
    """
    out = []
    for some in noise.split(250):
        with computing(choose("auto"), "cpu"):
            x = sampled(model, some)
        out.append(x.float().clamp(-1, 1))
    return torch.cat(out)


def sampled(model: torch.nn.Module, noise: torch.Tensor) -> torch.Tensor:
    """One batch of `made`."""
    if hasattr(model, "sample"):
        return model.sample(noise)
    return heun(model, SIGMA_MAX * noise, model.noise.sigmas(18)).x[-1]


def row(name: str, seed: int, data: str) -> tuple[dict, torch.Tensor]:
    """One method, trained, and what needs no judge; and its pictures."""
    torch.set_num_threads(1)
    noise = torch.randn(SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if name == MANY:
        teacher = hkd_mini.load(TEACHER)
        return {"method": name, "seed": seed}, to_uint8(made(teacher, noise))
    model, losses = trained(name, seed, load_cifar10("train", data))
    truth = stored(HELD_OUT, 2).paths(range(HELD_OUT))
    end = made(model, truth[0] / SIGMA_MAX)
    found = {
        "method": name,
        "seed": seed,
        "end": (end - truth[-1]).square().mean().item(),
        "spike": spike(losses),
        "cost": cost(name),
        "trained_on": images(name),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return found, to_uint8(made(model, noise))


def in_the_eyes_of_judges(
    samples: dict[str, torch.Tensor], data: str
) -> dict[str, dict]:
    """What two judges that no training saw say of every method's pictures."""
    real = load_cifar10("train", data).x
    second = judged(JUDGES["second"], real, list(samples.values()))
    few = [x[:FEW] for x in samples.values()]
    imagenet = judged(JUDGES["imagenet"], real[:REAL], few)
    return {
        name: {
            "second": one["frechet"],
            "precision": one["precision"],
            "recall": one["recall"],
            "imagenet": other["frechet"],
        }
        for name, one, other in zip(samples, second, imagenet, strict=True)
    }


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("--data", required=True, help="folder with CIFAR-10")
    ask.add_argument("--only", default="", help="only methods whose names start so")
    options = ask.parse_args()
    torch.set_num_threads(1)
    stored(PATHS, 1)
    stored(HELD_OUT, 2)
    order = [*NAMES, MANY]
    jobs = [
        (name, 0, options.data)
        for name in order
        if name.startswith(options.only) and lacks(RESULTS, {"method": name})
    ]
    if not jobs:
        return
    shown = read_tensors(PICTURES)[0] if PICTURES.is_file() else {}
    about = {
        "what": in_words(__doc__),
        "command": "python benchmarks/side_by_side_cifar.py --data cifar",
        "device": device("two processes"),
        "date": today(),
        "budget": BUDGET,
        "weights": weights(TEACHER),
        "recipe": asdict(RECIPE) | {"objective": asdict(OBJECTIVE)},
    }
    found = {}
    samples = {}
    for line, pictures in in_two_processes(row, jobs):
        print(" ".join(f"{k} {v}" for k, v in rounded(line).items()), flush=True)
        found[line["method"]] = line
        samples[line["method"]] = pictures
    for name, scores in in_the_eyes_of_judges(samples, options.data).items():
        shown[name] = samples[name][:SHOWN].clone()
        add(
            RESULTS,
            about,
            found[name] | scores,
            order=lambda r: order.index(r["method"]),
        )
    write_tensors(PICTURES, shown)


if __name__ == "__main__":
    main()
