"""Toy systems keep their promises: flows solve equations, lifts are linear,
eigenfunctions grow at their rates.
"""

# off with the type checker of the tests, for shapes that it would refuse first
from inspect import unwrap

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from hkd_mini.koopman import flows, systems

CLOSED = [
    # non-normal: eigenvectors nearly parallel
    systems.linear(np.array([[-0.5, 3.0], [0.0, -0.4]])),
    systems.spiral(-0.1, 1.3),
    systems.slow_manifold(),
    systems.slow_manifold(mu=-0.5, lam=-1.0),  # resonance lam = 2 mu
    systems.slow_manifold(mu=0.2, lam=-0.7),
    systems.stuart_landau(),
    systems.stuart_landau(mu=0.7, omega=-1.4, shear=0.9),
]
NUMERICAL = [
    systems.pendulum(),
    systems.pendulum(0.2),
    systems.duffing(),
    systems.van_der_pol(2.0),
]


def points(count=5, seed=0):
    return np.random.default_rng(seed).uniform(-1.5, 1.5, (count, 2))


@pytest.mark.parametrize("system", CLOSED + NUMERICAL, ids=lambda s: s.name)
def test_the_flow_solves_the_equation(system):
    # an independent solver (LSODA) from every point, one by one
    for x in points(3):
        there = solve_ivp(
            lambda _, v: system.field(v),
            (0, 1.7),
            x,
            method="LSODA",
            rtol=1e-10,
            atol=1e-12,
        )
        np.testing.assert_allclose(
            system.flow(x, 1.7), there.y[:, -1], rtol=0, atol=2e-8
        )


@pytest.mark.parametrize("system", CLOSED + NUMERICAL, ids=lambda s: s.name)
def test_semigroup_and_identity(system):
    x = points(1)  # a batch of one
    np.testing.assert_allclose(system.flow(x, 0.0), x, rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        system.flow(system.flow(x, 0.4), 0.9), system.flow(x, 1.3), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(
        system.flow(system.flow(x, 0.6), -0.6), x, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("system", [s for s in CLOSED if s.lift], ids=lambda s: s.name)
def test_the_lift_is_exactly_linear(system):
    x = points(7).reshape(7, 1, 2)  # any batch shape
    lifted = system.lift(x) @ expm(system.generator * 2.3).T
    np.testing.assert_allclose(
        system.lift(system.flow(x, 2.3)), lifted, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    "system", [s for s in CLOSED if s.eigenfunctions], ids=lambda s: s.name
)
@pytest.mark.parametrize("t", [1.1, -0.05])
def test_eigenfunctions_grow_at_their_rates(system, t):
    x = points(6, seed=3)
    after = system.eigenfunctions(system.flow(x, t))
    before = system.eigenfunctions(x)
    np.testing.assert_allclose(
        after, np.exp(system.rates * t) * before, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "system", [s for s in CLOSED if s.eigenfunctions], ids=lambda s: s.name
)
def test_products_of_eigenfunctions_are_eigenfunctions(system):
    x = points(6, seed=4)
    t = 0.8
    pair = lambda y: np.prod(system.eigenfunctions(y)[..., :2], -1)
    expected = np.exp(system.rates[:2].sum() * t) * pair(x)
    np.testing.assert_allclose(pair(system.flow(x, t)), expected, rtol=1e-9, atol=1e-9)


def test_known_spectra():
    slow = systems.slow_manifold()
    np.testing.assert_allclose(np.sort(slow.rates.real), [-1, -0.2, -0.1], atol=1e-15)
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvals(slow.generator).real), [-1, -0.2, -0.1], atol=1e-15
    )
    np.testing.assert_allclose(
        systems.stuart_landau(shear=0.5).rates, [-2, 1j], atol=1e-15
    )
    spiral = systems.spiral(-0.3, 2.0)
    np.testing.assert_allclose(
        np.sort_complex(spiral.rates), [-0.3 - 2j, -0.3 + 2j], atol=1e-14
    )


def test_the_resonant_slow_manifold_has_a_lift_but_no_eigenbasis():
    slow = systems.slow_manifold(mu=-0.5, lam=-1.0)
    assert slow.eigenfunctions is None and slow.rates is None
    # a double rate, one eigenvector
    assert np.linalg.matrix_rank(slow.generator + np.eye(3), tol=1e-12) == 2


def test_the_spiral_turns_as_hkd_blocks_do():
    alpha = -0.2
    beta = 1.5
    t = 0.7
    x = points(4)
    w = x @ [1, 1j]
    after = systems.spiral(alpha, beta).flow(x, t) @ [1, 1j]
    np.testing.assert_allclose(after, np.exp((alpha - 1j * beta) * t) * w, atol=1e-14)


@pytest.mark.parametrize("energy", [-0.9, 0.0, 0.8, 1.5, 7.0])
def test_pendulum_period(energy):
    # quadrature of dt = d theta / theta', substituting sin(theta/2) = k sin(phi) for
    # swings
    if energy < 1:
        k2 = (1 + energy) / 2
        expected = (
            4
            * quad(lambda phi: 1 / np.sqrt(1 - k2 * np.sin(phi) ** 2), 0, np.pi / 2)[0]
        )
        start = np.array([np.arccos(-energy), 0.0])
        after = lambda x: x
    else:
        expected = quad(
            lambda th: 1 / np.sqrt(2 * (energy + np.cos(th))), 0, 2 * np.pi
        )[0]
        start = np.array([0.0, np.sqrt(2 * (energy + 1))])
        after = lambda x: x - [2 * np.pi, 0]
    period = systems.pendulum_period(energy)
    assert period == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(
        after(systems.pendulum().flow(start, period)), start, atol=1e-7
    )


