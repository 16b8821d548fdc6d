"""Where a result is to go is tried before it is computed."""

import shutil
import tempfile

import pytest
import torch
from commands import ends

from hkd_mini.app import cli
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine import files
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.loop import fit
from hkd_mini.hkd import make_paths

NETWORK = MLPConfig(channels=8, width=16, depth=1, state=6)


@pytest.fixture
def toy(tmp_path):
    """A teacher, a file and a folder with the ending of one."""
    torch.manual_seed(0)
    Denoiser(NETWORK).save_pretrained(tmp_path / "teacher")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.npy").mkdir()
    return tmp_path


@pytest.fixture
def no_work(monkeypatch):
    """A command that begins its work has looked too late."""

    def work(*_, **__):
        raise AssertionError("the work began before its place was tried")

    monkeypatch.setattr(cli.evaluation, "draw", work)
    monkeypatch.setattr(make_paths, "noise_for", work)
    monkeypatch.setattr("hkd_mini.engine.run.Run.step", work)


def commands(toy, out):
    """Every command that writes, towards `out`."""
    teacher = ["--teacher", toy / "teacher"]
    points = ["--preset", "toy2d", "--data", "spiral"]
    return {
        "sample": ["sample", "--weights", toy / "teacher", "--n", 9, "--out", out],
        "trajectories": ["trajectories", *teacher, "--n", 9, "--out", out],
        "teacher": ["teacher", *points, "--out", out],
        "features": ["features", "--data", toy, "--out", out],
        "distill": ["distill", "--preset", "toy2d", *teacher]
        + ["--trajectories", toy, "--out", out],
        "data": ["data", "cifar10", "--root", out],
    }


def said(capsys, arguments):
    status, out, err = ends(capsys, *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1, err
    return err


def test_a_file_in_the_place_of_a_folder(capsys, toy, no_work):
    for name, arguments in commands(toy, toy / "file").items():
        if name != "sample":
            assert f"{toy / 'file'} is no folder" in said(capsys, arguments)
    below = commands(toy, toy / "file" / "deeper" / "x.npy")
    for arguments in below.values():
        assert f"{toy / 'file'} is no folder" in said(capsys, arguments)
    assert (toy / "file").read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(capsys, toy, no_work):
    arguments = commands(toy, toy / "folder.npy")["sample"]
    assert "folder.npy is a folder: wanted the name of a file" in said(
        capsys, arguments
    )


def test_a_place_that_cannot_be_written(capsys, toy, no_work, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for arguments in commands(toy, toy / "new" / "x.npy").values():
        line = said(capsys, arguments)
        assert f"{toy}: nothing can be written there (Permission denied)" in line
    assert not (toy / "new").exists()


def test_a_disk_without_room(capsys, toy, no_work, monkeypatch):
    full = shutil.disk_usage(toy)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    (toy / "spiral").mkdir()
    for name in ("sample", "trajectories", "teacher", "data"):
        arguments = commands(toy, toy / "new" / "x.npy")[name]
        assert "GB are needed" in said(capsys, arguments)
    assert not (toy / "new").exists()
    model = Denoiser(NETWORK)
    with pytest.raises(OSError, match="are needed, and 1e-08 GB are free"):
        next(fit(model, dict, dict, TrainConfig(), str(toy / "new")))
    with pytest.raises(OSError, match="are needed"):
        make_paths.make(model, (2,), 512, toy / "new")


def test_trying_leaves_nothing_behind(tmp_path):
    files.try_folder(tmp_path / "a" / "b", 10)
    files.try_file(tmp_path / "a" / "x.npy", 10)
    assert list(tmp_path.iterdir()) == []
