"""Noise levels belong to a model: other levels and another deviation than EDM's work
from the sampler to the one-step student, and are saved with the weights.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import ends
from jaxtyping import TypeCheckError

import hkd_mini
from hkd_mini import HKD, HKDConfig, Objective, TrainConfig, train
from hkd_mini.diffusion.epsilon import from_epsilon
from hkd_mini.diffusion.exact import gaussian_denoiser
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import (
    CLOCK_OF,
    CLOCKS,
    EDM,
    Noise,
    karras_sigmas,
    lognormal_sigmas,
    noise_of,
)
from hkd_mini.diffusion.teacher import Denoiser, edm_loss, train_teacher
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.paths import PathsInMemory, Trajectories
from hkd_mini.onestep.kdm import KDM
from hkd_mini.onestep.kdm_config import KDMConfig
from hkd_mini.onestep.methods import METHODS, distil
from hkd_mini.onestep.students import Student

OTHER = Noise(sigma_min=0.01, sigma_max=14.6, rho=5.0, sigma_data=1.3)
NETWORK = MLPConfig(channels=8, width=32, depth=2, state=8, noise=OTHER)


@pytest.mark.parametrize("name", CLOCK_OF)
def test_a_clock_runs_between_the_models_levels(name):
    clock = CLOCK_OF[name](OTHER)
    sigmas = OTHER.sigmas(9)[:-1]
    times = clock.time(sigmas)
    assert (times.diff() < 0).all()
    torch.testing.assert_close(clock.sigma(times), sigmas)
    assert clock.T == pytest.approx(float(times[0]))
    assert clock.eps == pytest.approx(float(times[-1]))
    if name == "rho":  # uniform along the model's own schedule
        torch.testing.assert_close(times, torch.linspace(1, 0, 9).double())
    edm = CLOCKS[name]
    assert (edm.T, edm.eps) == (CLOCK_OF[name](EDM).T, CLOCK_OF[name](EDM).eps)


def test_the_rate_of_a_gaussian_is_one_in_its_own_edm_clock():
    """x(sigma) = c sqrt(s^2 + sigma^2), so d log x / d tau = 1 with s its deviation."""
    clock = CLOCK_OF["edm"](OTHER)
    sigmas = OTHER.sigmas(40)[:-1]
    paths = (OTHER.sigma_data**2 + sigmas**2).sqrt()
    rates = paths.log().diff() / clock.time(sigmas).diff()
    torch.testing.assert_close(rates, torch.ones_like(rates))


def test_levels_that_cannot_be_are_refused():
    for wrong in (
        {"sigma_min": 0.0},
        {"sigma_max": 0.001},
        {"rho": 0.0},
        {"sigma_data": -0.5},
    ):
        with pytest.raises(ValueError, match="0 < sigma_min|above 0"):
            Noise(**wrong)
    with pytest.raises((TypeCheckError, TypeError, ValueError)):
        Noise(sigma_max="80")


def test_a_new_denoiser_is_the_best_linear_one_of_its_datas_deviation():
    """At its start the network is nearly 0, and c_skip x is the guess that knows the
    deviation alone.
    """
    torch.manual_seed(0)
    denoiser = Denoiser(NETWORK)
    with torch.no_grad():
        for p in denoiser.net.decoder.last.parameters():
            p.zero_()
    exact = gaussian_denoiser(torch.zeros(2), OTHER.sigma_data**2 * torch.eye(2))
    x = torch.randn(50, 2) * 3
    for sigma in (0.02, 1.0, 14.0):
        torch.testing.assert_close(denoiser(x, sigma), exact(x, sigma))


def test_training_levels_follow_the_deviation():
    rng = lambda: torch.Generator().manual_seed(0)
    usual = lognormal_sigmas(1000, rng())
    moved = lognormal_sigmas(1000, rng(), sigma_data=1.0)
    torch.testing.assert_close(moved, 2 * usual)
    assert torch.equal(usual, lognormal_sigmas(1000, rng(), sigma_data=0.5))
    x0 = torch.randn(7, 2)
    blind = lambda x, sigma, labels=None: torch.zeros_like(x)
    sigma = torch.ones(7)
    weight = (1 + OTHER.sigma_data**2) / OTHER.sigma_data**2
    loss = edm_loss(blind, x0, sigma, torch.randn(7, 2), None, OTHER.sigma_data)
    torch.testing.assert_close(loss, weight * x0.square().mean())


@pytest.fixture(scope="module")
def teacher():
    """A teacher of a Gaussian of deviation 1.3 whose noise ends at 14.6."""
    torch.manual_seed(0)
    model = Denoiser(NETWORK)
    points = 1.3 * torch.randn(5000, 2, generator=torch.Generator().manual_seed(1))
    config = TrainConfig(
        images=128 * 300, batch=128, lr=3e-3, decay=0.5, precision="fp32"
    )
    for _ in train_teacher(model, points, config):
        pass
    return model


def test_a_teacher_of_other_levels_becomes_students(teacher, tmp_path):
    assert teacher.noise == OTHER == noise_of(teacher)
    list(make(teacher, (2,), 600, tmp_path / "paths", times=9, steps=12))
    paths = Trajectories(tmp_path / "paths")
    assert paths.sigmas[0] == 14.6 and paths.sigmas[-1] == 0
    start = paths.paths(range(600))[0]
    assert start.std() == pytest.approx(14.6, rel=0.05)
    model = HKD.from_teacher(teacher)
    assert model.noise == OTHER and model.clock.noise == OTHER
    config = TrainConfig(
        images=100 * 300, batch=100, lr=3e-3, decay=0.5, precision="fp32"
    )
    for _ in train(model, paths, config, Objective(times=3, perceptual="none")):
        pass
    unit = torch.randn(400, 2, generator=torch.Generator().manual_seed(5))
    end = heun(teacher, OTHER.sigma_max * unit, OTHER.sigmas(18).float()).x[-1]
    assert (model.sample(unit) - end).square().mean() < 0.02 * end.square().mean()
    model.save_pretrained(tmp_path / "hkd")
    again = hkd_mini.load(tmp_path / "hkd")
    assert again.noise == OTHER
    # weights are stored in half precision
    torch.testing.assert_close(
        again.sample(unit), model.sample(unit), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("method", ["KD", "CD", "ECM", "KDM"])
def test_one_step_methods_use_the_models_levels(teacher, method):
    student = METHODS[method].student(teacher)
    assert student.noise == OTHER
    unit = torch.randn(500, 2, generator=torch.Generator().manual_seed(5))
    paths = heun(teacher, OTHER.sigma_max * unit, OTHER.sigmas(18).float())
    pairs = METHODS[method].data == "pairs"
    data = PathsInMemory(paths) if pairs else 1.3 * torch.randn(500, 2)
    config = TrainConfig(images=640, batch=64, precision="fp32")
    assert len(list(distil(student, method, data, config, teacher))) == 10
    assert student.sample(unit).isfinite().all()


def test_configurations_without_levels_are_edms():
    """What was stored before levels were part of a model."""
    from hkd_mini.engine.weights import build

    kept = {"channels": 8, "width": 16, "depth": 1, "state": 6, "dim": 2, "labels": 0}
    assert build(MLPConfig, kept).noise == EDM
    assert hkd_mini.load("hkd-cifar10-tiny").noise == EDM
    # the large teacher stops earlier, and its students with it
    levels = {hkd_mini.load(name).noise for name in ("hkd-cifar10", "teacher-cifar10")}
    assert levels == {replace(EDM, sigma_min=0.14)}
    assert torch.equal(EDM.sigmas(18), karras_sigmas(18))


def test_a_discrete_schedule_says_its_own_levels():
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    denoiser = from_epsilon(lambda x, t: x, abar.tolist())
    assert noise_of(denoiser).sigma_min == pytest.approx(0.01, rel=1e-3)
    assert noise_of(denoiser).sigma_max == pytest.approx(157.4, rel=1e-2)
    assert noise_of(lambda x, sigma: x) == EDM


@pytest.mark.parametrize("bounded", [True, False])
def test_latents_have_no_bounds(bounded):
    network = UNetConfig(8, 4, 16, (1, 2), 1, (4,), bounded=bounded)
    for model in (
        HKD(HKDConfig(network)),
        Student(network),
        KDM(KDMConfig(replace(network, mult=(1,)))),
    ):
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(std=0.7)
        x = model.eval().sample(torch.randn(3, 4, 8, 8))
        assert (x.abs().max() <= 1) == bounded, type(model).__name__


def test_latents_by_the_command_line(capsys, monkeypatch, tmp_path):
    """A file of latents of deviation 1.3, a teacher, its paths, a student, samples."""
    from hkd_mini.hkd.config import PRESETS
    from hkd_mini.hkd.recipes import RECIPES

    network = UNetConfig(8, 4, 16, (1,), 1, (), bounded=False)
    monkeypatch.setitem(PRESETS, "latent", HKDConfig(network))
    monkeypatch.setitem(RECIPES, "latent", RECIPES["toy2d"])
    rng = np.random.default_rng(0)
    latents = tmp_path / "latents.npy"
    np.save(latents, 1.3 * rng.standard_normal((40, 4, 8, 8), np.float32))
    run = lambda *words: ends(capsys, *words)
    few = ("--images", 64, "--batch", 16)
    out = tmp_path / "teacher"
    made = run(
        *("teacher", "--preset", "latent", "--data", latents, "--out", out, *few),
        *("--sigma-max", 14.6, "--sigma-data", 1.3),
    )
    assert made[0] == 0, made
    assert hkd_mini.load(out).noise == Noise(sigma_max=14.6, sigma_data=1.3)
    paths = tmp_path / "paths"
    words = ("trajectories", "--teacher", out, "--n", 20, "--steps", 4, "--out", paths)
    assert run(*words)[0] == 0
    assert Trajectories(paths).sigmas[0] == 14.6
    student = tmp_path / "hkd"
    words = ("distill", "--preset", "latent", "--teacher", out, "--trajectories", paths)
    assert run(*words, "--out", student, *few)[0] == 0
    assert hkd_mini.load(student).noise.sigma_max == 14.6
    words = ("sample", "--weights", student, "--n", 5, "--out", tmp_path / "x.npy")
    assert run(*words)[0] == 0
    x = np.load(tmp_path / "x.npy")
    assert x.dtype == np.float32 and x.shape == (5, 4, 8, 8) and math.isfinite(x.sum())
    np.save(latents, np.zeros((40, 3, 8, 8)))
    status, _, error = run(
        "teacher", "--preset", "latent", "--data", latents, "--out", out
    )
    assert status == 2 and "wanted finite float32 (n, 4, 8, 8)" in error


def test_no_level_is_global():
    """EDM's numbers are defaults, in one module."""
    import pathlib

    package = pathlib.Path(hkd_mini.__file__).parent
    for path in package.glob("*/*.py"):
        if path.name not in ("schedule.py",):
            words = path.read_text(encoding="utf-8")
            for default in (": float = SIGMA_DATA", "import SIGMA_DATA", "SIGMA_DATA,"):
                words = words.replace(default, "")
            assert "SIGMA_" not in words, path.name
