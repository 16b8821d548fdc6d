"""Toy systems whose Koopman spectrum is known.

A flow moves states; a Koopman operator moves functions of the state, and does so
linearly. For most systems nobody can write that operator down. For the systems of this
module somebody can, in whole or in part, so they are the ground on which every method
of the book is tried first: a linear spiral, a slow manifold with an exact
three-dimensional lift, the Stuart-Landau oscillator with its isostables and isochrons,
and four that resist, each in its own way: the pendulum (a continuum of frequencies),
Duffing (two attractors), Van der Pol (a cycle without formulas) and Lorenz (chaos).

States are batches, shape (..., n), as everywhere in this package. The module uses numpy
and scipy in double precision: nothing here is learned, so nothing needs gradients, and
scipy brings an eighth-order solver and elliptic integrals.
"""

import numpy as np
from jaxtyping import Complex, Float
from scipy.linalg import expm
from scipy.special import ellipk, exprel

from .flows import State, System, numerical
from .snapshots import real


def linear(matrix: Float[np.ndarray, "n n"]) -> System:
    """The linear flow x' = A x, its own exact lift: Phi_t(x) = exp(A t) x.

    Eigenfunctions are x -> l_j . x with l_j the left eigenvectors of A, the `matrix`.
    ValueError for a non-square or defective one.
    Source: Mezic 2005.
    """
    A = real(matrix)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"a linear system needs a square matrix, got shape {A.shape}")
    rates, right = np.linalg.eig(A)
    if np.linalg.cond(right) * np.finfo(float).eps > 1e-4:
        raise ValueError(
            f"a linear system needs a basis of eigenvectors, {A.tolist()} has none"
        )
    left = np.linalg.inv(right)
    return System(
        "linear",
        lambda x: x @ A.T,
        lambda x, t: x @ expm(A * t).T,
        lambda x: x,
        A,
        lambda x: x @ left.T,
        rates.astype(complex),
    )


def spiral(alpha: float = -0.1, beta: float = 1.0) -> System:
    """The linear spiral x' = [[alpha, beta], [-beta, alpha]] x: HKD's 2x2 block;
    clockwise for beta > 0.

    With w = x_1 + i x_2: w' = (alpha - i beta) w. Rates alpha +- i beta.
    Source: HKD eq 4.
    """
    return linear(np.array([[alpha, beta], [-beta, alpha]]))._replace(name="spiral")


def slow_manifold(mu: float = -0.1, lam: float = -1.0) -> System:
    """x_1' = mu x_1, x_2' = lam (x_2 - x_1^2): nonlinear, yet exactly linear in z =
    (x_1, x_2, x_1^2).

    Rates mu, lam, 2 mu; the eigenfunction of lam is x_2 - b x_1^2, b = lam / (lam - 2
    mu). At the resonance lam = 2 mu the flow is still exact, but the lift is a Jordan
    block: no eigenfunctions.
    Source: Brunton et al. 2016.
    """

    def field(x: State) -> State:
        return np.stack([mu * x[..., 0], lam * (x[..., 1] - x[..., 0] ** 2)], -1)

    # variation of constants; exprel(u) = (e^u - 1)/u has no hole at the resonance
    def flow(x: State, t: float) -> State:
        pull = lam * t * exprel((2 * mu - lam) * t) * x[..., 0] ** 2
        return np.stack(
            [np.exp(mu * t) * x[..., 0], np.exp(lam * t) * (x[..., 1] - pull)], -1
        )

    def lift(x: State) -> Float[np.ndarray, "*batch m"]:
        return np.stack([x[..., 0], x[..., 1], x[..., 0] ** 2], -1)

    A = np.array([[mu, 0, 0], [0, lam, -lam], [0, 0, 2 * mu]], dtype=float)
    if lam == 2 * mu:
        return System("slow manifold", field, flow, lift, A)
    left = np.array([[1, 0, 0], [0, 1, -lam / (lam - 2 * mu)], [0, 0, 1]])
    rates = np.array([mu, lam, 2 * mu], dtype=complex)
    return System(
        "slow manifold", field, flow, lift, A, lambda x: lift(x) @ left.T, rates
    )


