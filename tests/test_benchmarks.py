"""The benchmarks run, say what they compare, and end with the line `ratio R`; their
figures belong to the machine.
"""

import ast
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ends
from scipy.stats import spearmanr
from torch.utils.flop_counter import FlopCounterMode

from hkd_mini import load
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.border import inside
from hkd_mini.engine.data import Images, to_uint8
from hkd_mini.engine.precision import choose
from hkd_mini.hkd.bands import mean_frequency
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def threads():
    """A benchmark may choose how many it takes; the next test has its own back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts find common.py beside them, as they do when they are run."""
    monkeypatch.syspath_prepend(str(FOLDER))


def script(name):
    if not (FOLDER / f"{name}.py").is_file():
        pytest.skip(f"benchmarks/{name}.py is not there")
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name}", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_judge_looks_at_all_samples_alike(monkeypatch):
    """The same pictures twice: their distance is 0 and each lies in the other's
    manifold; black ones are far off.
    """
    claims = script("claims")
    looked = []

    def means(x):
        looked.append(len(x))
        return x.float().mean(3).flatten(1)[:, ::16]

    monkeypatch.setattr(claims.evaluation, "extractor", lambda *where: means)
    rng = torch.Generator().manual_seed(0)
    real = torch.randint(256, (40, 3, 32, 32), generator=rng, dtype=torch.uint8)
    same, black = claims.judged("anything", real, [real.clone(), 0 * real])
    assert same == {"frechet": pytest.approx(0, abs=1e-6), "precision": 1, "recall": 1}
    assert black["frechet"] > 1000 and black["precision"] == black["recall"] == 0
    assert looked == [40, 40, 40]


def test_a_script_imports_no_other():
    """What two of them need, or one would be too long with, is in files that are no
    scripts.
    """
    shared = {"common", "training", "board_rows"}
    names = {path.stem for path in FOLDER.glob("*.py")}
    if not names:
        pytest.skip("benchmarks/ is not there")
    for path in FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found = {node.module for node in nodes}
        found |= {
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for name in node.names
        }
        wish = {"common"} if path.stem == "training" else shared
        assert found & names <= wish - {path.stem}, path.name


def test_a_file_of_results_gains_the_rows_that_it_lacks(tmp_path, capsys):
    common = script("common")
    file = tmp_path / "deep" / "results.json"
    wanted = [{"name": name, "seed": seed} for seed in (0, 1) for name in ("b", "a")]
    asked = []

    def measure(row):
        asked.append(row)
        return {"error": 0.123456, "all": [1 / 3, 2]}

    assert common.stored(file) == {} and common.lacks(file, wanted[0])
    common.fill(file, wanted[:2], measure, {"command": "x"}, show=("error",))
    common.fill(file, wanted, measure, {"command": "y"})
    assert asked == wanted, "each once"
    content = common.stored(file)
    assert list(content) == ["command", "rows"] and content["command"] == "y"
    line = {"error": 0.1235, "all": [0.3333, 2], "date": common.today()}
    assert content["rows"] == [row | line for row in wanted]
    assert not common.lacks(file, {"name": "a"}) and common.lacks(file, {"name": "c"})
    assert capsys.readouterr().out.splitlines()[0] == "b 0 error 0.1235"
    common.add(file, {}, {"name": "0", "seed": 2}, order=lambda r: r["name"])
    assert [r["name"] for r in common.stored(file)["rows"]] == [*"0aabb"]
    assert file.read_text().endswith("}\n") and list(file.parent.iterdir()) == [file]


def test_where_a_number_comes_from(tmp_path):
    common = script("common")
    torch.set_num_threads(1)
    said = common.device("two processes")
    assert ", 1 thread, two processes, torch " in said
    torch.set_num_threads(2)
    assert " CPU, 2 threads, torch " in common.device()
    (tmp_path / "x").write_bytes(b"abc")  # the digest of FIPS 180-2's first example
    assert common.sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")
    (named,) = common.weights("hkd-cifar10").items()
    assert named[0] == "hkd-cifar10/model.safetensors" and len(named[1]) == 64
    assert common.rounded({"a": (1.23456, 7, "x", None, True)}) == {
        "a": [1.235, 7, "x", None, True]
    }
    assert common.in_words("One.\n\n  run\n\nTwo\nlines.\n") == "Two lines. "
    assert "as it\nis" in common.parser("as it\nis").format_help()


