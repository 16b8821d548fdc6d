"""`probe` on a model so small that every number can be worked out by hand."""

import inspect
import math

import pytest
import torch

from hkd_mini.diffusion.samplers import Path
from hkd_mini.diffusion.schedule import Noise, sigma_clock
from hkd_mini.hkd import koopman_residual
from hkd_mini.hkd.config import PRESETS
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.paths import PathsInMemory
from hkd_mini.hkd.probe import Still, probe
from hkd_mini.hkd.residual import centred_gap, residual_by_time
from hkd_mini.hkd.terms import unit_contrast
from hkd_mini.koopman.generator import KoopmanGenerator

NOISE = Noise(sigma_min=1.0, sigma_max=3.0, sigma_data=4.0)


class ByHand:
    """encode: x and x^2, each labelled by adding the class; evolve: z (1 + s - t), and
    no change; decode: the first state. Its clock is the noise level, from 1 to 3.
    """

    noise = NOISE
    clock = sigma_clock(NOISE)

    def __init__(self):
        self.generators = [KoopmanGenerator(2), KoopmanGenerator(4)]

    def encode(self, x, t, labels=None):
        return [x if labels is None else x + labels[:, None], x**2]

    def evolve(self, states, t, s):
        return [states[0] * (1 + s - t), states[1]]

    def decode(self, states, labels=None):
        return states[0] if labels is None else states[0] - labels[:, None]


def paths(x, sigmas=(3.0, 2.0, 0.0)):
    """Points of shape (1,), one list for each level."""
    x = torch.tensor(x)[..., None]
    return PathsInMemory(Path(torch.tensor(sigmas, dtype=torch.float64), x, 0))


# Two paths: 4, 2, 1 and 8, 4, 3. T = 3, the picture is at eps = 1.
TWO = [[4.0, 8.0], [2.0, 4.0], [1.0, 3.0]]


def test_errors_by_hand():
    found = probe(ByHand(), paths(TWO))
    # from 3 to 1 a state is multiplied by -1, from 2 to 1 by 0
    wish = (((4 + 1) ** 2 + (8 + 3) ** 2) / 2, (1 + 9) / 2)
    assert found.with_A.error_at_the_end.item() == wish[0]
    assert found.with_A.error_at_the_end_from.tolist() == list(wish)
    # left alone: 4 and 8 for 1 and 3, then 2 and 4
    idle = ((9 + 25) / 2, (1 + 1) / 2)
    assert found.without_A.error_at_the_end.item() == idle[0]
    assert found.without_A.error_at_the_end_from.tolist() == list(idle)


def test_errors_on_the_way_by_hand():
    """At unit contrast, sigma_data 4: 4/5 of a point at level 3, 4/sqrt(20) at 2."""
    found = probe(ByHand(), paths(TWO))
    far = 4 / math.sqrt(20)
    first = ((4 - 3.2) ** 2 + (8 - 6.4) ** 2) / 2
    # from 3 to 2 a state is multiplied by 0
    second = ((2 * far) ** 2 + (4 * far) ** 2) / 2
    still = ((4 - 2 * far) ** 2 + (8 - 4 * far) ** 2) / 2
    assert found.with_A.error_on_the_way.tolist() == pytest.approx([first, second])
    assert found.without_A.error_on_the_way.tolist() == pytest.approx([first, still])


def test_any_two_times_by_hand():
    """On the first path alone: 4 and 2 are wanted at unit contrast."""
    found = probe(ByHand(), paths(TWO), between=1)
    wish = [4 * 4 / 5, 2 * 4 / math.sqrt(20)]
    moved = [[4, 0], [2 * 2, 2]]
    idle = [[4, 4], [2, 2]]
    for answers, decoded in ((found.with_A, moved), (found.without_A, idle)):
        square = [[(x - y) ** 2 for x, y in zip(row, wish)] for row in decoded]
        torch.testing.assert_close(answers.error_between, torch.tensor(square))


