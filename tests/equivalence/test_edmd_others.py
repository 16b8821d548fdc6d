"""EDMD and exact spectra against deeptime and kooplearn: the same data, the same
dictionary, the same answers.
"""

import numpy as np
import pytest

from hkd_mini.koopman import flows, stochastic, systems
from hkd_mini.koopman.dictionaries import gaussians, monomials
from hkd_mini.koopman.edmd import edmd, eigenfunctions, residuals

SPRING = stochastic.ornstein_uhlenbeck()


def library(name):
    return pytest.importorskip(name, reason=f"{name} is a test-only extra")


def sort(values):
    return np.array(sorted(values, key=lambda v: (round(v.real, 6), round(v.imag, 6))))


def duffing_pairs(count, seed):
    return flows.snapshot_pairs(
        systems.duffing(), count, 0.25, (-1.5, [1.5, 1.5]), np.random.default_rng(seed)
    )


def test_a_linear_map_has_the_products_of_its_eigenvalues():
    # the example of Williams et al. 2015, section 4.1; not normal
    J = np.array([[0.9, -0.1], [0.0, 0.8]])
    x = np.random.default_rng(0).normal(size=(100, 2))
    fit = edmd(x, x @ J.T, monomials(2, 4))
    products = [0.9**i * 0.8**j for i in range(5) for j in range(5 - i)]
    np.testing.assert_allclose(
        np.sort(fit.eigenvalues.real), np.sort(products), rtol=0, atol=1e-12
    )
    assert (
        residuals(
            fit,
            *(lambda x: (x, x @ J.T))(np.random.default_rng(1).normal(size=(57, 2))),
        ).max()
        < 1e-12
    )


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_same_eigenvalues_and_eigenfunctions_as_deeptime(degree, seed):
    decomposition = library("deeptime.decomposition")
    basis = library("deeptime.basis")
    x, y = duffing_pairs(301, seed)
    ours = edmd(x, y, monomials(2, degree))
    # its own dictionary, too
    theirs = (
        decomposition.EDMD(basis.Monomials(p=degree, d=2)).fit((x, y)).fetch_model()
    )
    np.testing.assert_allclose(
        sort(ours.eigenvalues), sort(theirs.eigenvalues), atol=1e-9
    )
    at = np.random.default_rng(7).uniform(-1, 1, (40, 2))
    psi = basis.Monomials(p=degree, d=2)(at)
    for value, mode in zip(theirs.eigenvalues, theirs.modes):
        mine = eigenfunctions(ours, at)[:, np.argmin(abs(ours.eigenvalues - value))]
        inner = abs(np.vdot(mine, psi @ mode)) / (
            np.linalg.norm(mine) * np.linalg.norm(psi @ mode)
        )
        assert inner == pytest.approx(1, abs=1e-8)


def test_same_eigenvalues_as_deeptimes_kernel_edmd():
    decomposition = library("deeptime.decomposition")
    kernels = library("deeptime.kernels")
    x, y = duffing_pairs(41, 3)
    # narrow: with all directions kept the kernel matrix must be invertible
    ours = edmd(x, y, gaussians(x, 0.35))
    theirs = (
        decomposition.KernelEDMD(kernels.GaussianKernel(0.35)).fit((x, y)).fetch_model()
    )
    np.testing.assert_allclose(
        sort(ours.eigenvalues), sort(theirs.eigenvalues), atol=1e-7
    )


def test_same_eigenvalues_as_kooplearns_least_squares():
    linear_model = library("kooplearn.linear_model")
    path = flows.trajectory(
        systems.duffing(0.1), np.array([1.9, -0.3]), 0.3 * np.arange(151)
    )
    psi = monomials(2, 2)
    ours = edmd(path[:-1], path[1:], psi)
    theirs = linear_model.Ridge(
        n_components=6, reduced_rank=False, alpha=0.0, eigen_solver="dense"
    ).fit(psi(path))
    np.testing.assert_allclose(sort(ours.eigenvalues), sort(theirs.eig()), atol=1e-8)


@pytest.mark.parametrize(
    "dictionary",
    [monomials(2, 3), gaussians(np.mgrid[-1:2, -1:2].reshape(2, -1).T * 1.0, 0.7)],
    ids=["monomials", "gaussians"],
)
def test_the_unitary_fit_is_pydmds_once_the_gram_matrix_is_one(dictionary):
    """mpEDMD is the Procrustes problem of PiDMD, in white coordinates."""
    pydmd = library("pydmd")
    x = np.random.default_rng(4).uniform([-1.5, -1.2], [1.5, 1.2], (301, 2))
    y = systems.pendulum().flow(x, 0.5)
    ours = edmd(x, y, dictionary, unitary=True)
    psi_x, psi_y = (dictionary(state) for state in (x, y))
    white = np.linalg.inv(np.linalg.cholesky(psi_x.T @ psi_x / len(x)))
    theirs = pydmd.PiDMD(manifold="unitary", svd_rank=-1)
    theirs.fit(white @ psi_x.T, white @ psi_y.T)
    np.testing.assert_allclose(sort(ours.eigenvalues), sort(theirs.eigs), atol=1e-7)


