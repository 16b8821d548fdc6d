"""Stochastic systems keep their promises: densities, transitions and rates, against
closed forms and other methods.
"""

from inspect import unwrap

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import eigh_tridiagonal
from scipy.stats import kstest, norm

from hkd_mini.koopman import stochastic

SPRING = stochastic.ornstein_uhlenbeck(theta=0.7, D=1.3)
DOUBLE = stochastic.langevin(
    lambda x: (x**2 - 1) ** 2, lambda x: 4 * x * (x**2 - 1), (-2.4, 2.4), beta=1.5
)
PROCESSES = [SPRING, DOUBLE, stochastic.prinz(), stochastic.prinz(beta=2.5)]
each_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)


def finite_differences(process, k, cells):
    """Rates by another method: a reversible jump process on a grid, error O(h^2),
    extrapolated to O(h^4).
    """

    def coarse(cells):
        edges = np.linspace(*process.box, cells + 1)
        h = edges[1] - edges[0]
        middle = (edges[1:] + edges[:-1]) / 2
        V = process.potential(middle) / process.D
        barrier = process.potential(edges[1:-1]) / process.D
        out = np.zeros(cells)
        out[:-1] += process.D / h**2 * np.exp(V[:-1] - barrier)
        out[1:] += process.D / h**2 * np.exp(V[1:] - barrier)
        hop = process.D / h**2 * np.exp((V[1:] + V[:-1]) / 2 - barrier)
        return -eigh_tridiagonal(out, -hop, select="i", select_range=(0, k - 1))[0]

    return (4 * coarse(2 * cells) - coarse(cells)) / 3


@each_process
def test_the_gradient_is_that_of_the_potential(process):
    x = np.linspace(-1.1, 1.1, 41)
    h = 1e-5
    slope = (process.potential(x + h) - process.potential(x - h)) / (2 * h)
    np.testing.assert_allclose(process.gradient(x), slope, atol=1e-6)


@each_process
def test_the_density_is_normalised_and_fits_in_the_box(process):
    low, high = process.box
    total = quad(
        lambda x: stochastic.density(process, np.array([[x]]))[0], low, high, limit=400
    )[0]
    assert total == pytest.approx(1, abs=1e-9)
    peak = stochastic.density(process, np.linspace(low, high, 2001)[:, None]).max()
    assert stochastic.density(process, np.array([[low], [high]])).max() < 1e-9 * peak


@each_process
def test_draws_follow_the_density(process):
    x = stochastic.draw(process, 4000, np.random.default_rng(0))
    edges = np.linspace(*process.box, 4001)
    middle = stochastic.density(process, ((edges[1:] + edges[:-1]) / 2)[:, None])
    below = np.concatenate([[0], np.cumsum(middle) * (edges[1] - edges[0])])
    assert x.shape == (4000, 1)
    assert kstest(x[:, 0], lambda at: np.interp(at, edges, below)).pvalue > 0.01


def test_the_spectrum_of_the_spring_is_known():
    found = stochastic.spectrum(SPRING, 6)
    np.testing.assert_allclose(found.rates, SPRING.rates(6), atol=1e-9)
    np.testing.assert_allclose(found.rates, -0.7 * np.arange(6), atol=1e-9)
    x = np.linspace(-4, 4, 10).reshape(2, 5, 1)  # any batch shape
    np.testing.assert_allclose(
        found.eigenfunctions(x), SPRING.eigenfunctions(x, 6), atol=1e-8
    )


@pytest.mark.parametrize("process", PROCESSES[1:], ids=lambda p: p.name)
def test_the_spectrum_agrees_with_finite_differences(process):
    np.testing.assert_allclose(
        stochastic.spectrum(process, 5).rates,
        finite_differences(process, 5, 1500),
        rtol=1e-6,
        atol=1e-7,
    )


def test_ritz_rates_fall_towards_the_truth():
    rates = [
        stochastic.spectrum(stochastic.prinz(), 5, n).rates for n in (60, 90, 120, 200)
    ]
    truth = stochastic.spectrum(stochastic.prinz(), 5, 260).rates
    for found, looser in zip(rates[1:], rates):
        # -rate: never below the true one
        assert np.all(found >= looser - 1e-9) and np.all(found <= truth + 1e-9)
    np.testing.assert_allclose(rates[-1], truth, atol=1e-8)


