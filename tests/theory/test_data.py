"""The order of training is a function of (seed, step); point sets have the moments they
claim.
"""

import inspect
import math

import pytest
import torch

from hkd_mini.engine import data, points


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def stream(n, batch, seed, steps):
    return torch.cat(
        [data.batch_indices(n, batch, seed, step) for step in range(steps)]
    )


@pytest.mark.parametrize("n, batch", [(10, 3), (7, 7), (5, 12), (1, 4), (64, 1)])
def test_each_epoch_is_a_permutation(n, batch):
    indices = stream(n, batch, seed=3, steps=6 * n)  # 6 batch whole epochs
    assert indices.shape == (6 * n * batch,) and indices.dtype == torch.int64
    epochs = indices.reshape(-1, n)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand_as(epochs))


def test_order_differs_between_epochs_and_seeds():
    first, second = stream(100, 50, seed=0, steps=4).reshape(2, 100)
    assert not torch.equal(first, second)
    assert not torch.equal(first, stream(100, 50, seed=1, steps=2))
    assert not torch.equal(first, torch.arange(100))


def test_every_place_is_equally_likely():
    n = 5
    epochs = 4000
    orders = stream(n, n * epochs, seed=7, steps=1).reshape(epochs, n)
    counts = torch.stack(
        [torch.bincount(place, minlength=n) for place in orders.T]
    ).double()
    # each count is binomial(epochs, 1/n), deviation 25.3; five of them is a chance of
    # 1e-5 over all 25
    assert (counts - epochs / n).abs().max() < 5 * math.sqrt(epochs / n * (1 - 1 / n))


def test_resumes_from_the_step_alone():
    whole = [data.batch_indices(11, 4, 5, step) for step in range(20)]
    data._permutation.cache_clear()
    for step in (19, 3, 8, 0):  # any order, nothing remembered
        assert torch.equal(data.batch_indices(11, 4, 5, step), whole[step])


def test_the_stream_does_not_depend_on_the_batch_size():
    assert torch.equal(stream(9, 6, 2, 10), stream(9, 4, 2, 15))


def test_a_caller_cannot_change_the_order():
    before = data.batch_indices(6, 6, 0, 0).clone()
    data.batch_indices(6, 6, 0, 0).zero_()
    assert torch.equal(data.batch_indices(6, 6, 0, 0), before)


@pytest.mark.parametrize("wrong", [(0, 1, 0, 0), (5, 0, 0, 0), (5, 1, 0, -1)])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=r"n=.*batch=.*step=.*wanted"):
        data.batch_indices(*wrong)


def test_bytes_survive_the_way_to_unit_and_back():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    unit = data.to_unit(x)
    assert unit.min() == -1 and unit.max() == 1 and unit.dtype == torch.float32
    assert torch.equal(data.to_uint8(unit), x)
    assert data.to_uint8(torch.tensor([-7.0, 7.0, 0.0])).tolist() == [0, 255, 128]
    with pytest.raises(ValueError, match="uint8"):
        inspect.unwrap(data.to_unit)(unit)  # without the tests' dtype checks


N = 200_000


@pytest.mark.parametrize("name", sorted(points.POINT_SETS))
def test_point_sets_are_centred_and_scaled(name):
    x = points.POINT_SETS[name](N, draw())
    assert x.shape == (N, 2) and x.dtype == torch.float32
    # a mean of N values of deviation .35 to .62 has deviation below .0014
    assert x.mean(0).abs().max() < 0.006
    assert x.pow(2).mean().sqrt().item() == pytest.approx(points.DEVIATION, abs=0.003)


@pytest.mark.parametrize("name", sorted(points.POINT_SETS))
def test_point_sets_follow_their_generator(name):
    one, same, other = (points.POINT_SETS[name](33, draw(seed)) for seed in (4, 4, 5))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert points.POINT_SETS[name](1, draw()).shape == (1, 2)


@pytest.mark.parametrize(
    "name, options",
    [
        ("two_moons", {"noise": 0.3}),
        ("spiral", {"turns": 3.0, "noise": 0.2}),
        ("pinwheel", {"arms": 3, "twist": 1.0}),
        ("gaussian_mixture", {"deviation": 0.3}),
    ],
)
def test_the_scale_holds_for_other_shapes(name, options):
    x = points.POINT_SETS[name](N, draw(1), **options)
    assert x.pow(2).mean().sqrt().item() == pytest.approx(points.DEVIATION, abs=0.004)


def test_checkerboard_fills_the_dark_cells_evenly():
    side = math.sqrt(3) * points.DEVIATION
    cells = ((points.checkerboard(N, draw()) / side + 1) * 2).floor().long()
    assert cells.min() == 0 and cells.max() == 3
    assert (cells.sum(1) % 2 == 0).all()
    counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1])
    assert (counts[counts > 0] - N / 8).abs().max() < 5 * math.sqrt(N / 8) and (
        counts > 0
    ).sum() == 8


def test_moons_lie_on_two_half_circles():
    x = points.two_moons(1000, draw(), noise=0.0).double()
    x = x * math.sqrt(
        (0.75 + 0.5625 - 1 / math.pi) / 2
    ) / points.DEVIATION + torch.tensor([0.5, 0.25])
    upper = (x.norm(dim=1) - 1).abs() + (-x[:, 1]).clamp(min=0)
    lower = ((x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs() + (
        x[:, 1] - 0.5
    ).clamp(min=0)
    assert torch.minimum(upper, lower).max() < 1e-5
    assert 400 < (upper < 1e-5).sum() < 600


def test_pinwheel_is_the_same_after_a_fifth_of_a_turn():
    x = points.pinwheel(N, draw()).double()
    z = torch.complex(x[:, 0], x[:, 1])
    # moments E[z^k] vanish unless 5 divides k; the fifth does not, so the arms are
    # there
    unit = z / z.abs()
    assert max((unit**k).mean().abs().item() for k in (1, 2, 3, 4)) < 0.01
    assert (unit**5).mean().abs() > 0.3


def test_spiral_radius_tells_its_angle():
    x = points.spiral(1000, draw(), turns=2.0, noise=0.0).double()
    z = torch.complex(x[:, 0], x[:, 1])
    r = z.abs() / (2 * points.DEVIATION)
    assert r.max() <= 1 + 1e-6
    turned = z * torch.exp(-2j * math.pi * 2.0 * r)  # both arms land on the real line
    assert turned.imag.abs().max() < 1e-5 and 400 < (turned.real > 0).sum() < 600


def test_mixture_keeps_the_means_it_is_given():
    means = torch.tensor([[3.0, 0.0], [-1.0, 2.0], [0.0, 0.0]])
    x = points.gaussian_mixture(N, draw(), means, deviation=0.1)
    nearest = torch.cdist(x, means).argmin(1)
    for k, mean in enumerate(means):
        assert (x[nearest == k].mean(0) - mean).abs().max() < 0.003
        assert x[nearest == k].std(0).sub(0.1).abs().max() < 0.003
    assert (torch.bincount(nearest) / N - 1 / 3).abs().max() < 0.01
