"""Samples are a function of the seed, and a sheet shows each picture where it
belongs.
"""

import numpy as np
import pytest
import torch

from hkd_mini.app.evaluation import BACKGROUND, draw, evaluate, sheet
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.schedule import SIGMA_MAX
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.data import to_uint8
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD

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
    noise = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = model.encode(SIGMA_MAX * noise, model.clock.T)
        # A is 0
        assert torch.allclose(draw(model, 7, seed=1), model.decode(states), atol=1e-6)


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
