"""Snapshots: what a fit is made from, and how many digits of it are known.

Every fit of Part II begins here: pairs of states are checked and brought to double
precision, an SVD says which directions they have, and the small matrix that is fitted
in those is taken apart. What a state was stored in is remembered: a state in single
precision has seven digits, and a direction or an eigenvalue below them is rounding,
however exactly one computes with it. Rows are snapshots. Chapters: 3 "DMD", 4 "EDMD".
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Inexact
from scipy.linalg import qr

Snapshots = Inexact[np.ndarray, "count n"]
DOUBLE = float(np.finfo(np.float64).eps)


class Known(NamedTuple):
    """Pairs x and y, (count, n), in double precision, each number known to a relative
    `eps`.
    """

    x: Inexact[np.ndarray, "count n"]
    y: Inexact[np.ndarray, "count n"]
    eps: float


class SVD(NamedTuple):
    """The r leading singular vectors of a matrix (rows, columns), and all of its k
    singular values.
    """

    U: Inexact[np.ndarray, "rows r"]
    s: Float[np.ndarray, " k"]
    Vh: Inexact[np.ndarray, "r columns"]


class Eigen(NamedTuple):
    """A matrix taken apart, K = W diag(eigenvalues) W_inverse, eigenvalues by
    decreasing modulus; rows of `W_inverse` are its left eigenvectors.
    """

    eigenvalues: Complex[np.ndarray, " r"]
    W: Complex[np.ndarray, "r r"]
    W_inverse: Complex[np.ndarray, "r r"]


def numbers(a: Any) -> np.ndarray:
    """`a` as an array of its own type.

    ValueError for what would lose its meaning: masked numbers, whose fill values are no
    data, and anything but numbers.
    """
    parts = a if isinstance(a, (list, tuple)) else [a]
    if any(np.ma.is_masked(part) for part in parts):
        raise ValueError(
            f"{np.ma.count_masked(np.ma.array(a))} numbers are masked, and none can be "
            "left out alone: keep the rows without any, in x and y alike, or fill them "
            "in first"
        )
    a = np.asarray(a)
    if a.dtype.kind not in "biufc":
        raise ValueError(f"an array of {a.dtype}: wanted real or complex numbers")
    return a


def double(a: Any) -> np.ndarray:
    """`a` as `numbers` in double precision, complex where it is."""
    a = numbers(a)
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.float64, copy=False)


def real(a: Any) -> Float[np.ndarray, "..."]:
    """`a` as real `numbers` in double precision; ValueError for complex ones."""
    a = double(a)
    if np.iscomplexobj(a):
        raise ValueError("complex numbers, wanted real ones")
    return a


def digits(*arrays: Any) -> float:
    """The relative step eps of the coarsest of `arrays`; whole numbers are exact, so
    theirs is that of double precision.
    """
    types = [np.asarray(a).dtype for a in arrays]
    steps = [float(np.finfo(kind).eps) for kind in types if kind.kind in "fc"]
    return max([DOUBLE, *steps])


def known(x: Any, y: Any = None, dt: float = 1.0) -> Known:
    """Check pairs x and y, a step dt apart, or split the trajectory x into them.

    ValueError: a wrong shape, too few, masked, not numbers, not finite, all zero.
    """
    eps = digits(x) if y is None else digits(x, y)
    x = double(x)
    x, y = (x[:-1], x[1:]) if y is None else (x, double(y))
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
    if not 0 < dt < np.inf:
        raise ValueError(f"dt must be positive, got {dt}")
    return Known(x, y, eps)


def svd(
    a: Inexact[np.ndarray, "rows columns"], rank: int | None, eps: float = DOUBLE
) -> SVD:
    """The leading singular vectors of a, `rank` of them, or all that `rank_of` sees.

    QR first, in the tall direction: the small factor has the same singular values, and
    the large one is needed only times r columns. That halves the memory of an SVD of
    the whole.
    """
    tall = a.shape[0] >= a.shape[1]
    Q, R = qr(a if tall else a.conj().T, mode="economic", check_finite=False)
    U, s, Vh = np.linalg.svd(R)
    r = rank_of(s, a.shape, rank, eps)
    U = Q @ U[:, :r]
    Vh = Vh[:r]
    return SVD(U, s, Vh) if tall else SVD(Vh.conj().T, s, U.conj().T)


def rank_of(
    s: Float[np.ndarray, " k"],
    shape: tuple[int, ...],
    rank: int | None = None,
    eps: float = DOUBLE,
) -> int:
    """`rank`, or without it how many of all the singular values `s` of a matrix of
    `shape` stand above rounding.

    Computing them errs by about max(shape) steps of double precision. Numbers rounded
    to a relative eps differ from the true ones by a matrix of norm at most
    eps / 2 |s|. ValueError for a rank that is not there.
    """
    rounding = max(s[0] * max(shape) * DOUBLE, eps * float(np.linalg.norm(s)))
    there = int(np.sum(s > rounding))
    if rank is not None and not 1 <= rank <= there:
        raise ValueError(
            f"rank must be between 1 and the {there} that the data have, got {rank}"
        )
    return there if rank is None else rank


def eigen(K: Inexact[np.ndarray, "r r"]) -> Eigen:
    """Take the fitted operator K apart. ValueError for one without a basis of
    eigenvectors.
    """
    eigenvalues, W = np.linalg.eig(K)
    if np.linalg.cond(W) > 1e14:
        raise ValueError(
            "the fitted operator has no basis of eigenvectors (a Jordan block); lower "
            "the rank"
        )
    order = np.lexsort(
        (-eigenvalues.imag, -eigenvalues.real, -np.round(abs(eigenvalues), 12))
    )
    W = W[:, order].astype(complex)
    return Eigen(eigenvalues[order].astype(complex), W, np.linalg.inv(W))
