"""Samples are a function of the seed, and a sheet shows each picture where it
belongs.
"""

import re
from inspect import unwrap

import numpy as np
import pytest
import torch
from PIL import Image

from hkd_mini.app.evaluation import BACKGROUND, draw, evaluate, sheet
from hkd_mini.app.onnx_export import seeded_noise
from hkd_mini.app.samples import read_labels, save_images
from hkd_mini.app.zoo import load
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.schedule import SIGMA_MAX
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import (
    batch_indices,
    checked_seed,
    rng_at,
    to_uint8,
    unit_noise,
)
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.model import HKD
from hkd_mini.judge.distance import JUDGE, SECOND

SMALL = UNetConfig(
    resolution=8, channels=16, mult=(1,), blocks=1, attention=(), labels=3
)


def test_samples_do_not_depend_on_the_batch():
    for model in (HKD(HKDConfig(SMALL)).eval(), Denoiser(SMALL).eval()):
        whole, parts = (draw(model, 5, seed=3, steps=3, batch=b) for b in (5, 2))
        assert whole.shape == (5, 3, 8, 8) and whole.dtype == torch.uint8
        assert (whole.int() - parts.int()).abs().max() <= 1  # rounding
        assert not torch.equal(whole, draw(model, 5, seed=4, steps=3))


def test_points_come_as_the_model_gives_them():
    model = HKD(HKDConfig(MLPConfig())).eval()
    noise = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))[:7]
    with torch.no_grad():
        states = model.encode(SIGMA_MAX * noise, model.clock.T)
        # A is 0
        assert torch.allclose(draw(model, 7, seed=1), model.decode(states), atol=1e-6)


def loud(network):
    """An HKD that answers at random: as initialised, the blocks are all but silent."""
    torch.manual_seed(0)
    model = HKD(HKDConfig(network)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("batch", [3, 250])
@pytest.mark.parametrize("network", [SMALL, MLPConfig(), MLPConfig(dim=5)])
def test_a_sample_is_a_function_of_seed_and_number(network, batch):
    """Few samples are the beginning of many, classes included."""
    model = loud(network)
    many = draw(model, 37, seed=5).float()
    for n in (1, 2, 7, 8, 16, 31):
        few = draw(model, n, seed=5, batch=batch).float()
        close = 1 if network is SMALL else 1e-4  # sums in another order
        assert (few - many[:n]).abs().max() <= close, n


def test_pictures_are_those_of_torchs_own_stream():
    """Stored numbers rest on them; and points are where whole blocks of 16 are."""
    for n, shape in [(3, (3, 32, 32)), (250, (3, 8, 8)), (8, (2,)), (1000, (2,))]:
        rng = torch.Generator().manual_seed(7)
        assert torch.equal(
            unit_noise(n, shape, 7), torch.randn(n, *shape, generator=rng)
        )


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_a_training_run_has_a_seed(seed):
    with pytest.raises(ValueError, match="wanted an integer, 0 <= seed"):
        TrainConfig(seed=seed)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 3.5, "1", True, None])
def test_a_seed_that_would_be_another_is_refused(seed):
    said = re.escape(f"seed = {seed!r}: wanted an integer, 0 <= seed < 2^32")
    model = HKD(HKDConfig(MLPConfig()))
    for call in (
        lambda: unwrap(checked_seed)(seed),
        lambda: unwrap(draw)(model, 2, seed),
        lambda: unwrap(rng_at)(seed, 1),
        lambda: unwrap(batch_indices)(9, 2, seed, 0),
        lambda: unwrap(make)(lambda x, sigma, labels: x, (2,), 2, "x", seed=seed),
        lambda: unwrap(seeded_noise)(seed, (2,)),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_numpys_integers_are_seeds():
    assert type(unwrap(checked_seed)(np.int64(3))) is int
    assert checked_seed(2**32 - 1) == 2**32 - 1
    model = HKD(HKDConfig(MLPConfig())).eval()
    assert torch.equal(unwrap(draw)(model, 4, np.uint32(3)), draw(model, 4, 3))


def test_labels_are_used():
    model = HKD(HKDConfig(SMALL))
    for weight in model.parameters():  # as initialised, the blocks are all but silent
        torch.nn.init.normal_(weight, std=0.1)
    zero, one = (
        draw(model.eval(), 4, seed=0, labels=torch.full((4,), k)) for k in (0, 1)
    )
    assert not torch.equal(zero, one)


def test_a_sheet_holds_every_picture():
    x = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    page = sheet(x, columns=3, gap=1)
    assert page.shape == (9, 20, 3) and page.dtype == np.uint8
    for k, picture in enumerate(to_uint8(x)):
        i, j = divmod(k, 3)
        assert np.array_equal(
            page[5 * i : 5 * i + 4, 7 * j : 7 * j + 6], picture.permute(1, 2, 0)
        )
    assert (page[4] == BACKGROUND).all() and (page[5:, 14:] == BACKGROUND).all()


def test_samples_are_compared_with_pictures(tmp_path):
    file = tmp_path / "latents.npy"
    np.save(file, np.zeros((4, 3, 32, 32), np.float32))
    samples = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="latents.npy: .* wanted a folder"):
        evaluate(samples, str(file))


def test_classes_are_found_by_the_second_judge():
    """Where they were asked for, and CIFAR-10 is what samples are compared with."""
    x = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8)
    second = load(SECOND)
    with torch.no_grad():
        named = second(x / 127.5 - 1).argmax(1)
    wrong = torch.cat([named[:9], (named[9:] + 1) % 10])
    assert evaluate(x, labels=named)["class_found"] == 1
    assert evaluate(x, labels=wrong)["class_found"] == 0.75
    assert "class_found" not in evaluate(x)


def test_other_pictures_have_classes_that_the_judge_does_not_know(tmp_path):
    for k in range(6):
        place = tmp_path / "cats" / f"{k}.png"
        place.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(k).integers(256, size=(32, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    x = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    found = evaluate(x, str(tmp_path), labels=torch.zeros(6, dtype=torch.long))
    assert "class_found" not in found and found["n_real"] == 6


def test_the_judge_has_its_statistics_by_either_name():
    x = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    short, long = (evaluate(x, features=name) for name in ("cifar", JUDGE))
    assert short["frechet"] == long["frechet"]
    with pytest.raises(ValueError, match="features 'judge-cifar10' need data"):
        evaluate(x, features=SECOND)


def test_classes_are_read_beside_samples(tmp_path):
    x = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([2, 0, 1])
    save_images(x, tmp_path / "a.npz", labels)
    save_images(x, tmp_path / "b.npz")
    save_images(x, tmp_path / "c.npy")
    assert torch.equal(read_labels(tmp_path / "a.npz", 3), labels)
    assert read_labels(tmp_path / "b.npz", 3) is None
    assert read_labels(tmp_path / "c.npy", 3) is None
    with pytest.raises(ValueError, match=r"labels int64 \(3,\), wanted 4 integers"):
        read_labels(tmp_path / "a.npz", 4)
    np.savez(tmp_path / "d.npz", samples=x.numpy(), labels=np.zeros(3))
    with pytest.raises(ValueError, match="labels float64"):
        read_labels(tmp_path / "d.npz", 3)