def ratio(printed):
    *said, last = printed.splitlines()
    assert len(said) >= 2 and re.fullmatch(r"ratio \d+(\.\d+)?", last), printed
    return float(last.split()[1])


def test_what_changed_is_told(monkeypatch, tmp_path):
    again = script("again")
    before = [
        {"id": "a", "value": 1.0, "tolerance": 0.1},
        {"id": "b", "value": 1.0, "tolerance": 0.1},
        {"id": "gone", "value": 3.0, "tolerance": 0.1},
    ]
    after = [
        {"id": "b", "value": 1.2, "tolerance": 0.1, "fine": True},
        {"id": "a", "value": 1.09, "tolerance": 0.1},
    ]
    moved = again.changed(before, after, 0.02)
    assert moved == {
        "b/value": (1.0, 1.2),
        "gone/value": (3.0, None),
        "gone/tolerance": (0.1, None),
    }
    rows = {"rows": [{"x": [1.0, 2.0]}, {"x": []}]}
    assert again.changed(rows, {"rows": [{"x": [1.01, 2.1]}, {"x": []}]}, 0.02) == {
        "rows/0/x/1": (2.0, 2.1)
    }
    monkeypatch.setattr(again, "DATA", tmp_path)
    (tmp_path / "f.json").write_text("old")
    with pytest.raises(subprocess.CalledProcessError):
        again.measure(again.Part("bundle.py --no-such-flag", "f.json", rows=True), "")
    assert (tmp_path / "f.json").read_text() == "old"
    files = {part.words.split()[0] for part in again.PARTS.values()}
    assert all((FOLDER / file).is_file() for file in files)


def test_one_step(capsys):
    script("one_step").main(["--quick"])
    printed = capsys.readouterr().out
    assert (
        "teacher, 35 evaluations, guided" in printed
        and "HKD, one step, 1 evaluation" in printed
    )
    assert printed.count("bundled") >= 2, "whose weights they are"
    assert ratio(printed) > 0


def test_one_step_without_bundled_weights(capsys, monkeypatch, tmp_path):
    from hkd_mini.engine import weights

    monkeypatch.setattr(weights, "data_folder", lambda: tmp_path)
    script("one_step").main(["--quick"])
    printed = capsys.readouterr().out
    assert printed.count("random weights") == 2 and ratio(printed) > 0


def test_evolve(capsys, monkeypatch):
    module = script("evolve")
    for name, value in {"B": 3, "D": 16, "H": 4, "W": 5}.items():
        monkeypatch.setattr(module, name, value)
    module.main()
    printed = capsys.readouterr().out
    assert "matrix_exp" in printed and "plain copy" in printed and "GB/s" in printed
    assert ratio(printed) >= 0


def test_dmd(capsys, monkeypatch):
    pytest.importorskip("pydmd", reason="PyDMD is what it compares with")
    module = script("dmd")
    monkeypatch.setattr(module, "SHAPES", ((60, 900), (40, 3000)))
    module.main(["--repeats", "1"])
    printed = capsys.readouterr().out
    assert printed.count("PyDMD") >= 3 and printed.count("peak memory") == 4
    assert ratio(printed) > 0


def test_train_step(capsys):
    script("train_step").main(["--quick"])
    printed = capsys.readouterr().out
    assert (
        "EDM" in printed
        and "HKD with features" in printed
        and "kept out of the ratio" in printed
    )
    assert ratio(printed) > 0


def test_precision(capsys):
    script("precision").main(["--quick"])
    printed = capsys.readouterr().out
    assert re.search(r"default .*= (bf16|fp32)", printed) and ratio(printed) > 0


