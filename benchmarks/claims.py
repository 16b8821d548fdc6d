"""Measure every claim of quality that the book makes about the bundled models, and
write data/claims.json.

    python benchmarks/claims.py --data cifar            # all of them
    python benchmarks/claims.py --data cifar end speed  # some groups; the others stay
    python benchmarks/claims.py --data cifar --check    # nothing is written: what moved
    python benchmarks/claims.py --data cifar --n 2000 --real 10000 judges
    python benchmarks/claims.py --data cifar --check --n 50 --real 500 judges  # a try

A claim is a number with what it says, the tolerance that a repetition may differ by,
the command that repeats it, seed, device, date and the SHA-256 of the weights it is
about. Chapters read the numbers from there; tests/book/test_claims.py holds them.
"""

import json
import pathlib
import re
import subprocess
import sys

import torch
from common import (
    JUDGES,
    WEIGHT,
    device,
    held_out_paths,
    judged,
    parser,
    small_held_out_paths,
    stored,
    today,
    weights,
    write,
)

import hkd_mini
from hkd_mini.app import evaluation, machine
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.precision import choose
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.probe import probe
from hkd_mini.judge.classifier import share_found
from hkd_mini.judge.distance import BUNDLED, JUDGE, SECOND

HERE = pathlib.Path(__file__).resolve().parent
CLAIMS = data_folder() / "claims.json"
SAMPLES = 10_000
FEW = 200
SEED = 0
TEACHER = "teacher-cifar10"
HKD = "hkd-cifar10"
PAPER = "hkd-cifar10-paper"  # by the paper's objective alone
TINY = "hkd-cifar10-tiny"  # small
# what their claims are called, and what gives their teachers' held-out paths
HELD_OUT = {
    "hkd": (HKD, held_out_paths),
    "paper": (PAPER, held_out_paths),
    "tiny": (TINY, small_held_out_paths),
}
MODELS = {"teacher": TEACHER, "hkd": HKD, "paper": PAPER}
SCRIPT = "python benchmarks/claims.py --data cifar"


def held_out(short: str) -> list[dict]:
    """One of HELD_OUT on paths that no model saw: squared error at the end, the same
    with states left as encoded, the greatest to a guess, and extreme mean residuals.
    """
    name, made = HELD_OUT[short]
    paths = made()
    found = probe(hkd_mini.load(name), paths, from_every_time=False)
    with_A = found.with_A
    end = with_A.error_at_the_end.item()
    idle = found.without_A.error_at_the_end.item()
    residual = with_A.mean_residual
    centred = with_A.mean_centred_residual
    where = f"{len(paths)} held-out paths of its teacher"
    share = "Koopman residual, as a share of the states' variance over paths, of the"
    lines = [
        ("end", f"mean squared error of {name}'s one step to the end of {where}", end),
        ("end-idle", "the same for the states of the noise, left where they are", idle),
        (
            "guesses-most",
            f"mean squared error of what {name}'s states decode to on the way, to the "
            "guess where it is greatest",
            with_A.error_of_guesses.max().item(),
        ),
        (
            "residual-least",
            f"Koopman residual of {name}'s state where it is least, {where}",
            residual.min().item(),
        ),
        (
            "residual-most",
            "the same of the state where it is greatest",
            residual.max().item(),
        ),
        (
            "centred-least",
            f"{share} state of {name} where it is least, {where}",
            centred.min().item(),
        ),
        (
            "centred-most",
            "the same of the state where it is greatest",
            centred.max().item(),
        ),
    ]
    claims = []
    for key, what, value in lines:
        tolerance = 0.01 if key.endswith(("least", "most")) else 2e-4
        tolerance = max(2e-4, 0.02 * value) if key == "guesses-most" else tolerance
        tolerance = max(2e-4, 0.01 * value) if key == "end-idle" else tolerance
        group = "tiny" if short == "tiny" else "end"
        line = what, value, round(tolerance, 5), f"{SCRIPT} {group}", name
        claims.append(claim(f"{short}-{key}", *line))
    return claims


