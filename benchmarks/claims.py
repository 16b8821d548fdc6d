"""Measure every claim of quality that the book makes about the bundled models, and write data/claims.json.

    python benchmarks/claims.py --data cifar            # all of them; about twenty minutes on two cores
    python benchmarks/claims.py --data cifar end-error  # some, by the beginning of their names; the others stay

A claim is a number with what it says, the tolerance that a repetition may differ by, the command that repeats it, seed, device, date
and the SHA-256 of the weights it is about. Chapters read the numbers from there; tests/book/test_claims.py holds them.
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


def accuracy(images) -> float:
    """Share of pictures that the bundled classifier names right."""
    classifier = hkd_mini.load("features-cifar10")
    with torch.no_grad():
        right = [(classifier(to_unit(x)).argmax(1) == y).sum() for x, y in zip(images.x.split(500), images.labels.split(500))]
    return float(sum(right)) / len(images.x)


def held_out() -> dict[str, float]:
    """On the bundled paths, which no model was trained on: mean squared error at the end, the same with A = 0, mean residual per level."""
    model, paths = hkd_mini.load("hkd-cifar10"), Trajectories(data_folder() / "trajectories-cifar10")
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


def frechet(name: str, data: str) -> dict:
    """What `hkd-mini evaluate` prints for one model."""
    return evaluation.evaluate(evaluation.draw(hkd_mini.load(name), SAMPLES, SEED), data)


def measure(data: str, wanted: tuple[str, ...]) -> list[dict]:
    """The claims whose names begin with one of `wanted`, measured now."""
    claims = []

    def claim(name: str, what: str, value: float, tolerance: float, command: str, *about: str) -> None:
        sums = {f"{n}/model.safetensors": sha256(data_folder() / n / "model.safetensors") for n in about}
        claims.append({"id": name, "what": what, "value": round(value, 5), "tolerance": tolerance, "command": command, "seed": SEED,
                       "device": f"{platform.machine()}, {torch.get_num_threads()} CPU cores",
                       "date": str(datetime.date.today()), "weights": sums})

    want = lambda name: any(name.startswith(w) for w in wanted)
    script = "python benchmarks/claims.py --data cifar"
    if want("accuracy"):
        value = accuracy(load_cifar10("test", data))
        claim("accuracy-features", "share of CIFAR-10's test pictures that the feature network names right", value, 0.002,
              f"{script} accuracy", "features-cifar10")
    if want("frechet"):
        scores = {n: frechet(n, data) for n in ("teacher-cifar10", "hkd-cifar10")}
        for n, short in (("teacher-cifar10", "teacher"), ("hkd-cifar10", "hkd")):
            cost = "35 evaluations" if short == "teacher" else "1 evaluation"
            command = f"hkd-mini evaluate --weights {n} --n {SAMPLES} --seed {SEED} --data cifar"
            claim(f"frechet-{short}", f"Frechet distance of {n}, {cost}, {SAMPLES} samples, bundled features", scores[n]["frechet"], 0.1, command, n)
            claim(f"frechet-{short}-precision", f"precision of {n}, {cost}", scores[n]["precision"], 0.01, command, n)
            claim(f"frechet-{short}-recall", f"recall of {n}, {cost}", scores[n]["recall"], 0.01, command, n)
        claim("frechet-ratio", "Frechet distance of one step over that of the teacher's 35 evaluations",
              scores["hkd-cifar10"]["frechet"] / scores["teacher-cifar10"]["frechet"], 0.02, f"{script} frechet", "teacher-cifar10", "hkd-cifar10")
    if want("end-error") or want("residual"):
        found, command = held_out(), f"{script} end-error"
        claim("end-error", "mean squared error of one step to the teacher's end, 64 held-out paths", found["end"], 1e-4, command, "hkd-cifar10")
        claim("end-error-idle", "the same with A set to 0", found["idle"], 1e-4, command, "hkd-cifar10")
        claim("residual-least", "Koopman residual of the state where it is least, held-out paths", found["least"], 0.01, command, "hkd-cifar10")
        claim("residual-most", "Koopman residual of the state where it is greatest", found["most"], 0.01, command, "hkd-cifar10")
    if want("one-step-speed"):
        claim("one-step-speed", "time of the teacher's 35 evaluations over that of one step, batch 64, one run", ratio("one_step.py"), 8.0,
              "python benchmarks/one_step.py", "teacher-cifar10", "hkd-cifar10")
    if want("evolve-speed"):
        claim("evolve-speed", "time of torch.matrix_exp and a batched product over that of the closed form", ratio("evolve.py"), 200.0,
              "python benchmarks/evolve.py")
    return claims


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10")
    parser.add_argument("names", nargs="*", default=[""], help="beginnings of names; none: all")
    options = parser.parse_args()
    new = measure(options.data, tuple(options.names))
    old = json.loads(CLAIMS.read_text()) if CLAIMS.exists() else []
    merged = {c["id"]: c for c in [*old, *new]}
    CLAIMS.write_text(json.dumps(list(merged.values()), indent=1) + "\n")
    for c in new:
        print(f"{c['value']:12.4f}  {c['id']}")
