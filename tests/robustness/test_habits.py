"""What people type first: a sheet, what a model is, torchvision's save_image, make
lab.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ends
from PIL import Image

import hkd_mini
from hkd_mini.app.info import NEEDED, moved_by_generator
from hkd_mini.app.samples import save_images
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.data import to_uint8
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD

ROOT = Path(__file__).resolve().parents[2]
SMALL = UNetConfig(8, 3, 16, (1, 2), 1, (4,), labels=3)


@pytest.fixture
def model(tmp_path):
    """A model of three classes, untrained, in a folder."""
    torch.manual_seed(0)
    made = HKD(HKDConfig(SMALL))
    for weight in made.parameters():  # as initialised, classes show in nothing
        torch.nn.init.normal_(weight, std=0.1)
    made.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_one_model_in_every_form(model, tmp_path, capsys):
    """A sheet, arrays, a folder: the same pictures, classes on rows of their own."""
    words = ["sample", "--weights", model, "--n", 7, "--seed", 3, "--out"]
    for name in ("x.npy", "x.npz", "x.png", "folder"):
        assert ends(capsys, *words, tmp_path / name)[0] == 0, name
    x = np.load(tmp_path / "x.npy")
    packed = np.load(tmp_path / "x.npz")
    assert np.array_equal(packed["samples"], x) and x.shape == (7, 8, 8, 3)
    labels = packed["labels"]
    for k in range(7):
        (file,) = (tmp_path / "folder").glob(f"*/{k:05d}.png")
        assert file.parent.name == str(labels[k])
        assert np.array_equal(np.asarray(Image.open(file)), x[k])
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    wide = np.bincount(labels).max()
    kinds = len(np.unique(labels))
    assert sheet.shape == (kinds * 8 + (kinds - 1) * 6, wide * 10 - 2, 3)
    for row, k in enumerate(np.unique(labels)):
        first = sheet[row * 14 : row * 14 + 8, :8]
        assert np.array_equal(first, x[labels == k][0])
    line = ends(capsys, *words, tmp_path / "folder")[2]
    assert "folder holds files already: give a new folder" in line
    line = ends(capsys, *words, tmp_path / "x.jpg")[2]
    assert "wanted FILE.png" in line and "ends in .npy" in line


def test_classes_that_are_asked_for(model, tmp_path, capsys):
    words = ["sample", "--weights", model, "--n", 5, "--classes", 2, 0, "--out"]
    assert ends(capsys, *words, tmp_path / "x.npz")[0] == 0
    assert np.load(tmp_path / "x.npz")["labels"].tolist() == [2, 0, 2, 0, 2]
    words[6] = 3
    line = ends(capsys, *words, tmp_path / "y.npz")[2]
    assert "classes (3, 0): this model has 3, counted from 0" in line
    words = ["sample", "--weights", "hkd-cifar10-tiny", "--n", 1, "--classes", 0]
    assert "has none" in ends(capsys, *words, "--out", tmp_path / "y.npz")[2]


def test_other_sizes_are_not_judged_by_cifar10(model, capsys, monkeypatch):
    """Refused before anything is drawn, where nothing says what it was trained on."""
    from hkd_mini.app import evaluation

    monkeypatch.setattr(evaluation, "draw", lambda *_, **__: 1 / 0)
    status, _, err = ends(capsys, "evaluate", "--weights", model, "--n", 4)
    assert status == 2 and "samples of shape (3, 8, 8): wanted (3, 32, 32)" in err
    assert "--help" in err


def test_pictures_are_saved_from_python(tmp_path):
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_images(x, tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npy"), to_uint8(x).permute(0, 2, 3, 1))
    save_images(x, tmp_path / "x.png", columns=3)
    assert Image.open(tmp_path / "x.png").size == (16, 4)
    with pytest.raises(ValueError, match="wanted FILE.png"):
        save_images(x, tmp_path / "x.gif")


def test_info_says_whether_the_generator_is_needed(model, capsys):
    """By what it does on the way to samples; a generator of zeros is idle, and so is
    that of the paper's objective.
    """
    status, said, _ = ends(capsys, "info", "hkd-cifar10-paper")
    assert status == 0 and "A: idle" in said
    assert moved_by_generator(hkd_mini.load("hkd-cifar10")) > 0.5
    status, said, _ = ends(capsys, "info", "hkd-cifar10-tiny")
    assert status == 0 and "A: needed" in said and "million parameters" in said
    assert "clock: rho" in said and "rates: growth" in said and "(3, 32, 32)" in said
    card = (ROOT / "data" / "hkd-cifar10-tiny" / "README.md").read_text()
    metadata, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert text.strip() in said and metadata not in said
    still = hkd_mini.load(model)
    for name, weight in still.named_parameters():
        if name.endswith(".A"):
            torch.nn.init.zeros_(weight)
    assert (
        moved_by_generator(still)
        == 0
        < NEEDED
        < moved_by_generator(hkd_mini.load("hkd-cifar10-tiny"))
    )
    for name in ("teacher-cifar10-tiny", "features-cifar10", model):
        status, said, _ = ends(capsys, "info", name)
        assert status == 0 and "million parameters" in said, name


def test_torchvision_saves_a_picture_beside_any_torch(tmp_path):
    """In a fresh process, as the README says it."""
    pytest.importorskip("importlib.metadata").distribution("torchvision")
    program = (
        "import sys, torch\n"
        "from hkd_mini.engine.mend import mend_torchvision\n"
        "mend_torchvision()\n"
        "from torchvision.utils import save_image\n"
        "x = torch.linspace(0, 1, 48).reshape(1, 3, 4, 4)\n"
        "save_image(x, sys.argv[1])"
    )
    file = tmp_path / "x.png"
    words = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.asarray(Image.open(file)).astype(int)
    wish = np.linspace(0, 255, 48).reshape(3, 4, 4).transpose(1, 2, 0)
    assert found.shape == (4, 4, 3) and abs(found - wish).max() <= 1
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "mend_torchvision()" in readme and "TORCH=cpu" in readme


@pytest.mark.skipif(os.name == "nt", reason="no root on Windows")
@pytest.mark.parametrize("user", ["0", "1000"])
def test_make_lab_starts_as_root(tmp_path, user):
    """JupyterLab refuses root unless told; others get no such flag."""
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    done = subprocess.run(
        ["make", "-n", "lab", "LAB_ARGS=--ip=0.0.0.0"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r".*jupyter lab.*", done.stdout)
    assert line.endswith("--ip=0.0.0.0")
    assert ("--allow-root --no-browser" in line) == (user == "0")