def stuart_landau(mu: float = 1.0, omega: float = 1.0, shear: float = 0.0) -> System:
    """The normal form of a limit cycle, in w = x_1 + i x_2: w' = i omega w + (1 + i
    shear)(mu - |w|^2) w.

    The cycle |w|^2 = mu > 0 is traced at frequency omega. Eigenfunctions off the
    origin: the isostable mu/|w|^2 - 1, rate -2 mu, and the isochron e^{i (arg w - shear
    log(|w| / sqrt mu))}, rate i omega. ValueError for mu <= 0, or if a backward flow
    has reached infinity before time t.
    """
    if mu <= 0:
        raise ValueError(
            f"Stuart-Landau has a limit cycle only for mu > 0, got mu = {mu}"
        )

    def field(x: State) -> State:
        w = x[..., 0] + 1j * x[..., 1]
        return _plane(1j * omega * w + (1 + 1j * shear) * (mu - abs(w) ** 2) * w)

    # |w|^2 solves a Bernoulli equation; arg w - shear log|w| turns at the rate omega
    def flow(x: State, t: float) -> State:
        w = x[..., 0] + 1j * x[..., 1]
        growth = abs(w) ** 2 + (mu - abs(w) ** 2) * np.exp(-2 * mu * t)
        if np.any(growth <= 0):
            raise ValueError(
                f"at t = {t} a state from outside the cycle is beyond infinity; take "
                "a later t"
            )
        return _plane(
            w * (mu / growth) ** (0.5 + 0.5j * shear) * np.exp(1j * omega * t)
        )

    def eigenfunctions(x: State) -> Complex[np.ndarray, "*batch k"]:
        w = x[..., 0] + 1j * x[..., 1]
        return np.stack(
            [
                mu / abs(w) ** 2 - 1,
                w / abs(w) * (abs(w) / np.sqrt(mu)) ** (-1j * shear),
            ],
            -1,
        )

    rates = np.array([-2 * mu, 1j * omega])
    return System(
        "Stuart-Landau", field, flow, eigenfunctions=eigenfunctions, rates=rates
    )


def pendulum(damping: float = 0.0) -> System:
    """theta'' = -sin theta - damping theta', x = (theta, theta'), theta not wrapped.

    The unit of time is sqrt(length / gravity). Undamped, each energy has its own
    frequency (`pendulum_period`): a continuous Koopman spectrum.
    Source: Lusch et al. 2018.
    """

    def field(x: State) -> State:
        return np.stack([x[..., 1], -np.sin(x[..., 0]) - damping * x[..., 1]], -1)

    return numerical("pendulum", field)


def duffing(damping: float = 0.5) -> System:
    """q'' = q - q^3 - damping q', x = (q, q'): wells at +-1, a saddle at 0.
    Source: Williams et al. 2015.
    """

    def field(x: State) -> State:
        return np.stack(
            [x[..., 1], x[..., 0] - x[..., 0] ** 3 - damping * x[..., 1]], -1
        )

    return numerical("Duffing", field)


def van_der_pol(mu: float = 1.0) -> System:
    """q'' = mu (1 - q^2) q' - q, x = (q, q'): one attracting cycle, no closed form for
    it.
    """

    def field(x: State) -> State:
        return np.stack(
            [x[..., 1], mu * (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1
        )

    return numerical("Van der Pol", field)


def lorenz(sigma: float = 10.0, rho: float = 28.0, beta: float = 8 / 3) -> System:
    """Lorenz's flow: x_1' = sigma (x_2 - x_1), x_2' = x_1 (rho - x_3) - x_2, x_3' = x_1
    x_2 - beta x_3.

    At the default constants it is chaotic and mixing: in the mean square of its
    physical measure constants are the only eigenfunctions. Nearby paths part e-fold in
    about 1.1 units of time, so no two processors agree on a state after some 30.
    Source: Lorenz 1963, eq 25, eq 26, eq 27.
    """

    def field(x: State) -> State:
        return np.stack(
            [
                sigma * (x[..., 1] - x[..., 0]),
                x[..., 0] * (rho - x[..., 2]) - x[..., 1],
                x[..., 0] * x[..., 1] - beta * x[..., 2],
            ],
            -1,
        )

    return numerical("Lorenz", field)


def _plane(w):
    return np.stack([w.real, w.imag], -1)


def pendulum_period(energy: float) -> float:
    """Time of one swing (-1 < energy < 1) or full turn (energy > 1), energy = theta'^2
    / 2 - cos theta.

    Swings: 4 K(m), m = (1 + energy)/2; turns: 2 K(1/m)/sqrt(m); K is the complete
    elliptic integral of parameter m. ValueError at or below -1 (at rest, or impossible)
    and at 1 (the separatrix takes for ever).
    """
    m = (1 + energy) / 2
    if not m > 0 or m == 1:
        raise ValueError(f"energy must be above -1 and not 1, got {energy}")
    return float(4 * ellipk(m) if m < 1 else 2 * ellipk(1 / m) / np.sqrt(m))
