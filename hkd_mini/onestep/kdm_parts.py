"""What a KDM is made of beside its networks: one matrix, dense or by its eigenvalues,
and a critic.

K has no time in it, so there is no path to read, but it has a spectrum: K dense, or P B
P^-1 with blocks B whose eigenvalues lie in the unit disc. The inverse is the true one,
so that the eigenvalues shown are those of the matrix applied. Chapter: 16 "Its sibling,
KDM".
Source: Berman et al. 2025 (KDM, arXiv 2505.13358).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn


class Dense(nn.Module):
    """z -> K z + b with a full matrix n x n, which starts as the identity.

    The start is ours: the published code has the random one of a linear layer.
    Source: KDM dense operator.
    """

    def __init__(self, n: int):
        super().__init__()
        self.K = nn.Parameter(torch.eye(n))
        self.bias = nn.Parameter(torch.zeros(n))

    def matrix(self) -> Float[Tensor, "n n"]:
        """The matrix that is applied."""
        return self.K

    def eigenvalues(self) -> Complex[Tensor, " n"]:
        """Of the matrix that is applied, by LAPACK."""
        return torch.linalg.eigvals(self.matrix().double())

    def forward(self, z: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        return z @ self.matrix().T + self.bias


class Decomposed(Dense):
    """The same with K = P B P^-1, B of 2x2 blocks r [[cos, -sin], [sin, cos]], r =
    exp(-exp(nu)) in (0, 1).

    This form is ours. The published code has complex P and Q, n free complex numbers
    Lambda and applies Re(P Lambda Q), with a learned Q for P^-1: its eigenvalues are
    not Lambda. Here P^-1 is the inverse by LU, and the pairs are conjugate. n is even.
    Source: KDM decomposed operator; the real form and the inverse are ours.
    """

    def __init__(self, n: int):
        super().__init__(n)
        # P, which starts orthogonal
        self.K = nn.Parameter(torch.linalg.qr(torch.randn(n, n))[0])
        self.nu = nn.Parameter(torch.full((n // 2,), -3.0))
        self.theta = nn.Parameter(0.1 * torch.randn(n // 2))

    def blocks(self) -> Float[Tensor, "n n"]:
        """B."""
        lam = torch.polar((-self.nu.exp()).exp(), self.theta)
        pairs = torch.stack(
            [
                torch.stack([lam.real, -lam.imag], -1),
                torch.stack([lam.imag, lam.real], -1),
            ],
            -2,
        )
        return torch.block_diag(*pairs)

    def matrix(self) -> Float[Tensor, "n n"]:
        # P B P^-1, one LU
        return torch.linalg.solve(self.K.T, (self.K @ self.blocks()).T).T

    def eigenvalues(self) -> Complex[Tensor, " n"]:
        """r e^{+-i theta}: read off, not computed."""
        lam = torch.polar((-self.nu.double().exp()).exp(), self.theta.double())
        return torch.cat([lam, lam.conj()])


class Discriminator(nn.Module):
    """Three convolutions of stride 2 and a map of logits: does this patch come from the
    teacher?
    Source: KDM discriminator.
    """

    def __init__(self, channels: int = 3, width: int = 64):
        super().__init__()
        # the original has batch norm, which ties a batch together
        norm = lambda c: nn.GroupNorm(8, c)
        layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for c in (width, 2 * width):
            layers += [nn.Conv2d(c, 2 * c, 4, 2, 1), norm(2 * c), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4, 1, 1))

    def forward(
        self, x: Float[Tensor, "batch c h w"]
    ) -> Float[Tensor, "batch patches"]:
        return self.layers(x).flatten(1)


def adversarial_loss(
    critic: nn.Module, made: Tensor, real: Tensor
) -> tuple[Tensor, Tensor]:
    """(what the model pays for being found out, what the critic pays for its mistakes):
    two cross entropies.

    Both move in one step: the first sees the critic's weights as constants, the second
    the pictures. `made` are the model's pictures, `real` the teacher's (batch, c, h,
    w). The critic pays half the sum of its two entropies; the published code's pays the
    sum, before the model's step.
    Source: KDM adversarial loss.
    """
    fixed = {k: v.detach() for k, v in critic.named_parameters()}
    entropy = lambda logits, label: F.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, label)
    )
    fooled = entropy(torch.func.functional_call(critic, fixed, (made,)), 1.0)
    return fooled, (
        entropy(critic(real), 1.0) + entropy(critic(made.detach()), 0.0)
    ) / 2


def spectrum_loss(
    eigenvalues: Complex[Tensor, " n"], wish: Complex[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Mean distance of `eigenvalues` from those of `wish`, both in order of modulus.

    The order is ours: the paper's code pairs them as they come.
    Source: KDM spectrum loss.
    """
    order = lambda v: v[v.abs().argsort()]
    return (order(eigenvalues) - order(wish)).abs().mean()
