"""Dictionaries: the functions of the state that a fit may use.

EDMD sees a system only through a dictionary psi, so the choice of psi is the choice of
what can be found: monomials, which close under some polynomial flows; radial functions,
which make EDMD a kernel method; and the past of a path, which stands in for what a
single snapshot does not show. Each is a NamedTuple that can be called on a batch of
states. Chapters: 3 "DMD", 4 "EDMD".
"""

import math
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Inexact, Int
from scipy.spatial.distance import cdist

from .snapshots import numbers, real


class Monomials(NamedTuple):
    """The dictionary of monomials x^e, one for each row e of `exponents`: (..., n) ->
    (..., k).
    """

    exponents: Int[np.ndarray, "k n"]

    def __call__(
        self, x: Inexact[np.ndarray, "*batch n"]
    ) -> Inexact[np.ndarray, "*batch k"]:
        if x.shape[-1] != self.exponents.shape[1]:
            raise ValueError(
                f"monomials in {self.exponents.shape[1]} variables, states of "
                f"{x.shape[-1]}"
            )
        return np.prod(x[..., None, :] ** self.exponents, axis=-1)


def monomials(n: int, degree: int) -> Monomials:
    """All monomials in n variables of total degree at most `degree`, the constant
    first, sorted by degree.
    """
    if n < 1 or degree < 0:
        raise ValueError(
            f"need n >= 1 variables and degree >= 0, got n = {n}, degree = {degree}"
        )
    if min(n, degree) > 1000 or math.comb(n + degree, n) > 10**7:
        raise ValueError(
            f"n = {n} variables, degree = {degree}: more than ten million monomials"
        )
    factors = (
        c for d in range(degree + 1) for c in combinations_with_replacement(range(n), d)
    )
    return Monomials(np.array([[c.count(i) for i in range(n)] for c in factors]))


class Gaussians(NamedTuple):
    """The dictionary of radial functions exp(-|x - c|^2 / (2 width^2)), one for each
    row c of `centres`.

    With the data as centres EDMD is kernel EDMD: give it a rank.
    Source: Williams, Rowley & Kevrekidis 2015, the kernel version.
    """

    centres: Float[np.ndarray, "k n"]
    width: float

    def __call__(
        self, x: Float[np.ndarray, "*batch n"]
    ) -> Float[np.ndarray, "*batch k"]:
        if x.shape[-1] != self.centres.shape[1]:
            raise ValueError(
                f"centres in {self.centres.shape[1]} variables, states of {x.shape[-1]}"
            )
        flat = cdist(x.reshape(-1, x.shape[-1]), self.centres, "sqeuclidean")
        return np.exp(-flat / (2 * self.width**2)).reshape(*x.shape[:-1], -1)


def gaussians(centres: Float[np.ndarray, "k n"], width: float) -> Gaussians:
    """One radial function for each centre; ValueError for a width that is not positive,
    or centres that are no rows.
    """
    centres = real(centres)
    if (
        centres.ndim != 2
        or 0 in centres.shape
        or not np.isfinite(centres).all()
        or not width > 0
    ):
        raise ValueError(
            f"need finite centres (k, n) and width > 0, got shape {centres.shape} and "
            f"width {width}"
        )
    return Gaussians(centres, float(width))


def delays(
    x: Inexact[np.ndarray, "m n"], count: int
) -> Inexact[np.ndarray, "windows delayed"]:
    """A path seen through windows: row k is (x_k, x_{k+1}, ..., x_{k+count-1}), shape
    (m - count + 1, count n).

    What one snapshot does not show, its past may. ValueError for a window that is empty
    or longer than the path.
    Source: Takens 1981; Arbabi & Mezic 2017.
    """
    x = numbers(x)
    if x.ndim != 2 or not 1 <= count <= len(x):
        raise ValueError(
            f"need a path (m, n) and 1 <= count <= m, got shape {x.shape} and count "
            f"{count}"
        )
    # (m - count + 1, n, count)
    windows = np.lib.stride_tricks.sliding_window_view(x, count, axis=0)
    return windows.swapaxes(1, 2).reshape(len(windows), -1)