def test_loading_draws_the_same_batches_three_ways(capfd):
    """Two processes; how much quicker one way is than another is no verdict."""
    script("loading").main(["--batch", "32", "--steps", "9", "--device-ms", "1"])
    out = capfd.readouterr().out
    assert all(f"  {way} " in out for way in ("whole", "share", "prefetch"))
    assert out.splitlines()[-1].startswith("ratio ")


def test_side_by_side_spends_the_same_on_every_method(monkeypatch, tmp_path):
    module = script("side_by_side")
    for name in [*module.METHODS, *module.HKDS]:
        spent = module.images(name, module.BUDGET) * (
            module.HKDS[name][2] * module.TIMES
            if name in module.HKDS
            else module.COSTS[name]
        )
        spent += module.PATHS * module.PATH_COST if name in module.PAIRED else 0
        assert 0 <= module.BUDGET - spent < 20, name
    monkeypatch.setattr(module, "CACHE", tmp_path)
    monkeypatch.setattr(module, "PATHS", 200)
    monkeypatch.setitem(
        module.RECIPES,
        "toy2d",
        module.RECIPES["toy2d"]._replace(teacher=replace(module.RECIPE, images=2_560)),
    )
    found = [
        module.row(name, 0, 30_000, 16)
        for name in ("HKD-linear", "CD", "DMD", "KDM", "EDM 35")
    ]
    rows = [line for line, _ in found]
    assert [r["evaluations"] for r in rows] == [1, 1, 1, 1, 35]
    assert rows[-1]["end"] == 0 and all(
        0 < r["sw"] < 10 and r["end"] > 0 for r in rows[:-1]
    )
    assert rows[2]["parameters"] == rows[1]["parameters"], (
        "of the pair of DMD the generator alone is the student"
    )
    assert found[2][1].keys() == found[1][1].keys() and set(found[-1][1]) == {"ends"}, (
        "of the teacher no copy is kept"
    )


def test_how_evenly_a_method_trains(monkeypatch, tmp_path):
    module = script("side_by_side")
    kind = namedtuple("kind", ("loss", "grad_norm"))
    run = [kind(9.0, 900.0)] * 500 + [kind(1.0, 2.0)] * 500
    run[700] = kind(5.0, 20.0)  # one spike, among the steps that count
    monkeypatch.setattr(module, "trained", lambda *_: (None, run))
    found = module.steadiness("HKD", 0)
    assert found["spike"] == 5 and found["gradient_largest"] == 10
    spread = np.log([2.0] * 499 + [20.0]).std()
    assert found["gradient_spread"] == pytest.approx(spread)


def test_every_ablation_is_there_once_a_seed():
    module = script("ablations")
    said = ("table", "name", "seed")
    rows = json.loads(module.RESULTS.read_text(encoding="utf-8"))["rows"]
    there = [tuple(row[k] for k in said) for row in rows]
    assert there == [tuple(getattr(row, k) for k in said) for row in module.grid()]
    for row in rows:
        assert set(row) >= {"end", "end_idle", "guesses", "centred", "rate", "date"}
        assert ("frechet" in row) == (row["table"] != "rates"), row["name"]
        assert np.isfinite([row["end"], row["end_idle"], *row["guesses"]]).all()