def test_residuals_by_hand():
    found = probe(ByHand(), paths(TWO))
    # first state: 4 and 8 go to 0 where 2 and 4 are true; squares stay at 16 and 64
    # where 4 and 16 are true
    assert found.with_A.residual.tolist() == [[0, 0], [1, 3]]
    assert found.with_A.mean_residual.tolist() == [1, 3]
    # left alone both miss by once and three times their size
    assert found.without_A.residual.tolist() == [[0, 0], [1, 3]]
    # variances at level 2: 1 of 2 and 4, 36 of 4 and 16
    first = (4 + 16) / 2
    second = (12**2 + 48**2) / 2 / 36
    assert found.with_A.centred_residual.tolist() == [[0, 0], [first, second]]
    assert found.with_A.mean_centred_residual.tolist() == [first, second]
    assert found.without_A.centred_residual[1, 0].item() == (4 + 16) / 2 / 1
    assert found.size_of_states.tolist() == [6, 40]


def test_a_constant_makes_a_residual_small_and_a_centred_one_not():
    class WithConstant(ByHand):
        def encode(self, x, t, labels=None):
            return [torch.cat([x, torch.full_like(x, 1e4)], 1)]

        def evolve(self, states, t, s):
            return [torch.cat([states[0][:, :1] * (1 + s - t), states[0][:, 1:]], 1)]

        def decode(self, states, labels=None):
            return states[0][:, :1]

    plain = probe(ByHand(), paths(TWO)).with_A
    found = probe(WithConstant(), paths(TWO)).with_A
    assert plain.residual[1, 0] == 1 and found.residual[1, 0] < 1e-3
    assert found.centred_residual[1, 0] == plain.centred_residual[1, 0]


def test_a_state_that_is_the_same_on_every_path_has_no_centred_residual():
    class Clock(ByHand):
        def encode(self, x, t, labels=None):
            return [x, torch.full_like(x, 0.1 * t)]

    centred = probe(Clock(), paths(TWO)).with_A.centred_residual
    assert centred[:, 1].isnan().all() and centred[:, 0].isfinite().all()
    alone = probe(ByHand(), paths([[4.0], [2.0], [1.0]])).with_A
    assert alone.centred_residual.isnan().all(), "one path has no variance"
    assert alone.residual.tolist() == [[0, 0], [1, 3]]


def test_a_centred_gap_of_one_is_as_good_as_the_mean():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(7, 3, 2, 2, generator=rng)
    mean = z.mean(0, keepdim=True).expand_as(z)
    assert centred_gap(mean, z).item() == pytest.approx(1, rel=1e-6)
    assert centred_gap(z, z).item() == 0
    shifted = centred_gap(mean + 100, z + 100)
    assert shifted.item() == pytest.approx(1, rel=1e-4)


def test_the_largest_rates_of_a_known_A():
    model = ByHand()
    with torch.no_grad():
        model.generators[0].A[:, 0, 0] = torch.tensor([-3.0, 4.0])
        # pairs 1 + 2i and -6 + 0i
        model.generators[1].A[:, 0, 0] = torch.tensor([1.0, -6.0, 2.0, 0.0])
    # |-3 + 4i| = 5; the way from noise to picture is T - eps = 2 long
    assert probe(model, paths(TWO)).largest_rates.tolist() == [10, 12]


def test_labels_reach_encoder_and_decoder():
    """ByHand adds the class and takes it away, so with A it is missed by 2 c at the
    end: -(x + c) - c for x_eps.
    """
    found = probe(ByHand(), paths(TWO), labels=torch.tensor([0, 2]))
    assert found.with_A.error_at_the_end.item() == (5**2 + (8 + 4 + 3) ** 2) / 2
    plain = probe(ByHand(), paths(TWO))
    assert found.without_A.error_at_the_end == plain.without_A.error_at_the_end

    class Stored(PathsInMemory):
        def gather(self, index, at):
            return super().gather(index, at) | {"labels": torch.tensor([0, 2])[index]}

    known = Stored(Path(paths(TWO).sigmas, torch.tensor(TWO)[..., None], 0))
    again = probe(ByHand(), known, between=2)
    assert again.with_A.error_at_the_end == found.with_A.error_at_the_end
    between = again.without_A.error_between
    assert torch.equal(between, probe(ByHand(), paths(TWO), between=2)[1].error_between)


