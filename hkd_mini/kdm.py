"""The sibling: a Koopman distillation model, one matrix on one latent vector from noise
to picture.

Where HKD moves many states by blocks for any time, KDM lifts both ends of a path by
encoders of their own, z_T and z_0, and one matrix takes the first to the second:

    z_0 ~ K z_T + b,       picture = D(K E_T(x_T) + b).

Three losses tie it: pictures come back (reconstruction), the pushed latent is the
picture's (latent), and it decodes to the picture (push). Noise in the latents makes the
decoder smooth. K has no time in it, so there is no path to read, but it has a spectrum:
K dense, or P B P^-1 with blocks B whose eigenvalues lie in the unit disc. The inverse
is the true one, so that the eigenvalues shown are those of the matrix applied. Chapter:
16 "Its sibling, KDM".
Source: Berman et al. 2025 (KDM, arXiv 2505.13358).
"""

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from .networks import Embedding, MLPConfig, Network, PointNet, UNetConfig, linear
from .schedule import SIGMA_DATA, SIGMA_MAX
from .teacher import one_hot
from .weights import Saved


@dataclass(frozen=True)
class KDMConfig:
    """What a KDM is: its networks, and its operator.

    `operator` is "dense" or "decomposed" (P B P^-1, eigenvalues in the unit disc).
    `project` (pictures) is the length of the latent after a linear layer, 0 for the
    whole one-channel picture. `noise` is the deviation of what is added to latents in
    training; `adversarial` and `eigen` weigh the two further losses, 0 where they are
    off.
    """

    network: UNetConfig | MLPConfig = field(default_factory=UNetConfig)
    operator: str = "dense"
    project: int = 0
    noise: float = 0.4
    adversarial: float = 0.0
    eigen: float = 0.0

    def __post_init__(self):
        if self.operator not in ("dense", "decomposed"):
            raise ValueError(
                f'operator = {self.operator!r}: one of "dense", "decomposed"'
            )
        if self.latent % 2 and self.operator == "decomposed":
            raise ValueError(
                f"a latent of {self.latent} numbers: 2x2 blocks need an even one"
            )

    @property
    def latent(self) -> int:
        """Length of the latent vector."""
        if isinstance(self.network, MLPConfig):
            return self.network.state
        return self.project or self.network.resolution**2


_MINI = UNetConfig(
    channels=48, mult=(1, 2), blocks=2, attention=(8,), patch=2, adaptive_scale=True
)
# KDM's repository: CIFAR-10, then 64 x 64
_PAPER = UNetConfig(channels=64, mult=(1, 2, 2, 2), dropout=0.1)
KDM_PRESETS: dict[str, KDMConfig] = {
    "toy2d": KDMConfig(MLPConfig(state=256, width=256)),
    "cifar10-mini": KDMConfig(_MINI),
    "cifar10": KDMConfig(_PAPER, adversarial=0.01),
    "cifar10-cond": KDMConfig(replace(_PAPER, labels=10), adversarial=0.01),
    "64x64": KDMConfig(
        replace(_PAPER, resolution=64, channels=32), project=512, adversarial=0.01
    ),
}


class Dense(nn.Module):
    """z -> K z + b with a full matrix, which starts as the identity."""

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

    P^-1 is the inverse by LU, where the paper's code learns a second matrix beside P
    and asks it to be the inverse: then what is applied has other eigenvalues than those
    shown.
    Source: KDM appendix; the inverse is ours.
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


