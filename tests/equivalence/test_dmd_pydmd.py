"""DMD against PyDMD: eigenvalues, modes, forecasts; non-normal systems, tall and wide,
real and complex.
"""

import numpy as np
import pytest

from hkd_mini.koopman.dmd import dmd, forecast

pydmd = pytest.importorskip("pydmd", reason="PyDMD is a test-only extra")
# five modes seen by sixty sensors are ill-conditioned on purpose
pytestmark = pytest.mark.filterwarnings("ignore:Input data condition number")


def trajectory(n, count, complex_data, seed):
    """A path of a non-normal linear system of five modes, seen through n sensors."""
    rng = np.random.default_rng(seed)
    A = np.triu(rng.normal(size=(5, 5)), 1) + np.diag(
        rng.uniform(0.8, 1.0, 5) * np.sign(rng.normal(size=5))
    )
    C = rng.normal(size=(n, 5))
    if complex_data:
        A = A * np.exp(1j * rng.uniform(-1, 1, (5, 5)))
        C = C + 1j * rng.normal(size=(n, 5))
    path = [rng.normal(size=5)]
    for _ in range(count - 1):
        path.append(A @ path[-1])
    return np.stack(path) @ C.T, np.linalg.eigvals(A)


def sort(values):
    return np.array(sorted(values, key=lambda v: (round(v.real, 7), round(v.imag, 7))))


def aligned(ours, theirs):
    """|cos| of the angle between matching modes: one if they are the same up to a
    factor.
    """
    inner = abs(ours.conj().T @ theirs)
    return (
        inner / np.outer(np.linalg.norm(ours, axis=0), np.linalg.norm(theirs, axis=0))
    ).max(axis=1)


@pytest.mark.parametrize("n, count", [(60, 12), (5, 31)], ids=["tall", "wide"])
@pytest.mark.parametrize("complex_data", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("seed", range(10))
def test_same_eigenvalues_modes_and_forecast(n, count, complex_data, seed):
    x, truth = trajectory(n, count, complex_data, seed)
    ours = dmd(x, rank=5)
    theirs = pydmd.DMD(svd_rank=5, exact=True).fit(x.T)
    # both lose digits to the conditioning of the snapshots: they are closer to each
    # other than to the truth
    np.testing.assert_allclose(sort(ours.eigenvalues), sort(theirs.eigs), atol=1e-10)
    np.testing.assert_allclose(sort(ours.eigenvalues), sort(truth), atol=1e-6)
    np.testing.assert_allclose(aligned(ours.modes, theirs.modes), 1, atol=1e-8)
    np.testing.assert_allclose(
        forecast(ours, x[0], np.arange(count)), theirs.reconstructed_data.T, atol=1e-6
    )


@pytest.mark.parametrize("complex_data", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("seed", range(5))
def test_same_eigenvalues_from_noisy_snapshots_by_total_least_squares(
    seed, complex_data
):
    x, _ = trajectory(40, 60, complex_data, seed)
    x = x + 1e-3 * np.random.default_rng(seed).normal(size=x.shape)
    ours = dmd(x, rank=4, method="total-least-squares")
    theirs = pydmd.DMD(svd_rank=4, tlsq_rank=4).fit(x.T)
    np.testing.assert_allclose(sort(ours.eigenvalues), sort(theirs.eigs), atol=1e-10)


def test_same_rank_where_the_noise_is_unknown():
    from pydmd.utils import compute_rank

    from hkd_mini.koopman.dmd import optimal_rank

    rng = np.random.default_rng(0)
    for count, n in [(60, 200), (150, 150), (300, 20)]:
        x = rng.normal(size=(count, 4)) @ rng.normal(size=(4, n)) + 0.3 * rng.normal(
            size=(count, n)
        )
        assert (
            optimal_rank(np.linalg.svd(x, compute_uv=False), x.shape)
            == compute_rank(x, 0)
            == 4
        )
