"""A flow, and what one does with it: move states, sample paths, move functions of the
state.

A `System` carries its field, its flow and as much of its Koopman theory as is known.
`koopman` is the operator itself, a function from a function. `trajectory` and
`snapshot_pairs` make the data that every method of Part II starts from. States are
batches, shape (..., n). Chapter: 1 "Flows and observables".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, Inexact, Real
from scipy.integrate import solve_ivp

from .snapshots import real

State = Float[np.ndarray, "*batch n"]


class System(NamedTuple):
    """A flow x' = field(x), with as much of its Koopman theory as is known in closed
    form.

    `flow(x, t)` is Phi_t(x). If a finite exact lift exists, z = lift(x) obeys z' =
    generator z. `eigenfunctions(x)` has shape (..., k); its columns obey
    phi_j(Phi_t(x)) = exp(rates_j t) phi_j(x). What is not known is None.
    """

    name: str
    field: Callable[[State], State]
    flow: Callable[[State, float], State]
    lift: Callable[[State], Float[np.ndarray, "*batch m"]] | None = None
    generator: Float[np.ndarray, "m m"] | None = None
    eigenfunctions: Callable[[State], Inexact[np.ndarray, "*batch k"]] | None = None
    rates: Complex[np.ndarray, " k"] | None = None


class Pairs(NamedTuple):
    """States x and where the flow takes them in one step: y = Phi_dt(x); both (count,
    n).
    """

    x: Float[np.ndarray, "count n"]
    y: Float[np.ndarray, "count n"]


def numerical(name: str, field: Callable[[State], State]) -> System:
    """The system `name`, known only by its field; its flow is Dormand-Prince 8(5,3),
    tolerance 1e-11. The flow raises ValueError where it blows up, and for a state or
    a time that is not finite.
    """
    return System(name, field, lambda x, t: _integrate(field, x, t))


def _integrate(field, x, t):
    x = real(x)
    if not (np.isfinite(t) and np.isfinite(x).all()):
        raise ValueError(f"no flow from {x.tolist()} to t = {t}: wanted finite numbers")

    def flat(_: float, state: np.ndarray) -> np.ndarray:
        return field(state.reshape(x.shape)).ravel()

    if t == 0 or x.size == 0:
        return x.copy()
    solution = solve_ivp(
        flat, (0.0, t), np.ravel(x), method="DOP853", rtol=1e-11, atol=1e-12, t_eval=[t]
    )
    if not solution.success:
        raise ValueError(
            f"no flow to t = {t}: {solution.message} (a blow-up in finite time?)"
        )
    return solution.y[:, -1].reshape(x.shape)


def koopman(system: System, observable: Callable, t: float) -> Callable:
    """The Koopman operator at work: (K_t g)(x) = g(Phi_t(x)), a function from a
    function, with g the `observable` and Phi_t the flow of `system` over a time t.
    Source: Koopman 1931; HKD definition 2.1.
    """
    return lambda x: observable(system.flow(x, t))


def trajectory(
    system: System, x: State, times: Real[np.ndarray, " k"]
) -> Float[np.ndarray, "k *batch n"]:
    """The states Phi_t(x) of `system` at each of the given times, in any order: shape
    (k, ..., n).
    """
    path = []
    state = real(x)
    now = 0.0
    # from the last state on, so that a numerical flow integrates each stretch once
    for t in times:
        state = system.flow(state, t - now)
        now = t
        path.append(state)
    return np.stack(path)


def snapshot_pairs(
    system: System, count: int, dt: float, box: tuple, generator: np.random.Generator
) -> Pairs:
    """`count` states drawn uniformly from the box (low, high) by `generator`, each with
    its image under `system` after dt.

    `low` and `high` are scalars or length n; at least one has to say n. ValueError for
    an empty box or no count.
    """
    low, high = np.broadcast_arrays(*(np.atleast_1d(real(side)) for side in box))
    if count < 1 or np.any(low >= high):
        raise ValueError(
            f"need count >= 1 and low < high, got count {count}, low {low}, high {high}"
        )
    x = generator.uniform(low, high, (count, low.size))
    return Pairs(x, system.flow(x, dt))