def test_lorenz_has_its_known_rest_points_symmetry_and_contraction():
    lorenz = systems.lorenz()
    wing = np.sqrt(8 / 3 * 27)
    rest = np.array([[0.0, 0, 0], [wing, wing, 27], [-wing, -wing, 27]])
    np.testing.assert_allclose(lorenz.field(rest), 0, atol=1e-12)
    x = np.array([[1.0, 2.0, 20.0], [-3.0, 0.5, 11.0]])
    turned = lorenz.flow(x * [-1, -1, 1], 0.8)
    np.testing.assert_allclose(turned, lorenz.flow(x, 0.8) * [-1, -1, 1], atol=1e-8)
    # on its axis of symmetry the flow is linear
    axis = lorenz.flow(np.array([0.0, 0.0, 5.0]), 0.6)
    np.testing.assert_allclose(axis, [0, 0, 5 * np.exp(-1.6)], atol=1e-9)
    # the divergence is the same everywhere, -(sigma + 1 + beta)
    h = 1e-5
    columns = [
        (lorenz.flow(x + d, 0.3) - lorenz.flow(x - d, 0.3)) / (2 * h)
        for d in h * np.eye(3)
    ]
    np.testing.assert_allclose(
        np.linalg.det(np.stack(columns, -1)), np.exp(-0.3 * (11 + 8 / 3)), rtol=1e-4
    )


def test_lorenz_forgets_its_start_and_keeps_its_averages():
    lorenz = systems.lorenz()
    starts = np.random.default_rng(0).uniform(-8, 8, (30, 3)) + [0, 0, 25]
    twins = np.stack([starts, starts + 1e-6])
    path = flows.trajectory(lorenz, twins, np.arange(20.0, 30.0, 0.2))
    assert abs(path[:, 0] - path[:, 1]).mean() > 1
    # d(x_3)/dt and d(x_1^2)/dt have mean 0: two identities of the attractor
    x1, x2, x3 = np.moveaxis(path, -1, 0)
    assert np.mean(x1 * x2) == pytest.approx(8 / 3 * np.mean(x3), rel=0.02)
    assert np.mean(x1 * x2) == pytest.approx(np.mean(x1**2), rel=0.02)
    assert abs(x3[:, 0].mean() - x3[:, 1].mean()) < 0.5


def test_koopman_is_linear_where_the_flow_is_not():
    duffing = systems.duffing()
    x = points(5)
    t = 0.9
    f = lambda x: x[..., 0] ** 2
    g = lambda x: np.sin(x[..., 1])
    combined = flows.koopman(duffing, lambda x: 2 * f(x) - 3 * g(x), t)(x)
    separate = 2 * flows.koopman(duffing, f, t)(x) - 3 * flows.koopman(duffing, g, t)(x)
    np.testing.assert_allclose(combined, separate, atol=1e-13)
    assert abs(duffing.flow(2 * x, t) - 2 * duffing.flow(x, t)).max() > 0.1


def test_trajectory_in_any_order_of_times():
    times = np.array([0.0, 2.0, 0.5])
    x = points(3)
    path = flows.trajectory(systems.van_der_pol(), x, times)
    assert path.shape == (3, 3, 2)
    np.testing.assert_allclose(path[0], x)
    np.testing.assert_allclose(path[2], systems.van_der_pol().flow(x, 0.5), atol=1e-8)


def test_snapshot_pairs():
    pairs = flows.snapshot_pairs(
        systems.slow_manifold(), 40, 0.3, (-1, [1, 2]), np.random.default_rng(0)
    )
    again = flows.snapshot_pairs(
        systems.slow_manifold(), 40, 0.3, (-1, [1, 2]), np.random.default_rng(0)
    )
    assert pairs.x.shape == pairs.y.shape == (40, 2)
    assert (
        (pairs.x >= -1).all() and (pairs.x <= [1, 2]).all() and pairs.x[:, 1].max() > 1
    )
    np.testing.assert_array_equal(pairs.y, again.y)
    np.testing.assert_array_equal(pairs.y, systems.slow_manifold().flow(pairs.x, 0.3))


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: unwrap(systems.linear)(np.ones((2, 3))), "square"),
        (
            lambda: systems.linear(np.array([[1.0, 1.0], [0.0, 1.0]])),
            "basis of eigenvectors",
        ),
        (lambda: systems.stuart_landau(mu=-1.0), "mu = -1"),
        (lambda: systems.stuart_landau().flow(np.array([2.0, 0.0]), -1.0), "t = -1.0"),
        (
            lambda: flows.numerical("blow-up", lambda x: x**2).flow(np.ones(2), 2.0),
            "no flow to t = 2.0",
        ),
        (lambda: systems.pendulum_period(1.0), "got 1.0"),
        (lambda: systems.pendulum_period(-1.0), "got -1.0"),
        (lambda: systems.pendulum_period(float("nan")), "nan"),
        (
            lambda: flows.snapshot_pairs(systems.duffing(), 0, 0.1, (-1, [1, 1]), RNG),
            "count 0",
        ),
        (
            lambda: flows.snapshot_pairs(systems.duffing(), 3, 0.1, (1, [1, 2]), RNG),
            "low < high",
        ),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word.replace("[", r"\[")):
        call()