class KDM(nn.Module, Saved):
    """Two encoders, a matrix, a decoder: `sample` makes pictures from unit noise in one
    go.

    Source: KDM section 4; with classes, a vector for each is added after the matrix,
    the control of a linear system.
    """

    config_types = (KDMConfig,)

    def __init__(self, config: KDMConfig):
        super().__init__()
        self.config = config
        net = config.network
        n = config.latent
        self.points = isinstance(net, MLPConfig)
        self.operator = (Dense if config.operator == "dense" else Decomposed)(n)
        self.control = linear(net.labels, n) if net.labels else None
        if self.points:
            self.embedding = Embedding(net.channels)
            self.noise_encoder, self.encoder = (
                PointNet(net, encode=True) for _ in range(2)
            )
            self.decoder = PointNet(net, encode=False)
        else:
            self.noise_encoder, self.encoder = (
                Network(replace(net, out_channels=1)) for _ in range(2)
            )
            self.decoder = Network(
                replace(net, in_channels=1, out_channels=net.in_channels)
            )
        sides = (
            ("noise", "picture", "back") if config.project and not self.points else ()
        )
        full = 0 if self.points else net.resolution**2
        self.projections = nn.ModuleDict(
            {k: linear(*((full, n), (n, full))[k == "back"]) for k in sides}
        )
        self.critic = Discriminator(net.in_channels) if config.adversarial else None

    def encode_noise(
        self, x_T: Float[Tensor, "batch ..."], labels: Tensor | None = None
    ) -> Float[Tensor, "batch n"]:
        """E_T: the latent of x_T at level sigma_max, scaled to unit deviation first."""
        return self._encode(
            self.noise_encoder,
            x_T / math.hypot(SIGMA_MAX, SIGMA_DATA),
            1.0,
            labels,
            "noise",
        )

    def encode(
        self, x_0: Float[Tensor, "batch ..."], labels: Tensor | None = None
    ) -> Float[Tensor, "batch n"]:
        """E_0: the latent of a picture."""
        return self._encode(self.encoder, x_0, 0.0, labels, "picture")

    def push(
        self, z_T: Float[Tensor, "batch n"], labels: Int[Tensor, " batch"] | None = None
    ) -> Tensor:
        """K z_T + b, and the class's vector: the latent of the picture, as the matrix
        has it.
        """
        z_0 = self.operator(z_T)
        return (
            z_0
            if labels is None
            else z_0 + self.control(one_hot(labels, self.config.network.labels))
        )

    def decode(
        self, z_0: Float[Tensor, "batch n"], labels: Tensor | None = None
    ) -> Float[Tensor, "batch ..."]:
        """D: the picture of a latent, about [-1, 1]."""
        if self.points:
            return self.decoder(
                [z_0[:, :, None, None]], self.embedding(z_0.new_zeros(len(z_0)))
            )
        side = self.config.network.resolution
        image = self.projections["back"](z_0) if self.projections else z_0
        return self._network(
            self.decoder, image.reshape(-1, 1, side, side), 0.0, labels
        )

    @torch.no_grad()
    def sample(
        self, noise: Float[Tensor, "batch ..."], labels: Tensor | None = None
    ) -> Float[Tensor, "batch ..."]:
        """Pictures in [-1, 1], or points, from unit noise."""
        x = self.decode(
            self.push(self.encode_noise(SIGMA_MAX * noise, labels), labels), labels
        )
        return x if self.points else x.clamp(-1, 1)

    def forward(
        self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """As a one-step student: x at sigma_max to the picture. `sigma` is not looked
        at.
        """
        return self.decode(self.push(self.encode_noise(x, labels), labels), labels)

    def _encode(
        self, net: nn.Module, x: Tensor, time: float, labels: Tensor | None, side: str
    ) -> Tensor:
        if self.points:
            return net(x.float(), self.embedding(x.new_full((len(x),), time)))[
                0
            ].flatten(1)
        z = self._network(net, x.float(), time, labels).flatten(1)
        return self.projections[side](z) if self.projections else z

    def _network(
        self, net: Network, x: Tensor, time: float, labels: Tensor | None
    ) -> Tensor:
        return net(
            x, x.new_full((len(x),), time), one_hot(labels, self.config.network.labels)
        ).float()


class Discriminator(nn.Module):
    """Three convolutions of stride 2 and a map of logits: does this patch come from the
    teacher?
    Source: KDM's code.
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
    the pictures.
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
    """Mean distance of eigenvalues from wished ones, both in order of their modulus.

    The order is ours: the paper's code pairs them as they come. Source: KDM appendix.
    """
    order = lambda v: v[v.abs().argsort()]
    return (order(eigenvalues) - order(wish)).abs().mean()


def kdm_loss(
    model: KDM, teacher, x0, noise, u, progress: float, d, labels: Tensor | None = None
) -> Tensor:
    """Latent, reconstruction and push losses in one sum, and the adversarial and
    spectral ones where they have weights.

    |E_0(x_0) - z|^2 + d(D(E_0(x_0) + noise), x_0) + d(D(z), x_0), z = K (E_T(x_T) +
    noise) + b. x0 (batch, *shape) the end of the path that starts at sigma_max `noise`;
    d a distance (a, b, progress) -> (batch,). `teacher` and `u` are not used: the
    signature is that of `onestep`.
    Source: KDM section 4.
    """
    config = model.config
    z_0 = model.encode(x0, labels)
    z_T = model.encode_noise(SIGMA_MAX * noise, labels)
    # as dropout: torch's own stream, kept in checkpoints
    shaken = lambda z: z + config.noise * torch.randn_like(z)
    pushed = model.push(shaken(z_T), labels)
    made = model.decode(pushed, labels)
    loss = (z_0 - pushed).square().mean()
    loss = (
        loss
        + (
            d(model.decode(shaken(z_0), labels), x0, progress) + d(made, x0, progress)
        ).mean()
    )
    if config.adversarial:
        fooled, mistaken = adversarial_loss(model.critic, made, x0)
        loss = loss + config.adversarial * fooled + mistaken
    if config.eigen:
        wish = torch.polar(
            *torch.rand(
                2, config.latent, generator=torch.Generator().manual_seed(0)
            ).double()
        )
        loss = (
            loss
            + config.eigen
            * spectrum_loss(model.operator.eigenvalues(), wish.to(loss.device)).float()
        )
    return loss
