"""Claims are about the weights that are here, and hold when they are measured again."""

import hashlib
import json
import math
import pathlib
import re

import pytest
import torch

import hkd_mini
from hkd_mini.app import evaluation
from hkd_mini.engine.data import to_unit
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.hkd.probe import probe
from hkd_mini.judge.classifier import share_found
from hkd_mini.judge.distance import SECOND

CLAIMS = {
    c["id"]: c
    for c in json.loads((data_folder() / "claims.json").read_text(encoding="utf-8"))
}
TEXTS = sorted(
    (pathlib.Path(__file__).resolve().parents[2] / "book" / "text").glob("*.md")
)
CELL = re.compile(r"^```\{code-cell\}.*?^```", re.M | re.S)
FIELDS = {
    "id",
    "what",
    "value",
    "tolerance",
    "command",
    "seed",
    "device",
    "date",
    "weights",
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_is_complete_and_about_these_weights(claim):
    assert set(claim) == FIELDS
    assert math.isfinite(claim["value"]) and claim["tolerance"] > 0
    assert claim["command"].startswith(("python benchmarks/", "hkd-mini "))
    for name, digest in claim["weights"].items():
        assert (
            hashlib.sha256((data_folder() / name).read_bytes()).hexdigest() == digest
        ), f"{name} is not what was measured"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_chapters_read_claims_and_do_not_type_them(path):
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"FID [\d.]+", "", CELL.sub("", text))  # papers measure FIDs
    code = " ".join(CELL.findall(text))
    kinds = "frechet|end|tiny|cond|classes|judges|guided|speed|accuracy"
    named = set(re.findall(rf"[\"']((?:{kinds})-[a-z0-9-]+)[\"']", code))
    assert named <= set(CLAIMS), f"{named - set(CLAIMS)}: no such claim"
    if "cifar10" not in text and "claims.json" not in text:
        return  # of no model: 2 pi / 0.5 is 12.6, and so is a distance
    for name, claim in CLAIMS.items():
        for typed in {
            f"{claim['value']:.3g}",
            f"{claim['value']:.4g}",
            f"{claim['value']:.2f}",
        }:
            if len(typed.replace(".", "").lstrip("0")) >= 3:
                assert not re.search(rf"(?<![\d.]){re.escape(typed)}(?![\d])", prose), (
                    f"{name} = {typed} is typed"
                )


def test_the_page_of_claims_shows_these():
    page = TEXTS[0].parents[1] / "claims.ipynb"
    shown = page.read_text(encoding="utf-8")
    measured = {d for c in CLAIMS.values() for d in (c["date"], *c["weights"].values())}
    missing = {each for each in measured if each[:16] not in shown}
    assert not missing, f"make execute CHAPTER=claims: {missing}"


def test_the_ratio_is_that_of_its_parts():
    parts = CLAIMS["frechet-hkd"]["value"] / CLAIMS["frechet-teacher"]["value"]
    assert math.isclose(CLAIMS["frechet-ratio"]["value"], parts, rel_tol=1e-3)
    file = data_folder() / "ablations" / "results.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    longer = {
        r["name"] == "paper": r["frechet"] for r in rows if r["table"] == "longer"
    }
    ratio = CLAIMS["frechet-tiny-ratio"]["value"]
    assert math.isclose(ratio, longer[False] / longer[True], rel_tol=1e-3)


# The distance of 10,000 samples is `make claims`'s to measure again: minutes.


def test_a_few_samples_again():
    model = hkd_mini.load("hkd-cifar10")
    claim = CLAIMS["frechet-few"]
    count = int(re.search(r"of (\d+) samples", claim["what"]).group(1))
    asked = torch.arange(count) % 10
    x = evaluation.draw(model, count, claim["seed"], labels=asked)
    found = evaluation.evaluate(x)["frechet"]
    assert found == pytest.approx(claim["value"], abs=claim["tolerance"])
    share = share_found(hkd_mini.load(SECOND), x, asked)
    claim = CLAIMS["class-found-few"]
    assert share == pytest.approx(claim["value"], abs=claim["tolerance"])


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("hkd", "hkd-cifar10"),
        ("paper", "hkd-cifar10-paper"),
        ("tiny", "hkd-cifar10-tiny"),
    ],
)
def test_errors_and_residuals_on_held_out_paths_again(
    short, name, small_held_out_paths
):
    stored = Trajectories(data_folder() / "trajectories-cifar10")
    paths = small_held_out_paths if short == "tiny" else stored
    asked = probe(hkd_mini.load(name), paths, from_every_time=False)
    residual = asked.with_A.mean_residual
    centred = asked.with_A.mean_centred_residual
    found = {
        "end": asked.with_A.error_at_the_end,
        "end-idle": asked.without_A.error_at_the_end,
        "guesses-most": asked.with_A.error_of_guesses.max(),
        "residual-least": residual.min(),
        "residual-most": residual.max(),
        "centred-least": centred.min(),
        "centred-most": centred.max(),
    }
    for key, value in found.items():
        claim = CLAIMS[f"{short}-{key}"]
        assert float(value) == pytest.approx(claim["value"], abs=claim["tolerance"])


def test_the_classifier_again(cifar):
    from hkd_mini.engine.cifar10 import load_cifar10

    images = load_cifar10("test", cifar)
    classifier = hkd_mini.load("features-cifar10")
    with torch.no_grad():
        right = (
            torch.cat(
                [classifier(to_unit(x)).argmax(1) for x in images.x[:2000].split(500)]
            )
            == images.labels[:2000]
        )
    assert float(right.float().mean()) == pytest.approx(
        CLAIMS["accuracy-features"]["value"], abs=0.03
    )  # 2,000 of 10,000


def test_the_comparisons_are_those_of_their_files():
    read = lambda name: json.loads(
        (data_folder() / "side-by-side" / f"{name}.json").read_text(encoding="utf-8")
    )
    toy = read("toy2d")
    mini = read("cifar10-mini")
    cost = lambda row: (row["budget"], row["width"])
    for name in ("HKD", "KD", "DMD"):
        sw = [
            r["sw"] for r in toy["rows"] if r["method"] == name and cost(r) == cost(toy)
        ]
        assert len(sw) == 3 and CLAIMS[f"beside-toy-{name.lower()}"][
            "value"
        ] == pytest.approx(sum(sw) / 3, abs=1e-5)
    found = sorted(
        claim["value"]
        for name, claim in CLAIMS.items()
        if name.startswith("beside-cifar")
    )
    assert found == sorted(r["second"] for r in mini["rows"])


def test_what_the_bundle_promises():
    value = {name: claim["value"] for name, claim in CLAIMS.items()}
    assert value["frechet-ratio"] <= 1.15
    assert value["speed-one-step"] >= 30
    assert value["speed-evolve"] >= 100
    assert value["speed-train-step"] <= 1.10
    assert value["judges-hkd-class-found"] >= 0.75
    assert value["hkd-end-idle"] >= 10 * value["hkd-end"]
    assert value["hkd-guesses-most"] <= 2 * value["hkd-end"]
    assert value["hkd-centred-most"] <= 0.25


def test_what_the_small_model_promises():
    """Its generator is needed, its states go with the teacher's guesses and move
    linearly, and its pictures cost nothing for it.
    """
    value = {name: claim["value"] for name, claim in CLAIMS.items()}
    assert value["tiny-end-idle"] >= 10 * value["tiny-end"]
    assert value["tiny-guesses-most"] <= 1.3 * value["tiny-end"]
    assert value["tiny-centred-most"] <= 0.15
    assert value["frechet-tiny-ratio"] <= 1.1
