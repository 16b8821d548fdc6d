"""A lift that is learned: encode, evolve in closed form, decode, for flows of a few
dimensions.

Where nobody knows observables that close under a flow, networks can look for them: an
encoder E that lifts a state x to d observables, a generator A that moves these, a
decoder D that returns to the state. Three losses say what a lift is: D undoes E, the
lifted path is the linear one, and what is decoded along it is the path itself. The
forecast D(e^{A t} E(x)) costs the same for every t. That is HKD in miniature; what
differs, the chapter says.

A flow with a continuum of frequencies has no finite lift. With `spectrum="state"` each
pair (p, q) turns at a frequency that depends on its own length. A turn keeps lengths,
so the closed form stays exact. Chapter: 5 "Learning the lift".
Source: Takeishi et al. 2017, Lusch et al. 2018, Otto & Rowley 2019.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .generator import KoopmanGenerator

SPECTRA = ("fixed", "state")
# first weights and biases, in torch's units: bends all over the box, and far more
# digits per step
SPREAD = 3.0
# last ones, so that a network starts next to a linear map: training does not unfold a
# random one's folds
SMALL = 0.1


class MLP(nn.Module):
    """A linear map plus a residual network, n -> m numbers: `depth` hidden layers of
    `width`, torch's random start.
    """

    def __init__(self, n: int, m: int, width: int = 64, depth: int = 2):
        super().__init__()
        if width < 1 or not 1 <= depth <= 1000:
            raise ValueError(
                f"width = {width}, depth = {depth}: 1 or more, depth to 1000"
            )
        self.skip = nn.Linear(n, m, bias=False)
        self.first = nn.Linear(n, width)
        self.last = nn.Linear(width, m)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        with torch.no_grad():
            for layer, scale in ((self.first, SPREAD), (self.last, SMALL)):
                layer.weight.mul_(scale)
                layer.bias.mul_(scale)

    def forward(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
        h = F.silu(self.first(x))
        for layer in self.layers:
            h = h + F.silu(layer(h))
        return self.skip(x) + self.last(h)


class KoopmanAutoencoder(nn.Module):
    """Encoder E, generator A, decoder D for states of n numbers and d observables: x(t)
    ~ D(e^{A t} E(x)).

    `spectrum="fixed"`: A is a `KoopmanGenerator`, d/2 blocks alpha +- i beta, zero at
    the start. `spectrum="state"`: alpha = 0, and pair k turns at beta_k(r) for pairs of
    squared lengths r = p^2 + q^2, a small network. States are (batch, d, 1, 1), as
    HKD's are at one location. `width` and `depth` are those of `MLP`. Raises ValueError
    for an odd d or another `spectrum`.
    Source: Lusch et al. 2018 (both spectra; theirs moves in steps), with HKD's blocks.
    """

    def __init__(
        self, n: int, d: int, width: int = 64, depth: int = 2, spectrum: str = "fixed"
    ):
        super().__init__()
        if spectrum not in SPECTRA:
            raise ValueError(
                f'spectrum = {spectrum!r}: one of "fixed" (one A), "state" '
                "(frequencies of the state)"
            )
        # first, for its check of d
        self.generator: KoopmanGenerator | None = KoopmanGenerator(d)
        self.encoder = MLP(n, d, width, depth)
        self.decoder = MLP(d, n, width, depth)
        if spectrum == "state":
            self.generator = None
            self.frequency = MLP(d // 2, d // 2, width)

    def encode(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch d 1 1"]:
        """The observables z = E(x)."""
        return self.encoder(x)[:, :, None, None]

    def rates(
        self, z: Float[Tensor, "batch d 1 1"]
    ) -> Float[Tensor, "batch pairs 1 1"]:
        """beta_k of the pairs of each state z, for `spectrum="state"`: a function of
        their lengths and of nothing else. Raises ValueError for "fixed".
        """
        if self.generator is not None:
            raise ValueError(
                'spectrum = "fixed": the rates are generator.eigenvalues(), for all '
                "states"
            )
        p, q = z.chunk(2, dim=1)
        return self.frequency((p * p + q * q).flatten(1))[:, :, None, None]

    def evolve(
        self, z: Float[Tensor, "batch d 1 1"], dt: float | Float[Tensor, "#batch"]
    ) -> Float[Tensor, "batch d 1 1"]:
        """Move observables by dt, one number or one per state: e^{A dt} z, or the turn
        by -beta(r) dt of each pair.
        """
        if self.generator is not None:
            return self.generator(z, dt)
        angle = self.rates(z) * (dt.view(-1, 1, 1, 1) if isinstance(dt, Tensor) else dt)
        p, q = z.chunk(2, dim=1)
        c = angle.cos()
        s = angle.sin()
        return torch.cat([c * p + s * q, c * q - s * p], dim=1)

    def decode(self, z: Float[Tensor, "batch d 1 1"]) -> Float[Tensor, "batch n"]:
        """The state D(z)."""
        return self.decoder(z.flatten(1))

    def forecast(
        self, x: Float[Tensor, "batch n"], times: Iterable[float]
    ) -> Float[Tensor, "k batch n"]:
        """D(e^{A t} E(x)) for each of the times: one encoding, one jump each, no step
        in between.
        """
        z = self.encode(x)
        return torch.stack([self.decode(self.evolve(z, float(t))) for t in times])


class Weights(NamedTuple):
    """How much each term of `koopman_loss` counts; 0 leaves it out."""

    reconstruction: float = 1.0
    linearity: float = 1.0
    prediction: float = 1.0


class Terms(NamedTuple):
    """The weighted sum, and the three terms themselves."""

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    linearity: Float[Tensor, ""]
    prediction: Float[Tensor, ""]


def koopman_loss(
    model: KoopmanAutoencoder,
    x: Float[Tensor, "batch n"],
    y: Float[Tensor, "batch n"],
    dt: Float[Tensor, "batch"],
    weights: Weights = Weights(),  # noqa: B008 (a NamedTuple cannot change)
    relative: bool = True,
) -> Terms:
    """The three losses of a lift, `model`, on pairs y = Phi_dt(x), each a mean of
    squares; their sum has `weights`.

    reconstruction |D(E(x)) - x|^2, linearity |e^{A dt} E(x) - E(y)|^2, prediction
    |D(e^{A dt} E(x)) - y|^2. The networks choose the scale of E, and small observables
    have small errors; so linearity counts in units of each pair's variance over the
    batch, unless `relative=False` (the papers' form). Not in units of the mean square:
    a large constant added to E would lower that for free while A is near 0. Raises
    ValueError for a batch of one, which has no variance.
    Source: Takeishi et al. 2017, Lusch et al. 2018, Otto & Rowley 2019.
    """
    if relative and len(x) < 2:
        raise ValueError(
            f"a batch of {len(x)} has no variance: give two pairs or more, or "
            "relative=False"
        )
    z, target = model.encode(torch.cat([x, y])).chunk(2)
    moved = model.evolve(z, dt)
    back, forecast = model.decode(torch.cat([z, moved])).chunk(2)
    missed = _square(moved - target)
    if relative:
        missed = missed / _square(z - z.mean(dim=0))
    terms = F.mse_loss(back, x), missed.mean(), F.mse_loss(forecast, y)
    return Terms(sum(weight * term for weight, term in zip(weights, terms)), *terms)


def _square(z):
    """Mean square of each pair over the batch."""
    return z.unflatten(1, (2, -1)).square().mean((0, 1))
