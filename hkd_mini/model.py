"""Hierarchical Koopman Diffusion: lift, move in a straight line, come back.

An encoder lifts x_t to states z^(l), one per level and skip of a U-Net; at every
location each state obeys dz/dt = A z, so it moves from time t to time s in closed form;
a decoder turns the states at eps into the picture. From pure noise that is one
evaluation, and every state on the way can be read, masked and changed. Nothing bypasses
the states: the output is sigma_data * F, without the skip from x_t that a denoiser has.
`HKDConfig` also holds the paper's ablations. Chapters: 9 "The architecture", tour.
Source: HKD (arXiv 2510.12220), eqs 2 to 6, algorithm 2; decisions in the book's
notation page.
"""

import os
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .classifier import Classifier
from .koopman import KoopmanGenerator
from .networks import Decoder, Embedding, Encoder, MLPConfig, PointNet, UNetConfig
from .schedule import CLOCKS, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, Clock
from .teacher import Denoiser, expand, one_hot
from .weights import Saved, read_config, resolve


@dataclass(frozen=True)
class HKDConfig:
    """A network and how its states move.

    `clock`: a name in schedule.CLOCKS. `encoder_time`: "sigma" tells the encoder the
    noise level, as the paper does; "none" lets it see x alone, so that states are
    observables in Koopman's sense. `spatial`: "local" or "shared" A. Ablations:
    `koopman=False` fixes A at 0; `hierarchy` "bottleneck" evolves the bottleneck alone
    and passes skips as encoded, "bottleneck-only" drops them.
    """

    network: UNetConfig | MLPConfig = field(default_factory=UNetConfig)
    clock: str = "rho"
    encoder_time: str = "sigma"
    spatial: str = "local"
    koopman: bool = True
    hierarchy: str = "full"

    def __post_init__(self):
        allowed = {
            "clock": tuple(CLOCKS),
            "encoder_time": ("sigma", "none"),
            "spatial": ("local", "shared"),
            "hierarchy": ("full", "bottleneck", "bottleneck-only"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: one of {', '.join(values)}"
                )


# about 7 million parameters; 2x2 patches, since here compute is short (design page)
_MINI = UNetConfig(
    channels=80, mult=(1, 2), blocks=2, attention=(8,), patch=2, adaptive_scale=True
)
PRESETS: dict[str, HKDConfig] = {
    "toy2d": HKDConfig(MLPConfig()),
    "cifar10-mini": HKDConfig(_MINI),
    "cifar10-mini-cond": HKDConfig(replace(_MINI, labels=10)),
    # about 0.8 million: what ablations with several seeds can afford
    "cifar10-tiny": HKDConfig(replace(_MINI, channels=32, blocks=1)),
    "cifar10": HKDConfig(UNetConfig(dropout=0.13)),  # EDM's DDPM++ widths
    "cifar10-cond": HKDConfig(UNetConfig(dropout=0.13, labels=10)),
    "ffhq64": HKDConfig(UNetConfig(resolution=64, mult=(1, 2, 2, 2), dropout=0.05)),
}


class HKD(nn.Module, Saved):
    """Encoder, Koopman generators, decoder: `sample` makes pictures from unit noise in
    one evaluation.

    Times are those of `clock`: T is noise, eps the picture; any order of times is
    allowed in `evolve`. Labels are class indices (batch,), for networks that have
    classes.
    Source: HKD eqs 2 to 5.
    """

    config_types = (HKDConfig,)

    def __init__(self, config: HKDConfig):
        super().__init__()
        self.config = config
        network = config.network
        points = isinstance(network, MLPConfig)
        self.embedding = Embedding(network.channels, network.labels)
        self.encoder = PointNet(network, encode=True) if points else Encoder(network)
        self.decoder = PointNet(network, encode=False) if points else Decoder(network)
        self.generators = nn.ModuleList(
            KoopmanGenerator(*shape, config.spatial) for shape in network.state_shapes
        )
        for i, generator in enumerate(self.generators):
            last = i == len(self.generators) - 1
            generator.requires_grad_(
                config.koopman and (config.hierarchy == "full" or last)
            )

    @classmethod
    def from_teacher(cls, denoiser: Denoiser, config: HKDConfig | None = None) -> "HKD":
        """An HKD whose encoder and decoder are the teacher's halves and whose A is 0.
        Source: HKD algorithm 1, lines 3 and 4.

        Raises ValueError when `config.network` is not the teacher's.
        """
        config = config or HKDConfig(network=denoiser.config)
        if config.network != denoiser.config:
            raise ValueError(
                f"the teacher's network is {denoiser.config}, the configuration wants "
                f"{config.network}"
            )
        model = cls(config)
        # all but the generators, which start at 0
        model.load_state_dict(denoiser.net.state_dict(), strict=False)
        return model.eval()

    @property
    def clock(self) -> Clock:
        """The time that states are linear in."""
        return CLOCKS[self.config.clock]

    @property
    def state_shapes(self) -> list[tuple[int, int, int]]:
        """(d, h, w) of every state, fine to coarse; the last is the bottleneck's."""
        return self.config.network.state_shapes

    def encode(
        self,
        x_t: Float[Tensor, "batch ..."],
        t: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> list[Float[Tensor, "batch d h w"]]:
        """Lift x_t (batch, *shape), at noise level clock.sigma(t), to states (batch,
        d_l, h_l, w_l).
        Source: HKD eq 2.

        Raises ValueError for x of another shape, or for level 0 (a sampled path's last
        point), which an encoder told the level cannot be told: give `clock.eps` there.
        """
        shape = self.config.network.shape
        if tuple(x_t.shape[1:]) != shape:
            raise ValueError(
                f"x_t of shape {tuple(x_t.shape)}: this model takes (batch, "
                f"{', '.join(map(str, shape))})"
            )
        x_t = x_t.float()
        if self.config.encoder_time == "sigma":
            level = expand(
                self.clock.sigma(torch.as_tensor(t, dtype=torch.float32)), x_t
            )
            if not (level > 0).all():
                raise ValueError(
                    f"t reaches noise level {float(level.min())}: need one above 0; "
                    "the picture is at t = clock.eps"
                )
            total = (level**2 + SIGMA_DATA**2).sqrt()
        # the same scaling with the level read off x itself: a function of x alone
        else:
            total = (
                (x_t.square().flatten(1).mean(1) + SIGMA_DATA**2)
                .sqrt()
                .reshape(-1, *[1] * (x_t.ndim - 1))
            )
            level = total
        c_noise = (level.flatten().log() / 4).expand(len(x_t))
        return self.encoder(
            x_t / total,
            self.embedding(c_noise, one_hot(labels, self.config.network.labels)),
        )

    def evolve(
        self,
        states: list[Tensor],
        t: float | Tensor,
        s: float | Tensor,
        masks: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Move every state from time t to time s: z_s = exp(A (s - t)) z_t, exact in
        either direction.
        Source: HKD eq 3.

        t, s: numbers or (batch,). `masks`, one (d_l/2, h_l, w_l) per state, weigh the
        evolved pairs.
        """
        masks = masks if masks is not None else [None] * len(states)
        return [
            g(z, s - t, mask)
            for g, z, mask in zip(self.generators, states, masks, strict=True)
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
        c_noise = torch.full((batch,), SIGMA_MIN, device=device).log() / 4
        return (
            SIGMA_DATA
            * self.decoder(
                states,
                self.embedding(c_noise, one_hot(labels, self.config.network.labels)),
            ).float()
        )

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
        states = self.encode(SIGMA_MAX * noise, self.clock.T, labels)
        x = self.decode(self.evolve(states, self.clock.T, self.clock.eps), labels)
        return x.clamp(-1, 1) if x.ndim == 4 else x

    @torch.no_grad()
    def trajectory(
        self,
        noise: Float[Tensor, "batch ..."],
        times: Float[Tensor, " k"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "k batch ..."]:
        """The states on their way from T, decoded at each of `times`: (len(times),
        batch, *shape). One encoding, K decodings.

        With the paper's objective only the picture at eps is trained; what states in
        between decode to is for looking.
        """
        states = self.encode(SIGMA_MAX * noise, self.clock.T, labels)
        return torch.stack(
            [
                self.decode(self.evolve(states, self.clock.T, float(t)), labels)
                for t in times
            ]
        )


MODELS = (HKD, Denoiser, Classifier)


def load(name: str | os.PathLike) -> nn.Module:
    """A bundled model by name ("hkd-cifar10", "teacher-cifar10", "features-cifar10"),
    or one from a folder; in evaluation mode.

    Raises FileNotFoundError with the bundled names, ValueError for damaged weights or
    an unknown kind of model.
    """
    folder = resolve(name)
    kind = read_config(folder).get("model")
    for model in MODELS:
        if model.__name__ == kind:
            return model.from_folder(folder)
    known = ", ".join(m.__name__ for m in MODELS)
    raise ValueError(
        f"{folder}: holds a {kind!r}, wanted one of {known}; others load by their "
        "class's from_folder"
    )
