"""What HKD minimises: the evolved states of any point of a path must decode to the
path's end.

The loss is a mean over T and s - 1 other times of the path. Four terms that the paper
does not have (`terms`) make A do the work; they are off unless they get a weight.
Chapters: 7 "One step in the plane", 10 "Training".
Source: HKD eq 6, HKD appendix D.4.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..engine.config import at_least
from ..judge.distance import BUNDLED
from .model import Lifting
from .terms import guess_decoding, infinitesimal, linearity, path_decoding


@dataclass(frozen=True)
class Objective:
    """What is asked of an HKD. The defaults are the paper's; a term of weight 0 is not
    computed.

    Raises ValueError for a number below its bound.
    Source: HKD eq 6, HKD appendix D.4, HKD table 3; from `lr_scale_A` on, ours.
    """

    times: int = 5
    """Points of each path a step (s): T and s - 1 uniform ones."""
    consistency: bool = True
    """Whether the points beside T are asked for; off trains at T alone."""
    perceptual: str = BUNDLED
    """What looks at pictures: perceptual-cifar10 (bundled), a folder made by `hkd-mini
    features`, cifar (the bundled judge), alex, vgg, squeeze (LPIPS), none."""
    texture_weight: float = 0.0
    """Weight of the texture distance beside the network's."""
    lr_scale_A: float = 1.0
    """A's learning rate over that of the rest: it starts at 0 and has to reach 10."""
    path_weight: float = 0.0
    """Weight of path decoding, which makes A needed."""
    guess_weight: float = 0.0
    """Weight of guess decoding, which makes A needed and keeps the pictures."""
    linear_weight: float = 0.0
    """Weight of latent linearity."""
    linear_scale: str = "size"
    """What linearity is a share of: the size of each state, or its variance over the
    batch, in which constants do not count."""
    infinitesimal_weight: float = 0.0
    """Weight of linearity between neighbours, d/dt encode(x_t) = A z_t."""
    detach_noisier: bool = True
    """Whether the noisier state is a fixed target of linearity."""
    later_only: bool = False
    """Whether to ask only for points of the path nearer to the picture."""
    partners: str = "drawn"
    """What the terms on the way look at from each point: another one, drawn and encoded
    for it, or "own", the next of the points that are there already, at no further
    encoding."""

    def __post_init__(self):
        at_least(self, times=1, lr_scale_A=0, path_weight=0, guess_weight=0)
        at_least(self, linear_weight=0, infinitesimal_weight=0, texture_weight=0)
        if self.linear_scale not in ("size", "variance"):
            raise ValueError(
                f"linear_scale = {self.linear_scale!r}: one of size, variance"
            )
        if self.partners not in ("drawn", "own"):
            raise ValueError(f"partners = {self.partners!r}: one of drawn, own")
        if self.partners == "own" and (
            self.times < 2 or not self.consistency or self.later_only
        ):
            raise ValueError(
                "partners = 'own' wants two or more points of a path (times, "
                "consistency), earlier and later ones"
            )


PAPER = Objective()


def hkd_loss(
    model: Lifting,
    distance: Callable,
    x: Float[Tensor, "batch s ..."],
    sigma: Float[Tensor, "batch s"],
    end: Float[Tensor, "batch ..."],
    progress: float | Float[Tensor, ""] = 1.0,
    labels: Tensor | None = None,
    objective: Objective = PAPER,
    **further: Tensor,
) -> dict[str, Tensor]:
    """Trajectory consistency and reconstruction in one mean: d(decode(e^{A (eps - t)}
    encode(x_t)), x_eps) over s times.

    `model` is an HKD. x[:, k] is the path at level sigma[:, k], with k = 0 at T
    (reconstruction) and the rest anywhere (consistency); `end` is the path's end,
    `labels` (batch,) its class; d is `distance` at `progress`, the part of the run in
    [0, 1] that is over, as a tensor where a compiled step shall not be compiled anew.
    Times are folded into the batch. `objective` adds terms that are not the paper's;
    those that look on the way want x_u, sigma_u (batch, s), any other point of the path
    for each x, guess decoding the teacher's guess_u there, the infinitesimal one
    x_near, sigma_near, a neighbour. With partners "own" there is no u: guess decoding
    wants the teacher's `guess` at x. Returns scalars: loss, mse, perceptual, mse_T, and
    one for each added term.
    Source: HKD eq 6, HKD algorithm 1, HKD appendix B.1, HKD appendix D.4.
    """
    s = x.shape[1]
    t = model.clock.time(sigma.flatten())
    repeat = lambda v: None if v is None else v.repeat_interleave(s, dim=0)
    states = model.encode(x.flatten(0, 1), t, repeat(labels))
    image = model.decode(model.evolve(states, t, model.clock.eps), repeat(labels))
    d, mse, p = distance(image, repeat(end), progress)
    terms = {
        "loss": d.mean(),
        "mse": mse.mean(),
        "perceptual": p.mean(),
        "mse_T": mse.view(-1, s)[:, 0].mean(),
    }
    own = objective.partners == "own"
    if own:
        asked = {"x": x, "sigma": sigma, "guess": further.get("guess")}
        further |= {f"{k}_u": _next(v) for k, v in asked.items() if v is not None}
    there = lambda name: (
        further[f"x_{name}"].flatten(0, 1),
        further[f"sigma_{name}"].flatten(),
    )
    added = {}
    if objective.path_weight:
        added["path"] = path_decoding(model, states, t, *there("u"), repeat(labels))
    if objective.guess_weight:
        guess = further["guess_u"].flatten(0, 1)
        at = further["sigma_u"].flatten()
        added["guess"] = guess_decoding(model, states, t, guess, at, repeat(labels))
    if objective.linear_weight:
        x_u, sigma_u = there("u")
        u = model.clock.time(sigma_u)
        if own:
            there_u = [_next(z.unflatten(0, (-1, s))).flatten(0, 1) for z in states]
        else:
            there_u = model.encode(x_u, u, repeat(labels))
        how = objective.detach_noisier, objective.linear_scale
        added["linear"] = linearity(model, states, t, there_u, u, *how)
    if objective.infinitesimal_weight:
        x_near, sigma_near = there("near")
        u = model.clock.time(sigma_near)
        near = model.encode(x_near, u, repeat(labels))
        added["infinitesimal"] = infinitesimal(
            model, states, t, near, u, objective.detach_noisier
        )
    added = {name: term.mean() for name, term in added.items()}
    terms["loss"] = sum(
        (getattr(objective, f"{name}_weight") * term for name, term in added.items()),
        terms["loss"],
    )
    return terms | added


def _next(v: Float[Tensor, "batch s ..."]) -> Float[Tensor, "batch s ..."]:
    """The next of the s points, and the first one for the last."""
    return v.roll(-1, dims=1)