def test_side_by_side_on_pictures_spends_the_same_on_every_method(
    monkeypatch, tmp_path
):
    from hkd_mini.engine.data import Images

    module = script("side_by_side_cifar")
    rng = torch.Generator().manual_seed(0)
    assert module.BUDGET == 353_280
    kdm = module.METHODS["KDM"].student(module.hkd_mini.load(module.TEACHER))
    x = torch.zeros(1, 3, 32, 32)
    passes = []
    for run in (
        lambda: kdm.encode(x),
        lambda: module.hkd_mini.load(module.TEACHER)(x, 1.0),
    ):
        with FlopCounterMode(display=False) as count:
            run()
        passes.append(count.get_total_flops())
    assert passes[0] / passes[1] == pytest.approx(module.KDM_PASS, abs=1e-3)
    for name in module.NAMES:
        spent = module.images(name) * module.cost(
            name
        ) + module.PATHS * 35 * module.needs_paths(name)
        assert 0 <= module.BUDGET - spent < 20, name
    monkeypatch.setattr(module, "CACHE", tmp_path)
    monkeypatch.setattr(module, "PATHS", 4)
    monkeypatch.setattr(module, "HELD_OUT", 2)
    monkeypatch.setattr(module, "SAMPLES", 12)
    monkeypatch.setattr(
        module,
        "RECIPE",
        replace(module.RECIPE, images=4, batch=2, compile=False),
    )
    monkeypatch.setattr(module, "images", lambda name: 4)
    pictures = Images(
        torch.randint(256, (8, 3, 32, 32), generator=rng, dtype=torch.uint8),
        torch.zeros(8).long(),
        ("",),
    )
    monkeypatch.setattr(module, "load_cifar10", lambda *_: pictures)
    samples = {}
    for name in ("HKD-linear", "ECM", "KDM", module.MANY):
        line, samples[name] = module.row(name, 0, "nowhere")
        assert name == module.MANY or line["end"] > 0
        assert samples[name].shape == (12, 3, 32, 32)
        assert samples[name].dtype == torch.uint8
    # a student that is there is not trained again
    monkeypatch.delattr(module, "train")
    line, again = module.row("HKD-linear", 0, "nowhere")
    assert torch.equal(again, samples["HKD-linear"])
    score = lambda x: {"frechet": float(len(x)), "precision": 0.5, "recall": 0.4}
    monkeypatch.setattr(
        module, "judged", lambda _, real, fakes: list(map(score, fakes))
    )
    monkeypatch.setattr(module, "FEW", 5)
    scores = module.in_the_eyes_of_judges(samples, "nowhere")["KDM"]
    assert scores == {"second": 12, "precision": 0.5, "recall": 0.4, "imagenet": 5}


def test_kdm_board_measures_groups_and_outliers():
    pytest.importorskip("sklearn", reason="its k-means, Rand index and area are used")
    module = script("kdm_board")
    rng = np.random.default_rng(0)
    far = rng.normal(size=(8, 2)) * 100
    true = np.repeat(np.arange(8), 50)
    points = far[true] + rng.normal(size=(400, 2))
    found = module.groups(points)
    assert module.adjusted_rand_score(true, found) == 1.0
    # by hand: of the four pairs of true cases and others, three are in order
    score = np.array([3.0, 1.0, 2.0, 0.0])
    case = np.array([True, True, False, False])
    assert module.roc_auc_score(case, score) == 0.75
    measured = module.interval(module.roc_auc_score, true < 3, points[:, 0], draws=200)
    middle, low, high = measured
    assert low < middle < high and high - low < 0.2


def test_kdm_board_knows_the_board():
    pytest.importorskip("sklearn", reason="the script imports it")
    from hkd_mini.engine.points import checkerboard

    module = script("kdm_board")
    points = checkerboard(2_000, torch.Generator().manual_seed(0)).numpy()
    assert module.off_board(points).max() < 1e-6 and len(set(module.cell(points))) == 8
    side = module.HALF / 2
    centre_of_an_empty_cell = np.array(
        [[1.5 * side - module.HALF, 0.5 * side - module.HALF]]
    )
    assert module.off_board(centre_of_an_empty_cell) == pytest.approx(0.5)
    assert module.off_board(
        np.array([[2 * module.HALF, module.HALF]])
    ) == pytest.approx(2.0)


# --- modes


def test_rank_correlations_are_scipys_and_know_chance():
    modes = script("modes")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 20)).round(1)  # ties among them
    b = rng.normal(size=(3, 20)).round(1)
    theirs = [spearmanr(*rows).statistic for rows in zip(a, b)]
    assert np.allclose(modes.spearman(a, b), theirs)
    x = np.arange(20.0)
    found = modes.verdict(x, x**3)
    assert found["rho"] == found["low"] == found["high"] == pytest.approx(1)
    assert found["chance"] < 1e-3 and found["n"] == 20
    found = modes.verdict(a[0], b[0])
    assert found["low"] < found["rho"] < found["high"]
    assert found["chance"] == pytest.approx(
        spearmanr(a[0], b[0]).pvalue, rel=0.2, abs=0.02
    )
    assert modes.verdict(x[:5], x[:5]) is None


