"""The sibling: a Koopman distillation model, one matrix on one latent vector from noise
to picture.

Where HKD moves many states by blocks for any time, KDM lifts both ends of a path by
encoders of their own, z_T and z_0, and one matrix takes the first to the second:

    z_0 ~ K z_T + b,       picture = D(K E_T(x_T) + b).

Three losses tie it: pictures come back (reconstruction), the pushed latent is the
picture's (latent), and it decodes to the picture (push). Noise in the latents makes the
decoder smooth. Chapter: 16 "Its sibling, KDM".
Source: Berman et al. 2025 (KDM, arXiv 2505.13358).
"""

import math
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..diffusion.layers import Embedding, linear
from ..diffusion.networks import MLPConfig, Network, PointDecoder, PointEncoder
from ..diffusion.samplers import classes_told
from ..diffusion.schedule import Denoise, Noise
from ..diffusion.teacher import one_hot
from ..diffusion.unet import UNetConfig
from ..engine.weights import Saved
from .kdm_config import MINI, KDMConfig
from .kdm_parts import Decomposed, Dense, Discriminator, adversarial_loss, spectrum_loss
from .losses import Metric


class KDM(nn.Module, Saved):
    """Two encoders, a matrix, a decoder: `sample` makes pictures from unit noise in one
    go.

    With classes, `labels` are their indices (batch,), and a vector for each is added
    after the matrix, the control of a linear system.
    Source: KDM step, KDM encoders, KDM control.
    """

    config_types = (KDMConfig,)
    noise_encoder: nn.Module
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, config: KDMConfig):
        super().__init__()
        self.config = config
        net = config.network
        n = config.latent
        self.points = isinstance(net, MLPConfig)
        self.operator = (Dense if config.operator == "dense" else Decomposed)(n)
        self.control = linear(net.labels, n) if net.labels else None
        sides: tuple[str, ...] = ()
        full = 0
        if isinstance(net, MLPConfig):
            if config.adversarial:
                raise ValueError(
                    f"adversarial = {config.adversarial}: the critic looks at "
                    "pictures, and these are points"
                )
            self.embedding = Embedding(net.channels)
            self.noise_encoder, self.encoder = (PointEncoder(net) for _ in range(2))
            self.decoder = PointDecoder(net)
        else:
            self.noise_encoder, self.encoder = (
                Network(replace(net, out_channels=1)) for _ in range(2)
            )
            self.decoder = Network(
                replace(net, in_channels=1, out_channels=net.in_channels)
            )
            sides = ("noise", "picture", "back") if config.project else ()
            full = net.resolution**2
        self.projections = nn.ModuleDict(
            {k: linear(*((full, n), (n, full))[k == "back"]) for k in sides}
        )
        self.critic = Discriminator(net.shape[0]) if config.adversarial else None

    @classmethod
    def beside(cls, teacher: nn.Module) -> "KDM":
        """An untrained KDM for the data of a teacher, of the preset's size: three
        networks of its own.
        """
        network = cast(UNetConfig | MLPConfig, teacher.config)
        if isinstance(network, MLPConfig):
            return cls(KDMConfig(network))
        kept = ("resolution", "in_channels", "labels", "no_class", "noise", "bounded")
        same = {name: getattr(network, name) for name in kept}
        return cls(KDMConfig(replace(MINI, **same)))

    @property
    def noise(self) -> Noise:
        """The noise levels of the paths that it learns from."""
        return self.config.network.noise

    def encode_noise(
        self, x_T: Float[Tensor, "batch ..."], labels: Tensor | None = None
    ) -> Float[Tensor, "batch n"]:
        """E_T: the latent of x_T at level sigma_max, scaled to unit deviation first."""
        return self._encode(
            self.noise_encoder,
            x_T / math.hypot(self.noise.sigma_max, self.noise.sigma_data),
            1.0,
            labels,
            "noise",
        )

    def encode(
        self, x_0: Float[Tensor, "batch ..."], labels: Tensor | None = None
    ) -> Float[Tensor, "batch n"]:
        """E_0: the latent of a picture x_0, in [-1, 1]."""
        return self._encode(self.encoder, x_0, 0.0, labels, "picture")

    def push(
        self, z_T: Float[Tensor, "batch n"], labels: Int[Tensor, " batch"] | None = None
    ) -> Tensor:
        """K z_T + b, and the vectors of the classes `labels` (batch,): the latent of
        the picture, as the matrix has it.
        Source: KDM step, KDM control.
        """
        z_0 = self.operator(z_T)
        told = one_hot(labels, self.config.network.labels)
        if self.control is None or told is None:
            return z_0
        if told.shape[0] != z_0.shape[0]:
            raise ValueError(f"{len(told)} labels for {len(z_0)} latents: one for each")
        return z_0 + self.control(told)

    def decode(
        self, z_0: Float[Tensor, "batch n"], labels: Tensor | None = None
    ) -> Float[Tensor, "batch ..."]:
        """D: the picture of a latent z_0, about [-1, 1]."""
        network = self.config.network
        if isinstance(network, MLPConfig):
            return self.decoder(
                [z_0[:, :, None, None]], self.embedding(z_0.new_zeros(len(z_0)))
            )
        side = network.resolution
        image = self.projections["back"](z_0) if self.projections else z_0
        return self._network(
            self.decoder, image.reshape(-1, 1, side, side), 0.0, labels
        )

    @torch.no_grad()
    def sample(
        self, noise: Float[Tensor, "batch ..."], labels: Tensor | None = None
    ) -> Float[Tensor, "batch ..."]:
        """Pictures in [-1, 1], or points, from unit noise."""
        classes_told(self, labels)
        x = self.decode(
            self.push(self.encode_noise(self.noise.sigma_max * noise, labels), labels),
            labels,
        )
        return x.clamp(-1, 1) if self.config.network.bounded else x

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
        self, net: nn.Module, x: Tensor, time: float, labels: Tensor | None
    ) -> Tensor:
        return net(
            x, x.new_full((len(x),), time), one_hot(labels, self.config.network.labels)
        ).float()


def kdm_loss(
    model: KDM,
    teacher: Denoise | None,
    x0: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch ..."],
    u: Float[Tensor, " batch"] | None,
    progress: float,
    d: Metric,
    labels: Tensor | None = None,
) -> Tensor:
    """Latent, reconstruction and push losses in one sum, and the adversarial and
    spectral ones where they have weights.

    For `model`: |E_0(x_0) - z|^2 + d(D(E_0(x_0) + noise), x_0) + d(D(z), x_0), z = K
    (E_T(x_T) + noise) + b. x0 (batch, *shape) the end of the path that starts at
    sigma_max `noise`; d a distance (a, b, progress) -> (batch,), labels (batch,) or
    None. `teacher` and `u` are not used: the signature is that of `onestep`.
    Source: KDM latent loss, KDM reconstruction loss, KDM push loss, KDM latent noise.
    """
    config = model.config
    z_0 = model.encode(x0, labels)
    z_T = model.encode_noise(model.noise.sigma_max * noise, labels)
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
    if model.critic is not None:
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
