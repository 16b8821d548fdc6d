"""Guidance where the answer is known: Gaussians, for which a guided path is a power
law, and what may not change.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hkd_mini import load
from hkd_mini.app.cli import main
from hkd_mini.diffusion.exact import exact_denoiser, gaussian_denoiser
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import EDM, SIGMA_MAX, Noise, karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.make_paths import make, of_teacher, unguided
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.paths import Trajectories


def normal(deviation, mean=0.0):
    """The exact denoiser of a Gaussian in the plane."""
    double = torch.float64
    covariance = deviation**2 * torch.eye(2, dtype=double)
    return gaussian_denoiser(torch.full((2,), mean, dtype=double), covariance)


def noises(n=50):
    rng = torch.Generator().manual_seed(0)
    return SIGMA_MAX * torch.randn(n, 2, dtype=torch.float64, generator=rng)


def shrink(deviation, low=0.0, high=SIGMA_MAX):
    """The factor of a point's path from level high to low, for a Gaussian."""
    return ((deviation**2 + low**2) / (deviation**2 + high**2)) ** 0.5


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, 3.0])
def test_a_guided_gaussian_path_is_a_product_of_powers(weight):
    good = 0.5
    weak = 0.8
    guided = Guided(normal(good), weight, normal(weak))
    path = heun(guided, noises(), karras_sigmas(400))
    wish = shrink(good) ** weight * shrink(weak) ** (1 - weight)
    assert (path.x[-1] / path.x[0] / wish - 1).abs().max() < 2e-3
    # above 1 the samples are narrower than the data
    assert (path.x[-1].std() < shrink(good) * path.x[0].std()) == (weight > 1)


def test_an_interval_guides_between_its_levels_alone():
    low = 0.2
    high = 4.0
    guided = Guided(normal(0.5), 2.0, normal(0.8), (low, high))
    sigmas = karras_sigmas(600)
    path = heun(guided, noises(), sigmas)
    inside = shrink(0.5, low, high) ** 2 / shrink(0.8, low, high)
    wish = shrink(0.5) / shrink(0.5, low, high) * inside
    assert (path.x[-1] / path.x[0] / wish - 1).abs().max() < 0.01


def test_without_a_weaker_one_it_is_the_same_told_no_class():
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)

    def denoiser(x, sigma, labels=None):
        if labels is None:  # both classes
            return exact_denoiser(apart)(x, sigma)
        return apart[labels]

    x = noises(6) / SIGMA_MAX
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    both = denoiser(x, 1.0)
    found = Guided(denoiser, 3.0)(x, 1.0, labels)
    assert torch.allclose(found, both + 3 * (apart[labels] - both))
    # the guess passes the class's own point, away from the other's
    assert (found[:, 0] * apart[labels][:, 0] > 1).all()


def test_a_weight_of_one_and_levels_outside_cost_one_evaluation():
    calls = []

    def weak(x, sigma, labels=None):
        calls.append(sigma)
        return 0 * x

    x = noises(3)
    strong = normal(0.5)
    for guided, sigma in (
        (Guided(strong, 1.0, weak), 2.0),
        (Guided(strong, 2.0, weak, (0.3, 1.0)), 2.0),
        (Guided(strong, 2.0, weak, (0.3, 1.0)), 0.3),
    ):
        assert torch.equal(guided(x, sigma), strong(x, sigma)) and not calls
    Guided(strong, 2.0, weak, (0.3, 1.0))(x, 1.0)
    assert calls == [1.0]


def test_levels_of_their_own_are_guided_sample_by_sample():
    guided = Guided(normal(0.5), 2.0, normal(0.8), (0.3, 1.0))
    x = noises(3)
    sigma = torch.tensor([0.2, 0.7, 1.3], dtype=torch.float64)
    each = [guided(x[i : i + 1], s.item()) for i, s in enumerate(sigma)]
    assert torch.allclose(guided(x, sigma), torch.cat(each))


def test_it_goes_where_a_denoiser_goes():
    levels = Noise(sigma_max=20.0)
    network = Denoiser(MLPConfig(width=16, noise=levels))
    guided = Guided(network, 2.0, normal(0.8))
    assert guided.noise == levels and guided.config == network.config
    assert list(guided.parameters()) == list(network.parameters())
    assert Guided(normal(0.5), 2.0).noise == EDM
    assert Guided(normal(0.5), 2.0).config is None


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        Guided(normal(0.5), weight)


def test_an_interval_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        Guided(normal(0.5), 2.0, interval=(1.0, 1.0))


# --- on the command line, and in stored paths

SMALL = UNetConfig(
    resolution=8, channels=8, mult=(1, 2), blocks=1, attention=(4,), patch=2
)


def saved(folder, labels=0, seed=0):
    """A small teacher that answers at random, saved."""
    torch.manual_seed(seed)
    model = Denoiser(replace(SMALL, labels=labels)).eval()
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    model.save_pretrained(folder)
    return str(folder)


