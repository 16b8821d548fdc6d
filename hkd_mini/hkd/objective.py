"""What HKD minimises: the evolved states of any point of a path must decode to the
path's end.

The loss is a mean over T and s - 1 other times of the path. Three terms that the paper
does not have make A do the work; they are off unless they get a weight. Chapters: 7
"One step on a checkerboard", 10 "Training".
Source: HKD eq 6, HKD appendix D.4.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.schedule import SIGMA_DATA, expand, noise_of
from ..engine.config import at_least
from .model import Lifting


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
    perceptual: str = "cifar"
    """What looks at pictures: cifar (bundled), a folder made by `hkd-mini features`,
    alex, vgg, squeeze (LPIPS), none."""
    lr_scale_A: float = 1.0
    """A's learning rate over that of the rest: it starts at 0 and has to reach 10."""
    path_weight: float = 0.0
    """Weight of path decoding, which makes A needed."""
    linear_weight: float = 0.0
    """Weight of latent linearity."""
    infinitesimal_weight: float = 0.0
    """Weight of linearity between neighbours, d/dt encode(x_t) = A z_t."""
    detach_noisier: bool = True
    """Whether the noisier state is a fixed target of linearity."""
    later_only: bool = False
    """Whether to ask only for points of the path nearer to the picture."""

    def __post_init__(self):
        at_least(self, times=1, lr_scale_A=0, path_weight=0)
        at_least(self, linear_weight=0, infinitesimal_weight=0)


PAPER = Objective()


def unit_contrast(
    x: Float[Tensor, "batch ..."],
    sigma: Float[Tensor, "#batch"],
    sigma_data: float = SIGMA_DATA,
) -> Float[Tensor, "batch ..."]:
    """sigma_data x / sqrt(sigma_data^2 + sigma^2): x at level sigma with the deviation
    of a picture, x itself at 0.

    What path decoding asks for: noise at sigma_max is 160 times a picture, and no
    squared error would see the picture.
    """
    level = expand(sigma, x)
    return sigma_data * x / (sigma_data**2 + level**2).sqrt()


def path_decoding(
    model: Lifting,
    states: list[Tensor],
    t: Float[Tensor, "#batch"],
    x_u: Float[Tensor, "batch ..."],
    sigma_u: Float[Tensor, "#batch"],
    labels: Tensor | None = None,
) -> Float[Tensor, " batch"]:
    """Mean square of decode(e^{A (u - t)} encode(x_t)) less x_u at unit contrast,
    another point x_u of the same path, at noise level `sigma_u`.

    states = model.encode(x_t, t, labels). The decoder is told the last noise level
    whatever u is, so the states have to move, and only A can move them: with A = 0 the
    same picture would have to be every point of the path. A square at constant weight,
    without the features of `Distance`: those of noise mean nothing. Ours; not in the
    paper. Chapter 7.
    """
    image = model.decode(model.evolve(states, t, model.clock.time(sigma_u)), labels)
    wish = unit_contrast(x_u.float(), sigma_u, noise_of(model).sigma_data)
    return (image - wish).square().flatten(1).mean(1)


def linearity(
    model: Lifting,
    states: list[Tensor],
    t: Tensor,
    wish: list[Tensor],
    u: Tensor,
    detach_noisier: bool = True,
) -> Float[Tensor, " batch"]:
    """|e^{A (u - t)} z_t - z_u|^2 / |z_u|^2, a mean over operators: do encoded states
    lie on one linear path?

    states = model.encode(x_t, t), wish = model.encode(x_u, u). With `detach_noisier`
    each pair is taken from the picture towards the noise and the noisier state is a
    fixed target: the encoder near the picture follows, and the lift of the noise, which
    has to be steep where paths part, is left to the decoder's needs. Without, both ends
    give way, and the lift of the noise goes soft. The size below the line is detached
    in any case, so that growing it does not pay. An encoder that is constant along
    paths satisfies this with A = 0. Chapter 7.
    Source: HKD section 3.2, in words; the rest is ours.
    """
    if detach_noisier:
        pairs = [_towards_noise(z, y, u > t) for z, y in zip(states, wish, strict=True)]
        states = [z for z, _ in pairs]
        wish = [y.detach() for _, y in pairs]
        t, u = torch.minimum(t, u), torch.maximum(t, u)
    return _gap(model.evolve(states, t, u), wish)


