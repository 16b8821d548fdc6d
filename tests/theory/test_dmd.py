"""DMD and EDMD against matrices and spectra that are known, above all non-normal
ones.
"""

# off with the type checker of the tests, for shapes that it would refuse first
from inspect import unwrap

import numpy as np
import pytest

from hkd_mini.koopman import flows, systems
from hkd_mini.koopman.dictionaries import delays, gaussians, monomials
from hkd_mini.koopman.dmd import dmd, forecast, optimal_rank
from hkd_mini.koopman.edmd import edmd, eigenfunctions, residuals


def non_normal(n, seed, complex_data=False):
    """A stable matrix whose eigenvectors are far from orthogonal: triangular, large off
    the diagonal.
    """
    rng = np.random.default_rng(seed)
    A = np.triu(rng.normal(size=(n, n)), 1) * 2 + np.diag(
        rng.uniform(0.3, 1.0, n) * rng.choice([-1, 1], n)
    )
    if complex_data:
        A = A * np.exp(1j * rng.uniform(-1, 1, (n, n)))
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return Q @ A @ Q.T


def snapshots(A, count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, len(A)))
    if np.iscomplexobj(A):
        x = x + 1j * rng.normal(size=x.shape)
    return x, x @ A.T


def sort(values):
    return np.array(sorted(values, key=lambda v: (round(v.real, 8), round(v.imag, 8))))


