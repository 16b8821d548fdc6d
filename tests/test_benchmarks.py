"""The benchmarks run, say what they compare, and end with the line `ratio R`; their figures belong to the machine."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def threads():
    """A benchmark may choose how many it takes; the next test has its own back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def script(name):
    if not (FOLDER / f"{name}.py").is_file():
        pytest.skip(f"benchmarks/{name}.py is not there")
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ratio(printed):
    *said, last = printed.splitlines()
    assert len(said) >= 2 and re.fullmatch(r"ratio \d+(\.\d+)?", last), printed
    return float(last.split()[1])


def test_one_step(capsys):
    script("one_step").main(["--quick"])
    printed = capsys.readouterr().out
    assert "teacher, Heun, 35 evaluations" in printed and "HKD, one step, 1 evaluation" in printed
    assert printed.count("bundled") >= 2, "whose weights they are"
    assert ratio(printed) > 5, "35 evaluations beside one, however busy the machine"


def test_one_step_without_bundled_weights(capsys, monkeypatch, tmp_path):
    from hkd_mini import weights

    monkeypatch.setattr(weights, "data_folder", lambda: tmp_path)
    script("one_step").main(["--quick"])
    printed = capsys.readouterr().out
    assert printed.count("random weights") == 2 and ratio(printed) > 5


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
    assert "EDM" in printed and "HKD with features" in printed and "kept out of the ratio" in printed
    assert 0.5 < ratio(printed) < 3, "two pictures, not compiled, on a busy machine"
