"""Terms that the paper does not have, which make A do the work.

Two ask what evolved states decode to on the way: the path's own points, or the
teacher's guesses. Two ask that the states of a path move linearly. Chapters: 7 "One
step in the plane", 10 "Training".
Source: ours, but for what the functions name.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.schedule import SIGMA_DATA, expand, noise_of
from .model import Lifting


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
    wish = unit_contrast(x_u.float(), sigma_u, noise_of(model).sigma_data)
    return guess_decoding(model, states, t, wish, sigma_u, labels)


def guess_decoding(
    model: Lifting,
    states: list[Tensor],
    t: Float[Tensor, "#batch"],
    guess_u: Float[Tensor, "batch ..."],
    sigma_u: Float[Tensor, "#batch"],
    labels: Tensor | None = None,
) -> Float[Tensor, " batch"]:
    """Mean square of decode(e^{A (u - t)} encode(x_t)) less the teacher's guess D(x_u;
    sigma_u), at another point x_u of the same path.

    states = model.encode(x_t, t, labels). At u = eps the guess is the path's end (EDM's
    last step goes there), and this is the paper's own target. On the way it is a
    picture too, the mean of all that x_u may become, and changes from one level to the
    next: with A = 0 one picture would have to be all of them. Nothing asks for the
    noise of x_u, so states need not carry it. Ours; not in the paper. Chapter 7.
    """
    image = model.decode(model.evolve(states, t, model.clock.time(sigma_u)), labels)
    return (image - guess_u.float()).square().flatten(1).mean(1)


def linearity(
    model: Lifting,
    states: list[Tensor],
    t: Tensor,
    wish: list[Tensor],
    u: Tensor,
    detach_noisier: bool = True,
    scale: str = "size",
) -> Float[Tensor, " batch"]:
    """|e^{A (u - t)} z_t - z_u|^2 / |z_u|^2, a mean over operators: do encoded states
    lie on one linear path?

    states = model.encode(x_t, t), wish = model.encode(x_u, u). With `detach_noisier`
    each pair is taken from the picture towards the noise and the noisier state is a
    fixed target: the encoder near the picture follows, and the lift of the noise, which
    has to be steep where paths part, is left to the decoder's needs. Without, both ends
    give way, and the lift of the noise goes soft. The size below the line is detached
    in any case, so that growing it does not pay. With `scale` "variance" it is the
    variance of z_u over the batch, which nothing that all states share adds to. An
    encoder that is constant along
    paths satisfies this with A = 0. Chapter 7.
    Source: HKD section 3.2, in words; the rest is ours.
    """
    if detach_noisier:
        pairs = [_towards_noise(z, y, u > t) for z, y in zip(states, wish, strict=True)]
        states = [z for z, _ in pairs]
        wish = [y.detach() for _, y in pairs]
        t, u = torch.minimum(t, u), torch.maximum(t, u)
    below = {"size": _squared, "variance": _variance}[scale]
    gaps = [
        _squared(y - z) / below(z.detach())
        for y, z in zip(model.evolve(states, t, u), wish, strict=True)
    ]
    return sum(gaps[1:], gaps[0]) / len(gaps)


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


def _squared(z: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    return z.float().square().flatten(1).sum(1)


def _variance(z: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    return z.float().var(0, correction=0).sum()
