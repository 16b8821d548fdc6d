"""What fits know of their data: how many digits, and which numbers are none."""

from inspect import unwrap

import numpy as np
import pytest

from hkd_mini.koopman import flows, stochastic, systems
from hkd_mini.koopman.dictionaries import delays, gaussians, monomials
from hkd_mini.koopman.dmd import dmd, forecast, optimal_rank
from hkd_mini.koopman.edmd import edmd, eigenfunctions, residuals
from hkd_mini.koopman.snapshots import digits, double, rank_of

SINGULAR = np.array([[0, 5, 0], [0, 0.8, 3], [0, 0, 0.5]])
STEP = {np.float64: 1e-8, np.float32: 1e-4}


def missed(A, x, dtype=np.float64, **how):
    """How far left and right vectors are from dual, and x from its own forecast at 0
    and 1.
    """
    x = x.astype(dtype)
    y = (x @ A.T).astype(dtype)
    fit = dmd(x, y, **how)
    eye = np.eye(len(fit.eigenvalues))
    ahead = forecast(fit, x.astype(float), np.array([0.0, 1.0]))
    return max(
        abs(fit.left.conj().T @ fit.modes - eye).max(),
        abs(ahead[0] - x).max() / abs(x).max(),
        abs(ahead[1] - y).max() / abs(x).max(),
    )


@pytest.mark.parametrize("dtype", STEP)
def test_vectors_are_dual_where_an_eigenvalue_is_zero_up_to_rounding(dtype):
    x = np.random.default_rng(0).normal(size=(40, 3))
    assert missed(SINGULAR, x, dtype) < STEP[dtype]
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = rng.integers(2, 7)
        A = np.triu(rng.normal(size=(n, n)) * 2)
        dead = rng.integers(n)
        A[dead, dead] = 0
        assert missed(A, rng.normal(size=(40, n)), dtype) < STEP[dtype], seed


@pytest.mark.parametrize("dtype", STEP)
def test_vectors_are_dual_for_generic_maps_of_low_rank(dtype):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(6, 3)) @ rng.normal(size=(3, 6))
        assert missed(A, rng.normal(size=(40, 6)), dtype) < STEP[dtype], seed


