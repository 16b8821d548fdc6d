"""Editing a picture on its way: mix, scale, fill in, colour, in the states of an HKD.

A state is a list of pairs that move independently, so an edit is a weight for each
pair: which bands, where in the picture, how much. Mixing a reference's states z' into
generated ones,

    z <- (1 - v) z + v z',      v = ratio * band mask * region,

is linear and diagonal in the pairs, as the evolution is, and so the two commute: an
edit at any time equals the same edit at the end. What the time decides is how the
reference was encoded: at which noise level it was looked at. Inpainting and
colourisation repeat one step: jump to the picture, put back what is known, go back to a
lower noise level; one evaluation a round. Chapter: 14 "Edit a picture on its way".
Source: HKD section 4.3; consistency models (arXiv 2303.01469), algorithm 4.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..engine.checks import HOLES, as_pictures
from ..koopman.generator import apply_mask
from .model import HKD

# of red, green, blue in what the eye calls brightness: ITU-R BT.601
LUMA = (0.299, 0.587, 0.114)


def lower_left(n: int = 32) -> Float[Tensor, "n n"]:
    """The region under the diagonal of an n x n picture, 1 inside.
    Source: HKD figure 5.
    """
    return torch.ones(n, n).tril()


def lower_half(n: int = 32) -> Float[Tensor, "n n"]:
    """The lower half of an n x n picture, 1 inside."""
    return torch.cat([torch.zeros(n // 2, n), torch.ones(n - n // 2, n)])


def at_resolution(
    region: Shaped[Tensor, "height width"], h: int, w: int
) -> Float[Tensor, "h w"]:
    """A region of the picture as weights in [0, 1] for the locations of a state: the
    covered share of each.

    Raises ValueError for values outside [0, 1], or sides that are no multiples of h and
    w.
    """
    region = region.float()
    if region.ndim != 2 or region.shape[0] % h or region.shape[1] % w:
        raise ValueError(
            f"region of shape {tuple(region.shape)}: wanted a picture's, multiples of "
            f"{h} x {w}"
        )
    if not 0 <= region.min() <= region.max() <= 1:
        raise ValueError(
            f"region with values from {float(region.min()):g} to "
            f"{float(region.max()):g}: in [0, 1]"
        )
    return F.adaptive_avg_pool2d(region[None], (h, w))[0]


def inject(
    states: list[Float[Tensor, "batch _ _ _"]],
    reference: list[Float[Tensor, "#batch _ _ _"]],
    masks: Sequence[Shaped[Tensor, "_ _ _"] | None] | None = None,
    ratio: float = 0.5,
    region: Shaped[Tensor, "height width"] | None = None,
) -> list[Float[Tensor, "batch _ _ _"]]:
    """Mix a reference's band into states at the same time: (1 - v) z + v z' with v =
    ratio * mask * region, per pair.

    `masks` (d_l/2, h_l, w_l) choose the band, all modes where None: the
    frequency-agnostic control. None in place of one mask leaves that state alone.
    `region`, of the picture's size, chooses where. `ratio` 0 is the identity to the
    bit, 1 replaces. Raises ValueError for a ratio outside [0, 1], or what does not fit.
    Source: HKD section 4.3.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio = {ratio}: wanted a share in [0, 1]")
    masks = [z.new_ones(1, 1, 1) for z in states] if masks is None else masks
    mixed = []
    for z, other, mask in zip(states, reference, masks, strict=True):
        ones = torch.ones_like(z[:1])
        weight = 0 * ones if mask is None else apply_mask(ones, mask)
        if region is not None:
            weight = weight * at_resolution(region, *z.shape[2:])
        mixed.append(torch.lerp(z, other.expand_as(z), (ratio * weight).expand_as(z)))
    return mixed