def test_weak_pairs_and_states_are_kept_apart():
    """Two states of opposite order: none over all, one within each."""
    modes = script("modes")
    pairs = [
        {"state": s, "growth": 1.0 + k - 30 * s, "frequency": k + 9 * s, "power": 1.0}
        for s in (0, 1)
        for k in range(8)
    ]
    weak = {"state": 0, "growth": 9.0, "frequency": -5.0, "power": 1e-4}
    found = modes.verdicts([*pairs, weak])
    assert found["all"]["n"] == 16 and found["all"]["rho"] < 0
    assert found["within"]["rho"] == pytest.approx(1)
    assert found["growing"]["n"] == 8 and found["growing"]["rho"] == pytest.approx(1)
    assert "within" not in modes.verdicts(pairs[:8])


def test_the_growth_of_a_ring_is_that_of_the_exponential_it_has():
    modes = script("modes")
    left = np.linspace(1, 0.05, 9)
    grown = np.array([0.0, 0.7, 3.2])
    share = 1 - (1 - np.exp(-np.outer(left, grown))) ** 2
    assert np.allclose(modes.growths(share, left), grown, atol=0.01)
    assert modes.growths(np.stack([share, share]), left).shape == (2, 3)
    rng = torch.Generator().manual_seed(1)
    ends = torch.randn(12, 3, 32, 32, generator=rng, dtype=torch.float64)
    ends -= ends.mean(0)  # a guess of the mean picture is then nothing
    guesses = torch.stack([np.exp(-2.0 * u) * ends for u in left])
    found = modes.rings_of(guesses, ends, left, 5)
    for key in ("growth", "low", "high"):
        assert np.allclose(found[key], 2.0, atol=0.25), key
    assert np.allclose(found["growth"], 2.0, atol=0.011)


@pytest.mark.parametrize("anchored", [False, True])
def test_pairs_of_a_linear_read_out_are_asked_where_they_are_largest(anchored):
    """A read-out whose pair k draws k columns of a picture: the frequency is known,
    and the power is that at the noise or at the picture.
    """
    modes = script("modes")
    network = UNetConfig(resolution=8, channels=8, mult=(1,), blocks=1, attention=())
    rates = (-6.0, 6.0)
    how = {"readout": "linear", "spatial": "shared", "pairs": 3, "rates": rates}
    torch.manual_seed(0)
    model = HKD(HKDConfig(network, anchored=anchored, **how)).eval()
    pairs = modes.pairs_of(model, 4)
    assert [pair["growth"] for pair in pairs] == pytest.approx([6, 0, -6])
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(modes.SEED))
    T = model.clock.T
    with torch.no_grad():
        z = model.encode(model.noise.sigma_max * noise, T)
        for k, (pair, t) in enumerate(zip(pairs, (model.clock.eps, T, T))):
            mask = torch.zeros(3, 1, 1)
            mask[k] = 1
            picture = model.decode(model.evolve(z, T, t, [mask]))
            wish = picture.square().mean().item()
            assert pair["power"] == pytest.approx(wish, rel=1e-4) and wish > 0
            wish = mean_frequency(picture).mean().item()
            assert pair["frequency"] == pytest.approx(wish, rel=1e-3)


