"""Stochastic systems whose Koopman spectrum is known.

Where a flow has one future, a stochastic system has many, and its Koopman operator
averages over them: (K_t g)(x) = E[g(X_t) | X_0 = x]. It is still linear in g, still a
semigroup, and its eigenfunctions still obey K_t phi = e^{rho t} phi, now in the mean.
For a particle that noise drives through a landscape V,

    dX = -V'(X) dt + sqrt(2 D) dW,        rho phi = L phi = -V' phi' + D phi'',

the operator is self-adjoint in the weight e^{-V/D}. So its rates are real, never
positive, and can be computed to ten digits without a single sample: the strictest test
that a method for data can be given. States are batches of shape (..., 1). Chapter: 4
"EDMD".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import legder, leggauss, legval, legvander
from scipy.linalg import solve_triangular

from .snapshots import real

State = Float[np.ndarray, "*batch 1"]
Values = Float[np.ndarray, "..."]


class Process(NamedTuple):
    """dX = -gradient(X) dt + sqrt(2 D) dW in the landscape `potential`; its stationary
    density is e^{-V/D} / Z.

    `move(x, t, generator)` draws X_t given X_0 = x, one draw for each state of the
    batch. `box` = (low, high) holds the density up to a part that does not matter,
    about e^-30. `rates(k)` and `eigenfunctions(x, k)`, (..., k), are the first k in
    closed form, ordered and scaled as `spectrum` does; None where nobody knows them.
    """

    name: str
    potential: Callable[[Values], Values]
    gradient: Callable[[Values], Values]
    D: float
    box: tuple[float, float]
    move: Callable[[State, float, np.random.Generator], State]
    rates: Callable[[int], Float[np.ndarray, " k"]] | None = None
    eigenfunctions: Callable[[State, int], Float[np.ndarray, "*batch k"]] | None = None


class Spectrum(NamedTuple):
    """The first rates of a process, slowest first, and its eigenfunctions.

    Those are Legendre series in the box, of mean square one in the stationary density
    and positive at the right end.
    """

    rates: Float[np.ndarray, " k"]
    coefficients: Float[np.ndarray, "polynomials k"]
    box: tuple[float, float]

    def eigenfunctions(self, x: State) -> Float[np.ndarray, "*batch k"]:
        """All k at the states x; ValueError outside the box, where a polynomial says
        nothing.
        """
        low, high = self.box
        if not np.all((low <= x) & (x <= high)):
            raise ValueError(
                f"states must lie in the box [{low:.4g}, {high:.4g}] of the process"
            )
        u = (2 * x[..., 0] - low - high) / (high - low)
        return np.moveaxis(legval(u, self.coefficients), 0, -1)


def ornstein_uhlenbeck(theta: float = 1.0, D: float = 1.0) -> Process:
    """A particle on a spring, dX = -theta X dt + sqrt(2 D) dW, with exact draws over
    any time.

    X_t = e^{-theta t} x + s sqrt(1 - e^{-2 theta t}) xi, s^2 = D / theta. Rates are -k
    theta, eigenfunctions the Hermite polynomials He_k(x / s) / sqrt(k!). ValueError
    unless theta and D are > 0.
    Source: Pavliotis 2014, section 4.4.
    """
    _positive(theta=theta, D=D)
    s = np.sqrt(D / theta)

    def move(x: State, t: float, generator: np.random.Generator) -> State:
        return np.exp(-theta * t) * x + s * np.sqrt(
            -np.expm1(-2 * theta * t)
        ) * generator.standard_normal(x.shape)

    def eigenfunctions(x: State, k: int) -> Float[np.ndarray, "*batch k"]:
        # sqrt(j + 1) h_{j+1} = u h_j - sqrt(j) h_{j-1}
        u = x[..., 0] / s
        h = [np.ones_like(u), u]
        for j in range(1, k - 1):
            h.append((u * h[j] - np.sqrt(j) * h[j - 1]) / np.sqrt(j + 1))
        return np.stack(h[:k], -1)

    rates = lambda k: -theta * np.arange(k)
    box = (-9 * s, 9 * s)
    return Process(
        "Ornstein-Uhlenbeck",
        lambda x: theta * x**2 / 2,
        lambda x: theta * x,
        D,
        box,
        move,
        rates,
        eigenfunctions,
    )


def langevin(
    potential: Callable,
    gradient: Callable,
    box: tuple,
    beta: float = 1.0,
    dt: float = 1e-3,
) -> Process:
    """Overdamped Langevin dynamics at inverse temperature beta = 1/D, drawn by steps of
    Euler and Maruyama.

    X <- X - V'(X) dt + sqrt(2 dt / beta) xi, in equal steps of at most dt, with V the
    `potential` and V' its `gradient`; the law of the draws is wrong by O(dt). Let `box`
    = (low, high) reach to where beta V is 20 to 30 above its minimum, and no further.
    ValueError for an empty box, or a beta or dt that is not positive.
    """
    _positive(beta=beta, dt=dt)
    low, high = (float(side) for side in box)
    if not low < high:
        raise ValueError(f"the box must be (low, high) with low < high, got {box}")

    def move(x: State, t: float, generator: np.random.Generator) -> State:
        x = real(x).copy()
        steps = max(int(np.ceil(t / dt - 1e-9)), 1)
        h = t / steps
        for _ in range(steps):
            x += np.sqrt(2 * h / beta) * generator.standard_normal(
                x.shape
            ) - h * gradient(x)
        return x

    return Process("Langevin", potential, gradient, 1 / beta, (low, high), move)


def prinz(beta: float = 1.0, dt: float = 1e-4) -> Process:
    """Four wells between steep walls, a benchmark for slow modes.

    V(x) = 4 (x^8 + 0.8 e^{-80 x^2} + 0.2 e^{-80 (x - 1/2)^2} + 0.5 e^{-40 (x +
    1/2)^2}), at inverse temperature `beta`, in steps of at most `dt` (`langevin`).
    Source: Prinz et al. 2011; constants as in deeptime.
    """
    # height, sharpness, place
    bumps = [(0.8, 80, 0.0), (0.2, 80, 0.5), (0.5, 40, -0.5)]

    def potential(x: Values) -> Values:
        return 4 * (x**8 + sum(a * np.exp(-b * (x - c) ** 2) for a, b, c in bumps))

    def gradient(x: Values) -> Values:
        return 4 * (
            8 * x**7
            - sum(2 * a * b * (x - c) * np.exp(-b * (x - c) ** 2) for a, b, c in bumps)
        )

    _positive(beta=beta)
    wall = 1.28 * beta ** (-1 / 8)  # where 4 beta x^8 is about 29
    return langevin(potential, gradient, (-wall, wall), beta, dt)._replace(name="Prinz")


def spectrum(process: Process, k: int, polynomials: int = 200) -> Spectrum:
    """The first k rates and eigenfunctions of the generator L of `process`, from its
    potential alone (Rayleigh and Ritz).

    -rho_j are the stationary values of D int phi'^2 pi / int phi^2 pi, with pi the
    stationary density. Over polynomials, with Gauss quadrature, that is a singular
    value problem: no error but the number of polynomials, in which it falls
    exponentially, and the ends of the box. Rates found are never above the true ones of
    the box; those below about 1e-8 of the others lose digits. ValueError unless 1 <= k
    <= polynomials / 4.
    """
    if not 1 <= k <= polynomials // 4:
        raise ValueError(
            f"need 1 <= k <= polynomials / 4 = {polynomials // 4}, got k = {k}"
        )
    u, x, lengths = _gauss(process, 3 * polynomials)
    root = np.sqrt(lengths * density(process, x[:, None]))[:, None]
    half = (process.box[1] - process.box[0]) / 2
    slope = legvander(u, polynomials - 2) @ legder(np.eye(polynomials)) / half
    # P R^-1 is orthonormal in pi
    R = np.asarray(np.linalg.qr(root * legvander(u, polynomials - 1), mode="r"))
    G = solve_triangular(R.T, (root * slope).T, lower=True).T
    s, Vh = np.linalg.svd(np.linalg.qr(G, mode="r"))[1:]
    coefficients = solve_triangular(R, Vh[: -k - 1 : -1].T)
    sign = np.where(legval(1.0, coefficients) < 0, -1, 1)
    return Spectrum(
        -process.D * s[: -k - 1 : -1] ** 2, coefficients * sign, process.box
    )


def density(process: Process, x: State) -> Float[np.ndarray, "*batch"]:
    """The stationary density of `process`, e^{-V(x)/D} / Z."""
    _, nodes, lengths = _gauss(process, 600)
    V = process.potential(nodes)
    Z = lengths @ np.exp((V.min() - V) / process.D)
    return np.exp((V.min() - process.potential(x[..., 0])) / process.D) / Z


def draw(
    process: Process, count: int, generator: np.random.Generator
) -> Float[np.ndarray, "count 1"]:
    """`count` independent states from the stationary density of `process`, by inverting
    its distribution function at numbers of `generator`.
    """
    edges = np.linspace(*process.box, 20001)
    middle = (edges[1:] + edges[:-1]) / 2
    total = np.cumsum(density(process, middle[:, None]))
    below = np.concatenate([[0.0], total / total[-1]])
    return np.interp(generator.uniform(size=(count, 1)), below, edges)


def _gauss(process, count):
    """Gauss points u in [-1, 1], where they lie in the box, and the lengths that they
    stand for.
    """
    u, weights = leggauss(count)
    low, high = process.box
    return u, (low + high + (high - low) * u) / 2, (high - low) / 2 * weights


def _positive(**numbers):
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
