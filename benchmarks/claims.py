"""Measure every claim of quality that the book makes about the bundled models, and
write data/claims.json.

    python benchmarks/claims.py --data cifar            # all of them
    python benchmarks/claims.py --data cifar end speed  # some groups; the others stay
    python benchmarks/claims.py --data cifar --check    # nothing is written: what moved
    python benchmarks/claims.py --data cifar --n 2000 --real 10000 classes
    python benchmarks/claims.py --data cifar --check --n 50 --real 500 judges  # a try

A claim is a number with what it says, the tolerance that a repetition may differ by,
the command that repeats it, seed, device, date and the SHA-256 of the weights it is
about. Chapters read the numbers from there; tests/book/test_claims.py holds them.
"""

import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

import torch
from common import device, parser, stored, today, weights, write

import hkd_mini
from hkd_mini.app import evaluation, machine
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.precision import choose
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.hkd.probe import probe
from hkd_mini.judge import metrics
from hkd_mini.judge.classifier import share_found
from hkd_mini.judge.distance import BUNDLED, JUDGE, SECOND
from hkd_mini.judge.features import in_batches

HERE = pathlib.Path(__file__).resolve().parent
CLAIMS = data_folder() / "claims.json"
SAMPLES = 10_000
FEW = 200
SEED = 0
# who judges, and what `--features` calls it
JUDGES = {"ours": "cifar", "second": SECOND, "imagenet": "imagenet"}
TEACHER = "teacher-cifar10"
HKD = "hkd-cifar10"
TINY = "hkd-cifar10-tiny"  # by guess decoding
CLASSES = "hkd-cifar10-cond"
GUIDED = "teacher-cifar10-cond"  # the teacher that guides itself, and
WEIGHT = 2.5  # by how much where CLASSES learned from it
# of each one's own teacher
PATHS = {HKD: "trajectories-cifar10", TINY: "trajectories-cifar10-tiny"}
ALIKE = ("longer", "paper")  # of the ablations, beside TINY
SCRIPT = "python benchmarks/claims.py --data cifar"


def held_out(name: str, paths: Trajectories | None = None) -> dict[str, float]:
    """On the bundled paths, or others that no model saw: squared error at the end, the
    same with A = 0, the greatest to a guess where paths have them, and extreme mean
    residuals.
    """
    paths = paths or Trajectories(data_folder() / PATHS[name])
    found = probe(hkd_mini.load(name), paths, from_every_time=False)
    guesses = found.with_A.error_of_guesses
    return {
        "end": found.with_A.error_at_the_end.item(),
        "idle": found.without_A.error_at_the_end.item(),
        "guesses": math.nan if guesses is None else guesses.max().item(),
        "least": found.with_A.mean_residual.min().item(),
        "most": found.with_A.mean_residual.max().item(),
        "centred_least": found.with_A.mean_centred_residual.min().item(),
        "centred_most": found.with_A.mean_centred_residual.max().item(),
    }


def evaluated(
    name: str,
    steps: int = 18,
    n: int = SAMPLES,
    pictures: bool = True,
) -> tuple[dict, str]:
    """What `hkd-mini evaluate` says in its last line, and the command; without
    `pictures` no precision and recall.
    """
    further = "" if steps == 18 else f" --steps {steps}"
    command = (
        f"hkd-mini evaluate --weights {name} --n {n} --seed {SEED} --compile{further}"
    )
    print(command, flush=True)
    words = [*command.split()[1:], *(["--data", OPTIONS.data] if pictures else [])]
    run = subprocess.run(
        [sys.executable, "-m", "hkd_mini", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1]), command + " --data cifar" * pictures


def ratio(script: str) -> float:
    """The last line of a benchmark, `ratio R`."""
    run = subprocess.run(
        [sys.executable, HERE / script], capture_output=True, text=True, check=True
    )
    print(run.stdout)
    return float(re.search(r"^ratio ([\d.]+)", run.stdout, re.M).group(1))


