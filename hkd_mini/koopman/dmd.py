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
from scipy.optimize import brentq

from .snapshots import DOUBLE, SVD, Snapshots, double, eigen, known, real, svd

METHODS = ("least-squares", "forward-backward", "total-least-squares")


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
        aliased. That of an eigenvalue 0 is minus infinity: its mode is gone at once.
        """
        with np.errstate(divide="ignore"):
            growth = np.log(abs(self.eigenvalues)) / self.dt
        rates = np.empty_like(self.eigenvalues)
        rates.real = growth
        rates.imag = np.angle(self.eigenvalues) / self.dt
        return rates


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
    s = real(singular_values)
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
    is zero up to the rounding of x and y. Noise in x biases least squares: towards 0
    for one number, and for a normal A that commutes with x's second moment. `method`
    "forward-backward" averages that away, K = (K_f K_b^-1)^1/2 with modes U w;
    "total-least-squares" first projects x and y on the `rank` leading directions of
    both together. ValueError for snapshots that are too few, masked, not finite, all
    zero or of mismatched shapes; for a rank that they do not have; for an operator
    without a basis of eigenvectors.
    Source: Tu et al. 2014, algorithm 2 (modes); Dawson et al. 2016 (forward-backward).
    Source: Hemati et al. 2017 (total least squares).
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: one of {', '.join(METHODS)}")
    x, y, eps = known(x, y, dt)
    if method == "total-least-squares":
        x, y = _project(x, y, rank, eps)
    found = svd(x.T, rank, eps)
    U, s, Vh = found
    carried = (y.T @ Vh.conj().T) / s[: len(Vh)]  # Y V S^-1
    K = U.conj().T @ carried
    if method == "forward-backward":
        K = _forward_backward(K, s[: len(Vh), None] * Vh, U.conj().T @ y.T, eps)
    parts = eigen(K)
    modes = U @ parts.W
    left = U @ parts.W_inverse.conj().T
    if method != "forward-backward":
        doubt = eps * (np.linalg.norm(y) + np.linalg.norm(K, 2) * s[0])
        modes = modes + _beyond(found, carried, parts, doubt)
    return DMD(parts.eigenvalues, modes, left, s, dt)


def _beyond(found: SVD, carried, parts, doubt):
    """What the exact modes Y V S^-1 w / lambda are beside U w: their part outside the
    span of U, which `left` does not see.

    Rounding moves K by less than `doubt` S^-1. So it moves K w, and lambda, by the
    bounds below (first order; Golub & Van Loan, Matrix Computations, section 7.2), and
    what is no larger is taken for 0: divided, it would be a mode of no meaning.
    """
    outside = carried @ parts.W
    for _ in range(2):  # once leaves rounding of what was taken off
        outside = outside - found.U @ (found.U.conj().T @ outside)
    of_mode = doubt * np.linalg.norm(parts.W.T / found.s[: len(parts.W)], axis=1)
    of_value = of_mode * np.linalg.norm(parts.W_inverse, axis=1)
    alive = abs(parts.eigenvalues) > of_value
    alive &= np.linalg.norm(outside, axis=0) > of_mode
    return np.where(alive, outside / np.where(alive, parts.eigenvalues, 1), 0)


def _project(x, y, rank, eps):
    if rank is None or not 1 <= rank <= len(x):
        raise ValueError(
            f"total least squares needs a rank between 1 and the {len(x)} pairs, got "
            f"{rank}"
        )
    V = svd(np.hstack([x, y]), rank, eps).U
    return V @ (V.conj().T @ x), V @ (V.conj().T @ y)


def _forward_backward(forward, x, y, eps):
    """The root of forward backward^-1 nearest to `forward`; x and y (r, count) are the
    data in the basis of K, known to a relative eps.
    """
    there = svd(y, None, eps).U.shape[1]
    backward = x @ np.linalg.pinv(y)
    # at 1e14 a digit or two of its inverse are left in double precision
    if there < len(y) or np.linalg.cond(backward) > 1e14 * DOUBLE / eps:
        raise ValueError(
            "the backward fit is singular, so there is no forward-backward mean; "
            "lower the rank"
        )
    squares, W, W_inverse = eigen(forward @ np.linalg.inv(backward))
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
    coefficients = double(x) @ fit.left.conj()
    steps = real(times)[:, None] / fit.dt
    # exp(rates t), and still 1 at t = 0 where an eigenvalue is 0
    growth = fit.eigenvalues**steps
    return np.stack([(coefficients * g) @ fit.modes.T for g in growth])