def test_lorenz_is_deeptimes():
    """Two units of time: rounding grows e-fold in about one. (Not kooplearn's, which in
    version 2.0.3 lacks the term -x_2 in the second line.)
    """
    data = library("deeptime.data")
    start = np.array([-3.0, 4.0, 22.0])
    theirs = data.lorenz_system(h=1e-4, n_steps=5000)  # 0.5 of time a step
    path = theirs.trajectory(start[None], 5)
    ours = flows.trajectory(systems.lorenz(), start, 0.5 * np.arange(5))
    np.testing.assert_allclose(ours, path.reshape(5, 3), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_spring_from_its_own_data(seed):
    rng = np.random.default_rng(seed)
    tau = 0.5
    x = stochastic.draw(SPRING, 400_000, rng)
    fit = edmd(x, SPRING.move(x, tau, rng), monomials(1, 3), dt=tau)
    np.testing.assert_allclose(
        fit.eigenvalues[:3], np.exp(-tau * np.arange(3)), atol=5e-3
    )


def test_the_spring_from_deeptimes_data():
    data = library("deeptime.data")
    # dX = -X dt + noise of its own scale; tau = 0.5
    process = data.ornstein_uhlenbeck(h=2.5e-3, n_steps=200)
    path = process.trajectory(np.zeros((1, 1)), 200_001, seed=5, n_jobs=1)
    fit = edmd(path[:-1], path[1:], monomials(1, 2), dt=0.5)
    np.testing.assert_allclose(fit.eigenvalues, np.exp(-0.5 * np.arange(3)), atol=5e-3)


def test_the_prinz_potential_is_deeptimes():
    data = library("deeptime.data")
    theirs = data.prinz_potential(h=1e-4, n_steps=1)
    x = np.linspace(-1.2, 1.2, 97)
    drift = np.array([theirs.f(0.0, np.array([at])) for at in x])
    np.testing.assert_allclose(
        stochastic.prinz().gradient(x), -drift, rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        stochastic.prinz().gradient(np.array(theirs.minima)), 0, atol=1e-5
    )


def test_the_spectrum_of_prinz_is_kooplearns():
    """Theirs: 128 cosines on (-3, 3), good to three digits. On a tighter interval they
    tend to ours (below).
    """
    datasets = library("kooplearn.datasets")
    process = stochastic.prinz()
    line = np.linspace(-1.0, 1.0, 60)[:, None]
    ours = stochastic.spectrum(process, 4)
    factors, phi = datasets.compute_prinz_potential_eig(
        1.0, np.sqrt(2.0), 1.0, eval_right_on=line[:, 0]
    )
    np.testing.assert_allclose(-np.log(factors), -ours.rates, rtol=1e-3, atol=1e-8)
    for mine, yours in zip(ours.eigenfunctions(line).T, phi.T):
        assert abs(mine @ yours) / np.linalg.norm(mine) / np.linalg.norm(
            yours
        ) == pytest.approx(1, abs=1e-5)


def test_the_spectrum_of_prinz_converges_to_ours_in_kooplearns_basis():
    datasets = library("kooplearn.datasets")
    inner = pytest.importorskip(
        "kooplearn.datasets._overdamped_langevin_generator",
        reason="moved inside kooplearn",
    )
    assert datasets is not None
    process = stochastic.prinz()
    A, B = inner.assemble_operators_1d(
        *process.box, 160, process.gradient, 1.0, np.sqrt(2.0), num_quad_points=800
    )
    rates = np.sort(np.linalg.eigvals(np.linalg.solve(B, A)).real)[::-1][:4]
    np.testing.assert_allclose(
        rates, stochastic.spectrum(process, 4).rates, rtol=1e-7, atol=1e-7
    )


def test_edmd_finds_the_slow_modes_of_kooplearns_path():
    """A path that they made, a fit that is ours, rates that nobody sampled."""
    datasets = library("kooplearn.datasets")
    frame = datasets.make_prinz_potential(
        X0=0.0, n_steps=600_000, dt=1e-4, gamma=1.0, sigma=np.sqrt(2.0), random_state=3
    )
    path = frame.to_numpy()[::50]  # tau = 0.005
    lag = 10
    fit = edmd(
        path[:-lag],
        path[lag:],
        gaussians(np.linspace(-1.05, 1.05, 16)[:, None], 0.1),
        dt=0.05,
    )
    np.testing.assert_allclose(
        fit.rates[1:3].real,
        stochastic.spectrum(stochastic.prinz(), 3).rates[1:],
        rtol=0.25,
    )