def test_pairs_of_a_network_decoder_are_asked_at_the_picture():
    modes = script("modes")
    network = UNetConfig(resolution=8, channels=8, mult=(1,), blocks=1, attention=())
    torch.manual_seed(0)
    model = HKD(HKDConfig(network)).eval()
    for generator in model.generators:
        generator.A.data.normal_(0, 1.0)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(modes.SEED))
    pairs = modes.pairs_of(model, 2)
    assert len(pairs) == sum(d // 2 for d, _, _ in model.state_shapes)
    with torch.no_grad():
        T = model.clock.T
        eps = model.clock.eps
        z = model.evolve(model.encode(model.noise.sigma_max * noise, T), T, eps)
        whole = model.decode(z)
        d = z[1].shape[1] // 2
        z[1][:, [2, 2 + d]] = 0
        change = whole - model.decode(z)
    (pair,) = [p for p in pairs if p["state"] == 1][2:3]
    assert pair["power"] == pytest.approx(change.square().mean().item(), rel=1e-3)


WAYS = ("alpha", "alone", "within", "abs")


def test_modes_and_bands_of_the_bundled_model(capsys):
    script("modes").main(["--quick"])
    found = json.loads(capsys.readouterr().out)
    assert set(found["levels"]) == {"16x16", "8x8"}
    assert found["levels"]["8x8"]["all"]["n"] > 24
    assert len(found["rings"]["growth"]) == 15
    script("spectral").main(["--quick"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = {key: [line[1:] for line in lines if line[0] == key] for key in WAYS}
    assert found["alpha"] == found["alone"]  # the read-out is linear
    assert found["alpha"] == found["within"]  # and a resolution has one state
    assert len(found["alpha"]) == 3 and found["alpha"] != found["abs"]


def few_pictures() -> Images:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return Images(x, torch.arange(40) % 10, tuple("abcdefghij"))


def test_training_for_a_gpu_that_is_lent_for_minutes(monkeypatch, tmp_path, capsys):
    training = script("gpu_training")
    pictures = few_pictures()
    monkeypatch.setattr(training, "load_cifar10", lambda split, folder: pictures)
    monkeypatch.setattr(training, "SIDE", 3)
    monkeypatch.setattr(training, "WARM", 2)
    monkeypatch.setattr(training, "WEIGHTS", (1.5, 2.0))
    training.pack("anywhere", tmp_path / "carry", 0.06)
    folders = sorted(tmp_path.glob("carry-*"))
    assert len(folders) == 2 and "36 pictures in 2 folders" in capsys.readouterr().out
    found = training.unpacked(folders)
    assert torch.equal(found.x, pictures.x[:36])  # four whole sheets, bit for bit
    assert torch.equal(found.labels, pictures.labels[:36])
    assert 0 < len(training.unpacked(folders[:1]).x) < 36

    out = tmp_path / "out"
    asked = {"pack": folders, "out": out, "seconds": 1e-3, "small": True}
    with inside():
        told = training.trained(namedtuple("Options", asked)(**asked))
    assert told["pictures"] == 36 and told["paths"] == 16
    assert {row["weight"] for row in told["guidance"]} == {1.5, 2.0}
    for name in ("teacher", "hkd", "hkd-paper"):
        model = load(out / name)
        assert all(p.isfinite().all() for p in model.parameters())
        # no time at all still buys one step more than what compiles
        assert told[name]["images"] == 3 * 8
        lines = (out / f"{name}.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["images"] == 3 * 8
    assert (
        load(out / "hkd").config.anchored
        and not load(out / "hkd-paper").config.rates[1]
    )
    told_labels = torch.tensor([3, -1])
    assert (
        load(out / "hkd")
        .sample(torch.randn(2, 3, 32, 32), told_labels)
        .isfinite()
        .all()
    )
    assert json.loads((out / "told.json").read_text()) == told


def test_a_loss_that_is_not_finite_ends_a_stage_with_the_average_before(
    monkeypatch, tmp_path
):
    training = script("gpu_training")
    monkeypatch.setattr(training, "WARM", 2)
    model = training.placed(Denoiser(training.SMALL), "cpu")
    losses = iter([1.0, 1.0, math.nan, 1.0])

    def loss(given, progress):
        some = sum(p.sum() for p in model.parameters())
        return {"loss": 1e-3 * some * next(losses)}

    config = replace(training.TEACHER, batch=8, compile=False, precision="fp32")
    until = time.monotonic()
    with inside():
        average, told = training.learn(
            "one", model, loss, iter([{}] * 4), config, until, tmp_path
        )
    assert math.isnan(told["loss"])
    assert all(p.isfinite().all() for p in average.parameters())


def test_indices_come_all_once_before_any_comes_again():
    batches = script("gpu_training").endless(5, 2, "cpu")
    first, second = torch.cat([next(batches) for _ in range(5)]).split(5)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(5))


def test_a_training_step_is_one_graph(tmp_path):
    # in a process of its own, whose functions no test looks into
    code = """if True:
        import functools, sys, torch
        torch.compile = functools.partial(torch.compile, backend="eager")
        import gpu_training as g
        g.NETWORK, g.WARM = g.SMALL, 1
        for stage in g.UNTIL:
            asked = f"warm {stage} --small --compile --seconds 0 --out runs-{stage}"
            sys.argv[1:] = asked.split()
            g.main()
    """
    command = [sys.executable, "-c", code]
    path = os.pathsep.join([str(FOLDER), str(FOLDER.parent)])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )  # fullgraph=True: a step that breaks in two is an error
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(s) for s in done.stdout.splitlines() if s.startswith("{")]
    assert [set(x) & {"loss", "sum"} for x in lines] == [
        {"loss"},
        {"sum"},
        {"loss"},
        {"loss"},
    ]


@pytest.mark.parametrize("learned", [False, True])
def test_a_recipe_spends_its_time_and_is_measured_where_it_did_not_train(
    monkeypatch, learned
):
    recipes = script("teacher_recipes")
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (32, 3, 32, 32), generator=rng, dtype=torch.uint8)
    pictures = Images(x, torch.arange(32) % 10, tuple("abcdefghij"))
    asked = []
    load_pictures = lambda split, folder: asked.append(split) or pictures
    monkeypatch.setattr(recipes, "load_cifar10", load_pictures)
    small = replace(recipes.TODAY, channels=16, blocks=1)
    monkeypatch.setattr(recipes, "TODAY", small)
    steady = replace(recipes.STEADY, compile=False, precision="fp32")
    monkeypatch.setattr(recipes, "STEADY", steady)
    monkeypatch.setattr(recipes, "PICTURES", 16)
    monkeypatch.setattr(recipes, "LEVELS", (0.1, 1.0))
    recipe = recipes.Recipe("one", {}, {"batch": 8, "muon": 0.02}, learned)
    same, found = recipes.trained(recipe, "somewhere", 0.02)
    assert same is recipe and asked == ["train", "test"]
    assert 0.3 < found["seconds"] < 5 and found["images"] % 8 == 0
    for who in ("none", "class"):
        assert len(found[who]["levels"]) == 2 and min(found[who]["levels"]) > 0
        assert np.isfinite([*found[who]["levels"], found[who]["mean"]]).all()