def paths(folder, *flags):
    main(
        ["trajectories", "--n", "6", "--steps", "4", "--times", "3", *flags]
        + ["--out", str(folder), "--precision", "fp32"]
    )
    return Trajectories(folder)


def test_paths_are_guided_as_asked(tmp_path):
    good = saved(tmp_path / "good", labels=3)
    weak = saved(tmp_path / "weak", seed=1)
    flags = ["--teacher", good, "--guidance", "2", "--weaker", weak]
    stored = paths(tmp_path / "guided", *flags, "--guidance-to", "10")
    teacher = Guided(load(good), 2.0, load(weak), (0.0, 10.0))
    labels = stored.gather(torch.arange(6), torch.zeros(6, 1).long())["labels"]
    assert 0 <= labels.min() and labels.max() < 3
    wish = heun(teacher, stored.paths(range(6))[0], karras_sigmas(4), labels)
    ends = stored.paths(range(6))[-1]
    torch.testing.assert_close(ends, wish.x[-1], rtol=2e-3, atol=2e-3)
    assert (
        paths(tmp_path / "not", "--teacher", good).paths(range(6))[-1] - wish.x[-1]
    ).abs().max() > 0.01
    with pytest.raises(SystemExit):  # another weight is another run
        paths(tmp_path / "guided", *flags[:3], "3", *flags[4:], "--resume")


def test_guided_paths_are_their_teachers_own(tmp_path):
    good = saved(tmp_path / "good", labels=3)
    other = saved(tmp_path / "other", labels=3, seed=1)
    flags = ["--teacher", good, "--guidance", "2"]
    guided = paths(tmp_path / "guided", *flags)
    plain = paths(tmp_path / "plain", "--teacher", good)
    twice = Guided(Guided(load(good), 2.0), 3.0)
    for stored in (guided, plain):
        assert of_teacher(stored, load(good)) is stored
        with pytest.raises(ValueError, match="paths of another teacher"):
            of_teacher(stored, load(other))
        with pytest.raises(ValueError, match="of this one's unknown"):
            of_teacher(stored, normal(0.5))
    assert unguided(twice) is twice.denoiser.denoiser
    assert paths(tmp_path / "guided", *flags, "--resume").teacher == guided.teacher
    # of a plain function nobody knows
    list(make(normal(0.5), (2,), 3, tmp_path / "function", steps=3))
    assert of_teacher(Trajectories(tmp_path / "function"), load(good))


def test_some_paths_get_no_class(tmp_path):
    good = saved(tmp_path / "good", labels=3)
    flags = ["--teacher", good, "--no-class", "0.5"]
    stored = paths(tmp_path / "paths", *flags)
    batch = stored.gather(torch.arange(6), torch.zeros(6, 1).long())
    without = batch["labels"] == -1
    assert 0 < without.sum() < 6
    none = batch["labels"][without]
    wish = heun(load(good), batch["x"][without, 0], karras_sigmas(4), none)
    ends = batch["end"][without]
    torch.testing.assert_close(ends, wish.x[-1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("share", ["0", "0.5"])
def test_a_student_knows_no_class_where_its_paths_do(tmp_path, share):
    good = saved(tmp_path / "good", labels=3)
    stored = paths(tmp_path / "paths", "--teacher", good, "--no-class", share)
    assert stored.no_class == (share != "0")
    flags = ["--teacher", good, "--trajectories", stored.folder, "--images", "4"]
    main(["distill", *flags, "--batch", "2", "--out", str(tmp_path / "student")])
    assert load(tmp_path / "student").config.network.no_class == stored.no_class


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--guidance", "2"], "has no classes"),
        (["--guidance", "2", "--weaker", "nobody"], "nobody"),
        (["--no-class", "1.5"], "a share, 0 to 1"),
    ],
)
def test_what_cannot_be_guided_is_said(tmp_path, capsys, flags, message):
    plain = saved(tmp_path / "plain")
    with pytest.raises(SystemExit):
        paths(tmp_path / "paths", "--teacher", plain, *flags)
    assert message in capsys.readouterr().err


def test_a_one_step_model_has_nothing_to_guide(tmp_path, capsys):
    HKD(HKDConfig(SMALL)).save_pretrained(tmp_path)
    flags = ["--weights", str(tmp_path), "--n", "1", "--out", str(tmp_path / "x.npy")]
    with pytest.raises(SystemExit):
        main(["sample", *flags, "--guidance", "2"])
    assert "takes one step" in capsys.readouterr().err


def test_samples_of_a_guided_teacher(tmp_path):
    good = saved(tmp_path / "good", labels=3)
    out = tmp_path / "x.npy"
    flags = ["--weights", good, "--n", "4", "--steps", "3", "--precision", "fp32"]
    drawn = []
    for weight in ("1", "3"):
        main(["sample", *flags, "--out", str(out), "--guidance", weight])
        drawn.append(np.load(out))
    assert drawn[0].shape == (4, 8, 8, 3) and (drawn[0] != drawn[1]).any()
