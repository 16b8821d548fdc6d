"""A teacher of the reader's: a plain function of two arguments, with its own noise, by
the command line; latents with a decoder.
"""

import json
import sys

import numpy as np
import pytest
import torch
from commands import ends
from PIL import Image
from torch import nn

from hkd_mini import load
from hkd_mini.diffusion.own import Own
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import EDM, Noise

MODULE = """
import torch
from hkd_mini.diffusion.schedule import Noise

def plain(x, sigma):  # the data is one grey picture
    return torch.full_like(x, 0.25) + 0 * sigma.log()

def short(x, sigma):
    return plain(x, sigma)

short.noise = Noise(sigma_min=0.01, sigma_max=14.6)
short.shape = (3, 8, 8)

def latent(x, sigma):  # data of deviation 2 in each of 4 channels
    return x * 4 / (4 + sigma**2)

latent.shape = (4, 4, 4)

def decode(z):
    return z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3).tanh()

latent.decode = decode

def flat(x, sigma):
    return x.mean()

def same(z):
    return z
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A working directory with a module of the reader's."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_two_arguments_or_three():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    two = Own(lambda x, sigma: x / (1 + sigma**2))
    three = Own(lambda x, sigma, labels: x / (1 + sigma**2) + (labels or 0))
    assert torch.equal(two(x, 0.5), x / 1.25) and torch.equal(three(x, 0.5), x / 1.25)
    assert two.noise == EDM and two.config is None
    levels = torch.tensor([0.5, 2.0, 0.5, 1.0])
    rows = torch.stack([x[i] / (1 + levels[i] ** 2) for i in range(4)])
    torch.testing.assert_close(two(x, levels), rows)
    logs = Own(lambda x, sigma: x * sigma.log())  # sigma is a tensor
    assert logs(x.double(), 0.5).dtype == torch.float64
    net = nn.Linear(3, 3)
    assert len(list(Own(lambda x, sigma: net(x)).parameters())) == 0

    class Module(nn.Module):
        noise = Noise(0.01, 5.0)

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, sigma):
            return self.net(x)

    ours = Own(Module(), shape=(3,))
    assert len(list(ours.parameters())) == 2 and ours.noise.sigma_max == 5
    assert ours.config.shape == (3,) and ours.config.bounded


def test_guesses_that_are_none():
    x = torch.zeros(4, 3)
    for wrong in (lambda x, sigma: x.mean(), lambda x, sigma: x[:2]):
        with pytest.raises(ValueError, match="wanted the guess of the clean x"):
            Own(wrong)(x, 1.0)
    with pytest.raises(ValueError, match="gave str for x"):
        Own(lambda x, sigma: "picture")(x, 1.0)


def test_a_function_from_its_noise_to_a_sheet(mine, capsys):
    """Its noise ends at 14.6, and the student's too."""
    teacher = ["--teacher", "mine:short"]
    paths = ["trajectories", *teacher, "--n", 6, "--steps", 3, "--out", "paths"]
    assert ends(capsys, *paths)[0] == 0
    few = ["--images", 8, "--batch", 4, "--compile", False, "--channels", 16]
    few += ["--perceptual", "none", "--precision", "fp32", "--trajectories", "paths"]
    status, _, err = ends(capsys, "distill", *teacher, *few, "--out", "hkd")
    assert status == 0, err
    model = load("hkd")
    assert model.noise == Noise(0.01, 14.6) and model.config.network.shape == (3, 8, 8)
    record = json.loads((mine / "hkd" / "training.json").read_text())
    assert record["teacher"] == "mine:short"
    for weights in ("hkd", "mine:short"):
        words = ["sample", "--weights", weights, "--n", 5, "--steps", 3]
        assert ends(capsys, *words, "--out", "sheet.png")[0] == 0
        assert Image.open("sheet.png").size == (3 * 8 + 4, 2 * 8 + 2)
    assert ends(capsys, *words, "--out", "x.npy")[0] == 0
    assert (np.load("x.npy") == 159).all()  # 0.25 as a byte


def test_levels_of_a_function_may_be_flags(mine, capsys):
    words = ["trajectories", "--n", 2, "--steps", 2, "--sigma-max", 9.0]
    plain = [*words, "--teacher", "mine:plain", "--out", "paths"]
    status, _, err = ends(capsys, *plain)
    assert status == 2 and "say --shape" in err
    assert ends(capsys, *plain, "--shape", 3, 8, 8)[0] == 0
    few = ["--images", 2, "--batch", 2, "--compile", False, "--channels", 16]
    few += ["--perceptual", "none", "--trajectories", "paths", "--out", "hkd"]
    assert ends(capsys, "distill", "--teacher", "mine:plain", *few)[0] == 0
    assert load("hkd").noise.sigma_max == 9
    status, _, err = ends(
        capsys, *words, "--teacher", "teacher-cifar10-tiny", "--out", "p"
    )
    assert status == 2 and "its noise levels are its own" in err
    status, _, err = ends(
        capsys, *words, "--teacher", "mine:flat", "--shape", 3, 8, 8, "--out", "p"
    )
    assert status == 2 and "wanted the guess of the clean x" in err


def test_latents_are_decoded(mine, capsys):
    """Paths, student and samples of latents; a decoder makes the pictures."""
    teacher = ["--teacher", "mine:latent"]
    paths = ["trajectories", *teacher, "--n", 4, "--steps", 2, "--out", "paths"]
    assert ends(capsys, *paths)[0] == 0
    few = ["--images", 4, "--batch", 2, "--compile", False, "--channels", 16]
    few += ["--trajectories", "paths", "--out", "hkd"]
    status, _, err = ends(capsys, "distill", *teacher, *few)
    assert status == 0, err
    network = load("hkd").config.network
    assert network.shape == (4, 4, 4) and not network.bounded
    words = ["sample", "--weights", "hkd", "--n", 4]
    status, _, err = ends(capsys, *words, "--out", "sheet.png")
    assert status == 2 and "--decoder" in err
    decoder = ["--decoder", "mine:decode"]
    assert ends(capsys, *words, *decoder, "--out", "sheet.png")[0] == 0
    assert Image.open("sheet.png").size == (18, 18)
    assert ends(capsys, *words, "--out", "z.npy")[0] == 0
    z = torch.from_numpy(np.load("z.npy"))
    assert z.shape == (4, 4, 4, 4) and z.dtype == torch.float32
    # the teacher brings its own decoder
    words[2] = "mine:latent"
    assert ends(capsys, *words, "--steps", 4, "--out", "pngs")[0] == 0
    assert len(list((mine / "pngs").glob("*.png"))) == 4
    status, _, err = ends(capsys, *words, "--decoder", "mine:same", "--out", "x.npy")
    assert status == 2 and "the decoder gave (4, 4, 4, 4)" in err


def test_sampling_follows_the_functions_own_levels():
    grey = Own(lambda x, sigma: torch.full_like(x, 0.25), Noise(0.01, 5.0), (2,))
    path = heun(grey, torch.randn(3, 2) * 5, grey.noise.sigmas(4))
    torch.testing.assert_close(path.x[-1], torch.full((3, 2), 0.25))
