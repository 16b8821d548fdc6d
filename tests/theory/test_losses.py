"""The distance and HKD's loss: annealing, the loss by hand, zero on equal inputs, who
gets gradients.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import hkd_loss
from hkd_mini.judge.classifier import Classifier, ClassifierConfig
from hkd_mini.judge.distance import (
    Distance,
    FeatureDistance,
    TextureDistance,
    annealed,
    unit,
)


def classifier(seed=0):
    torch.manual_seed(seed)
    net = Classifier(ClassifierConfig(widths=(8, 12, 16), classes=5))
    for module in net.modules():
        # statistics that are not those of a fresh layer
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return net


def pictures(seed, batch=3):
    return (
        torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2
        - 1
    )


class Absolute(nn.Module):
    """A perceptual distance that can be worked out by hand."""

    def forward(self, a, b):
        return (a - b).abs().flatten(1).mean(1)


def test_annealing():
    assert (
        annealed(0.0) == 1
        and math.isclose(annealed(1.0), 1e-3)
        and math.isclose(annealed(0.5), 10**-1.5)
    )
    # HKD D.4
    assert all(math.isclose(annealed(p), 10 ** (-3 * p)) for p in (0.1, 0.25, 0.9))
    assert math.isclose(annealed(0.5, 4.0, 1.0), 2.0)


def test_distance_by_hand():
    a = pictures(0)
    b = pictures(1)
    mse = ((a - b) ** 2).mean((1, 2, 3))
    p = (a - b).abs().mean((1, 2, 3))
    for progress in (0.0, 0.5, 1.0):
        got = Distance(Absolute(), l2=0.7)(a, b, progress)
        torch.testing.assert_close(got[0], 10 ** (-3 * progress) * mse + 0.7 * p)
        torch.testing.assert_close(got[1], mse)
        torch.testing.assert_close(got[2], p)
    plain = Distance.of("none")(a, b, 1.0)  # nothing to anneal towards: l1 stays 1
    torch.testing.assert_close(plain[0], mse)
    assert (plain[2] == 0).all()


def test_distance_of_points():
    a = torch.tensor([[0.0, 1.0]])
    b = torch.tensor([[2.0, 0.0]])
    assert Distance(None)(a, b)[0].tolist() == [2.5]


def test_feature_distance_by_hand():
    """LPIPS's equation 1 with equal weights: unit vectors at each location, squared
    difference summed over channels.
    """
    net = classifier().eval()
    distance = FeatureDistance(net)
    a = pictures(0)
    b = pictures(1)
    wish = torch.zeros(3)
    for fa, fb in zip(net.features(a), net.features(b)):
        for i in range(3):
            ua, ub = (
                f[i].flatten(1) / f[i].flatten(1).norm(dim=0).clamp(min=1e-4)
                for f in (fa, fb)
            )
            wish[i] += ((ua - ub) ** 2).sum(0).mean() / 3
    torch.testing.assert_close(distance(a, b), wish.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert (distance(a, b) > 1e-3).all()
    torch.testing.assert_close(distance(a[1:2], b[1:2]), distance(a, b)[1:2])


def test_feature_distance_is_zero_on_equal_inputs_and_grows():
    distance = FeatureDistance(classifier())
    a = pictures(0)
    noise = torch.randn(3, 3, 32, 32)
    assert (distance(a, a.clone()) == 0).all()
    sizes = [distance(a, a + scale * noise).mean().item() for scale in (0.01, 0.1, 0.5)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_gradients_flow_to_the_first_argument_alone():
    net = classifier()
    distance = Distance(FeatureDistance(net))
    a = pictures(0).requires_grad_()
    b = pictures(1)
    distance(a, b, 0.3)[0].sum().backward()
    assert a.grad.abs().max() > 0 and a.grad.isfinite().all()
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    # batch norm must not learn either
    assert not net.training and not any(m.training for m in net.modules())
    b = pictures(1).requires_grad_()
    distance.perceptual(pictures(0), b)
    assert not distance.perceptual(pictures(0), b).requires_grad


def test_feature_distances_gradient_by_differences():
    """Along the gradient the distance rises by its length (maps are compared in
    float32: no tiny step).
    """
    distance = FeatureDistance(classifier().double())
    a = pictures(0, 1).double().requires_grad_()
    b = pictures(1, 1).double()
    h = 0.01
    distance(a, b).sum().backward()
    steepest = a.grad / a.grad.norm()
    with torch.no_grad():
        slope = (distance(a + h * steepest, b) - distance(a - h * steepest, b)) / (
            2 * h
        )
    assert math.isclose(a.grad.norm(), slope, rel_tol=0.02)


def test_unit():
    f = torch.randn(3, 7, 2, 5)
    torch.testing.assert_close(unit(f).square().sum(1), torch.ones(3, 2, 5))
    assert (unit(torch.zeros(1, 4, 1, 1)) == 0).all()  # a dead location is 0, not nan


def points_model(labels=0, **options):
    torch.manual_seed(0)
    model = HKD(
        HKDConfig(
            MLPConfig(channels=8, width=16, depth=2, state=6, labels=labels), **options
        )
    )
    for generator in model.generators:
        generator.A.data.normal_()
    return model


def batch(s=4, n=3):
    rng = torch.Generator().manual_seed(1)
    sigma = torch.tensor([80.0, 9.0, 0.5, 0.002])[:s].expand(n, s).clone()
    sigma[:, 1:] *= torch.rand(n, s - 1, generator=rng) + 1
    return (
        torch.randn(n, s, 2, generator=rng) * sigma[..., None],
        sigma,
        torch.randn(n, 2, generator=rng),
    )


@pytest.mark.parametrize("clock", ["rho", "edm"])
@pytest.mark.parametrize("labels", [0, 3])
def test_loss_by_hand(clock, labels):
    """A loop over samples and times, one encoding each, against the folded batch."""
    model = points_model(labels, clock=clock)
    distance = Distance(Absolute(), l2=0.5)
    x, sigma, end = batch()
    some = torch.tensor([2, 0, 1]) if labels else None
    terms = hkd_loss(model, distance, x, sigma, end, 0.4, some)
    mse = torch.zeros(3, 4)
    perceptual = torch.zeros(3, 4)
    for i in range(3):
        for k in range(4):
            t = float(model.clock.time(sigma[i, k]))
            label = None if some is None else some[i : i + 1]
            image = model.decode(
                model.evolve(
                    model.encode(x[i : i + 1, k], t, label), t, model.clock.eps
                ),
                label,
            )
            mse[i, k] = (image - end[i]).square().mean()
            perceptual[i, k] = (image - end[i]).abs().mean()
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    close(terms["mse"], mse.mean())
    close(terms["perceptual"], perceptual.mean())
    close(terms["mse_T"], mse[:, 0].mean())
    close(terms["loss"], 10 ** (-1.2) * mse.mean() + 0.5 * perceptual.mean())


def test_reconstruction_alone_is_the_loss_at_T():
    model = points_model()
    x, sigma, end = batch(1)
    terms = hkd_loss(model, Distance(None), x, sigma, end)
    image = model.decode(model.evolve(model.encode(x[:, 0], 1.0), 1.0, 0.0))
    torch.testing.assert_close(
        terms["loss"], (image - end).square().mean(), rtol=1e-4, atol=1e-5
    )
    assert terms["loss"] == terms["mse"] == terms["mse_T"]


def test_loss_reaches_every_parameter_and_the_rates():
    model = points_model()
    x, sigma, end = batch()
    hkd_loss(model, Distance(None), x, sigma, end)["loss"].backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters()
    )


def test_loss_of_a_perfect_model_is_zero():
    """Points whose path is a ray end where they point: dividing by sigma finds a
    constant of motion.
    """

    class Ray(nn.Module):
        clock = points_model(clock="sigma").clock
        encode = staticmethod(lambda x, t, labels: [x / t[:, None]])
        evolve = staticmethod(lambda z, t, s: z)
        decode = staticmethod(lambda z, labels: z[0])

    end = torch.randn(3, 2)
    sigma = torch.tensor([[80.0, 3.0]]).expand(3, 2)
    terms = hkd_loss(Ray(), Distance(None), end[:, None] * sigma[..., None], sigma, end)
    assert terms["loss"] < 1e-12


def test_pictures_through_the_whole_loss():
    torch.manual_seed(0)
    model = HKD(
        HKDConfig(UNetConfig(channels=8, mult=(1, 2), blocks=1, attention=(), patch=2))
    )
    x = torch.randn(1, 2, 3, 32, 32)
    sigma = torch.tensor([[80.0, 1.0]])
    terms = hkd_loss(
        model, Distance(FeatureDistance(classifier())), x, sigma, pictures(0, 1)
    )
    terms["loss"].backward()
    assert set(terms) == {"loss", "mse", "perceptual", "mse_T"} and all(
        v.ndim == 0 and v.isfinite() for v in terms.values()
    )
    assert all(g.A.grad is not None for g in model.generators)


def test_texture_by_hand():
    """Waves that are orthonormal and no constants; of their strengths, with one grey
    level as the floor, what DISTS asks of means.
    """
    texture = TextureDistance()
    assert texture.filters.shape == (45, 3, 4, 4)
    flat = texture.filters.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(45))  # orthonormal
    assert flat.sum(1).abs().max() < 1e-5  # no wave is a constant
    a = pictures(0)
    b = pictures(1)
    sa, sb = (
        (F.conv2d(x, texture.filters).square().unfold(2, 8, 4).unfold(3, 8, 4)).mean(
            (4, 5)
        )
        + (2 / 255) ** 2
        for x in (a, b)
    )
    wish = 1 - 2 * (sa * sb).sqrt() / (sa + sb)  # as DISTS writes it
    torch.testing.assert_close(texture(a, b), wish.mean((1, 2, 3)))
    torch.testing.assert_close(texture(a, b), texture(b, a))
    assert (texture(a, a) == 0).all()
    assert (texture(a, b) > 0).all() and (texture(a, b) < 1).all()


def test_texture_sees_softness_and_not_places():
    """A shift by a pixel moves every crest, and costs less than a little blur, which
    in squared error it exceeds.
    """
    texture = TextureDistance()
    a = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    soft = F.avg_pool2d(a, 3, 1, 1)
    moved = a.roll((1, -1), (2, 3))
    assert (a - moved).square().mean() > (a - soft).square().mean()
    assert texture(a, moved).max() < 0.1 * texture(a, soft).min()
    grey = torch.zeros_like(a)
    assert texture(grey, grey + 0.2).max() < 1e-6  # brightness is not texture


def test_texture_is_part_of_the_distance_by_its_weight():
    a = pictures(0)
    b = pictures(1)
    plain = Distance(Absolute(), l2=0.7)(a, b, 1.0)
    both = Distance(Absolute(), l2=0.7, texture=3.0)(a, b, 1.0)
    extra = 3.0 * TextureDistance()(a, b)
    torch.testing.assert_close(both[2], plain[2] + extra)
    torch.testing.assert_close(both[0], plain[0] + 0.7 * extra)
    torch.testing.assert_close(both[1], plain[1])
    alone = Distance.of("none", texture=3.0)(a, b, 1.0)
    torch.testing.assert_close(alone[2], extra)
    torch.testing.assert_close(alone[0], 1e-3 * alone[1] + extra)
    assert Distance.of("perceptual-cifar10", texture=3.0).l3 == 3.0