def classifier_claims() -> list[dict]:
    images = load_cifar10("test", OPTIONS.data)
    claims = []
    for name, slug, words in (
        (JUDGE, "features", "the feature network"),
        (BUNDLED, "perceptual", "the network in the students' loss"),
        (SECOND, "judge", "the second judge"),
    ):
        value = share_found(hkd_mini.load(name), images.x, images.labels)
        what = f"share of CIFAR-10's test pictures that {words} names right"
        line = what, value, 0.002, f"{SCRIPT} accuracy", name
        claims.append(claim(f"accuracy-{slug}", *line))
    return claims


def quality_claims() -> list[dict]:
    claims = []
    scores = {}
    for name, short, cost in (
        (TEACHER, "teacher", "35 evaluations"),
        (HKD, "hkd", "1 evaluation"),
    ):
        scores[name], command = evaluated(name)
        what = (
            f"Frechet distance of {name}, {cost}, {SAMPLES} samples, bundled features"
        )
        claims.append(
            claim(f"frechet-{short}", what, scores[name]["frechet"], 0.1, command, name)
        )
        for share in ("precision", "recall"):
            value = scores[name][share]
            claims.append(
                claim(
                    f"frechet-{short}-{share}",
                    f"{share} of {name}, {cost}",
                    value,
                    0.01,
                    command,
                    name,
                )
            )
    what = "Frechet distance of one step over that of the teacher's 35 evaluations"
    value = scores[HKD]["frechet"] / scores[TEACHER]["frechet"]
    return [
        *claims,
        claim("frechet-ratio", what, value, 0.02, f"{SCRIPT} frechet", TEACHER, HKD),
    ]


