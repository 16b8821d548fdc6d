"""The one object of this book: a linear generator that moves observables through time
in closed form.

Observables z of a nonlinear flow obey dz/dt = A z. Over the complex numbers a
diagonalisable A is a list of rates, which for a real A come in conjugate pairs or are
real. It is stored as 2x2 blocks

    Lambda = [[alpha, beta], [-beta, alpha]],     eigenvalues alpha +- i beta,

one per pair (p, q) of channels. A real rate without an equal needs a block of its own,
with beta = 0 and one half idle: diag(-1, -2) takes two blocks. With w = p + i q a block
acts as multiplication, w' = e^{(alpha - i beta) dt} w: growth e^{alpha dt}, rotation by
-beta dt. So z moves from any time to any other, forwards or back, at the cost of one
product per number, and the generator can be read: its parameters are its eigenvalues.
Chapters: 2 "Exact lifts", 9 "The architecture".
Source: HKD eq 3, HKD eq 4, HKD appendix D.4 (arXiv 2510.12220).
"""

from typing import Annotated

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor, nn

from ..engine.checks import HOLES


class KoopmanGenerator(nn.Module):
    """The generator A of dz/dt = A z for states of shape (batch, d, h, w),
    block-diagonal at every location.

    z_s = exp(A (s - t)) z_t, with d/2 blocks [[alpha, beta], [-beta, alpha]] at each of
    the h * w locations.

    `A` is one parameter, (d, h, w): alpha in the first d/2 channels, beta in the
    second; p and q of a pair are likewise channels k and k + d/2 of the state.
    `spatial="shared"` keeps one set of blocks for all locations, (d, 1, 1). A starts at
    zero, where evolution is the identity, or with growth rates spread evenly over the
    pairs from one of `rates` to the other. Rates are per unit of the model's clock.
    Raises ValueError for an odd d or an unknown `spatial`.
    Source: HKD eq 3, HKD eq 4, HKD appendix D.4.
    """

    compiles = True

    def __init__(
        self,
        d: int,
        h: int = 1,
        w: int = 1,
        spatial: str = "local",
        rates: tuple[float, float] = (0.0, 0.0),
    ):
        super().__init__()
        if d % 2 or d < 2:
            raise ValueError(
                f"d = {d} channels: the blocks are 2x2, so d must be even and at "
                "least 2"
            )
        if spatial not in ("local", "shared"):
            raise ValueError(
                f'spatial = {spatial!r}: one of "local" (A at each location), '
                '"shared" (one A)'
            )
        self.A = nn.Parameter(
            torch.zeros((d, h, w) if spatial == "local" else (d, 1, 1))
        )
        with torch.no_grad():
            self.alpha.add_(torch.linspace(*rates, d // 2)[:, None, None])

    @property
    def alpha(self) -> Float[Tensor, "pairs h w"]:
        """Growth rates, the real parts: e^{alpha dt} is the factor of a pair's
        length.
        """
        return self.A.chunk(2)[0]

    @property
    def beta(self) -> Float[Tensor, "pairs h w"]:
        """Angular frequencies, the imaginary parts: a pair turns by -beta dt."""
        return self.A.chunk(2)[1]

    def forward(
        self,
        z: Float[Tensor, "batch d h w"],
        dt: float | Float[Tensor, "#batch"] | Float[Tensor, "#batch #pairs #h #w"],
        mask: Shaped[Tensor, "..."] | None = None,
        out: Annotated[Float[Tensor, "batch d h w"], HOLES] | None = None,
    ) -> Float[Tensor, "batch d h w"]:
        """Move states by dt: e^{A dt} z, exact for any dt, negative too.

        `dt` is one number, one per sample, or one per sample and pair. `mask` (d/2, h,
        w), if given, multiplies the evolved pairs. `out`, without gradients, takes the
        result: fetching new memory costs more than the product. Computed in A's
        precision, float32 at least; returned in z's. Raises ValueError if z does not
        have this generator's channels and locations, or `out` is z itself.
        Source: HKD eq 3, HKD eq 4.
        """
        self._check(z, out)
        c, s = self._turn(dt, mask)
        p, q = z.chunk(2, dim=1)
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or z.dtype != c.dtype
        ):
            moved = torch.cat(
                [torch.addcmul(c * p, s, q), torch.addcmul(c * q, s, p, value=-1)],
                dim=1,
            ).to(z.dtype)
            return moved if out is None else out.copy_(moved)
        out = torch.empty_like(z) if out is None else out
        # the same four products, straight to where they belong
        p_out, q_out = out.chunk(2, dim=1)
        torch.mul(p, c, out=p_out).addcmul_(q, s)
        torch.mul(q, c, out=q_out).addcmul_(p, s, value=-1)
        return out

    def from_anchor(
        self,
        zeta: Float[Tensor, "batch d h w"],
        t: float | Float[Tensor, "#batch"],
        ends: tuple[float, float],
    ) -> Float[Tensor, "batch d h w"]:
        """States at time t of pairs that are named at one of two times, eps and T of
        `ends`, where they are largest: e^{A (t - T)} zeta for a growth rate alpha >= 0,
        e^{A (t - eps)} zeta for the others. No factor exceeds 1 between the two.
        """
        at = torch.as_tensor(t, dtype=torch.float32, device=zeta.device)
        return self(zeta, self.since_anchor(at.reshape(-1, 1, 1, 1), ends))

    def since_anchor(
        self, t: Float[Tensor, "#batch 1 1 1"], ends: tuple[float, float]
    ) -> Float[Tensor, "#batch pairs h w"]:
        """How far t is from where each pair is named, eps or T of `ends`."""
        eps, T = ends
        return torch.where(self._rates()[0] >= 0, t - T, t - eps)

    def _turn(self, dt: float | Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """e^{alpha dt} cos(beta dt) and e^{alpha dt} sin(beta dt), times the mask:
        (d/2, h, w), or with the batch before.
        """
        alpha, beta = self._rates()
        if isinstance(dt, Tensor):
            dt = dt.to(alpha)
            dt = dt if dt.ndim == 4 else dt.view(-1, 1, 1, 1)
        growth = (alpha * dt).exp()
        angle = beta * dt
        c = growth * angle.cos()
        s = growth * angle.sin()
        return (c, s) if mask is None else (c * mask, s * mask)

    def _rates(self) -> tuple[Tensor, Tensor]:
        A = self.A.to(torch.promote_types(self.A.dtype, torch.float32))
        alpha, beta = A.chunk(2)
        return alpha, beta

    def eigenvalues(self) -> Complex[Tensor, "pairs h w"]:
        """alpha + i beta of every block; its conjugate is the block's other eigenvalue.
        Detached.
        """
        return torch.complex(*self._rates()).detach()

    def dense(self) -> Float[Tensor, "h w d d"]:
        """A as a full matrix at every location: [[diag alpha, diag beta], [-diag beta,
        diag alpha]].
        """
        alpha, beta = (
            torch.diag_embed(part.permute(1, 2, 0)) for part in self.A.chunk(2)
        )
        return torch.cat(
            [torch.cat([alpha, beta], -1), torch.cat([-beta, alpha], -1)], -2
        )

    def _check(self, z: Tensor, out: Tensor | None) -> None:
        d, h, w = self.A.shape
        if z.shape[1] != d or (h, w) != (1, 1) and z.shape[2:] != (h, w):
            raise ValueError(
                f"states of shape {tuple(z.shape)}: this generator moves (batch, {d}, "
                f"{h}, {w})"
            )
        if out is not None and out.data_ptr() == z.data_ptr():
            raise ValueError(
                "out is z itself: both halves of z are still needed when the first is "
                "written"
            )


def apply_mask(
    z: Float[Tensor, "batch d h w"], mask: Shaped[Tensor, "#pairs #h #w"]
) -> Float[Tensor, "batch d h w"]:
    """Weigh the pairs of a state z: both members of pair k at (i, j) by mask[k, i, j].

    0 or False removes a mode, 1 keeps it. A mask commutes with the evolution, since
    both are diagonal in the pairs. Raises ValueError for a mask that does not broadcast
    to (d/2, h, w).
    """
    pairs = (z.shape[1] // 2, *z.shape[2:])
    if mask.ndim != 3 or any(
        m not in (1, n) for m, n in zip(mask.shape, pairs, strict=True)
    ):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)}: wanted (pairs, h, w) = {pairs}, or "
            "ones for any of them"
        )
    return z * mask.expand(pairs).repeat(2, 1, 1)
