"""What users give is looked at once, where it comes in, and nowhere else."""

import math
import pickle
import statistics
import subprocess
import sys
import time
from inspect import signature, unwrap

import numpy as np
import pytest
import torch

import hkd_mini
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.teacher import Denoiser, train_teacher
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import border, checks
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import batch_indices
from hkd_mini.hkd import edit
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.koopman.dmd import dmd
from hkd_mini.koopman.generator import KoopmanGenerator, apply_mask
from hkd_mini.onestep.kdm import KDM
from hkd_mini.onestep.kdm_config import KDMConfig
from hkd_mini.onestep.students import Student

X = np.random.default_rng(0).normal(size=(9, 2))
SMALL = UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=())


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: dmd("x"), TypeError, "dmd: x is an array of <U1"),
        (lambda: dmd(X[0]), ValueError, r"dmd: x .*shape \(2,\): .*\(count n\)"),
        (lambda: dmd(X, rank="2"), TypeError, "dmd: rank is '2' .str.: .*integer"),
        (lambda: dmd(X, dt=math.nan), ValueError, "dmd: dt = nan: wanted a finite"),
        (lambda: dmd(X * np.inf), ValueError, "dmd: x holds numbers that are not fin"),
        (lambda: KoopmanGenerator(2.5), TypeError, "KoopmanGenerator: d is 2.5"),
        (lambda: apply_mask(X, X), TypeError, "apply_mask: z is an array.*a Tensor"),
        (lambda: hkd_mini.spectrum(3), TypeError, "spectrum: model is 3 .* HKD"),
        (lambda: heun(3, X, X), TypeError, "heun: denoiser is 3 .*a function"),
        (lambda: batch_indices(3, 2, 0, None), TypeError, "batch_indices: step"),
        (
            lambda: edit.inject([torch.ones(1, 2, 1, 1)], torch.ones(1)),
            TypeError,
            "inject: reference .*wanted a list",
        ),
        (
            lambda: KoopmanGenerator(4, -1),
            ValueError,
            "KoopmanGenerator: .*; given d = 4.*h = -1",
        ),
    ],
)
def test_what_is_wrong_is_named(call, kind, said):
    with pytest.raises(kind, match=said):
        call()


def test_one_letter_is_one_length():
    """In a program of its own: here beartype would see it first."""
    program = """
import numpy as np, torch
from hkd_mini.judge.metrics import sliced_wasserstein
from hkd_mini.koopman.dmd import dmd
for call in (
    lambda: dmd(np.ones((9, 2)), np.ones((8, 2))),
    lambda: sliced_wasserstein(torch.ones(3, 2), torch.ones(4, 2)),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("dmd: y is an array of float64 and shape (8, 2): wanted")
    assert first.endswith("(count n), with x (9, 2)")
    assert second.startswith("sliced_wasserstein: b is") and "with a (3, 2)" in second


def test_what_numpy_users_give_is_taken():
    """Lists, whole numbers for real ones, numpy's numbers."""
    as_floats = unwrap(dmd)(X)
    assert checks.check_of(signature(dmd).parameters["x"].annotation) is not None
    for check, value in (
        (checks.check_of(float), 1),
        (checks.check_of(float), np.float32(0.5)),
        (checks.check_of(float), torch.tensor(0.5)),
        (checks.check_of(int), np.int64(3)),
        (checks.check_of(float | None), None),
        (checks.check_of(list[int]), (1, 2)),
        (checks.check_of(signature(dmd).parameters["x"].annotation), X.tolist()),
        (checks.check_of(signature(dmd).parameters["x"].annotation), [[1, 2]]),
    ):
        check("it", value)
    assert np.array_equal(dmd(X).eigenvalues, as_floats.eigenvalues)


def test_what_is_inside_is_not_looked_at(monkeypatch):
    """Once where a user calls, never in what that calls: on the hot path it is free."""
    seen = []
    looked_at = border._looked_at

    def count(title, *rest):
        seen.append(title)
        return looked_at(title, *rest)

    monkeypatch.setattr(border, "_looked_at", count)
    model = HKD(HKDConfig(MLPConfig()))
    model.sample(torch.randn(3, 2))
    assert seen == ["HKD", "HKD.sample"] or seen[-1] == "HKD.sample"
    seen.clear()
    denoiser = Denoiser(MLPConfig())
    seen.clear()
    heun(denoiser, torch.randn(3, 2), denoiser.noise.sigmas(5))
    assert seen == ["Noise.sigmas", "heun"]
    config = TrainConfig(images=24, batch=8, precision="fp32")
    seen.clear()
    steps = train_teacher(denoiser, torch.randn(9, 2), config)
    assert [step.step for step in steps] == [1, 2, 3]
    assert seen == ["train_teacher"], "nothing in a step of training"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.complex64])
