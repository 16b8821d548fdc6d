"""Noise levels and clocks: the schedule's formula, training noise, clocks that invert,
what the edm clock is for.
"""

import math

import pytest
import torch

from hkd_mini.diffusion.exact import gaussian_denoiser
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import (
    CLOCKS,
    SIGMA_DATA,
    SIGMA_MAX,
    SIGMA_MIN,
    karras_sigmas,
    lognormal_sigmas,
)

clocks = pytest.mark.parametrize("name", CLOCKS)


@pytest.mark.parametrize(
    "n, low, high, rho",
    [(2, 0.002, 80.0, 7.0), (18, 0.002, 80.0, 7.0), (5, 0.1, 3.0, 1.0)],
)
def test_karras_levels(n, low, high, rho):
    levels = karras_sigmas(n, low, high, rho)
    assert levels.dtype == torch.float64 and len(levels) == n + 1
    # the ends exactly
    assert levels[0] == high and levels[-2] == low and levels[-1] == 0
    for i in range(n):
        wish = (
            high ** (1 / rho) * (1 - i / (n - 1)) + i / (n - 1) * low ** (1 / rho)
        ) ** rho
        assert math.isclose(levels[i], wish, rel_tol=1e-12)
    assert (levels.diff() < 0).all()


def test_karras_errors():
    with pytest.raises(ValueError, match="n = 1 "):
        karras_sigmas(1)
    for low, high in [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (-1.0, 1.0)]:
        with pytest.raises(ValueError, match=f"got {low} and {high}"):
            karras_sigmas(5, low, high)


def test_training_noise_is_lognormal_and_repeatable():
    draw = lambda **kw: lognormal_sigmas(20_001, torch.Generator().manual_seed(0), **kw)
    log = draw().double().log()
    assert (
        abs(log.mean() + 1.2) < 4 * 1.2 / 20_001**0.5
        and abs(log.std() - 1.2) < 4 * 1.2 / 40_000**0.5
    )
    assert (
        abs((log < -1.2).double().mean() - 0.5) < 0.02
        and abs((log < -2.4).double().mean() - 0.1587) < 0.02
    )
    assert torch.equal(draw(), draw()) and len(lognormal_sigmas(1)) == 1
    torch.testing.assert_close(
        draw(mean=0.3, std=2.0).log(),
        (draw().log() + 1.2) / 1.2 * 2 + 0.3,
        rtol=1e-4,
        atol=1e-4,
    )


@clocks
def test_clock_inverts_on_floats_and_tensors(name):
    clock = CLOCKS[name]
    sigma = karras_sigmas(33)[:-1]
    t = clock.time(sigma)
    torch.testing.assert_close(clock.sigma(t), sigma, rtol=1e-9, atol=0)
    torch.testing.assert_close(clock.time(clock.sigma(t)), t, rtol=1e-9, atol=1e-12)
    for s, at in zip(sigma.tolist(), t.tolist()):
        assert math.isclose(clock.time(s), at, rel_tol=1e-12, abs_tol=1e-14)
        assert math.isclose(clock.sigma(clock.time(s)), s, rel_tol=1e-9)
    assert clock.time(sigma.float().view(3, 11)).shape == (3, 11)
    # float32
    torch.testing.assert_close(
        clock.sigma(clock.time(sigma.float())), sigma.float(), rtol=1e-2, atol=0
    )


@clocks
def test_time_grows_with_noise(name):
    clock = CLOCKS[name]
    assert (clock.time(karras_sigmas(50)[:-1]).diff() < 0).all()
    assert clock.T == clock.time(SIGMA_MAX) > clock.eps == clock.time(SIGMA_MIN)


def test_ends_of_the_clocks():
    assert math.isclose(CLOCKS["rho"].T, 1) and abs(CLOCKS["rho"].eps) < 1e-12
    assert CLOCKS["sigma"].T == 80 and CLOCKS["sigma"].eps == 0.002
    assert math.isclose(
        CLOCKS["edm"].T, math.log(math.hypot(0.5, 80))
    ) and math.isclose(CLOCKS["edm"].eps, math.log(math.hypot(0.5, 0.002)))
    # the sampler's levels are even in the default clock
    steps = CLOCKS["rho"].time(karras_sigmas(19)[:-1])
    torch.testing.assert_close(
        steps, torch.linspace(1, 0, 19, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_edm_clock_makes_a_gaussian_flow_linear_with_rate_one():
    """For N(0, s^2) the flow multiplies x by e^{t' - t} in this clock; in log sigma the
    rate would vary from 1 to 0.
    """
    clock = CLOCKS["edm"]
    s = SIGMA_DATA
    denoiser = gaussian_denoiser(torch.zeros(2), s**2 * torch.eye(2))
    levels = torch.cat(
        [
            torch.logspace(
                math.log10(SIGMA_MAX), math.log10(SIGMA_MIN), 2001, dtype=torch.float64
            )
        ]
    )
    x = heun(
        denoiser,
        torch.tensor([[80.0, -33.0], [5.0, 1.0], [-2.0, 0.1]], dtype=torch.float64),
        levels,
    ).x
    t = clock.time(levels)
    wish = x[0] * (t - t[0]).exp()[:, None, None]
    torch.testing.assert_close(x, wish, rtol=2e-5, atol=0)
    rate = (x[1:, 0, 0] / x[:-1, 0, 0]).log() / t.diff()
    torch.testing.assert_close(rate, torch.ones_like(rate), rtol=1e-3, atol=0)
    log_rate = (x[1:, 0, 0] / x[:-1, 0, 0]).log() / levels.log().diff()
    assert log_rate[0] > 0.999 and log_rate[-1] < 1e-4
