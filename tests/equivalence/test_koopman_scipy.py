"""The closed form against scipy's matrix exponential, assembled from the paper's blocks
in the paper's order.
"""

import numpy as np
import pytest
import scipy.linalg
import torch

from hkd_mini.koopman.generator import KoopmanGenerator


@pytest.mark.parametrize("d, h, w, batch", [(6, 2, 3, 5), (2, 1, 1, 1), (16, 1, 2, 3)])
@pytest.mark.parametrize("dt", [-1.3, 0.01, 4.0])
def test_blocks_by_scipy(d, h, w, batch, dt):
    rng = np.random.default_rng(0)
    generator = KoopmanGenerator(d, h, w).double()
    generator.A.data.copy_(torch.from_numpy(rng.normal(size=(d, h, w))))
    z = rng.normal(size=(batch, d, h, w))
    ours = generator(torch.from_numpy(z), dt).detach().numpy()
    A = generator.A.detach().numpy()
    for i in range(h):
        for j in range(w):
            # HKD eq 4: blocks on the diagonal, so the pairs stand side by side; here
            # they are d/2 apart
            blocks = [
                np.array([[a, b], [-b, a]])
                for a, b in zip(A[: d // 2, i, j], A[d // 2 :, i, j])
            ]
            order = np.arange(d).reshape(2, -1).T.ravel()
            wish = np.empty((batch, d))
            wish[:, order] = (
                z[:, order, i, j]
                @ scipy.linalg.expm(dt * scipy.linalg.block_diag(*blocks)).T
            )
            np.testing.assert_allclose(ours[:, :, i, j], wish, rtol=1e-12, atol=1e-12)
            both = np.concatenate(
                [v := generator.eigenvalues()[:, i, j].numpy(), v.conj()]
            )
            theirs = np.linalg.eigvals(scipy.linalg.block_diag(*blocks))
            np.testing.assert_allclose(
                np.sort_complex(both), np.sort_complex(theirs), atol=1e-12
            )


def test_every_similar_real_normal_matrix_is_reached():
    """Blocks lose nothing: a non-normal A with complex pairs moves as its blocks do, in
    its own basis.
    """
    rng = np.random.default_rng(1)
    rates = np.array([-0.3 + 2.0j, 0.1 + 0.7j, -1.0 + 0.2j])
    vectors = rng.normal(size=(6, 3)) + 1j * rng.normal(size=(6, 3))
    V = np.concatenate([vectors, vectors.conj()], axis=1)
    A = (V @ np.diag(np.concatenate([rates, rates.conj()])) @ np.linalg.inv(V)).real
    assert np.abs(A @ A.T - A.T @ A).max() > 0.1  # non-normal indeed
    generator = KoopmanGenerator(6).double()
    generator.A.data.copy_(
        torch.from_numpy(np.concatenate([rates.real, rates.imag]))[:, None, None]
    )
    # A R = R blocks, columns (p..., q...)
    R = np.concatenate([vectors.real, vectors.imag], axis=1)
    x = rng.normal(size=(4, 6))
    lifted = torch.from_numpy(np.linalg.solve(R, x.T).T)[:, :, None, None]
    for dt in (-0.5, 1.7):
        back = generator(lifted, dt).detach().numpy()[:, :, 0, 0] @ R.T
        np.testing.assert_allclose(
            back, x @ scipy.linalg.expm(A * dt).T, rtol=1e-9, atol=1e-9
        )