def test_a_weight_is_measured_in_the_interval_that_its_row_says(monkeypatch):
    guidance = script("guidance")
    rng = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(256, (n, 3, 32, 32), generator=rng).byte()
    judges = {k: lambda x: x.flatten(1)[:, :8].float() for k in ("ours", "second")}
    real = {k: judges[k](draw(40)) for k in judges}
    asked = []

    def sampled(denoiser, n, seed, steps, labels, precision):
        asked.append((denoiser.weight, denoiser.interval, denoiser.weaker is None))
        return draw(n)

    monkeypatch.setattr(guidance.evaluation, "draw", sampled)
    monkeypatch.setattr(guidance, "TEACHER", "teacher-cifar10-tiny")
    for row in guidance.ROWS:
        found = guidance.measured({**row, "n": 20, "steps": 3}, judges, real)
        assert np.isfinite(list(found.values())).all() and found["frechet_ours"] > 0
    assert (1.0, (0.0, float("inf")), True) in asked
    assert (2.0, (0.2, 3.0), True) in asked
    assert (2.0, (0.0, float("inf")), False) in asked and len(set(asked)) == 12


def test_where_to_stop_judges_the_ends_of_shorter_paths():
    """The guess at a level is where paths end that stop there, and a cosine lies in the
    band of its frequency alone.
    """
    stopping = script("stopping")
    stopping.LEVELS = karras_sigmas(5)
    stopping.STOPS = (2, 4)
    stopping.choose = lambda asked, where: choose("fp32", where)
    found, labels = stopping.guesses(3)
    assert found.shape == (2, 3, 3, 32, 32) and labels.tolist() == [0, 1, 2]
    teacher = Guided(load("teacher-cifar10"), stopping.WEIGHT)
    rng = torch.Generator().manual_seed(stopping.SEED)
    x_T = stopping.LEVELS[0] * torch.randn(3, 3, 32, 32, generator=rng)
    short = torch.cat([stopping.LEVELS[:3], torch.zeros(1)])
    for levels, those in ((short, found[0]), (stopping.LEVELS, found[1])):
        end = heun(teacher, x_T, levels, labels).x[-1]
        assert (to_uint8(end).int() - those.int()).abs().max() <= 1

    wave = 127.5 + 90 * np.cos(np.pi * (np.arange(32) + 0.5) * 13 / 32)  # 13 half waves
    picture = torch.tensor(wave).round().byte().expand(1, 3, 32, 32)
    power = stopping.power(picture)
    assert power.argmax() == 3 and power[3] > 1e3 * np.delete(power, 3).max()