def infinitesimal(
    model: Lifting,
    states: list[Tensor],
    t: Tensor,
    near: list[Tensor],
    u: Tensor,
    detach_noisier: bool = True,
) -> Float[Tensor, " batch"]:
    """|(e^{A (t - u)} z_u - z_t) / (t - u)|^2 / |z_t|^2 for a neighbour u of t: is d/dt
    encode(x_t) = A z_t?

    As u approaches t the quotient becomes dz/dt - A z, the Lie derivative of the
    observables along the flow less what A says of it. It is 0 for exactly linear states
    however far the neighbour is, and needs nothing of the teacher but the stored path.
    states = model.encode(x_t, t), near = model.encode(x_u, u); `detach_noisier` as in
    `linearity`. Turan et al. take the derivative exactly, as a
    Jacobian-vector product. Chapter 7.
    Source: Turan et al. 2025 (generator consistency).
    """
    return linearity(model, near, u, states, t, detach_noisier) / (t - u) ** 2


def _towards_noise(z: Tensor, y: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The pair with its noisier state second; `up` (batch,) says that it is so
    already.
    """
    up = expand(up, z).bool()
    return torch.where(up, z, y), torch.where(up, y, z)


def _gap(states: list[Tensor], wish: list[Tensor]) -> Float[Tensor, " batch"]:
    gaps = [
        _squared(y - z) / _squared(z.detach())
        for y, z in zip(states, wish, strict=True)
    ]
    return sum(gaps[1:], gaps[0]) / len(gaps)


def _squared(z: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    return z.float().square().flatten(1).sum(1)


def hkd_loss(
    model: Lifting,
    distance: Callable,
    x: Float[Tensor, "batch s ..."],
    sigma: Float[Tensor, "batch s"],
    end: Float[Tensor, "batch ..."],
    progress: float = 1.0,
    labels: Tensor | None = None,
    objective: Objective = PAPER,
    **further: Tensor,
) -> dict[str, Tensor]:
    """Trajectory consistency and reconstruction in one mean: d(decode(e^{A (eps - t)}
    encode(x_t)), x_eps) over s times.

    `model` is an HKD. x[:, k] is the path at level sigma[:, k], with k = 0 at T
    (reconstruction) and the rest anywhere (consistency); `end` is the path's end,
    `labels` (batch,) its class; d is `distance` at `progress`, the part of the run in
    [0, 1] that is over. Times are folded into the batch. `objective` adds terms that
    are not the paper's; path decoding and linearity want x_u, sigma_u (batch, s), any
    other point of the path for each x, the infinitesimal one x_near, sigma_near, a
    neighbour. Returns scalars: loss, mse, perceptual, mse_T, and one for each added
    term.
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
    there = lambda name: (
        further[f"x_{name}"].flatten(0, 1),
        further[f"sigma_{name}"].flatten(),
    )
    added = {}
    if objective.path_weight:
        added["path"] = path_decoding(model, states, t, *there("u"), repeat(labels))
    for name, term, place in (
        ("linear", linearity, "u"),
        ("infinitesimal", infinitesimal, "near"),
    ):
        if getattr(objective, f"{name}_weight"):
            x_u = there(place)[0]
            u = model.clock.time(there(place)[1])
            added[name] = term(
                model,
                states,
                t,
                model.encode(x_u, u, repeat(labels)),
                u,
                objective.detach_noisier,
            )
    added = {name: term.mean() for name, term in added.items()}
    terms["loss"] = sum(
        (getattr(objective, f"{name}_weight") * term for name, term in added.items()),
        terms["loss"],
    )
    return terms | added