@pytest.mark.parametrize("complex_data", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("seed", range(5))
def test_dmd_finds_the_matrix(seed, complex_data):
    A = non_normal(5, seed, complex_data)
    # for a normal A this would mean little
    assert np.linalg.norm(A @ A.conj().T - A.conj().T @ A) > 1
    fit = dmd(*snapshots(A, 33, seed))
    np.testing.assert_allclose(
        sort(fit.eigenvalues), sort(np.linalg.eigvals(A)), atol=1e-9
    )
    np.testing.assert_allclose(A @ fit.modes, fit.modes * fit.eigenvalues, atol=1e-9)
    np.testing.assert_allclose(
        fit.left.conj().T @ A, fit.eigenvalues[:, None] * fit.left.conj().T, atol=1e-8
    )
    np.testing.assert_allclose(fit.left.conj().T @ fit.modes, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(
        fit.modes * fit.eigenvalues @ fit.left.conj().T, A, atol=1e-9
    )
    assert (np.diff(abs(fit.eigenvalues)) < 1e-9).all()


def test_dmd_wide_data_of_low_rank():
    # 3 modes in 40 dimensions from 9 pairs: modes stay biorthogonal, forecasts exact
    # from the first step on
    rng = np.random.default_rng(0)
    A = non_normal(3, 1)
    embed = rng.normal(size=(40, 3))
    path = [rng.normal(size=3)]
    for _ in range(9):
        path.append(A @ path[-1])
    x = np.stack(path) @ embed.T
    fit = dmd(x, rank=3, dt=0.5)
    np.testing.assert_allclose(
        sort(fit.eigenvalues), sort(np.linalg.eigvals(A)), atol=1e-6
    )
    np.testing.assert_allclose(fit.left.conj().T @ fit.modes, np.eye(3), atol=1e-8)
    steps = np.array([0.0, 0.5, 1.0, 4.5])
    np.testing.assert_allclose(forecast(fit, x[0], steps), x[[0, 1, 2, 9]], atol=1e-6)
    np.testing.assert_allclose(fit.rates, np.log(fit.eigenvalues) / 0.5)


def test_forecast_keeps_batch_shapes_and_needs_the_left_eigenvectors():
    A = non_normal(4, 2)
    x, y = snapshots(A, 20, 0)
    fit = dmd(x, y)
    batch = x[:6].reshape(2, 3, 4)
    np.testing.assert_allclose(
        forecast(fit, batch, np.array([2.0]))[0], batch @ A.T @ A.T, atol=1e-8
    )
    # what "modes are orthogonal" would give
    wrong = ((x @ fit.modes.conj()) * fit.eigenvalues) @ fit.modes.T
    assert abs(wrong - y).max() > 0.1


def test_a_dead_direction_has_eigenvalue_zero_and_a_projected_mode():
    A = np.array([[0.9, 0.0], [0.0, 0.0]])
    fit = dmd(*snapshots(A, 12, 0))
    np.testing.assert_allclose(fit.eigenvalues, [0.9, 0], atol=1e-14)
    np.testing.assert_allclose(fit.left.conj().T @ fit.modes, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(
        forecast(fit, np.ones(2), np.arange(3)),
        [[1, 1], [0.9, 0], [0.81, 0]],
        atol=1e-12,
    )


METHODS = ["forward-backward", "total-least-squares"]


@pytest.mark.parametrize("complex_data", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_without_noise_every_method_finds_the_matrix(seed, method, complex_data):
    A = non_normal(4, seed, complex_data)
    x, y = snapshots(A, 33, seed)
    fit = dmd(x, y, rank=4, method=method)
    np.testing.assert_allclose(
        sort(fit.eigenvalues), sort(np.linalg.eigvals(A)), atol=1e-9
    )
    np.testing.assert_allclose(
        fit.modes * fit.eigenvalues @ fit.left.conj().T, A, atol=1e-8
    )
    np.testing.assert_allclose(fit.left.conj().T @ fit.modes, np.eye(4), atol=1e-9)


def noisy_path(seed, noise=0.15, count=500):
    """An undamped rotation by 0.4 a step in four sensors, with noise on every
    snapshot.
    """
    rng = np.random.default_rng(seed)
    k = np.arange(count)
    waves = np.stack([np.cos(0.4 * k), np.sin(0.4 * k)], -1)
    sensors = np.linalg.qr(rng.normal(size=(4, 2)))[0].T
    return waves @ sensors + noise * rng.normal(size=(count, 4))


def test_noise_pulls_least_squares_in_by_the_predicted_factor_and_the_cures_push_back():
    noise = 0.15
    mean = {}
    for method in ["least-squares", *METHODS]:
        fits = [
            dmd(noisy_path(seed, noise), rank=2, method=method) for seed in range(20)
        ]
        mean[method] = np.mean([abs(fit.eigenvalues) for fit in fits])
    # Dawson et al. 2016: |lambda| shrinks by 1 / (1 + noise power / signal power in
    # each direction, here 1/2)
    assert mean["least-squares"] == pytest.approx(1 / (1 + noise**2 / 0.5), abs=2e-3)
    for method in METHODS:
        assert abs(mean[method] - 1) < 2e-3, method


def test_a_negative_eigenvalue_survives_the_square_root():
    A = np.diag([-0.9, 0.5, -0.2])
    fit = dmd(*snapshots(A, 20, 0), method="forward-backward")
    np.testing.assert_allclose(
        np.sort(fit.eigenvalues.real), [-0.9, -0.2, 0.5], atol=1e-10
    )


def test_delays_show_a_standing_wave_whole():
    # one sensor: rank one, though the motion has two dimensions
    wave = np.cos(0.3 * np.arange(60))[:, None]
    assert abs(dmd(wave).eigenvalues.imag).max() == 0
    windows = delays(wave, 2)
    assert windows.shape == (59, 2) and (windows[7] == wave[7:9, 0]).all()
    np.testing.assert_allclose(
        np.sort(dmd(windows).rates.imag), [-0.3, 0.3], atol=1e-10
    )
    two = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(delays(two, 3)[1], [2, 3, 4, 5, 6, 7])


def test_the_sech_pair():
    # Kutz, Brunton, Brunton & Proctor 2016, section 1.4: two modes, 2.3 and 2.8 radians
    # per second
    position = np.linspace(-5, 5, 400)
    time = np.linspace(0, 4 * np.pi, 200)
    bump = 1 / np.cosh(position + 3)
    pair = 2 / np.cosh(position) * np.tanh(position)
    x = bump * np.exp(2.3j * time)[:, None] + pair * np.exp(2.8j * time)[:, None]
    fit = dmd(x, rank=2, dt=time[1])
    np.testing.assert_allclose(np.sort(fit.rates.imag), [2.3, 2.8], atol=1e-9)
    np.testing.assert_allclose(fit.rates.real, 0, atol=1e-9)


def test_optimal_rank_finds_what_stands_above_the_noise():
    rng = np.random.default_rng(0)
    for count, n in [(80, 300), (200, 200), (500, 40)]:
        signal = rng.normal(size=(count, 5)) @ rng.normal(size=(5, n))
        s = np.linalg.svd(signal + 0.5 * rng.normal(size=(count, n)), compute_uv=False)
        assert (
            optimal_rank(s, (count, n)) == optimal_rank(s, (count, n), noise=0.5) == 5
        )
        pure = np.linalg.svd(rng.normal(size=(count, n)), compute_uv=False)
        assert (
            optimal_rank(pure, (count, n))
            == optimal_rank(pure, (count, n), noise=1.0)
            == 0
        )


def test_optimal_threshold_is_the_published_one():
    # Gavish & Donoho 2014: 4 / sqrt(3) sqrt(n) sigma for a square matrix, and omega(1)
    # = 2.858, omega(0.5) = 2.1711
    edge = 4 / np.sqrt(3) * np.sqrt(9) * 2.0
    s = np.array([edge * 1.001, edge * 0.999] + [1.0] * 7)
    assert optimal_rank(s, (9, 9), noise=2.0) == 1
    for shape, omega in [((9, 9), 2.858), ((9, 18), 2.1711)]:
        s = np.array([omega * 1.001, omega * 0.999] + [1.0] * 7)  # the median is 1
        assert optimal_rank(s, shape) == 1


def test_gaussians():
    psi = gaussians(np.array([[0.0, 0.0], [3.0, 4.0]]), width=5.0)
    x = np.zeros((2, 1, 2))
    np.testing.assert_allclose(psi(x), np.broadcast_to([1, np.exp(-0.5)], (2, 1, 2)))


def test_kernel_edmd_is_edmd_on_radial_functions():
    # Williams, Rowley & Kevrekidis 2015: eigenvalues of G^+ A with the Gram matrices of
    # the kernel alone
    x, y = flows.snapshot_pairs(
        systems.duffing(), 40, 0.25, (-1.5, [1.5, 1.5]), np.random.default_rng(0)
    )
    kernel = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2)
    ours = edmd(x, y, gaussians(x, 1.0), rank=12)
    U, s, Vh = np.linalg.svd(
        kernel(x, x) / np.linalg.norm(kernel(x, x), axis=0), full_matrices=False
    )
    scaled = kernel(y, x) / np.linalg.norm(kernel(x, x), axis=0)
    theirs = np.linalg.eigvals(U[:, :12].T @ scaled @ Vh[:12].T / s[:12])
    np.testing.assert_allclose(sort(ours.eigenvalues), sort(theirs), atol=1e-7)


def test_continuous_rates_of_the_slow_manifold_by_edmd():
    slow = systems.slow_manifold()
    x, y = flows.snapshot_pairs(slow, 60, 0.25, (-2, [2, 2]), np.random.default_rng(0))
    fit = edmd(x, y, slow.lift, dt=0.25)
    np.testing.assert_allclose(np.sort(fit.rates.real), [-1, -0.2, -0.1], atol=1e-8)
    np.testing.assert_allclose(fit.rates.imag, 0, atol=1e-8)
    flow = np.linalg.matrix_power(step(slow.generator, 0.25 / 64), 64)
    np.testing.assert_allclose(fit.matrix.T, flow, atol=1e-9)
    assert fit.residuals.max() < 1e-10


def step(A, h):  # the Taylor series of exp(A h): an exponential that is not scipy's
    return sum(
        np.linalg.matrix_power(A * h, k) / np.prod(np.arange(1.0, k + 1))
        for k in range(14)
    )


def test_edmd_on_a_linear_map_gives_the_products_of_its_eigenvalues():
    # Williams et al. 2015: the Koopman eigenvalues are .9^i .8^j
    J = np.array([[0.9, -0.1], [0.0, 0.8]])
    x, y = snapshots(J, 101, 0)
    fit = edmd(x, y, monomials(2, 4))
    expected = np.array([0.9**i * 0.8**j for i in range(5) for j in range(5 - i)])
    np.testing.assert_allclose(
        np.sort(fit.eigenvalues.real), np.sort(expected), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(fit.eigenvalues.imag, 0, atol=1e-12)
    assert (
        fit.residuals.max() < 1e-9 and residuals(fit, *snapshots(J, 50, 9)).max() < 1e-8
    )


def test_edmd_eigenvectors_modes_and_scale():
    J = np.array([[0.9, -0.5], [0.4, 0.6]])  # complex pair, non-normal
    x, y = snapshots(J, 60, 1)
    fit = edmd(x, y, monomials(2, 3))
    np.testing.assert_allclose(fit.left.conj().T @ fit.right, np.eye(10), atol=1e-9)
    np.testing.assert_allclose(
        fit.matrix @ fit.right, fit.right * fit.eigenvalues, atol=1e-9
    )
    np.testing.assert_allclose(
        fit.matrix, fit.right * fit.eigenvalues @ fit.left.conj().T, atol=1e-9
    )
    phi = eigenfunctions(fit, x)
    np.testing.assert_allclose(np.mean(abs(phi) ** 2, 0), 1, atol=1e-12)
    np.testing.assert_allclose(phi @ fit.modes, x, atol=1e-9)
    np.testing.assert_allclose(
        eigenfunctions(fit, x @ J.T @ J.T), phi * fit.eigenvalues**2, atol=1e-8
    )


def test_edmd_equals_the_normal_equations():
    duffing = systems.duffing()
    x, y = flows.snapshot_pairs(
        duffing, 300, 0.25, (-2, [2, 2]), np.random.default_rng(2)
    )
    psi = monomials(2, 3)
    fit = edmd(x, y, psi)
    G = psi(x).T @ psi(x)  # Williams et al. 2015, eq 12
    A = psi(x).T @ psi(y)  # eq 13
    np.testing.assert_allclose(fit.matrix, np.linalg.solve(G, A), atol=1e-9)


def test_residuals_tell_true_from_spurious():
    # Cubic monomials on Duffing are not invariant: the constant is exact, the others
    # are not.
    duffing = systems.duffing()
    x, y = flows.snapshot_pairs(
        duffing, 400, 0.25, (-2, [2, 2]), np.random.default_rng(3)
    )
    fit = edmd(x, y, monomials(2, 3), dt=0.25)
    one = np.argmin(abs(fit.eigenvalues - 1))
    assert fit.residuals[one] < 1e-10
    assert np.delete(fit.residuals, one).min() > 1e-2
    # the definition, by quadratic forms (Colbrook & Townsend 2024): res^2 = g*(L - ..)g
    # / g*Gg
    px = monomials(2, 3)(x)
    py = monomials(2, 3)(y)
    G = px.T @ px
    A = px.T @ py
    L = py.T @ py
    for lam, g, res in zip(fit.eigenvalues, fit.right.T, fit.residuals):
        form = L - lam * A.T - lam.conj() * A + abs(lam) ** 2 * G
        ratio = (g.conj() @ form @ g).real / (g.conj() @ G @ g).real
        assert np.sqrt(max(ratio, 0)) == pytest.approx(res, abs=1e-6)


def test_dmd_residuals_vanish_for_linear_data_only():
    A = non_normal(4, 3)
    x, y = snapshots(A, 30, 0)
    assert residuals(dmd(x, y), x, y).max() < 1e-9
    pairs = flows.snapshot_pairs(
        systems.duffing(), 200, 0.25, (-2, [2, 2]), np.random.default_rng(0)
    )
    assert residuals(dmd(*pairs), *pairs).max() > 0.1


def test_truncated_edmd_keeps_the_strong_directions():
    slow = systems.slow_manifold()
    x, y = flows.snapshot_pairs(slow, 80, 0.5, (-1, [1, 1]), np.random.default_rng(0))
    # six functions of rank three
    doubled = lambda s: np.concatenate([slow.lift(s), slow.lift(s)], -1)
    with pytest.raises(ValueError, match="rank 3"):
        edmd(x, y, doubled)
    fit = edmd(x, y, doubled, rank=3, dt=0.5)
    np.testing.assert_allclose(np.sort(fit.rates.real), [-1, -0.2, -0.1], atol=1e-8)
    np.testing.assert_allclose(eigenfunctions(fit, x) @ fit.modes, x, atol=1e-9)


def swings(count, seed):
    """States of the pendulum, uniform below an energy: its flow keeps this measure."""
    x = np.random.default_rng(seed).uniform([-2.5, -2], [2.5, 2], (3 * count, 2))
    return x[x[:, 1] ** 2 / 2 - np.cos(x[:, 0]) < 0.5][:count]


def test_a_unitary_fit_has_moduli_one_and_orthonormal_eigenfunctions():
    x = swings(1500, 0)
    y = systems.pendulum().flow(x, 0.7)
    psi = monomials(2, 4)
    fit = edmd(x, y, psi, dt=0.7, unitary=True)
    free = edmd(x, y, psi, dt=0.7)
    assert abs(free.eigenvalues).min() < 0.99
    np.testing.assert_allclose(abs(fit.eigenvalues), 1, atol=1e-14)
    np.testing.assert_allclose(fit.rates.real, 0, atol=1e-14)
    phi = eigenfunctions(fit, x)
    np.testing.assert_allclose(phi.conj().T @ phi / len(x), np.eye(15), atol=1e-9)
    # all the numbers that an EDMD promises hold for it
    again = fit.matrix @ fit.right
    np.testing.assert_allclose(again, fit.right * fit.eigenvalues, atol=1e-7)
    np.testing.assert_allclose(fit.left.conj().T @ fit.right, np.eye(15), atol=1e-7)
    # nothing is said in its favour: of one step, least squares is the better fit
    miss = [np.linalg.norm(psi(y) - psi(x) @ f.matrix) for f in (free, fit)]
    assert miss[0] < miss[1]


@pytest.mark.parametrize("turn", [0.4, np.pi])
def test_a_unitary_fit_of_a_rotation_is_edmd_and_noise_does_not_shrink_it(turn):
    rng = np.random.default_rng(1)
    angle = 2 * np.pi * np.arange(20_000) / 20_000  # evenly: the data keep the measure
    path = [np.stack([np.cos(a), np.sin(a)], -1) for a in (angle, angle + turn)]
    identity = lambda x: x
    exact = edmd(*path, identity, unitary=True)
    expected = np.exp([1j * turn, -1j * turn])
    for value in expected:
        assert abs(exact.eigenvalues - value).min() < 1e-12
    assert exact.residuals.max() < 1e-12
    seen = [state + 0.5 * rng.standard_normal(state.shape) for state in path]
    # E |state|^2 is 1/2 a coordinate, that of the noise 1/4
    free = edmd(*seen, identity)
    kept = edmd(*seen, identity, unitary=True)
    assert abs(free.eigenvalues) == pytest.approx([2 / 3, 2 / 3], abs=0.02)
    assert abs(kept.eigenvalues[:, None] - expected).min(0).max() < 0.03


def test_a_unitary_fit_hides_the_decay_of_a_damped_flow():
    damped = systems.spiral(-0.3, 1.0)
    angle = np.arange(12) * np.pi / 6
    x = np.stack([np.cos(angle), np.sin(angle)], -1)
    wrong = edmd(x, damped.flow(x, 1.0), lambda x: x, unitary=True)
    np.testing.assert_allclose(abs(wrong.eigenvalues), 1, atol=1e-14)
    # and its residual says so: it is 1 - e^-0.3
    np.testing.assert_allclose(wrong.residuals, 1 - np.exp(-0.3), atol=1e-12)


def test_a_unitary_fit_with_repeated_eigenvalues_has_a_basis():
    x = np.random.default_rng(3).normal(size=(50, 3))
    still = edmd(x, x, lambda x: x, unitary=True)
    np.testing.assert_allclose(still.matrix, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.norm(eigenfunctions(still, x), axis=0), np.sqrt(50), rtol=1e-12
    )
    few = edmd(x, x, lambda x: np.hstack([x, x]), rank=2, unitary=True)
    assert abs(few.eigenvalues) == pytest.approx([1, 1]) and few.residuals.max() < 1e-9


def test_monomials():
    psi = monomials(2, 2)
    np.testing.assert_array_equal(
        psi.exponents, [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    )
    x = np.array([[[2.0, 3.0]]])
    np.testing.assert_array_equal(psi(x), [[[1, 2, 3, 4, 6, 9]]])
    assert len(monomials(3, 4).exponents) == 35 and len(monomials(1, 0).exponents) == 1


GOOD = np.random.default_rng(0).normal(size=(9, 2))


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: dmd(GOOD[:1]), "at least two snapshots"),
        (lambda: unwrap(dmd)(GOOD, GOOD[:8]), r"\(9, 2\) and \(8, 2\)"),
        (lambda: unwrap(dmd)(GOOD[:, 0]), "same shape"),
        (lambda: dmd(np.where(GOOD > 1, np.nan, GOOD)), "not finite"),
        (lambda: dmd(np.zeros((4, 2))), "all snapshots are zero"),
        (lambda: dmd(GOOD, rank=3), "between 1 and the 2"),
        (lambda: dmd(GOOD, rank=0), "got 0"),
        (lambda: dmd(GOOD, dt=0.0), "dt must be positive"),
        (lambda: dmd(np.eye(2), np.array([[1.0, 0.0], [1.0, 1.0]])), "Jordan block"),
        (lambda: edmd(GOOD, GOOD, monomials(2, 4)), "rank 9"),
        (lambda: edmd(GOOD, GOOD, lambda x: 0 * x), "zero everywhere"),
        (lambda: dmd(GOOD, method="ridge"), "'ridge': one of least-squares"),
        (
            lambda: dmd(GOOD, method="total-least-squares"),
            "rank between 1 and the 8 pairs, got None",
        ),
        (lambda: dmd(GOOD, method="total-least-squares", rank=9), "got 9"),
        (
            lambda: dmd(GOOD[:4], 0 * GOOD[:4], method="forward-backward"),
            "backward fit is singular",
        ),
        (lambda: edmd(np.ones((9, 2)), np.ones((9, 2)), monomials(2, 1)), "rank 1"),
        (lambda: delays(GOOD, 10), "count 10"),
        (lambda: unwrap(delays)(GOOD[:, 0], 2), r"shape \(9,\)"),
        (lambda: gaussians(GOOD, 0.0), "width 0.0"),
        (lambda: gaussians(GOOD, 1.0)(np.ones((3, 5))), "states of 5"),
        (lambda: optimal_rank(np.ones(3), (9, 4)), "all 4 singular values"),
        (lambda: monomials(0, 2), "n = 0"),
        (lambda: monomials(3, 1)(GOOD), "monomials in 3 variables"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
