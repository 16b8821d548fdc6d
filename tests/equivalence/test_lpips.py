"""The perceptual distance against the lpips package: our combination, our feature
distance, our offline error.
"""

import urllib.error

import pytest
import torch
from torch import nn

from hkd_mini.engine.mend import mend_torchvision
from hkd_mini.judge.distance import Distance, FeatureDistance, lpips


@pytest.fixture(scope="module")
def package():
    mend_torchvision()  # PyPI's torchvision beside a CPU build of torch
    return pytest.importorskip("lpips", reason="lpips is a test-only extra")


@pytest.fixture
def random_trunk(package, monkeypatch):
    """The package's LPIPS with its own linear layers and a random trunk: the ImageNet
    weights are a download.
    """

    def make(net="alex", **options):
        torch.manual_seed(0)
        return original(net=net, pnet_rand=True, **options)

    original = package.LPIPS
    monkeypatch.setattr(package, "LPIPS", make)
    return make


def pictures(seed, batch=3):
    return (
        torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2
        - 1
    )


@pytest.mark.parametrize("trunk", ["alex", "squeeze"])
def test_distance_is_l1_mse_plus_the_packages_output(random_trunk, trunk):
    theirs = random_trunk(trunk, verbose=False)
    a = pictures(0)
    b = pictures(1)
    for progress in (0.0, 0.5):
        d, mse, p = Distance.of(trunk)(a, b, progress)
        with torch.no_grad():
            wish = theirs(a, b).flatten()
        assert p.shape == d.shape == (3,) and (wish > 0).all()
        torch.testing.assert_close(p, wish)
        torch.testing.assert_close(
            d, 10 ** (-3 * progress) * ((a - b) ** 2).mean((1, 2, 3)) + wish
        )


def test_frozen_but_differentiable_in_the_picture(random_trunk):
    distance = Distance.of("alex")
    a = pictures(0, 1).requires_grad_()
    b = pictures(1, 1)
    assert not distance.training and not any(
        p.requires_grad for p in distance.parameters()
    )
    distance(a, b)[0].sum().backward()
    assert a.grad.abs().max() > 0
    assert (distance(b, b.clone())[0] == 0).all()


def test_feature_distance_is_the_packages_formula(package):
    """On one trunk, our feature distance is the package's with equal weights, but for
    its sum over stages.
    """
    torch.manual_seed(0)
    theirs = package.LPIPS(net="alex", lpips=False, pnet_rand=True, verbose=False)

    class Trunk(nn.Module):
        def features(self, x):
            return list(theirs.net(theirs.scaling_layer(x)))

    ours = FeatureDistance.__new__(FeatureDistance)
    nn.Module.__init__(ours)
    ours.classifier = Trunk()
    a = pictures(0)
    b = pictures(1)
    with torch.no_grad():
        torch.testing.assert_close(
            5 * ours(a, b), theirs(a, b).flatten(), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route to host"),
        ConnectionResetError("reset"),
        TimeoutError("slow"),
    ],
)
def test_offline_says_what_to_do(package, monkeypatch, error):
    def unreachable(**options):
        assert options["net"] == "vgg"
        raise error

    monkeypatch.setattr(package, "LPIPS", unreachable)
    with pytest.raises(
        ConnectionError,
        match="ImageNet weights of vgg could not be downloaded .* offline use "
        '"perceptual-cifar10"',
    ):
        lpips("vgg")


def test_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r'pip install "hkd-mini\[train\]"'):
        Distance.of("alex")


def test_unknown_trunk():
    for call in (lpips, Distance.of):
        with pytest.raises(
            ValueError, match="trunk 'inception': one of alex, vgg, squeeze"
        ):
            call("inception")