@torch.no_grad()
def edited(
    model: HKD,
    noise: Float[Tensor, "batch ..."],
    reference: Float[Tensor, "#batch ..."],
    t: float,
    masks: Sequence[Shaped[Tensor, "_ _ _"] | None] | None = None,
    ratio: float = 0.5,
    region: Shaped[Tensor, "height width"] | None = None,
    u: float | None = None,
    labels: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch ..."]:
    """Pictures from unit noise with a band of a reference injected at time t.

    `reference` is x_t of the reference, at noise level clock.sigma(t): a point of its
    own path, or picture plus noise (`noised`). States of `model` are evolved T -> t,
    mixed by `masks`, `ratio`, `region` (`inject`), evolved t -> u, decoded. At `u` =
    eps, where None is given, it is the picture; before, the edited guess. Both are told
    `labels` (batch,), for a model of classes; the reference then is as many.
    Source: HKD section 4.3, HKD figure 5.
    """
    T = model.clock.T
    states = model.evolve(model.encode(model.noise.sigma_max * noise, T, labels), T, t)
    mixed = inject(states, model.encode(reference, t, labels), masks, ratio, region)
    end = model.clock.eps if u is None else u
    return model.decode(model.evolve(mixed, t, end), labels)


def noised(
    model: HKD,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    t: float,
) -> Float[Tensor, "batch ..."]:
    """x_t = x0 + sigma(t) noise: a picture x0, with unit noise, as a point of the
    model's path at time t, when the path itself is not at hand.
    """
    as_pictures("x0", x0)
    return x0 + float(model.clock.sigma(t)) * noise


@torch.no_grad()
def interpolate(
    model: HKD,
    a: Float[Tensor, "batch ..."],
    b: Float[Tensor, "batch ..."],
    weights: Float[Tensor, " k"],
    labels: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "k batch ..."]:
    """Pictures of `model` between two unit noises, on straight lines between their
    states: weight 0 is a's, 1 is b's; all told `labels` (batch,), if any.

    States at any time give the same pictures, as the evolution is linear. Raises
    ValueError for weights outside [0, 1].
    """
    T = model.clock.T
    lift = lambda n: model.encode(model.noise.sigma_max * n, T, labels)
    of_a, of_b = (model.evolve(lift(n), T, model.clock.eps) for n in (a, b))
    mixed = (inject(of_a, of_b, ratio=float(weight)) for weight in weights)
    return torch.stack([model.decode(states, labels) for states in mixed])


@torch.no_grad()
def restore(
    model: HKD,
    put_back: Callable[[Float[Tensor, "batch 3 h w"]], Float[Tensor, "batch 3 h w"]],
    noise: Float[Tensor, "_ batch 3 h w"],
    sigmas: Float[Tensor, " rounds"],
    labels: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch 3 h w"]:
    """Complete pictures of which a part is known: in every round jump to a picture, put
    the known part back, add noise.

    `put_back` replaces the known part of a picture, `noise` is unit noise for each
    round, `sigmas` its falling levels; it begins with what is known, on zero. `labels`
    (batch,) are told to a model of classes. Raises ValueError for levels that do not
    fall or leave the model's.
    Source: HKD figure 6; consistency models, algorithm 4.
    """
    ends = model.noise
    inside = ends.sigma_min <= sigmas[-1] <= sigmas[0] <= ends.sigma_max
    falls = inside and (sigmas[1:] < sigmas[:-1]).all()
    if len(noise) != len(sigmas) or not falls:
        raise ValueError(
            f"{len(noise)} noises for levels {sigmas.tolist()}: wanted one each, "
            f"falling from at most {ends.sigma_max:g} to at least {ends.sigma_min}"
        )
    x = put_back(torch.zeros_like(noise[0]))
    for n, sigma in zip(noise, sigmas.tolist()):
        t = model.clock.time(sigma)
        states = model.encode(x + sigma * n, t, labels)
        x = model.decode(model.evolve(states, t, model.clock.eps), labels)
        x = put_back(x.clamp(-1, 1))
    return x


def inpaint(
    model: HKD,
    image: Annotated[Float[Tensor, "batch 3 h w"], HOLES],
    known: Shaped[Tensor, "#h #w"],
    noise: Float[Tensor, "_ batch 3 h w"],
    sigmas: Float[Tensor, " rounds"],
    labels: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch 3 h w"]:
    """Fill in what is missing by `model`: where `known` is 1 (or True) the picture is
    given, elsewhere `image` is not looked at.

    See `restore` for noise, `sigmas`, labels and errors. Known pixels come back as they
    were.
    """
    as_pictures("image", torch.where(known > 0, image, -0.5))
    put_back = lambda x: torch.where(known > 0, image, x)
    return restore(model, put_back, noise, sigmas, labels)


def luminance(images: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch h w"]:
    """Brightness of `images`, in their own range.
    Source: ITU-R BT.601.
    """
    return torch.einsum("...chw,c->...hw", images, images.new_tensor(LUMA))


def with_luminance(
    x: Float[Tensor, "batch 3 h w"], luma: Float[Tensor, "batch h w"]
) -> Float[Tensor, "batch 3 h w"]:
    """The colours of x at another brightness `luma`, drawn towards grey where they
    would leave [-1, 1].

    x = Y(x) + c with Y(c) = 0, so every Y + k c has brightness Y; k in [0, 1] is the
    largest that fits, at each pixel.
    """
    grey = luma[:, None]
    c = x - luminance(x)[:, None]
    room = torch.where(c > 0, 1 - grey, 1 + grey)
    k = (room / c.abs().clamp(min=1e-6)).amin(1, keepdim=True).clamp(0, 1)
    return grey + k * c


def colourise(
    model: HKD,
    luma: Float[Tensor, "batch h w"],
    noise: Float[Tensor, "_ batch 3 h w"],
    sigmas: Float[Tensor, " rounds"],
    labels: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch 3 h w"]:
    """Colour a picture of which the brightness `luma` is known, in [-1, 1]; it comes
    back as it was.

    In every round the model's colours are kept and its brightness is replaced
    (`with_luminance`). See `restore` for noise, `sigmas`, labels and errors.
    """
    as_pictures("luma", luma)
    put_back = lambda x: with_luminance(x, luma)
    return restore(model, put_back, noise, sigmas, labels)
