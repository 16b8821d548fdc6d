"""Measure every claim of quality that the book makes about the bundled models, and write data/claims.json.

    python benchmarks/claims.py --data cifar            # all of them; about twenty minutes on two cores
    python benchmarks/claims.py --data cifar end speed  # some groups; the others stay

A claim is a number with what it says, the tolerance that a repetition may differ by, the command that repeats it, seed,
device, date and the SHA-256 of the weights it is about. Chapters read the numbers from there; tests/book/test_claims.py
holds them.
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import platform
import re
import subprocess
import sys

import torch

import hkd_mini
from hkd_mini import evaluation, metrics
from hkd_mini.data import load_cifar10, to_unit
from hkd_mini.schedule import SIGMA_MIN
from hkd_mini.trajectories import Trajectories
from hkd_mini.weights import data_folder

HERE = pathlib.Path(__file__).resolve().parent
CLAIMS = data_folder() / "claims.json"
SAMPLES, SEED = 5000, 0
TEACHER, HKD = "teacher-cifar10", "hkd-cifar10"
SCRIPT = "python benchmarks/claims.py --data cifar"


def accuracy(images) -> float:
    """Share of pictures that the bundled classifier names right."""
    classifier = hkd_mini.load("features-cifar10")
    with torch.no_grad():
        named = torch.cat([classifier(to_unit(x)).argmax(1) for x in images.x.split(500)])
    return float((named == images.labels).float().mean())


def held_out() -> dict[str, float]:
    """On the bundled paths, which no model saw: squared error at the end, the same with A = 0, extreme mean
    residuals.
    """
    model, paths = hkd_mini.load(HKD), Trajectories(data_folder() / "trajectories-cifar10")
    x, T, eps = paths.paths(range(len(paths))), model.clock.T, model.clock.eps
    times = model.clock.time(paths.sigmas[:-1].clamp(min=SIGMA_MIN)).float()
    with torch.no_grad():
        states = model.encode(x[0], T)
        end = (model.decode(model.evolve(states, T, eps)) - x[-1]).square().mean()
        idle = (model.decode(states) - x[-1]).square().mean()
        residual = metrics.koopman_residual(model, x[:-1], times)
    return {"end": float(end), "idle": float(idle), "least": float(residual.min()), "most": float(residual.max())}


def ratio(script: str) -> float:
    """The last line of a benchmark, `ratio R`."""
    run = subprocess.run([sys.executable, HERE / script], capture_output=True, text=True, check=True)
    print(run.stdout)
    return float(re.search(r"^ratio ([\d.]+)", run.stdout, re.M).group(1))


def classifier_claims(data: str) -> list[dict]:
    value = accuracy(load_cifar10("test", data))
    what = "share of CIFAR-10's test pictures that the feature network names right"
    return [claim("accuracy-features", what, value, 0.002, f"{SCRIPT} accuracy", "features-cifar10")]


def quality_claims(data: str) -> list[dict]:
    claims, scores = [], {}
    for name, short, cost in (TEACHER, "teacher", "35 evaluations"), (HKD, "hkd", "1 evaluation"):
        scores[name] = evaluation.evaluate(evaluation.draw(hkd_mini.load(name), SAMPLES, SEED), data)
        command = f"hkd-mini evaluate --weights {name} --n {SAMPLES} --seed {SEED} --data cifar"
        what = f"Frechet distance of {name}, {cost}, {SAMPLES} samples, bundled features"
        claims.append(claim(f"frechet-{short}", what, scores[name]["frechet"], 0.1, command, name))
        for share in ("precision", "recall"):
            value = scores[name][share]
            claims.append(claim(f"frechet-{short}-{share}", f"{share} of {name}, {cost}", value, 0.01, command, name))
    what = "Frechet distance of one step over that of the teacher's 35 evaluations"
    value = scores[HKD]["frechet"] / scores[TEACHER]["frechet"]
    return [*claims, claim("frechet-ratio", what, value, 0.02, f"{SCRIPT} frechet", TEACHER, HKD)]


def end_claims(data: str) -> list[dict]:
    found, command = held_out(), f"{SCRIPT} end"
    lines = [
        ("end-error", "mean squared error of one step to the teacher's end, 64 held-out paths", "end", 1e-4),
        ("end-error-idle", "the same with A set to 0", "idle", 1e-4),
        ("end-residual-least", "Koopman residual of the state where it is least, held-out paths", "least", 0.01),
        ("end-residual-most", "Koopman residual of the state where it is greatest", "most", 0.01),
    ]
    return [claim(name, what, found[key], tolerance, command, HKD) for name, what, key, tolerance in lines]


def speed_claims(data: str) -> list[dict]:
    one = "time of the teacher's 35 evaluations over that of one step, batch 64, one run"
    closed = "time of torch.matrix_exp and a batched product over that of the closed form"
    return [
        claim("speed-one-step", one, ratio("one_step.py"), 5.0, "python benchmarks/one_step.py", TEACHER, HKD),
        claim("speed-evolve", closed, ratio("evolve.py"), 60.0, "python benchmarks/evolve.py"),
    ]


GROUPS = {"accuracy": classifier_claims, "frechet": quality_claims, "end": end_claims, "speed": speed_claims}


def claim(name: str, what: str, value: float, tolerance: float, command: str, *about: str) -> dict:
    """One line of claims.json, measured now on this machine."""
    return {
        "id": name,
        "what": what,
        "value": round(value, 5),
        "tolerance": tolerance,
        "command": command,
        "seed": SEED,
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "date": str(datetime.date.today()),
        "weights": {f"{n}/model.safetensors": sha256(data_folder() / n / "model.safetensors") for n in about},
    }


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10")
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="which to measure; none: all")
    options = parser.parse_args()
    new = [line for group in options.groups or GROUPS for line in GROUPS[group](options.data)]
    old = json.loads(CLAIMS.read_text(encoding="utf-8")) if CLAIMS.exists() else []
    merged = {line["id"]: line for line in [*old, *new]}
    CLAIMS.write_text(json.dumps(list(merged.values()), indent=1) + "\n", encoding="utf-8")
    for line in new:
        print(f"{line['value']:12.4f}  {line['id']}")


if __name__ == "__main__":
    main()