def evaluated(
    name: str, steps: int = 18, n: int | None = None, pictures: bool = True
) -> tuple[dict, str]:
    """What `hkd-mini evaluate` says in its last line, and the command; without
    `pictures` no precision and recall.
    """
    further = "" if steps == 18 else f" --steps {steps}"
    further += f" --guidance {WEIGHT:g}" if name == TEACHER else ""
    command = (
        f"hkd-mini evaluate --weights {name} --n {n or OPTIONS.n} --seed {SEED} "
        f"--compile{further}"
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
    """Each model by `hkd-mini evaluate`: the bundled features, and all pictures."""
    claims = []
    scores = {}
    for short, name in MODELS.items():
        scores[short], command = evaluated(name)
        how = f"{words(name)}, {cost(name)}"
        what = f"Frechet distance of {how}, {OPTIONS.n} samples, bundled features"
        line = what, scores[short]["frechet"], 0.1, command, name
        claims.append(claim(f"frechet-{short}", *line))
        for share in ("precision", "recall"):
            line = f"{share} of {how}", scores[short][share], 0.01, command, name
            claims.append(claim(f"frechet-{short}-{share}", *line))
    for short in ("hkd", "paper"):
        name = MODELS[short]
        what = (
            f"Frechet distance of {name} over that of its teacher, {OPTIONS.n} samples"
        )
        value = scores[short]["frechet"] / scores["teacher"]["frechet"]
        again = f"{SCRIPT} --n {OPTIONS.n} frechet"
        line = what, value, 0.02, again, TEACHER, name
        claims.append(claim(f"frechet-ratio{ending(short)}", *line))
    return claims


def words(name: str) -> str:
    """A model as a claim calls it."""
    return f"{name} guided by weight {WEIGHT:g}" if name == TEACHER else name


def cost(name: str, steps: int = 18) -> str:
    """What a sample of a model costs."""
    twice = f"{2 * steps - 1} evaluations, twice each"
    return twice if name == TEACHER else "1 evaluation"


def ending(short: str) -> str:
    """What tells a claim about a ratio from the one about HKD."""
    return "" if short == "hkd" else f"-{short}"


def drawn(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a bundled model, the teacher's guided, and the classes that they were
    asked for.
    """
    # compiling takes as long as a few samples
    model = machine.on_device(hkd_mini.load(name), compile=OPTIONS.n > FEW)
    labels = evaluation.drawn_classes(model, OPTIONS.n, SEED)
    model = Guided(model, WEIGHT) if name == TEACHER else model
    print(f"{OPTIONS.n} samples of {name}", flush=True)
    x = evaluation.draw(model, OPTIONS.n, SEED, labels=labels, precision="auto")
    return x, labels


@torch.no_grad()
def judges_claims() -> list[dict]:
    """Teacher and students in the eyes of three judges, from the same noises and
    classes for all, and the share of asked classes that the second judge finds.
    """
    claims = []
    real = load_cifar10("train", OPTIONS.data).x[: OPTIONS.real]
    command = f"{SCRIPT} --n {OPTIONS.n} --real {len(real)} judges"
    samples = {short: drawn(name) for short, name in MODELS.items()}
    for judge, features in JUDGES.items():
        eyes = f"{OPTIONS.n} samples, {len(real)} pictures, features of {features}"
        found = judged(features, real, [x for x, _ in samples.values()])
        scores = dict(zip(MODELS, found, strict=True))
        for short, score in scores.items():
            name = MODELS[short]
            for key, value in score.items():
                part = "" if key == "frechet" else f"-{key}"
                measure = key if part else "Frechet distance"
                what = f"{measure} of {words(name)}, {cost(name)}, {eyes}"
                # judges measure in units of their own
                tolerance = 0.02 if part else round(0.02 * value + 1e-3, 3)
                line = what, value, tolerance, command, name
                claims.append(claim(f"judges-{short}-{judge}{part}", *line))
        for short in ("hkd", "paper"):
            name = MODELS[short]
            what = f"Frechet distance of {name} over that of its teacher, {eyes}"
            value = scores[short]["frechet"] / scores["teacher"]["frechet"]
            line = what, value, 0.03, command, TEACHER, name
            claims.append(claim(f"judges-ratio-{judge}{ending(short)}", *line))
    for short, (x, labels) in samples.items():
        name = MODELS[short]
        value = share_found(hkd_mini.load(SECOND), x, labels)
        what = (
            f"share of {OPTIONS.n} samples of {words(name)} in which {SECOND} finds "
            "the asked class"
        )
        line = what, value, 0.01, command, name
        claims.append(claim(f"judges-{short}-class-found", *line))
    return claims


def curve_claims() -> list[dict]:
    claims = []
    for steps in (2, 3, 5, 9):  # at 18 it is frechet-teacher
        score, command = evaluated(TEACHER, steps, pictures=False)
        what = (
            f"Frechet distance of {words(TEACHER)}, {cost(TEACHER, steps)}, "
            f"{OPTIONS.n} samples, bundled features"
        )
        line = what, score["frechet"], 0.2, command, TEACHER
        claims.append(claim(f"frechet-teacher-{2 * steps - 1}", *line))
    return claims


def end_claims() -> list[dict]:
    return held_out("hkd") + held_out("paper")


def tiny_claims() -> list[dict]:
    claims = held_out("tiny")
    score, command = evaluated(TINY, n=5000, pictures=False)  # as the ablations
    what = f"Frechet distance of {TINY}, 1 evaluation, 5000 samples, bundled features"
    claims.append(claim("frechet-tiny", what, score["frechet"], 0.1, command, TINY))
    told = stored(data_folder() / "ablations" / "results.json")
    longer = [row for row in told["rows"] if row["table"] == "longer"]
    (paper,) = (row["frechet"] for row in longer if row["name"] == "paper")
    (mine,) = (row["frechet"] for row in longer if row["name"] != "paper")
    what = (
        f"Frechet distance of {TINY} over that of the paper's objective with the "
        "network decoder, the same teacher, paths and visits, one judge for both"
    )
    line = what, mine / paper, 0.02, f"{told['command']} longer", TINY
    return [*claims, claim("frechet-tiny-ratio", *line)]


@torch.no_grad()
def few_claims() -> list[dict]:
    """What tests measure again on every machine: a few samples in float32, whose
    numbers kernels do not change.
    """
    asked = torch.arange(FEW) % 10
    x = evaluation.draw(hkd_mini.load(HKD), FEW, SEED, labels=asked)
    alone = f"{FEW} samples of {HKD}, float32, classes in turn, for tests alone"
    what = f"Frechet distance of {alone}, since so few overstate it"
    line = what, evaluation.evaluate(x)["frechet"], 0.1, f"{SCRIPT} few", HKD
    found = f"share of classes that {SECOND} finds in {alone}"
    share = found, share_found(hkd_mini.load(SECOND), x, asked), 0.01
    claims = [
        claim("frechet-few", *line),
        claim("class-found-few", *share, f"{SCRIPT} few", HKD),
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
            f"Frechet distance of {r['method']} in chapter 17's comparison on "
            f"CIFAR-10, 5000 samples, features of {SECOND}"
        )
        line = what, r["second"], 1.0, mini["command"]
        claims.append(claim(f"beside-cifar-{slug(r['method'])}", *line) | when(mini))
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
    what = f"Frechet distance of {TEACHER}, {where}, bundled features"
    line = what, best["frechet_ours"], 0.3, command, TEACHER
    found = f"share of samples of {TEACHER}, {where}, in which {SECOND} finds the class"
    claims = [
        claim("guided-frechet", *line),
        claim("guided-class-found", found, best["class_found"], 0.02, command, TEACHER),
    ]
    return [c | {"device": told["device"], "date": best["date"]} for c in claims]


def speed_claims() -> list[dict]:
    one = (
        f"time of {words(TEACHER)}, {cost(TEACHER)}, over that of one step, batch 64, "
        "one run"
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
    kept = old if OPTIONS.groups else []
    merged = {line["id"]: line for line in [*kept, *new]}
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
        help="samples of each model, of frechet, judges and curve",
    )
    ask.add_argument(
        "--real",
        type=int,
        help="judges: compare with the first so many training pictures",
    )
    ask.add_argument(
        "groups", nargs="*", choices=[*GROUPS, []], help="which to measure; none: all"
    )
    OPTIONS = ask.parse_args()
    main()