@pytest.mark.parametrize("dtype", STEP)
def test_vectors_are_dual_in_many_sensors(dtype):
    """Rounding sticks out of the span of the data, and is divided by no eigenvalue."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        A = np.triu(rng.normal(size=(4, 4)))
        dead = rng.integers(4)
        A[dead, dead] = 0
        sensors = np.linalg.qr(rng.normal(size=(30, 4)))[0]
        x = rng.normal(size=(20, 4)) @ sensors.T
        far = missed(sensors @ A @ sensors.T, x, dtype, rank=4)
        assert far < STEP[dtype], seed


@pytest.mark.parametrize("small", [1e-3, 1e-6])
def test_a_small_eigenvalue_that_is_known_keeps_its_exact_mode(small):
    """Tu et al. 2014: exact modes leave the span of x, and are eigenvectors of A."""
    rng = np.random.default_rng(0)
    A = np.zeros((5, 5))
    A[:3, :2] = [[0.9, 0.3], [0, small], [0.4, 0.7 * small]]
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    x = rng.normal(size=(12, 2)) @ Q[:, :2].T
    A = Q @ A @ Q.T
    fit = dmd(x, x @ A.T)
    np.testing.assert_allclose(fit.eigenvalues, [0.9, small], rtol=1e-8)
    np.testing.assert_allclose(A @ fit.modes, fit.modes * fit.eigenvalues, atol=1e-10)
    np.testing.assert_allclose(fit.left.conj().T @ fit.modes, np.eye(2), atol=1e-10)
    outside = fit.modes - Q[:, :2] @ (Q[:, :2].T @ fit.modes)
    assert np.linalg.norm(outside, axis=0).min() > 0.1


def test_rounding_of_single_precision_is_no_direction():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 20))
    for dtype in (np.float64, np.float32, np.float16):
        assert len(dmd(x.astype(dtype)).eigenvalues) == 3
    with pytest.raises(ValueError, match="between 1 and the 3 that the data have"):
        dmd(x.astype(np.float32), rank=4)
    # a direction that seven digits do show stays, however many rows there are
    s = np.array([1.0, 1e-5, 1e-9])
    assert rank_of(s, (50_000, 3), eps=1.2e-7) == 2
    assert rank_of(s, (50_000, 3)) == 3


def test_a_dictionary_in_single_precision_has_its_digits():
    x = np.random.default_rng(0).normal(size=(60, 2))
    # the third is the sum of the others, but for its rounding
    lift = lambda x: np.stack([x[:, 0], x[:, 1] / 3, x[:, 0] + x[:, 1] / 3], -1)
    with pytest.raises(ValueError, match="3 dictionary functions of rank 2"):
        edmd(x, x / 2, lambda x: lift(x).astype(np.float32))


def test_the_backward_fit_of_single_precision_is_seen_to_be_singular():
    x = np.random.default_rng(0).normal(size=(40, 3))
    for dtype in STEP:
        with pytest.raises(ValueError, match="backward fit is singular"):
            pair = (x.astype(dtype), (x @ SINGULAR.T).astype(dtype))
            dmd(*pair, method="forward-backward")


def test_digits():
    assert digits(np.arange(3)) == digits(np.eye(2)) == np.finfo(float).eps
    assert digits(np.eye(2), np.eye(2, dtype=np.complex64)) == np.finfo(np.float32).eps
    assert double(np.eye(2, dtype=np.longdouble)).dtype == np.float64
    assert double(np.eye(2, dtype=np.complex64)).dtype == np.complex128


X = 0.9 ** np.arange(12.0)[:, None] * np.array([1.0, -2.0])
MASKED = np.ma.masked_array(X, np.arange(24).reshape(12, 2) // 2 == 3, fill_value=1e20)
FIT = dmd(X, rank=1)
LIFTED = edmd(X[:-1], X[1:], lambda x: x[:, :1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: dmd(MASKED),
        lambda: dmd(MASKED, method="forward-backward"),
        lambda: dmd(X, MASKED),
        lambda: unwrap(dmd)(list(MASKED)),
        lambda: edmd(MASKED[:-1], MASKED[1:], monomials(2, 1)),
        lambda: edmd(X, X, lambda x: np.ma.masked_array(x, x > 0.5)),
        lambda: residuals(FIT, MASKED[:-1], MASKED[1:]),
        lambda: residuals(LIFTED, X[:-1], MASKED[1:]),
        lambda: eigenfunctions(FIT, MASKED),
        lambda: forecast(FIT, MASKED, np.arange(2)),
        lambda: delays(MASKED, 2),
        lambda: gaussians(MASKED, 1.0),
        lambda: optimal_rank(MASKED[3], (2, 9)),
        lambda: flows.trajectory(systems.pendulum(), MASKED[3], np.arange(2)),
        lambda: systems.pendulum().flow(MASKED[3], 1.0),
        lambda: stochastic.prinz().move(MASKED[:, :1], 0.01, np.random.default_rng(0)),
        lambda: systems.linear(MASKED[2:4]),
    ],
)
def test_masked_numbers_are_refused(call):
    with pytest.raises(ValueError, match="are masked, .*keep the rows without"):
        call()


def test_a_mask_that_hides_nothing_is_no_mask():
    whole = np.ma.masked_array(X, np.zeros_like(X, dtype=bool))
    np.testing.assert_array_equal(dmd(whole, rank=1).eigenvalues, FIT.eigenvalues)


def test_what_is_no_number_is_refused():
    for other in (X.astype(object), X.astype(str), X.astype("datetime64[s]")):
        with pytest.raises(ValueError, match="wanted real or complex numbers"):
            unwrap(dmd)(other)
    with pytest.raises(ValueError, match="complex numbers, wanted real ones"):
        unwrap(systems.linear)(np.eye(2) * 1j)


@pytest.mark.parametrize("t", [np.nan, np.inf, -np.inf])
def test_a_time_that_is_none_is_refused(t):
    """The solver would look for it without end."""
    with pytest.raises(ValueError, match=f"to t = {t}: wanted finite numbers"):
        systems.pendulum().flow(np.ones(2), t)


def test_a_state_that_is_none_is_refused():
    with pytest.raises(ValueError, match="wanted finite numbers"):
        systems.duffing().flow(np.array([1.0, np.nan]), 1.0)
