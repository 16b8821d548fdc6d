"""Hierarchical Koopman Diffusion: lift, move in a straight line, come back.

An encoder lifts x_t to states z^(l), one per level and skip of a U-Net; at every
location each state obeys dz/dt = A z, so it moves from time t to time s in closed form;
a decoder turns the states at eps into the picture. From pure noise that is one
evaluation, and every state on the way can be read, masked and changed. Nothing bypasses
the states: the output is sigma_data * F, without the skip from x_t that a denoiser has.
`HKDConfig` also holds the paper's ablations. What the paper leaves open is decided on
the book's page "From the papers to the code". Chapters: 9 "The architecture", tour.
Source: HKD eq 2, HKD eq 3, HKD eq 5, HKD algorithm 2 (arXiv 2510.12220).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..diffusion.layers import Embedding
from ..diffusion.samplers import classes_told
from ..diffusion.schedule import CLOCK_OF, Clock, Noise, expand
from ..diffusion.teacher import Denoiser, one_hot
from ..engine.checks import as_pictures
from ..engine.weights import Saved
from ..koopman.generator import KoopmanGenerator
from .config import HKDConfig
from .readout import WholeEncoder, two_sides


@runtime_checkable
class Moving(Protocol):
    """Whatever has states and moves them, as `residual` asks for."""

    def encode(
        self, x_t: Tensor, t: float | Tensor, labels: Tensor | None = None
    ) -> list[Tensor]:
        """x_t at time t as states."""
        ...

    def evolve(
        self, states: list[Tensor], t: float | Tensor, s: float | Tensor
    ) -> list[Tensor]:
        """States moved from time t to time s."""
        ...


@runtime_checkable
class Lifting(Moving, Protocol):
    """Whatever has states, a clock and a way back, as an `HKD`: what losses ask for."""

    @property
    def clock(self) -> Clock:
        """The time that states are linear in."""
        ...

    def decode(self, states: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The picture that states stand for."""
        ...


