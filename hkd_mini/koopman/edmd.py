"""Extended DMD, and the residual that says when to disbelieve it.

EDMD does to a dictionary of functions of the state what DMD does to the state, so it
fits the Koopman operator itself, compressed to their span. It does not know whether
that span is invariant. The residual of each eigenpair does: it is computed from the
same data and is zero only for a true one. Of a flow that preserves a measure one knows
more than the data say, that its operator is an isometry, and `edmd` can keep to that.
Rows are snapshots. Chapter: 4 "EDMD".
Source: Williams et al. 2015 (EDMD); Colbrook & Townsend 2024 (residuals).
Source: Colbrook 2023 (mpEDMD).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Inexact
from scipy.linalg import polar, schur

from .dmd import DMD
from .snapshots import Eigen, Snapshots, digits, double, eigen, known, rank_of


class EDMD(NamedTuple):
    """The operator fitted to a dictionary psi: psi(y) ~ psi(x) matrix, acting on
    coefficients from the left.

    Eigenfunction j is psi(x) @ right[:, j], of mean square one on the data; left^H
    right = I; the state is recovered as x ~ sum_j phi_j(x) modes[j]. `residuals` are
    ResDMD's, on the data of the fit.
    """

    eigenvalues: Complex[np.ndarray, " r"]
    right: Complex[np.ndarray, "k r"]
    left: Complex[np.ndarray, "k r"]
    modes: Complex[np.ndarray, "r n"]
    matrix: Inexact[np.ndarray, "k k"]
    residuals: Float[np.ndarray, " r"]
    dictionary: Callable
    dt: float

    @property
    def rates(self) -> Complex[np.ndarray, " r"]:
        """Continuous-time rates log(eigenvalue) / dt; frequencies beyond pi / dt are
        aliased.
        """
        return np.log(self.eigenvalues) / self.dt


def edmd(
    x: Snapshots,
    y: Snapshots,
    dictionary: Callable,
    rank: int | None = None,
    dt: float = 1.0,
    unitary: bool = False,
) -> EDMD:
    """Fit psi(y) = psi(x) K by least squares, K = psi(X)^+ psi(Y), and decompose it.

    The eigenproblem is solved in an orthonormal basis of the dictionary on the data, so
    a badly scaled dictionary does no harm. `rank` keeps that many directions of it;
    without it, a dictionary that is dependent on the data is a ValueError. `dt`, the
    time from x to y, is what rates are measured in. With `unitary` the matrix of this
    basis is the nearest unitary one to K, so every modulus is 1, and eigenfunctions are
    orthonormal on the data: mpEDMD, for a flow that preserves the measure from which x
    is drawn, and wrong for any other.
    Source: Williams et al. 2015.
    Source: Colbrook 2023 (mpEDMD).
    """
    x, y, _ = known(x, y, dt)
    psi_x = dictionary(x)
    psi_y = dictionary(y)
    eps = digits(psi_x, psi_y)  # of a lift in single precision, say a network's
    psi_x = double(psi_x)
    psi_y = double(psi_y)
    k = psi_x.shape[1]
    scale = np.linalg.norm(psi_x, axis=0)  # unscaled, x^8 beside 1 looks dependent
    if not (np.isfinite(psi_x).all() and np.isfinite(psi_y).all() and scale.all()):
        raise ValueError(
            "on these data some dictionary function is zero everywhere or not finite"
        )
    Q, s, Zh = np.linalg.svd(psi_x / scale, full_matrices=False)
    r = rank_of(s, psi_x.shape, rank, eps)
    if rank is None and r < k:
        raise ValueError(
            f"{k} dictionary functions of rank {r} on {len(x)} snapshots; try rank={r}"
        )
    Qh = Q[:, :r].conj().T
    s = s[:r, None]
    Zh = Zh[:r]
    lower = (Zh / s).conj().T / scale[:, None]
    lift = s * Zh * scale
    # the operator in the basis Q = psi(X) lower; lift is lower's left inverse
    K = Qh @ psi_y @ lower
    if unitary:
        K = polar(K)[0]
    eigenvalues, W, W_inverse = _on_the_circle(K) if unitary else eigen(K)
    unit = np.sqrt(len(x))
    right = lower @ W * unit
    left = (W_inverse @ lift / unit).conj().T
    modes = W_inverse @ Qh @ x / unit
    residual = _residuals(eigenvalues, psi_x @ right, psi_y @ right)
    return EDMD(
        eigenvalues, right, left, modes, lower @ K @ lift, residual, dictionary, dt
    )


def _on_the_circle(K):
    """The unitary K taken apart, with orthonormal eigenvectors also where eigenvalues
    repeat: for a normal matrix the triangle of Schur's form is diagonal.
    """
    T, W = schur(K, output="complex")
    eigenvalues = np.diag(T) / abs(np.diag(T))
    order = np.lexsort((-eigenvalues.imag, -np.round(eigenvalues.real, 12)))
    W = W[:, order]
    return Eigen(eigenvalues[order], W, W.conj().T)


def eigenfunctions(
    fit: DMD | EDMD, x: Inexact[np.ndarray, "*batch n"]
) -> Complex[np.ndarray, "*batch r"]:
    """The Koopman eigenfunctions of `fit` at x: left_j^H x for DMD, psi(x) @ right_j
    for EDMD.
    """
    x = double(x)
    return (
        x @ fit.left.conj() if isinstance(fit, DMD) else fit.dictionary(x) @ fit.right
    )


def residuals(fit: DMD | EDMD, x: Snapshots, y: Snapshots) -> Float[np.ndarray, " r"]:
    """How far each eigenfunction is from obeying its law: |phi(y) - lambda phi(x)| /
    |phi(x)| over the pairs.

    Zero exactly when phi is an eigenfunction on these data; use pairs that the fit has
    not seen.
    Source: Colbrook & Townsend 2024 (ResDMD).
    """
    x, y, _ = known(x, y, fit.dt)
    return _residuals(fit.eigenvalues, eigenfunctions(fit, x), eigenfunctions(fit, y))


def _residuals(eigenvalues, phi_x, phi_y):
    return np.linalg.norm(phi_y - eigenvalues * phi_x, axis=0) / np.linalg.norm(
        phi_x, axis=0
    )