def test_what_is_not_asked_for_is_not_decoded():
    class Counting(ByHand):
        decoded = 0

        def decode(self, states, labels=None):
            self.decoded += 1
            return super().decode(states, labels)

    model = Counting()
    whole = probe(model, paths(TWO))
    # with A: noise at two levels and at the end, then one more end; without: two
    assert model.decoded == 4 + 2
    model.decoded = 0
    part = probe(model, paths(TWO), from_every_time=False)
    assert model.decoded == 3 + 1
    for a, b in zip(whole[:2], part[:2]):
        assert a.error_between is None and b.error_at_the_end_from is None
        assert a.error_at_the_end == b.error_at_the_end
        assert torch.equal(a.error_on_the_way, b.error_on_the_way)
        assert torch.equal(a.residual, b.residual)


def test_a_model_stands_still():
    model = ByHand()
    states = model.encode(torch.ones(3, 1), 2.0)
    still = Still(model)
    assert still.evolve(states, 2.0, 1.0) is states
    assert torch.equal(still.encode(torch.ones(3, 1), 2.0)[0], states[0])
    labels = torch.tensor([1, 2, 3])
    assert torch.equal(still.decode(states, labels), model.decode(states, labels))


@pytest.mark.parametrize("clock", ["rho", "edm", "log", "sigma"])
def test_an_hkd_in_every_clock(clock):
    """The same numbers, one at a time, as a reader would work them out."""
    torch.manual_seed(0)
    config = PRESETS["toy2d"]
    model = HKD(type(config)(config.network, clock)).eval()
    rng = torch.Generator().manual_seed(1)
    span = model.clock.T - model.clock.eps
    with torch.no_grad():
        for generator in model.generators:
            generator.A.normal_(0, 0.3 / span, generator=rng)
    sigmas = torch.tensor([80.0, 5.0, 0.3, 0.0], dtype=torch.float64)
    x = sigmas.clamp(min=0.1).float()[:, None, None] * torch.randn(
        4, 5, 2, generator=rng
    )
    found = probe(model, PathsInMemory(Path(sigmas, x, 0)), between=5)
    times = model.clock.time(sigmas[:-1]).float()
    rows = residual_by_time(model, x[:-1], times)
    torch.testing.assert_close(found.with_A.residual, rows, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found.without_A.mean_residual,
        koopman_residual(Still(model), x[:-1], times),
        rtol=1e-5,
        atol=1e-6,
    )
    one_step = model.sample(x[0] / 80)
    end = found.with_A.error_at_the_end
    torch.testing.assert_close(end, (one_step - x[-1]).square().mean())
    way = model.trajectory(x[0] / 80, times)
    y = torch.stack([unit_contrast(a, s[None]) for a, s in zip(x, sigmas[:-1])])
    errors = (way - y).square().mean((1, 2))
    torch.testing.assert_close(found.with_A.error_on_the_way, errors)
    torch.testing.assert_close(found.with_A.error_between[0], errors)
    largest = max(g.eigenvalues().abs().max().item() for g in model.generators) * span
    assert found.largest_rates.max().item() == pytest.approx(largest)


def test_what_is_refused():
    # without the tests' shape checks
    ask = inspect.unwrap(probe)
    with pytest.raises(ValueError, match="2 paths of 2 points"):
        ask(ByHand(), paths(TWO[::2], (3.0, 0.0)))
    with pytest.raises(ValueError, match="from level 80.*sigma_max = 3"):
        ask(ByHand(), paths(TWO, (80.0, 2.0, 0.0)))
    with pytest.raises(ValueError, match="3 labels for 2 paths"):
        ask(ByHand(), paths(TWO), labels=torch.tensor([0, 1, 2]))
    for between in (-1, 3):
        with pytest.raises(ValueError, match=f"between = {between}: wanted 0 to 2"):
            ask(ByHand(), paths(TWO), between=between)
    with pytest.raises(ValueError, match="is 0"):
        ask(ByHand(), paths([[4.0, 8.0], [0.0, 4.0], [1.0, 3.0]]))
