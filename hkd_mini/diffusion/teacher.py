"""The teacher: a denoiser, and how it is trained.

A denoiser D(x; sigma) guesses the clean picture behind x = x0 + sigma n. Along
dx/dsigma = (x - D(x; sigma)) / sigma, the probability-flow ODE, noise at sigma_max
flows to data at 0, deterministically: a flow map, so a Koopman operator. `Denoiser` is
a network in EDM's preconditioning; two denoisers that are known exactly are in `exact`,
the methods that integrate the equation in `samplers`. Chapters: 7 "One step in the
plane", 8 "Diffusion as a flow".
Source: EDM table 1 (Karras et al. 2022).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..engine.checks import as_pictures
from ..engine.config import Step, TrainConfig
from ..engine.data import Images, batch_indices, mirrored, rng_at, to_unit
from ..engine.loop import fit
from ..engine.weights import Saved
from .networks import MLPConfig, Network
from .schedule import SIGMA_DATA, Denoise, Noise, expand, lognormal_sigmas
from .unet import UNetConfig


class Denoiser(nn.Module, Saved):
    """A network in EDM's preconditioning: D(x; sigma) = c_skip x + c_out F(c_in x;
    c_noise).

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2), c_in = 1 /
    sqrt(sigma^2 + s^2), c_noise = ln(sigma) / 4, with s = `noise.sigma_data` the
    data's deviation. x (batch, *shape), sigma a number or (batch,), labels (batch,)
    class indices or None. Returns x's shape in x's dtype.
    Source: EDM table 1.
    """

    config_types = (UNetConfig, MLPConfig)

    def __init__(self, config: UNetConfig | MLPConfig):
        super().__init__()
        self.config = config
        self.net = Network(config)

    @property
    def noise(self) -> Noise:
        """The noise levels that it is trained for."""
        return self.config.noise

    def widened(self, config: UNetConfig | MLPConfig) -> "Denoiser":
        """The same denoiser under `config`, which may differ from this one's in its
        number of classes and its dropout.

        Classes get weights of 0, so that until it is trained the new network ignores
        them. Raises ValueError for a network of another shape.
        """
        new = Denoiser(config)
        refusal = f"a network of {self.config} cannot start one of {config}"
        if self.config.labels not in (0, config.labels):
            raise ValueError(refusal)
        try:
            gaps = new.load_state_dict(self.state_dict(), strict=False)
        except RuntimeError as error:
            raise ValueError(refusal) from error
        if gaps.unexpected_keys or any(
            ".map_label." not in k for k in gaps.missing_keys
        ):
            raise ValueError(refusal)
        for name in gaps.missing_keys:
            nn.init.zeros_(new.get_parameter(name))
        return new

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        sigma: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        s = self.noise.sigma_data
        level = expand(sigma, x)
        total = (level**2 + s**2).sqrt()
        c_noise = (level.flatten().log() / 4).expand(len(x)).float()
        out = self.net(
            (x / total).float(), c_noise, one_hot(labels, self.config.labels)
        )
        return s**2 / total**2 * x + level * s / total * out.to(x.dtype)


def one_hot(labels: Tensor | None, classes: int) -> Tensor | None:
    """Class indices as one-hot floats, -1 (no class) as zeros; None for None or for a
    network without classes.

    Raises ValueError for labels given to an unconditional network, not whole, or
    outside -1..classes - 1.
    """
    if labels is None:
        return None
    if not classes:
        raise ValueError(
            "labels were given, but this network has no classes (labels = 0 in its "
            "config)"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels of {labels.dtype}: wanted whole numbers of classes")
    # a look at numbers waits for a GPU, and cuts a compiled graph
    looks = not torch.compiler.is_compiling()
    if looks and (labels.min() < -1 or labels.max() >= classes):
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())}: this network "
            f"knows 0 to {classes - 1}"
        )
    return F.one_hot(labels.long() + 1, classes + 1)[:, 1:].float()


def edm_loss(
    denoiser: Denoise,
    x0: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    sigma_data: float = SIGMA_DATA,
) -> Tensor:
    """Weighted squared error of the guess, a mean over batch and pixels.

    E[ (sigma^2 + s^2) / (sigma s)^2 |D(x0 + sigma n; sigma) - x0|^2 ]: the weight makes
    every level start at about 1. x0, noise (batch, *shape), sigma (batch,), labels
    (batch,) or None; D is `denoiser` and s the data's deviation `sigma_data`.
    Source: EDM eq 2, EDM table 1.
    """
    level = expand(sigma, x0)
    weight = (level**2 + sigma_data**2) / (level * sigma_data) ** 2
    return (weight * (denoiser(x0 + level * noise, sigma, labels) - x0) ** 2).mean()


def train_teacher(
    denoiser: Denoiser,
    images: Images | Tensor,
    config: TrainConfig,
    drop_labels: float = 0.0,
    **keep,
) -> Iterator[Step]:
    """Train a denoiser on `images`, mirrored at random, or on points or latents (n,
    *shape), with EDM's loss; yields as `fit`, which gets `config` and `keep` (out,
    resume).

    `drop_labels` is the share of classes withheld, so that one network is conditional
    and not; ValueError outside 0 to 1.
    Source: EDM table 1.
    """
    if not 0 <= drop_labels <= 1:
        raise ValueError(f"drop_labels = {drop_labels}: a share, 0 to 1")
    x = images.x if isinstance(images, Images) else images
    s = denoiser.noise.sigma_data
    pictures = isinstance(images, Images)
    if not pictures and denoiser.config.bounded:
        as_pictures("images", x)
    labels = None
    if isinstance(images, Images) and denoiser.config.labels:
        labels = images.labels

    def batch(step: int, share: slice) -> dict[str, Tensor]:
        rng = rng_at(config.seed, step)
        index = batch_indices(len(x), config.batch, config.seed, step)
        flip = torch.rand(len(index), generator=rng) < 0.5 if pictures else None
        sigma = lognormal_sigmas(len(index), rng, sigma_data=s)
        noise = torch.randn(len(index), *x.shape[1:], generator=rng)
        told = torch.rand(len(index), generator=rng) >= drop_labels
        index = index[share]
        x0 = to_unit(x[index]) if pictures else x[index]
        x0 = x0 if flip is None else mirrored(x0, flip[share])
        batch = {"x0": x0, "sigma": sigma[share], "noise": noise[share]}
        if labels is None:
            return batch
        return batch | {"labels": torch.where(told[share], labels[index], -1)}

    def loss(
        model: Denoise,
        x0: Tensor,
        sigma: Tensor,
        noise: Tensor,
        progress: float,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        return {"loss": edm_loss(model, x0, sigma, noise, labels, s)}

    keep = {"describe": {"drop_labels": drop_labels}} | keep
    yield from fit(denoiser, batch, loss, config, **keep)