def test_one_number_that_is_not_finite_is_noticed(kind, bad):
    """Two that cancel, too; but not numbers whose sum is too large for their kind."""
    x = torch.zeros(300, dtype=kind)
    checks.finite("x", x)
    if not kind.is_complex:
        checks.finite("x", x + torch.finfo(kind).max)
    x[7] = bad
    with pytest.raises(ValueError, match="x holds numbers that are not finite"):
        checks.finite("x", x)
    x[9] = -bad
    with pytest.raises(ValueError, match="x holds numbers that are not finite"):
        checks.finite("x", x)


def test_a_look_costs_less_than_moving_the_states():
    """In seconds of this thread: looking at what is moved is one pass over it."""
    generator = KoopmanGenerator(32, 32, 32)
    z = torch.randn(64, 32, 32, 32)
    out = torch.empty_like(z)
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def median():
        times = []
        for _ in range(9):
            began = time.thread_time()
            generator(z, 1.0, out=out)
            times.append(time.thread_time() - began)
        return statistics.median(times)

    with torch.no_grad():
        looked = median()
        with border.inside():
            alone = median()
    torch.set_num_threads(before)
    assert looked < 2.5 * alone  # 1.3; four with a look in several passes


def test_transforms_and_tracing_pass():
    """Inside a transform of torch.func nobody knows whether a number is finite."""
    generator = KoopmanGenerator(2)
    one = lambda z: generator(z[None, :, None, None], 1.0).flatten()
    z = torch.randn(5, 2)
    jacobians = torch.func.vmap(torch.func.jacrev(one))(z)
    torch.testing.assert_close(jacobians, torch.eye(2).expand(5, 2, 2))


def test_a_bordered_function_is_still_itself():
    assert dmd.__module__ == "hkd_mini.koopman.dmd" and "SVD" in dmd.__doc__
    assert list(signature(dmd).parameters)[:2] == ["x", "y"]
    assert pickle.loads(pickle.dumps(dmd)) is dmd
    assert hkd_mini.koopman.forecast is hkd_mini.koopman.dmd.forecast


def test_pictures_have_one_range(caplog):
    bytes_ = torch.rand(4, 3, 8, 8) * 255
    model = HKD(HKDConfig(SMALL))
    eps = model.clock.eps
    noise = torch.randn(4, 3, 8, 8)
    run = TrainConfig(images=8, batch=2)
    for call in (
        lambda x: model.encode(x, eps),
        lambda x: next(train_teacher(Denoiser(SMALL), x, run)),
        lambda x: edit.noised(model, x, noise, 0.3),
        lambda x: edit.inpaint(
            model, x, torch.ones(8, 8), noise[None], torch.tensor([1.0])
        ),
        lambda x: edit.colourise(model, x[:, 0], noise[None], torch.tensor([1.0])),
    ):
        with pytest.raises(ValueError, match=r"has values from .*\[-1, 1\].*127.5"):
            call(bytes_)
        caplog.clear()
        call(bytes_ / 255)
        assert "pictures are in [-1, 1], of [0, 1] 2 x - 1" in caplog.text
        caplog.clear()
        call(bytes_ / 127.5 - 1)
        assert caplog.text == ""
    model.sample(noise)  # 80 times as large, as noise is
    HKD(HKDConfig(MLPConfig())).encode(300 * torch.randn(3, 2), 0.1)  # points have none


def test_a_model_of_classes_is_told_one():
    network = MLPConfig(labels=3)
    noise = torch.randn(2, 2)
    teacher = Denoiser(network)
    models = [HKD(HKDConfig(network)), Student(network), KDM(KDMConfig(network))]
    calls = [model.sample for model in models]
    calls += [lambda n, labels: models[0].trajectory(n, torch.ones(1), labels)]
    sigmas = teacher.noise.sigmas(3).float()
    calls += [lambda n, labels: heun(teacher, 80 * n, sigmas, labels).x[-1]]
    for call in calls:
        with pytest.raises(ValueError, match="no labels for a model of 3 classes"):
            call(noise, None)
        classes = call(noise, torch.tensor([0, 2]))
        none = call(noise, torch.tensor([-1, -1]))
        assert classes.shape == none.shape and classes.isfinite().all()


def test_a_model_that_knows_no_class_too_may_be_told_none():
    network = MLPConfig(labels=3, no_class=True)
    noise = torch.randn(2, 2)
    teacher = Denoiser(network)
    sigmas = teacher.noise.sigmas(3).float()
    models = [HKD.from_teacher(teacher), Student(network), KDM(KDMConfig(network))]
    calls = [model.sample for model in models]
    calls += [lambda n, labels: heun(teacher, 80 * n, sigmas, labels).x[-1]]
    for call in calls:
        assert torch.equal(call(noise, None), call(noise, torch.tensor([-1, -1])))
