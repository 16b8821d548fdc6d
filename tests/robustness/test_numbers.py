"""A number that cannot be meant is refused where it is given, by name, before anything
is computed with it.
"""

import math
from inspect import unwrap

import pytest
import torch

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.schedule import Noise, karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser, one_hot
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.config import TrainConfig
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.judge.metrics import precision_recall
from hkd_mini.onestep.kdm import KDM
from hkd_mini.onestep.kdm_config import KDMConfig

NONE = (math.nan, math.inf, -1.0)  # of a number that is at least 0
BELOW = {
    TrainConfig: ("lr", "weight_decay", "clip", "decay"),
    Objective: ("lr_scale_A", "path_weight", "linear_weight"),
    KDMConfig: ("noise", "adversarial", "eigen"),
    Noise: ("sigma_min", "sigma_max", "rho", "sigma_data"),
}
WHOLE = {
    TrainConfig: ("images", "batch", "warmup", "ema_halflife", "checkpoint"),
    Objective: ("times",),
    KDMConfig: ("project",),
    UNetConfig: ("channels", "blocks", "labels", "out_channels"),
    MLPConfig: ("dim", "channels", "width", "depth", "state", "labels"),
}


@pytest.mark.parametrize("value", NONE)
@pytest.mark.parametrize("kind", BELOW, ids=lambda kind: kind.__name__)
def test_a_configuration_has_finite_numbers(kind, value):
    for name in BELOW[kind]:
        with pytest.raises(ValueError, match=f"{name}.*{value}|{value}.*{name}"):
            kind(**{name: value})


@pytest.mark.parametrize("value", NONE[:2])
def test_rates_are_two_finite_numbers(value):
    for rates in ((value, 0.0), (0.0, value)):
        with pytest.raises(ValueError, match=f"rates = .*{value}.*two finite numbers"):
            HKDConfig(rates=rates)


@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: kind.__name__)
def test_a_configuration_has_no_counts_below_zero(kind):
    for name in WHOLE[kind]:
        with pytest.raises(ValueError, match=f"{name} = -1: at least"):
            kind(**{name: -1})


def test_decay_is_a_share():
    assert TrainConfig(decay=1.0).lr_at(0) > 0
    with pytest.raises(ValueError, match="decay = 1.5: a share of the run, 0 to 1"):
        TrainConfig(decay=1.5)


@pytest.mark.parametrize("levels", [(0.1, 80.0, math.nan), (0.1, math.inf, 7.0)])
def test_levels_are_finite(levels):
    with pytest.raises(ValueError, match="finite"):
        karras_sigmas(5, *levels)


def test_a_label_is_whole_and_each_x_has_its_own():
    """0.9 was truncated to 0, and one label was everybody's."""
    with pytest.raises(ValueError, match="torch.float32: wanted whole numbers"):
        one_hot(torch.tensor([0.9]), 3)
    net = MLPConfig(labels=3)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    one = torch.tensor([1])
    denoiser = Denoiser(net)
    hkd = HKD(HKDConfig(net))
    kdm = KDM(KDMConfig(net))
    for call in (
        lambda: unwrap(Denoiser.forward)(denoiser, x, 1.0, one),
        lambda: unwrap(HKD.encode)(hkd, x, 1.0, one),
        lambda: unwrap(HKD.decode)(hkd, [torch.zeros(3, 64, 1, 1)], one),
        lambda: unwrap(KDM.push)(kdm, torch.zeros(3, 64), one),
    ):
        with pytest.raises(ValueError, match="1 labels for 3 .*one for each"):
            call()


def test_features_that_are_none_are_in_no_manifold():
    points = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    for name in ("real", "fake"):
        given = {"real": points, "fake": points.clone()}
        given[name] = given[name].index_fill(0, torch.tensor([4]), math.nan)
        with pytest.raises(ValueError, match=f"{name} holds numbers that are not fin"):
            precision_recall(**given)