def drawn(name: str, weight: float = 1.0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Samples of a bundled model, guided by `weight`, and the classes that they were
    asked for, if any.
    """
    # compiling takes as long as a few samples
    model = machine.on_device(hkd_mini.load(name), compile=OPTIONS.n > FEW)
    labels = evaluation.drawn_classes(model, OPTIONS.n, SEED)
    model = model if weight == 1 else Guided(model, weight)
    print(f"{OPTIONS.n} samples of {name}", flush=True)
    x = evaluation.draw(model, OPTIONS.n, SEED, labels=labels, precision="auto")
    return x, labels


@torch.no_grad()
def judged(features: str, real: torch.Tensor, fakes: list[torch.Tensor]) -> list[dict]:
    """Frechet distance, precision and recall of several sets of samples, in the eyes of
    one judge, which looks at the real pictures once.
    """
    print(f"in the features of {features}", flush=True)
    extract = evaluation.extractor(features, machine.device())
    look = lambda x: torch.cat(list(in_batches(x, extract)))
    seen = look(real)
    reference = metrics.statistics([seen])
    found = []
    for x in fakes:
        fake = look(x)
        few = (f[: evaluation.MANIFOLD] for f in (seen, fake))
        distance = metrics.frechet_distance(metrics.statistics([fake]), reference)
        found.append({"frechet": distance, **metrics.precision_recall(*few)._asdict()})
    return found


def judges_claims() -> list[dict]:
    """Teacher and student in the eyes of three judges."""
    return by_judges("judges", TEACHER, HKD)


def class_claims() -> list[dict]:
    """The same of the two that are told classes, the teacher guided as where the
    student learned from it.
    """
    with tempfile.TemporaryDirectory() as folder:
        teacher = Guided(hkd_mini.load(GUIDED), WEIGHT)
        how = {"times": 10, "seed": SEED, "labels": 10, "precision": "auto"}
        for _ in make(teacher, teacher.config.shape, 64, folder, **how):
            pass
        found = held_out(CLASSES, Trajectories(folder))
    claims = by_judges("classes", GUIDED, CLASSES, WEIGHT)
    where = "64 held-out paths of its guided teacher"
    share = "Koopman residual, as a share of the states' variance over paths, of the"
    for key, what, tolerance in (
        (
            "end",
            f"mean squared error of {CLASSES}'s one step to the end of {where}",
            2e-4,
        ),
        ("idle", "the same for the states of the noise, left where they are", 0.002),
        ("guesses", "mean squared error to the guess where it is greatest", 2e-4),
        ("centred_least", f"{share} state where it is least, {where}", 0.01),
        ("centred_most", "the same of the state where it is greatest", 0.01),
    ):
        name = f"classes-{key.replace('_', '-')}"
        line = what, found[key], tolerance, f"{SCRIPT} classes", CLASSES
        claims.append(claim(name, *line))
    return claims


def by_judges(group: str, teacher: str, hkd: str, weight: float = 1.0) -> list[dict]:
    """Teacher and student in the eyes of three judges, from the same noises and classes
    for all, and the share of asked classes that the second judge finds, where there are
    classes.
    """
    claims = []
    real = load_cifar10("train", OPTIONS.data).x[: OPTIONS.real]
    command = f"{SCRIPT} --n {OPTIONS.n} --real {len(real)} {group}"
    models = {"teacher": teacher, "hkd": hkd}
    guided = "" if weight == 1 else f" guided by weight {weight:g}"
    words = {"teacher": f"{teacher}{guided}", "hkd": hkd}
    samples = {"teacher": drawn(teacher, weight), "hkd": drawn(hkd)}
    for judge, features in JUDGES.items():
        eyes = f"{OPTIONS.n} samples, {len(real)} pictures, features of {features}"
        found = judged(features, real, [x for x, _ in samples.values()])
        for short, score in zip(models, found, strict=True):
            of = models[short]
            for key, value in score.items():
                part = "" if key == "frechet" else f"-{key}"
                measure = key if part else "Frechet distance"
                what = f"{measure} of {words[short]}, {eyes}"
                # judges measure in units of their own
                tolerance = 0.02 if part else round(0.02 * value + 1e-3, 3)
                line = what, value, tolerance, command, of
                claims.append(claim(f"{group}-{short}-{judge}{part}", *line))
        what = (
            "Frechet distance of one step over that of the teacher's 35 evaluations"
            f"{', twice each' * bool(guided)}, {eyes}"
        )
        value = found[1]["frechet"] / found[0]["frechet"]
        line = what, value, 0.03, command, teacher, hkd
        claims.append(claim(f"{group}-ratio-{judge}", *line))
    for short, (x, labels) in samples.items():
        if labels is not None:
            of = models[short]
            value = share_found(hkd_mini.load(SECOND), x, labels)
            what = (
                f"share of {OPTIONS.n} samples of {words[short]} in which {SECOND} "
                "finds the asked class"
            )
            line = what, value, 0.01, command, of
            claims.append(claim(f"{group}-{short}-class-found", *line))
    return claims


def curve_claims() -> list[dict]:
    claims = []
    for steps in (2, 3, 5, 9):  # at 18 it is frechet-teacher
        score, command = evaluated(TEACHER, steps, pictures=False)
        what = (
            f"Frechet distance of {TEACHER}, {2 * steps - 1} evaluations, {SAMPLES} "
            "samples, bundled features"
        )
        claims.append(
            claim(
                f"frechet-teacher-{2 * steps - 1}",
                what,
                score["frechet"],
                0.2,
                command,
                TEACHER,
            )
        )
    return claims


def end_claims() -> list[dict]:
    found = held_out(HKD)
    command = f"{SCRIPT} end"
    lines = [
        (
            "end-error",
            "mean squared error of one step to the teacher's end, 64 held-out paths",
            "end",
            1e-4,
        ),
        ("end-error-idle", "the same with A set to 0", "idle", 1e-4),
        (
            "end-residual-least",
            "Koopman residual of the state where it is least, held-out paths",
            "least",
            0.01,
        ),
        (
            "end-residual-most",
            "Koopman residual of the state where it is greatest",
            "most",
            0.01,
        ),
    ]
    return [
        claim(name, what, found[key], tolerance, command, HKD)
        for name, what, key, tolerance in lines
    ]


def tiny_claims() -> list[dict]:
    found = held_out(TINY)
    command = f"{SCRIPT} tiny"
    lines = [
        (
            "tiny-end",
            f"mean squared error of {TINY}'s one step to its teacher's end, 64 "
            "held-out paths",
            "end",
            1e-4,
        ),
        ("tiny-end-idle", "the same with states left as encoded", "idle", 1e-3),
        (
            "tiny-guesses-most",
            "mean squared error to the guess at the level where it is greatest",
            "guesses",
            1e-4,
        ),
        (
            "tiny-centred-least",
            "Koopman residual, as a share of the states' variance over paths, of the "
            "state where it is least, held-out paths",
            "centred_least",
            0.01,
        ),
        (
            "tiny-centred-most",
            "the same of the state where it is greatest",
            "centred_most",
            0.01,
        ),
    ]
    claims = [
        claim(name, what, found[key], tolerance, command, TINY)
        for name, what, key, tolerance in lines
    ]
    score, command = evaluated(TINY, n=5000, pictures=False)  # as the ablations
    what = f"Frechet distance of {TINY}, 1 evaluation, 5000 samples, bundled features"
    claims.append(claim("frechet-tiny", what, score["frechet"], 0.1, command, TINY))
    rows = stored(data_folder() / "ablations" / "results.json")["rows"]
    paper = next(row["frechet"] for row in rows if (row["table"], row["name"]) == ALIKE)
    what = (
        "the same over that of the paper's objective with the network decoder, the "
        "same teacher, paths and visits"
    )
    return [
        *claims,
        claim(
            "frechet-tiny-ratio",
            what,
            score["frechet"] / paper,
            0.02,
            f"{SCRIPT} tiny",
            TINY,
        ),
    ]


@torch.no_grad()
def few_claims() -> list[dict]:
    """What tests measure again on every machine: a few samples in float32, whose
    numbers kernels do not change.
    """
    found = evaluation.evaluate(evaluation.draw(hkd_mini.load(HKD), FEW, SEED))
    asked = torch.arange(FEW) % 10
    x = evaluation.draw(hkd_mini.load(CLASSES), FEW, SEED, labels=asked)
    claims = [
        claim(
            "frechet-few",
            f"Frechet distance of {FEW} samples of {HKD}, float32, bundled features: "
            "for tests alone, since so few overstate it",
            found["frechet"],
            0.1,
            f"{SCRIPT} few",
            HKD,
        ),
        claim(
            "cond-few",
            f"share of {FEW} samples of {CLASSES}, float32, in which {SECOND} finds "
            "the asked class: for tests alone",
            share_found(hkd_mini.load(SECOND), x, asked),
            0.01,
            f"{SCRIPT} few",
            CLASSES,
        ),
    ]
    return [line | {"device": device("fp32")} for line in claims]


def beside_claims() -> list[dict]:
    """The comparisons of chapter 17, a line for each method, from their own files."""
    claims = []
    slug = lambda name: re.sub(
        r"[^a-z0-9]+", "-", name.lower().replace("+", "p")
    ).strip("-")
    toy = stored(data_folder() / "side-by-side" / "toy2d.json")
    mini = stored(data_folder() / "side-by-side" / "cifar10-mini.json")
    main = [
        r
        for r in toy["rows"]
        if (r["budget"], r["width"]) == (toy["budget"], toy["width"])
    ]
    when = lambda file: {key: file[key] for key in ("device", "date")}
    for name in dict.fromkeys(r["method"] for r in main):
        sw = [r["sw"] for r in main if r["method"] == name]
        what = (
            f"sliced Wasserstein distance of {name} on the checkerboard, mean of "
            "three seeds"
        )
        spread = round(max(sw) - min(sw), 4)
        claims.append(
            claim(f"beside-toy-{slug(name)}", what, sum(sw) / 3, spread, toy["command"])
            | when(toy)
        )
    for r in mini["rows"]:
        what = (
            f"Frechet distance of {r['method']} at the cost of {HKD}, 5000 samples, "
            "bundled features"
        )
        line = claim(
            f"beside-cifar-{slug(r['method'])}",
            what,
            r["frechet"],
            1.0,
            mini["command"],
            TEACHER,
        )
        claims.append(line | when(mini))
    return claims


def guided_claims() -> list[dict]:
    """The weight with the least distance, from guidance.py's own file."""
    told = stored(data_folder() / "guidance.json")
    alike = [
        r for r in told["rows"] if (r["kind"], r["interval"][1]) == ("class", None)
    ]
    best = min(alike, key=lambda r: r["frechet_ours"])
    where = f"guided by weight {best['weight']:g}, {best['n']} samples"
    command = "python benchmarks/guidance.py --data cifar"
    what = f"Frechet distance of {GUIDED}, {where}, bundled features"
    line = what, best["frechet_ours"], 0.3, command, GUIDED
    found = f"share of samples of {GUIDED}, {where}, in which {SECOND} finds the class"
    claims = [
        claim("guided-frechet", *line),
        claim("guided-class-found", found, best["class_found"], 0.02, command, GUIDED),
    ]
    return [c | {"device": told["device"], "date": best["date"]} for c in claims]


def speed_claims() -> list[dict]:
    one = (
        "time of the teacher's 35 evaluations over that of one step, batch 64, one run"
    )
    closed = (
        "time of torch.matrix_exp and a batched product over that of the closed form"
    )
    train = (
        "time of an HKD training step per evaluated picture over that of EDM's, same "
        "network, no perceptual distance"
    )
    return [
        claim(
            "speed-one-step",
            one,
            ratio("one_step.py"),
            5.0,
            "python benchmarks/one_step.py",
            TEACHER,
            HKD,
        ),
        claim(
            "speed-evolve",
            closed,
            ratio("evolve.py"),
            60.0,
            "python benchmarks/evolve.py",
        ),
        claim(
            "speed-train-step",
            train,
            ratio("train_step.py"),
            0.05,
            "python benchmarks/train_step.py",
        ),
    ]


GROUPS = {
    "accuracy": classifier_claims,
    "end": end_claims,
    "tiny": tiny_claims,
    "classes": class_claims,
    "frechet": quality_claims,
    "judges": judges_claims,
    "curve": curve_claims,
    "beside": beside_claims,
    "few": few_claims,
    "guided": guided_claims,
    "speed": speed_claims,
}


def claim(
    name: str, what: str, value: float, tolerance: float, command: str, *about: str
) -> dict:
    """One line of claims.json, measured now on this machine."""
    return {
        "id": name,
        "what": what,
        "value": round(value, 5),
        "tolerance": tolerance,
        "command": command,
        "seed": SEED,
        "device": device(choose()),
        "date": today(),
        "weights": weights(*about),
    }


def check(stored: dict[str, dict], new: list[dict]) -> None:
    """A table of what was measured now beside what is stored; exit status 1 when a
    claim moved by more than its tolerance, or is about other weights.
    """
    print(f"{'stored':>12}{'now':>12}{'tolerance':>11}  claim")
    moved = []
    for line in new:
        there = stored.get(line["id"], {"value": float("nan"), "weights": {}})
        off = abs(line["value"] - there["value"])
        holds = off <= line["tolerance"] and line["weights"] == there["weights"]
        moved += [] if holds else [line["id"]]
        numbers = (
            f"{there['value']:12.4f}{line['value']:12.4f}{line['tolerance']:11.4g}"
        )
        print(numbers, f" {line['id']}{'' if holds else '   MOVED'}")
    print(
        f"{len(new)} claims measured, {len(moved)} moved: {', '.join(moved) or 'none'}"
    )
    sys.exit(bool(moved))


def main() -> None:
    new = [line for group in OPTIONS.groups or GROUPS for line in GROUPS[group]()]
    old = stored(CLAIMS) or []
    if OPTIONS.check:
        return check({line["id"]: line for line in old}, new)
    merged = {line["id"]: line for line in [*old, *new]}
    write(CLAIMS, list(merged.values()))
    for line in new:
        print(f"{line['value']:12.4f}  {line['id']}")


if __name__ == "__main__":
    ask = parser(__doc__)
    ask.add_argument("--data", required=True, help="folder with CIFAR-10")
    ask.add_argument(
        "--check", action="store_true", help="write nothing, and say what moved"
    )
    ask.add_argument(
        "--n",
        type=int,
        default=SAMPLES,
        help="samples of each model, of judges and classes alone",
    )
    ask.add_argument(
        "--real",
        type=int,
        help="compare with the first so many training pictures, of those two alone",
    )
    ask.add_argument(
        "groups", nargs="*", choices=[*GROUPS, []], help="which to measure; none: all"
    )
    OPTIONS = ask.parse_args()
    main()
