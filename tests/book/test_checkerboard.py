"""Chapter 7's numbers: the benchmark runs, its table is whole, and the bundled models
are the ones in the table.
"""

import importlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

import hkd_mini
from hkd_mini.diffusion.samplers import Path as Paths
from hkd_mini.engine.files import read_tensors
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd import koopman_residual

FOLDER = data_folder() / "checkerboard"
RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "checkerboard.py"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    spec = importlib.util.spec_from_file_location("benchmark_checkerboard", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))  # common.py is beside it
        spec.loader.exec_module(module)
        module.common = importlib.import_module("common")
    return module


def test_the_table_has_every_row_once(script):
    rows = [{key: row[key] for key in script.Row._fields} for row in RESULTS["rows"]]
    wish = [row._asdict() for row in script.grid()]
    assert len(rows) == len(wish) and all(row in rows for row in wish)


def test_the_benchmark_in_small(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "CACHE", tmp_path)
    data = script.common.board_paths(30, seed=5, points=64, steps=8)
    assert data.x.shape == (5, 30, 2) and data.sigmas[-1] == 0 and data.nfe == 15
    assert data.guesses.shape == (4, 30, 2)
    row = script.Row(
        "all",
        path=1.0,
        guess=1.0,
        linear=0.1,
        infinitesimal=0.01,
        dimension=4,
        iterations=2,
    )
    model = script.trained(row, data)
    found = script.measure(model, data)
    guessed = next(r for r in RESULTS["rows"] if r["objective"] == "guess")
    assert set(found) <= set(guessed) and found["end"] > 0.1
    times = model.clock.time(data.sigmas[:-1]).float()
    assert found["residual"] == pytest.approx(
        float(koopman_residual(model, data.x[:-1], times)), rel=1e-5
    )
    again = script.trained(row, None)  # from the folder, without paths
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters())
    )
    still = script.measure(
        script.trained(row._replace(koopman=False, iterations=0), None), data
    )
    assert all(
        still[name] == pytest.approx(still[f"{name}_idle"])
        for name in ("end", "guesses", "pairs", "residual", "centred")
    )
    gap = (data.guesses - data.x[-1]).square().mean()
    variance = data.x[-1].var(0, correction=0).mean()
    assert still["guesses_still"] == pytest.approx(float(gap / variance), rel=1e-5)
    silent = script.measure(model, data._replace(guesses=None))
    assert "guesses" not in silent and silent["end"] == found["end"]


def test_a_row_says_what_is_trained(script, tmp_path, monkeypatch):
    """What a row adds to the paper's recipe reaches the model and the loss."""
    monkeypatch.setattr(script, "CACHE", tmp_path)
    seen = []

    def watched(model, paths, recipe, asked):
        seen.append((model.config, asked))
        return iter(())

    monkeypatch.setattr(script, "train", watched)
    data = script.common.board_paths(4, seed=5, points=16, steps=8)
    row = next(r for r in script.grid() if r.readout == "linear")
    script.trained(row, data)
    ((config, asked),) = seen
    assert (
        config.readout == "linear" and config.rates == (0, row.rates) and row.rates > 0
    )
    assert asked.guess_weight == 1 and asked.lr_scale_A == row.lr_A == 10
    assert asked.later_only and asked.linear_scale == row.scale


@pytest.mark.parametrize("name", ["paper", "moving", "guess"])
def test_bundled_models_are_those_of_the_table(script, name):
    tensors, about = read_tensors(FOLDER / "held-out.safetensors")
    held_out = Paths(tensors["sigmas"], tensors["x"], int(about["nfe"]))
    model = hkd_mini.load(f"checkerboard/{name}")
    found = script.measure(model, held_out)
    row = next(
        r
        for r in RESULTS["rows"]
        if r["iterations"] == script.LONG
        and r["seed"] == 0
        and script.KEPT.get(r["objective"]) == name
    )
    for key in (
        "end",
        "end_idle",
        "from_noise",
        "pairs",
        "residual",
        "residual_idle",
        "size",
    ):
        assert found[key] == pytest.approx(row[key], rel=0.03), key


def test_what_the_chapter_claims():
    """The two bundled models are equally good at one step; one of them needs its
    generator, and one does not.
    """
    paper, moving = (
        next(
            r
            for r in RESULTS["rows"]
            if r["objective"] == o and r["iterations"] == 12000 and r["seed"] == 0
        )
        for o in ("paper", "path+linear+infinitesimal")
    )
    assert moving["end"] < 1.2 * paper["end"] < 0.002
    assert (
        paper["end_idle"] < 1.2 * paper["end"]
        and moving["end_idle"] > 30 * moving["end"]
    )
    assert moving["residual"] < 0.05 < 0.3 < paper["residual"]


def rows_of(objective, **wish):
    """The rows of an objective at the grid's iterations, unless `wish` says other."""
    wish = {"iterations": 3000, "objective": objective, **wish}
    found = [r for r in RESULTS["rows"] if all(r[key] == v for key, v in wish.items())]
    assert found, wish
    return found


def test_guesses_need_the_generator():
    """With guess decoding one step is as good, and nothing without A; without it, the
    guesses on the way are not met, and A at any rate of learning is not needed.
    """
    guess = rows_of("guess", guess=1.0, lr_A=10.0, koopman=True)
    paper = rows_of("paper", clock="rho", lr_A=1.0, koopman=True, dimension=64)
    paper = [r for r in paper if r["encoder_time"] == "sigma"]
    assert len(guess) == len(paper) == 3
    for row in guess:
        assert row["end"] < 0.005 and row["end_idle"] > 0.9
        assert row["guesses"] < 0.003 < 0.3 < row["guesses_idle"] < row["guesses_still"]
    for row in paper:
        assert row["guesses"] == pytest.approx(row["guesses_still"], rel=0.05)
    frozen = rows_of("guess", koopman=False)
    assert min(r["end"] for r in frozen) > 10 * max(r["end"] for r in guess)


def test_a_linear_read_out_cannot_use_a_clock():
    """One shift for all states does most of A's work where linearity is asked for, and
    none of it where the read-out is linear.
    """
    by_clock = lambda r: (r["end_idle"] - r["end_clock"]) / (r["end_idle"] - r["end"])
    assert min(map(by_clock, rows_of("guess+linear"))) > 0.9
    assert max(map(by_clock, rows_of("guess, linear read-out"))) < 0.02
