"""Whoever asks a command to stop is obeyed in seconds and without a traceback, and
nothing that was computed is lost.

Run as a program, this file is the victim: `python test_stop.py FOLDER` trains by the
command line, and stands still in its fifth step.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from commands import ends

from hkd_mini.app import cli
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine import cifar10, files
from hkd_mini.engine.checkpoint import CHECKPOINT
from hkd_mini.engine.stop import DEADLINE, PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN = ["teacher", "--preset", "toy2d", "--data", "two_moons", "--batch", "8"]
TRAIN += ["--images", "64", "--checkpoint", "3", "--precision", "fp32", "--out"]


def victim(out):
    """Stand still within the fifth step, where random numbers have been drawn."""
    forward = Denoiser.forward
    calls = []

    def slow(*arguments):
        if arguments[0].training:  # and not timed beforehand
            calls.append(arguments)
        if len(calls) == 5:
            torch.randn(3)
            pathlib.Path(out, "slow").touch()
            time.sleep(200)
        return forward(*arguments)

    Denoiser.forward = slow
    cli.main([*TRAIN, out])


def test_a_long_step_is_left_and_nothing_is_lost(tmp_path):
    """Ten seconds after SIGTERM many a machine sends SIGKILL."""
    assert PATIENCE < DEADLINE < 10
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, __file__, str(tmp_path / "a")]
    (tmp_path / "a").mkdir()
    child = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "a" / "slow").exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 1 and "Traceback" not in said, said
    assert time.monotonic() - began < 10 + 20  # a busy machine
    assert "hkd-mini: stopped in step 5, saved after step 4" in said
    assert said.rstrip().endswith("go on with --resume")
    assert files.read_tensors(tmp_path / "a" / CHECKPOINT)[1]["step"] == "4"
    cli.main([*TRAIN, str(tmp_path / "a"), "--resume"])
    cli.main([*TRAIN, str(tmp_path / "b")])
    torch.set_num_threads(before)
    for name in (CHECKPOINT, "model.safetensors"):
        a, b = ((tmp_path / k / name).read_bytes() for k in "ab")
        assert a == b, f"{name}: as if nothing had happened"
    lines = (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


@pytest.fixture
def hears_ctrl_c():
    """Ctrl-C is heard, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(*_, **__):
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


@pytest.mark.parametrize("command", ["sample", "evaluate", "data", "teacher"])
def test_ctrl_c_shows_no_traceback(
    capsys, tmp_path, monkeypatch, command, hears_ctrl_c
):
    monkeypatch.setattr(cli.evaluation, "draw", interrupt)
    monkeypatch.setattr(cifar10, "load_cifar10", interrupt)
    monkeypatch.setattr(cli.commands, "open_data", interrupt)
    out = str(tmp_path / "x.npy")
    arguments = {
        "sample": ["--weights", "hkd-cifar10-tiny", "--n", 2, "--out", out],
        "evaluate": ["--weights", "hkd-cifar10-tiny"],
        "data": ["cifar10", "--root", tmp_path],
        "teacher": ["--preset", "toy2d", "--data", "spiral", "--out", out],
    }
    status, shown, err = ends(capsys, command, *arguments[command])
    assert (status, shown) == (130, "")
    assert err.splitlines()[-1].startswith("hkd-mini: stopped; whole files are kept")
    assert "Traceback" not in err


def test_ctrl_c_on_the_way_of_trajectories(capsys, tmp_path, monkeypatch, hears_ctrl_c):
    arguments = ["trajectories", "--teacher", "teacher-cifar10-tiny", "--n", 2]
    arguments += ["--steps", 2, "--out", tmp_path / "paths"]
    with monkeypatch.context() as patch:
        patch.setattr(Denoiser, "forward", interrupt)
        status, shown, err = ends(capsys, *arguments)
    assert (status, shown) == (130, "") and "Traceback" not in err
    assert ends(capsys, *arguments, "--resume")[0] == 0


if __name__ == "__main__":
    victim(sys.argv[1])
