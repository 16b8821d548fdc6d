"""The Koopman operator from data: dynamic mode decomposition.

Given states and their images one step later, DMD fits the one matrix that best carries
the first to the second, and reads rates and modes off its eigenvectors. Extended DMD,
which does the same to functions of the state, is `edmd`.

Rows are snapshots, shape (count, n), as batches are everywhere in this package; the
papers' matrices are the transposes. Eigenvectors of a non-normal matrix are not
orthogonal, so coefficients come from the left eigenvectors, never from the conjugated
right ones. numpy in double precision: LAPACK's SVD and non-symmetric eigensolver are
the whole machine. Chapter: 3 "DMD".
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Inexact, Real
from scipy.integrate import quad
from scipy.linalg import qr
from scipy.optimize import brentq

METHODS = ("least-squares", "forward-backward", "total-least-squares")
Snapshots = Inexact[np.ndarray, "count n"]


class DMD(NamedTuple):
    """The fitted operator A = sum_j modes_j eigenvalues_j left_j^H, of rank r, with
    left^H modes = I.

    Column j of `modes` is a right eigenvector, column j of `left` a left one;
    eigenvalues are those of one step dt.
    """

    eigenvalues: Complex[np.ndarray, " r"]
    modes: Complex[np.ndarray, "n r"]
    left: Complex[np.ndarray, "n r"]
    singular_values: Float[np.ndarray, " k"]
    dt: float

    @property
    def rates(self) -> Complex[np.ndarray, " r"]:
        """Continuous-time rates log(eigenvalue) / dt; frequencies beyond pi / dt are
        aliased.
        """
        return np.log(self.eigenvalues) / self.dt


def optimal_rank(
    singular_values: Float[np.ndarray, " k"],
    shape: tuple[int, int],
    noise: float | None = None,
) -> int:
    """How many singular values of a noisy (count, n) matrix to keep; 0 where all of it
    looks like noise.

    Those above lambda(b) sqrt(max(shape)) noise, b = min / max of the shape, or, where
    the noise is unknown, above lambda(b) / sqrt(median of Marchenko & Pastur) times the
    median of all `singular_values`.
    Source: Gavish & Donoho 2014, eq 10, eq 11, eq 12.
    """
    s = np.asarray(singular_values, dtype=float)
    small, large = sorted(shape)
    if small < 1 or s.shape != (small,):
        raise ValueError(
            f"need all {small} singular values of a {shape} matrix, got shape {s.shape}"
        )
    b = small / large
    threshold = np.sqrt(2 * (b + 1) + 8 * b / (b + 1 + np.sqrt(b * b + 14 * b + 1)))
    scale = (
        np.median(s) / np.sqrt(_marchenko_pastur_median(b))
        if noise is None
        else np.sqrt(large) * noise
    )
    return int(np.sum(s > threshold * scale))


def _marchenko_pastur_median(b):
    low = (1 - np.sqrt(b)) ** 2
    high = (1 + np.sqrt(b)) ** 2
    # so that both ends are smooth
    angle = lambda u: low + (high - low) * np.sin(u) ** 2

    def share(u: float) -> float:  # of the law below angle(u)
        density = lambda v: (
            ((high - low) * np.sin(v) * np.cos(v)) ** 2 / (np.pi * b * angle(v))
        )
        return quad(density, 0, u)[0]

    return angle(brentq(lambda u: share(u) - 0.5, 0, np.pi / 2))


def dmd(
    x: Snapshots,
    y: Snapshots | None = None,
    rank: int | None = None,
    dt: float = 1.0,
    method: str = "least-squares",
) -> DMD:
    """Fit y = A x by SVD and return the exact modes of A: A = Y X^+, X cut to `rank`
    (all of it by default).

    Rows are snapshots; without y, x is one trajectory at steps of dt. Eigenvalues are
    sorted by decreasing modulus; a mode is Y V S^-1 w / lambda, and U w where lambda
    vanishes. Noise in x biases least squares: towards 0 for one number, and for a
    normal A that commutes with x's second moment. `method` "forward-backward" averages
    that away, K = (K_f K_b^-1)^1/2 with modes U w; "total-least-squares" first projects
    x and y on the `rank` leading directions of both together. ValueError for snapshots
    that are too few, not finite, all zero or of mismatched shapes; for a rank that they
    do not have; for an operator without a basis of eigenvectors.
    Source: Tu et al. 2014, algorithm 2 (modes); Dawson et al. 2016 (forward-backward).
    Source: Hemati et al. 2017 (total least squares).
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: one of {', '.join(METHODS)}")
    x, y = _snapshots(x, y, dt)
    if method == "total-least-squares":
        x, y = _project(x, y, rank)
    U, s, Vh = _svd(x.T, rank)
    carried = (y.T @ Vh.conj().T) / s[: len(Vh)]  # Y V S^-1
    K = U.conj().T @ carried
    if method == "forward-backward":
        K = _forward_backward(K, s[: len(Vh), None] * Vh, U.conj().T @ y.T)
    eigenvalues, W, W_inverse = _eigen(K)
    left = U @ W_inverse.conj().T
    if method == "forward-backward":
        return DMD(eigenvalues, U @ W, left, s, dt)
    alive = abs(eigenvalues) > 1e-14 * abs(eigenvalues).max()
    modes = carried @ (W / np.where(alive, eigenvalues, 1))
    if not alive.all():
        modes[:, ~alive] = U @ W[:, ~alive]
    return DMD(eigenvalues, modes, left, s, dt)