@each_process
def test_eigenfunctions_are_orthonormal_and_obey_the_generator(process):
    found = stochastic.spectrum(process, 5)
    x = np.linspace(*process.box, 20001)[:, None]
    phi = found.eigenfunctions(x)
    weight = stochastic.density(process, x) * (x[1, 0] - x[0, 0])
    np.testing.assert_allclose(phi.T @ (weight[:, None] * phi), np.eye(5), atol=1e-6)
    assert np.all(phi[-1] > 0)
    h = 1e-4
    inner = np.linspace(-0.9, 0.9, 37)[:, None]
    up, at, down = (found.eigenfunctions(inner + s) for s in (h, 0, -h))
    L_phi = (
        -process.gradient(inner) * (up - down) / (2 * h)
        + process.D * (up - 2 * at + down) / h**2
    )
    np.testing.assert_allclose(
        L_phi, found.rates * at, atol=2e-3 * max(1, abs(found.rates).max())
    )


def test_exact_transitions_of_the_spring():
    x = np.full((20000, 1), 1.7)
    y = SPRING.move(x, 0.8, np.random.default_rng(0))
    mean = 1.7 * np.exp(-0.56)
    variance = 1.3 / 0.7 * (1 - np.exp(-1.12))
    assert kstest(y[:, 0], norm(mean, np.sqrt(variance)).cdf).pvalue > 0.01
    np.testing.assert_array_equal(SPRING.move(x, 0.0, np.random.default_rng(0)), x)


def test_steps_agree_with_exact_transitions_and_leave_the_start_alone():
    steps = stochastic.langevin(
        SPRING.potential, SPRING.gradient, SPRING.box, beta=1 / 1.3, dt=2e-3
    )
    x = np.full((20000, 1), 1.7)
    y = steps.move(x, 0.801, np.random.default_rng(1))  # not a multiple of dt
    assert np.all(x == 1.7) and y.shape == x.shape
    variance = 1.3 / 0.7 * (1 - np.exp(-1.4 * 0.801))
    assert (
        kstest(y[:, 0], norm(1.7 * np.exp(-0.7 * 0.801), np.sqrt(variance)).cdf).pvalue
        > 0.01
    )


@pytest.mark.parametrize(
    "process, t", [(SPRING, 0.6), (DOUBLE, 0.4), (stochastic.prinz(dt=2e-4), 0.04)]
)
def test_eigenfunctions_decay_in_the_mean(process, t):
    """(K_t phi)(x) = E[phi(X_t) | X_0 = x] = e^{rho t} phi(x), from one start, by many
    futures.
    """
    found = stochastic.spectrum(process, 4)
    start = np.array([0.35])
    y = process.move(np.full((40000, 1), 0.35), t, np.random.default_rng(2))
    phi = found.eigenfunctions(y)
    noise = phi.std(0) / np.sqrt(len(y))
    expected = np.exp(found.rates * t) * found.eigenfunctions(start)
    assert np.all(abs(phi.mean(0) - expected) < 4 * noise + 5e-3)


def test_randomness_is_an_argument():
    x = np.zeros((3, 1))
    a, b = (stochastic.prinz().move(x, 0.01, np.random.default_rng(s)) for s in (4, 4))
    np.testing.assert_array_equal(a, b)
    assert len(np.unique(a)) == 3


@pytest.mark.parametrize(
    "make, wish",
    [
        (
            lambda: stochastic.ornstein_uhlenbeck(theta=0.0),
            "theta must be positive, got 0.0",
        ),
        (lambda: stochastic.ornstein_uhlenbeck(D=-1.0), "D must be positive, got -1.0"),
        (lambda: stochastic.prinz(beta=0.0), "beta must be positive"),
        (lambda: stochastic.langevin(np.square, np.sign, (1.0, 1.0)), "low < high"),
        (
            lambda: stochastic.langevin(np.square, np.sign, (-1.0, 1.0), dt=0.0),
            "dt must be positive",
        ),
        (
            lambda: stochastic.spectrum(SPRING, 0),
            "1 <= k <= polynomials / 4 = 50, got k = 0",
        ),
        (lambda: stochastic.spectrum(SPRING, 51), "got k = 51"),
    ],
)
def test_bad_input_is_refused(make, wish):
    with pytest.raises(ValueError, match=wish):
        make()


def test_no_eigenfunctions_outside_the_box():
    found = stochastic.spectrum(stochastic.prinz(), 2)
    with pytest.raises(ValueError, match="must lie in the box"):
        unwrap(type(found).eigenfunctions)(found, np.array([[0.0], [1.5]]))
