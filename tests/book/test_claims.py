"""Claims are about the weights that are here, and hold when they are measured again."""

import hashlib
import json
import math

import pytest
import torch

import hkd_mini
from hkd_mini import evaluation, metrics
from hkd_mini.schedule import SIGMA_MIN
from hkd_mini.trajectories import Trajectories
from hkd_mini.weights import data_folder

CLAIMS = {c["id"]: c for c in json.loads((data_folder() / "claims.json").read_text(encoding="utf-8"))}
FIELDS = {"id", "what", "value", "tolerance", "command", "seed", "device", "date", "weights"}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_is_complete_and_about_these_weights(claim):
    assert set(claim) == FIELDS
    assert math.isfinite(claim["value"]) and claim["tolerance"] > 0
    assert claim["command"].startswith(("python benchmarks/", "hkd-mini "))
    for name, digest in claim["weights"].items():
        assert hashlib.sha256((data_folder() / name).read_bytes()).hexdigest() == digest, (
            f"{name} is not what was measured"
        )


def test_the_ratio_is_that_of_its_parts():
    parts = CLAIMS["frechet-hkd"]["value"] / CLAIMS["frechet-teacher"]["value"]
    assert math.isclose(CLAIMS["frechet-ratio"]["value"], parts, rel_tol=1e-3)


def test_frechet_distance_of_one_step_again():
    model, claim = hkd_mini.load("hkd-cifar10"), CLAIMS["frechet-hkd"]
    found = evaluation.evaluate(evaluation.draw(model, 5000, claim["seed"]))
    assert found["frechet"] == pytest.approx(claim["value"], abs=claim["tolerance"])


def test_errors_and_residuals_on_held_out_paths_again():
    model, paths = hkd_mini.load("hkd-cifar10"), Trajectories(data_folder() / "trajectories-cifar10")
    x, T, eps = paths.paths(range(len(paths))), model.clock.T, model.clock.eps
    with torch.no_grad():
        states = model.encode(x[0], T)
        end = (model.decode(model.evolve(states, T, eps)) - x[-1]).square().mean()
        idle = (model.decode(states) - x[-1]).square().mean()
    residual = metrics.koopman_residual(model, x[:-1], model.clock.time(paths.sigmas[:-1].clamp(min=SIGMA_MIN)).float())
    found = {"end-error": end, "end-error-idle": idle}
    found |= {"end-residual-least": residual.min(), "end-residual-most": residual.max()}
    for name, value in found.items():
        assert float(value) == pytest.approx(CLAIMS[name]["value"], abs=CLAIMS[name]["tolerance"]), name


def test_the_classifier_again(cifar):
    from hkd_mini.data import load_cifar10, to_unit

    images, classifier = load_cifar10("test", cifar), hkd_mini.load("features-cifar10")
    with torch.no_grad():
        right = (
            torch.cat([classifier(to_unit(x)).argmax(1) for x in images.x[:2000].split(500)]) == images.labels[:2000]
        )
    assert float(right.float().mean()) == pytest.approx(
        CLAIMS["accuracy-features"]["value"], abs=0.03
    )  # 2,000 of 10,000


def test_what_the_bundle_promises():
    assert CLAIMS["frechet-ratio"]["value"] <= 1.25
    assert CLAIMS["speed-one-step"]["value"] >= 30
    assert CLAIMS["speed-evolve"]["value"] >= 100