def _project(x, y, rank):
    if rank is None or not 1 <= rank <= len(x):
        raise ValueError(
            f"total least squares needs a rank between 1 and the {len(x)} pairs, got "
            f"{rank}"
        )
    V = _svd(np.hstack([x, y]), rank)[0]
    return V @ (V.conj().T @ x), V @ (V.conj().T @ y)


def _forward_backward(forward, x, y):
    """The root of forward backward^-1 nearest to `forward`; x and y (r, count) are the
    data in the basis of K.
    """
    backward = x @ np.linalg.pinv(y)
    if np.linalg.cond(backward) > 1e14:
        raise ValueError(
            "the backward fit is singular, so there is no forward-backward mean; "
            "lower the rank"
        )
    squares, W, W_inverse = _eigen(forward @ np.linalg.inv(backward))
    roots = np.sqrt(squares)
    roots *= np.where((roots.conj() * np.diag(W_inverse @ forward @ W)).real < 0, -1, 1)
    K = (W * roots) @ W_inverse
    # not where a square is negative
    real = np.isrealobj(forward) and abs(K.imag).max() < 1e-8 * abs(K).max()
    return K.real if real else K


def forecast(
    fit: DMD, x: Inexact[np.ndarray, "*batch n"], times: Real[np.ndarray, " k"]
) -> Complex[np.ndarray, "k *batch n"]:
    """Carry states x to the given times: x(t) = sum_j modes_j exp(rates_j t) (left_j^H
    x), complex, with the modes of `fit`.

    For t = dt, 2 dt, ... this is A^k x exactly; at t = 0 it is x projected on the
    modes.
    """
    coefficients = x @ fit.left.conj()
    steps = np.asarray(times, dtype=float)[:, None] / fit.dt
    # exp(rates t), and still 1 at t = 0 where an eigenvalue is 0
    growth = fit.eigenvalues**steps
    return np.stack([(coefficients * g) @ fit.modes.T for g in growth])


def _snapshots(x, y, dt):
    """Check pairs, or split a trajectory; ValueError: a wrong shape, too few, not
    finite, all zero.
    """
    x = np.asarray(x)
    x, y = (x[:-1], x[1:]) if y is None else (x, np.asarray(y))
    x, y = (a.astype(np.result_type(a, np.float64), copy=False) for a in (x, y))
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"x and y must have the same shape (count, n), got {x.shape} and {y.shape}"
        )
    if 0 in x.shape:
        raise ValueError(
            "need at least two snapshots of at least one number, got pairs of shape "
            f"{x.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(
            "snapshots hold values that are not finite (NaN or infinity); remove them "
            "first"
        )
    if not x.any():
        raise ValueError("all snapshots are zero; there is nothing to fit")
    if not dt > 0:
        raise ValueError(f"dt must be positive, got {dt}")
    return x, y


def _svd(a, rank):
    """The leading singular vectors of a, and all of its singular values: U (rows, r),
    s, V^H (r, columns).

    QR first, in the tall direction: the small factor has the same singular values, and
    the large one is needed only times r columns. That halves the memory of an SVD of
    the whole.
    """
    tall = a.shape[0] >= a.shape[1]
    Q, R = qr(a if tall else a.conj().T, mode="economic", check_finite=False)
    U, s, Vh = np.linalg.svd(R)
    r = _rank(s, a.shape, rank)
    U = Q @ U[:, :r]
    Vh = Vh[:r]
    return (U, s, Vh) if tall else (Vh.conj().T, s, U.conj().T)


def _rank(s, shape, rank):
    there = int(np.sum(s > s[0] * max(shape) * np.finfo(float).eps))
    if rank is not None and not 1 <= rank <= there:
        raise ValueError(
            f"rank must be between 1 and the {there} that the data have, got {rank}"
        )
    return there if rank is None else rank


def _eigen(K):
    """Eigenvalues by decreasing modulus, right eigenvectors W and W^-1 (its rows: left
    eigenvectors).
    """
    eigenvalues, W = np.linalg.eig(K.astype(np.result_type(K, np.float64)))
    if np.linalg.cond(W) > 1e14:
        raise ValueError(
            "the fitted operator has no basis of eigenvectors (a Jordan block); lower "
            "the rank"
        )
    order = np.lexsort(
        (-eigenvalues.imag, -eigenvalues.real, -np.round(abs(eigenvalues), 12))
    )
    W = W[:, order].astype(complex)
    return eigenvalues[order].astype(complex), W, np.linalg.inv(W)
