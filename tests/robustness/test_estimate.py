"""What a run takes is said before it begins, and what is beyond the machine is asked
about.
"""

import io
import sys

import pytest
import torch
from commands import ends

from hkd_mini.app import estimate, machine
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.config import TrainConfig
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD

TRAIN = ["teacher", "--preset", "toy2d", "--data", "spiral", "--batch", 8]
TRAIN += ["--images", 64, "--out"]


def test_the_estimate_counts_what_there_is():
    net = UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=())
    for model in (Denoiser(net), HKD(HKDConfig(net)), Denoiser(MLPConfig())):
        network = getattr(model.config, "network", model.config)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        state = torch.get_rng_state()
        small, large = (
            estimate.estimate(
                model, network.shape, TrainConfig(images=960, batch=batch), 3
            )
            for batch in (8, 64)
        )
        weights = sum(p.numel() for p in model.parameters())
        assert small.weights == weights and small.disk == 50 * weights
        each = (large.memory - small.memory) / 56
        assert each > 4 * sum(network.shape), "it grows with the batch"
        assert small.memory > 20 * weights + 7 * each
        assert small.seconds > 0
        assert torch.equal(state, torch.get_rng_state()) and model.training
        after = model.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items())


def test_it_is_said_before_the_run(capsys, tmp_path, caplog):
    caplog.set_level("INFO", logger="hkd_mini")
    assert ends(capsys, *TRAIN, tmp_path / "a")[0] == 0
    (line,) = [m for m in caplog.messages if "million weights; about" in m]
    for word in ("for 64 images", "GB of memory", "GB of disk"):
        assert word in line


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)


def test_what_is_beyond_the_machine_is_refused(capsys, tmp_path, small_machine):
    status, out, err = ends(capsys, *TRAIN, tmp_path / "a")
    assert (status, out) == (2, "") and "beyond this machine" in err and "--yes" in err
    assert not (tmp_path / "a").exists()
    assert ends(capsys, *TRAIN, tmp_path / "a", "--yes")[0] == 0


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("", 2), ("no", 2)])
def test_whoever_sits_there_is_asked(
    capsys, tmp_path, small_machine, monkeypatch, answer, status
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    assert ends(capsys, *TRAIN, tmp_path / "a")[0] == status
    assert (tmp_path / "a").exists() == (status == 0)


def test_days_are_asked_about(capsys, tmp_path):
    command = [*TRAIN[:-1], "--images", 10**12, "--out", tmp_path / "a"]
    status, out, err = ends(capsys, *command)
    assert (status, out) == (2, "") and "days" in err, err


def test_times_are_said_in_their_unit():
    said = [estimate.duration(s) for s in (0.1, 100, 1e4, 1e6)]
    assert said == ["1 seconds", "100 seconds", "2.8 hours", "12 days"]