def test_a_ray_never_steps_through_a_solid():
    """Marching needs a distance that is never too long: it changes by at most as much
    as the point moves, and its sign says inside or outside.
    """
    shapes = script("shapes")
    rng = np.random.default_rng(0)
    p = rng.uniform(-2, 2, (3, 20_000)).astype(np.float32)
    q = p + rng.normal(0, 0.1, p.shape).astype(np.float32)
    for kind in shapes.KINDS:
        moved = np.linalg.norm(p - q, axis=0)
        change = abs(shapes.solid(kind, p) - shapes.solid(kind, q))
        assert (change <= moved + 1e-5).all(), kind
        inside = [[0.52], [0], [0.24]] if kind == "rings" else [[0], [0], [0.5]]
        assert shapes.solid(kind, np.array(inside)) < -0.1
        assert shapes.solid(kind, np.array([[2.0], [2], [2]])) > 1
    hole = np.array([[0], [0], [0.24]])
    assert shapes.solid("rings", hole) > 0.2


def test_picture_k_is_a_function_of_k(tmp_path):
    shapes = script("shapes")
    folder = shapes.rendered(tmp_path / "all", 0, 6)
    first = {p.name: p.read_bytes() for p in folder.rglob("*.png")}
    shapes.rendered(tmp_path / "last", 5, 6)
    assert len(first) == 6
    assert {p.name for p in folder.iterdir()} == set(shapes.KINDS)
    again = (tmp_path / "last" / "balls" / "00005.png").read_bytes()
    assert again == first["00005.png"] != first["00000.png"]
    x = shapes.picture(0, shapes.rays())
    assert x.shape == (64, 64, 3) and x.dtype == np.uint8 and x.std() > 20


def test_the_hours_commands_are_commands(capsys):
    """Each is understood, up to where it begins: its folders are not there."""
    shapes = script("shapes")
    for line in shapes.commands("nowhere").values():
        status, _, error = ends(capsys, *line.split())
        assert status == 2 and error.startswith("hkd-mini: nowhere"), line


def test_chapter_19_prints_the_hours_commands():
    text = (FOLDER.parent / "book/text/19-your-own-pictures.md").read_text("utf-8")
    printed = " ".join(text.replace("\\\n", " ").split())
    for line in script("shapes").commands("mine").values():
        typed = set(f"hkd-mini {line}".split(" --"))
        name = line.split()[0]
        assert any(
            set(part.strip().split(" --")) == typed
            for part in re.findall(
                rf"(?:hkd-mini {name}) [^`]*?(?= hkd-mini| ```)", printed
            )
        ), line