class HKD(nn.Module, Saved):
    """Encoder, Koopman generators, decoder: `sample` makes pictures from unit noise in
    one evaluation.

    Times are those of `clock`: T is noise, eps the picture; any order of times is
    allowed in `evolve`. `labels` are class indices (batch,), for networks that have
    classes; a ValueError for others.
    Source: HKD eq 2, HKD eq 3, HKD eq 4, HKD eq 5.
    """

    config_types = (HKDConfig,)

    def __init__(self, config: HKDConfig):
        super().__init__()
        self.config = config
        network = config.network
        self.embedding = Embedding(network.channels, network.labels)
        self.encoder, self.decoder = two_sides(network, config.readout, config.pairs)
        way = self.clock.T - self.clock.eps
        low, high = (rate / way * config.koopman for rate in config.rates)
        self.generators = nn.ModuleList(
            KoopmanGenerator(*shape, config.spatial, (low, high))
            for shape in config.state_shapes
        )
        for i, generator in enumerate(self.generators):
            last = i == len(self.generators) - 1
            generator.requires_grad_(
                config.koopman and (config.hierarchy == "full" or last)
            )

    @classmethod
    def from_teacher(cls, denoiser: Denoiser, config: HKDConfig | None = None) -> "HKD":
        """An HKD with the halves of `denoiser` as encoder and decoder, and with A = 0;
        with the linear read-out both halves are the encoder.
        Source: HKD algorithm 1, lines 3 and 4.

        Raises ValueError when `config.network` is not the teacher's.
        """
        config = config or HKDConfig(network=denoiser.config)
        if config.network != replace(denoiser.config, no_class=config.network.no_class):
            raise ValueError(
                f"the teacher's network is {denoiser.config}, the configuration wants "
                f"{config.network}"
            )
        model = cls(config)
        weights = denoiser.net.state_dict()
        if isinstance(model.encoder, WholeEncoder):
            weights = model.encoder.names(weights)
        # all but the generators and the linear read-out, which are new
        model.load_state_dict(weights, strict=False)
        return model.eval()

    @property
    def noise(self) -> Noise:
        """The noise levels of the teacher that it was distilled from."""
        return self.config.network.noise

    @property
    def clock(self) -> Clock:
        """The time that states are linear in."""
        return CLOCK_OF[self.config.clock](self.noise)

    @property
    def state_shapes(self) -> list[tuple[int, int, int]]:
        """(d, h, w) of every state, fine to coarse; the last is the bottleneck's."""
        return self.config.state_shapes

    def encode(
        self,
        x_t: Float[Tensor, "batch ..."],
        t: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> list[Float[Tensor, "batch d h w"]]:
        """Lift x_t (batch, *shape), at noise level clock.sigma(t), to states (batch,
        d_l, h_l, w_l).

        Raises ValueError for x of another shape, or for level 0 (a sampled path's last
        point), which an encoder told the level cannot be told: give `clock.eps` there.
        Source: HKD eq 2.
        """
        shape = self.config.network.shape
        if tuple(x_t.shape[1:]) != shape:
            raise ValueError(
                f"x_t of shape {tuple(x_t.shape)}: this model takes (batch, "
                f"{', '.join(map(str, shape))})"
            )
        x_t = x_t.float()
        if self.config.encoder_time == "sigma":
            sigma = self.clock.sigma(torch.as_tensor(t, dtype=torch.float32))
            level = expand(sigma, x_t)
            if not torch.compiler.is_compiling():  # a look cuts a compiled graph
                self._look(x_t, level)
            total = (level**2 + self.noise.sigma_data**2).sqrt()
        # the same scaling with the level read off x itself: a function of x alone
        else:
            squared = x_t.square().flatten(1).mean(1) + self.noise.sigma_data**2
            total = expand(squared.sqrt(), x_t)
            level = total
        c_noise = (level.flatten().log() / 4).expand(len(x_t))
        told = self.embedding(c_noise, one_hot(labels, self.config.network.labels))
        states = self.encoder(x_t / total, told)
        if not self.config.anchored:
            return states
        ends = (self.clock.eps, self.clock.T)
        parts = (cast(KoopmanGenerator, part) for part in self.generators)
        return [A.from_anchor(z, t, ends) for A, z in zip(parts, states, strict=True)]

    def _look(self, x_t: Tensor, level: Tensor) -> None:
        """ValueError for a level that is not above 0, or for no pictures at all."""
        if not (level > 0).all():
            raise ValueError(
                f"t reaches noise level {float(level.min())}: need one above 0; the "
                "picture is at t = clock.eps"
            )
        if self.config.network.bounded:
            as_pictures("x_t", x_t, float(level.max()))

    def evolve(
        self,
        states: list[Tensor],
        t: float | Tensor,
        s: float | Tensor,
        masks: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Move all `states` from time t to time s: z_s = exp(A (s - t)) z_t, exact in
        either direction.
        Source: HKD eq 3.

        t, s: numbers or (batch,). `masks`, one (d_l/2, h_l, w_l) per state, weigh the
        evolved pairs.
        """
        chosen: Sequence[Tensor | None] = masks or [None] * len(states)
        return [
            g(z, s - t, mask)
            for g, z, mask in zip(self.generators, states, chosen, strict=True)
        ]

    def decode(
        self, states: list[Tensor], labels: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch ..."]:
        """The picture that the states stand for, about [-1, 1]; the decoder is always
        told the last noise level.
        Source: HKD eq 5.
        """
        if self.config.hierarchy == "bottleneck-only":
            states = [torch.zeros_like(z) for z in states[:-1]] + [states[-1]]
        batch = len(states[-1])
        device = states[-1].device
        c_noise = torch.full((batch,), self.noise.sigma_min, device=device).log() / 4
        told = self.embedding(c_noise, one_hot(labels, self.config.network.labels))
        return self.noise.sigma_data * self.decoder(states, told).float()

    @torch.no_grad()
    def sample(
        self,
        noise: Float[Tensor, "batch ..."],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Pictures in [-1, 1] from unit noise in one evaluation: decode(e^{A (eps - T)}
        encode(sigma_max n)).
        Source: HKD algorithm 2.
        """
        classes_told(self, labels)
        states = self.encode(self.noise.sigma_max * noise, self.clock.T, labels)
        x = self.decode(self.evolve(states, self.clock.T, self.clock.eps), labels)
        return x.clamp(-1, 1) if self.config.network.bounded else x

    @torch.no_grad()
    def trajectory(
        self,
        noise: Float[Tensor, "batch ..."],
        times: Float[Tensor, " k"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "k batch ..."]:
        """The states of unit noise on their way from T, decoded at each of `times`:
        (len(times), batch, *shape). One encoding, K decodings.

        With the paper's objective only the picture at eps is trained; what states in
        between decode to is for looking.
        """
        classes_told(self, labels)
        states = self.encode(self.noise.sigma_max * noise, self.clock.T, labels)
        return torch.stack(
            [
                self.decode(self.evolve(states, self.clock.T, float(t)), labels)
                for t in times
            ]
        )
