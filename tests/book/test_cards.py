"""The cards of the bundled models say in their metadata, where the hub reads it, what
claims.json says of the same weights.
"""

import copy
import hashlib
import importlib
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from hkd_mini.app.cards import results
from hkd_mini.engine.hub import with_results

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
CLAIMS = json.loads((DATA / "claims.json").read_text(encoding="utf-8"))
BY_ID = {claim["id"]: claim for claim in CLAIMS}
NAMES = sorted(path.parent.name for path in DATA.glob("*/model.safetensors"))
REDO = "python benchmarks/cards.py"

each_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def cards(monkeypatch):
    """benchmarks/cards.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("cards")


def card(name):
    return ModelCard((DATA / name / "README.md").read_text(encoding="utf-8"))


@each_model
def test_a_card_says_what_the_claims_say(name, cards):
    now = card(name)
    new = cards.written(name, CLAIMS)
    assert now.data.to_dict() == new.data.to_dict(), REDO
    assert now.text == new.text
    for result in now.data.eval_results or []:
        claim = BY_ID[result.metric_args["claim"]]
        assert (result.metric_value, result.metric_name) == (
            claim["value"],
            claim["what"],
        )
        ((file, digest),) = claim["weights"].items()
        assert file == f"{name}/model.safetensors"
        assert hashlib.sha256((DATA / file).read_bytes()).hexdigest() == digest


def test_most_models_have_results_and_each_claim_one_card():
    """Nothing is claimed of teacher-cifar10-tiny alone, which is for ablations."""
    found = {name: card(name).data.eval_results or [] for name in NAMES}
    assert sum(map(bool, found.values())) >= len(NAMES) - 1
    named = [r.metric_args["claim"] for rows in found.values() for r in rows]
    assert len(named) == len(set(named))
    alone = [c["id"] for c in CLAIMS if len(c["weights"]) == 1]
    distances = {n for n in alone if re.fullmatch(r"frechet-(hkd|tiny|teacher)", n)}
    assert distances <= set(named)


def said(text):
    """(value, half of its last digit) of the numbers in a card; percent as shares."""
    for number, decimals, percent in re.findall(r"(?<![\d.])(\d+\.(\d+))(%?)", text):
        scale = 100 if percent else 1
        yield float(number) / scale, 0.5 * 10 ** -len(decimals) / scale


@each_model
def test_the_text_of_a_card_says_its_first_result_too(name):
    now = card(name)
    for result in (now.data.eval_results or [])[:1]:
        value = result.metric_value
        close = [v for v, half in said(now.text) if abs(v - value) <= 1.001 * half]
        assert close, f"{name}'s card has no {value}: {result.metric_name}"


def test_a_claim_that_moved_is_noticed(cards):
    moved = copy.deepcopy(CLAIMS)
    one = next(c for c in moved if c["id"] == "accuracy-features")
    one["value"] += 0.01
    now = card("features-cifar10").data.to_dict()
    assert cards.written("features-cifar10", moved).data.to_dict() != now
    assert cards.written("features-cifar10", CLAIMS).data.to_dict() == now
    kinds = {claim: cards.metric(claim) for claim in BY_ID}
    assert kinds["frechet-few"] is kinds["frechet-ratio"] is kinds["speed-evolve"]
    assert kinds["speed-evolve"] is None


def test_what_evaluate_finds_goes_into_a_card():
    found = {"frechet": 12.5, "precision": 0.9, "recall": 0.5, "n": 300, "n_real": 290}
    found |= {"reference": "private/place/my-pictures", "size": [64, 64]}
    found |= {"features": "private/place/features"}
    made = results(found)
    again = ModelCard(str(with_results("---\nlicense: mit\n---\n\n# A", "a", made)))
    assert again.data.eval_results == made and again.data.license == "mit"
    assert "private" not in str(again) and again.text.strip() == "# A"
    assert [r.metric_value for r in made] == [12.5, 0.9, 0.5]
    assert made[0].dataset_name == "my-pictures" and made[0].metric_args["n"] == 300
    cifar = results({**found, "reference": "CIFAR-10 in private/place"})[0]
    assert (cifar.dataset_type, cifar.dataset_name) == ("cifar10", "CIFAR-10")
    none = with_results(str(again), "a", [])
    assert "model-index" not in str(none) and isinstance(made[0], EvalResult)
    with pytest.raises(ValueError, match="frechet, precision, recall"):
        results({"loss": 1.0})
    with pytest.raises(TypeError, match="wanted a EvalResult"):
        with_results("# A", "a", [0.5])


def test_the_teachers_card_has_the_search_for_its_recipe():
    searched = json.loads((DATA / "teacher-recipes.json").read_text(encoding="utf-8"))
    lines = card("teacher-cifar10").text.splitlines()
    table = {
        cells[0]: cells[1:]
        for line in lines
        if len(cells := [part.strip() for part in line.strip("| ").split("|")]) == 13
    }
    assert table["recipe"][2:-2] == [f"{level:g}" for level in searched["levels"]]
    for row in searched["rows"]:
        errors = *row["none"]["levels"], row["none"]["mean"], row["class"]["mean"]
        assert table[row["name"]] == [
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['images']:,}",
            *(f"{error:.3f}" for error in errors),
        ]
