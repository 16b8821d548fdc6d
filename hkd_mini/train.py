"""What is trained: the classifier, the teacher, the HKD; each a batch, a loss, and the
loop of `loop`.

Distillation asks one thing of the states lifted from any point of a teacher's path:
evolved in closed form to the end, they must decode to the path's end. Asked at T alone
this is reconstruction; asked at every time it is trajectory consistency. The presets'
recipes stand here too, so that a command line's `--preset` names a model and how it was
trained. Chapter: 10 "Training".
Source: EDM table 1 (teacher), HKD algorithm 1 and appendix D.4 (distillation).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .classifier import Classifier
from .data import Images, batch_indices, to_unit
from .loop import Step, TrainConfig, fit, generator
from .losses import Distance, Weights, hkd_loss
from .schedule import lognormal_sigmas
from .teacher import Denoiser, Path, edm_loss


class Recipe(NamedTuple):
    """How a preset's teacher and HKD are trained."""

    teacher: TrainConfig
    distill: TrainConfig


FEATURES = TrainConfig(
    images=300_000, batch=128, lr=2e-3, warmup=20_000, decay=0.8, ema_halflife=2_000
)
# EDM appendix F.2: 200 million images; HKD section 4.1, appendix D.4: 8 GPUs, constant
# rate, s = 5
_PAPER = Recipe(
    TrainConfig(
        images=200_000_000,
        batch=512,
        lr=1e-3,
        warmup=10_000_000,
        ema_halflife=500_000,
        checkpoint=2_000,
    ),
    TrainConfig(
        images=50_000_000,
        batch=256,
        lr=1e-3,
        warmup=0,
        ema_halflife=500_000,
        checkpoint=2_000,
        perceptual="vgg",
    ),
)
RECIPES: dict[str, Recipe] = {
    # fp32: the borders between cells need it, and matrices so small gain nothing from
    # less
    "toy2d": Recipe(
        TrainConfig(
            images=2_000_000,
            batch=1024,
            lr=2e-3,
            decay=0.5,
            precision="fp32",
            checkpoint=1_000,
        ),
        TrainConfig(
            images=1_000_000,
            batch=512,
            lr=1e-3,
            decay=0.5,
            precision="fp32",
            checkpoint=1_000,
            perceptual="none",
        ),
    ),
    "cifar10-mini": Recipe(
        TrainConfig(
            images=230_000,
            batch=64,
            lr=1e-3,
            decay=0.3,
            ema_halflife=20_000,
            compile=True,
        ),
        TrainConfig(
            images=32_000,
            batch=32,
            lr=5e-4,
            decay=0.4,
            ema_halflife=2_000,
            compile=True,
            times=2,
        ),
    ),
    # its teacher starts from the unconditional one: --from teacher-cifar10
    "cifar10-mini-cond": Recipe(
        TrainConfig(
            images=150_000,
            batch=64,
            lr=5e-4,
            warmup=3_000,
            decay=0.5,
            ema_halflife=10_000,
            compile=True,
        ),
        TrainConfig(
            images=28_000,
            batch=32,
            lr=5e-4,
            decay=0.4,
            ema_halflife=2_000,
            compile=True,
            times=2,
        ),
    ),
    "cifar10-tiny": Recipe(
        TrainConfig(
            images=400_000,
            batch=64,
            lr=2e-3,
            decay=0.3,
            ema_halflife=20_000,
            compile=True,
        ),
        TrainConfig(
            images=8_000,
            batch=16,
            lr=2e-3,
            decay=0.4,
            ema_halflife=1_000,
            compile=True,
            times=2,
        ),
    ),
    "cifar10": _PAPER,
    "cifar10-cond": _PAPER,
    "ffhq64": Recipe(
        replace(_PAPER.teacher, batch=256, lr=2e-4), replace(_PAPER.distill, batch=64)
    ),
}


def train_teacher(
    denoiser: Denoiser, images: Images | Tensor, config: TrainConfig, **keep
) -> Iterator[Step]:
    """Train a denoiser on pictures, mirrored at random, or points (n, 2), with EDM's
    loss; yields as `fit`.

    Source: EDM, table 1.
    """
    x = images.x if isinstance(images, Images) else images
    labels = (
        images.labels if isinstance(images, Images) and denoiser.config.labels else None
    )

    def batch(step: int) -> dict[str, Tensor]:
        rng = generator(config.seed, step)
        index = batch_indices(len(x), config.batch, config.seed, step)
        x0 = to_unit(x[index]) if x.dtype == torch.uint8 else x[index]
        x0 = mirrored(x0, rng) if x0.ndim == 4 else x0
        sigma = lognormal_sigmas(len(x0), rng)
        noise = torch.randn(x0.shape, generator=rng)
        batch = {"x0": x0, "sigma": sigma, "noise": noise}
        if labels is None:
            return batch
        told = torch.rand(len(x0), generator=rng) >= config.drop_labels
        return batch | {"labels": torch.where(told, labels[index], -1)}

    def loss(model, x0, sigma, noise, progress, labels=None):
        return {"loss": edm_loss(model, x0, sigma, noise, labels)}

    yield from fit(denoiser, batch, loss, config, **keep)


def mirrored(x: Tensor, rng: torch.Generator) -> Tensor:
    """Flip each picture left to right with probability one half."""
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5, x.flip(-1), x)


def train_classifier(
    classifier: Classifier, images: Images, config: TrainConfig, **keep
) -> Iterator[Step]:
    """Train the feature network: cross entropy, mirrored pictures shifted by up to 4
    pixels; yields as `fit`.
    """

    def batch(step: int) -> dict[str, Tensor]:
        rng = generator(config.seed, step)
        index = batch_indices(len(images.x), config.batch, config.seed, step)
        x = F.pad(mirrored(to_unit(images.x[index]), rng), (4, 4, 4, 4), mode="reflect")
        i, j = torch.randint(0, 9, (2, len(x), 1, 1, 1), generator=rng)
        rows = i + torch.arange(32)[:, None]
        cols = j + torch.arange(32)
        x = x[
            torch.arange(len(x))[:, None, None, None],
            torch.arange(3)[:, None, None],
            rows,
            cols,
        ]
        return {"x": x, "labels": images.labels[index]}

    def loss(model, x, labels, progress):
        logits = model(x)
        return {
            "loss": F.cross_entropy(logits.float(), labels, label_smoothing=0.1),
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }

    yield from fit(classifier, batch, loss, config, **keep)


class PathsInMemory:
    """Paths as a sampler returns them, for `train`: `len`, `sigmas` and `gather` of
    `trajectories.Trajectories`.

    path: a `teacher.Path`, x (K, n, *shape). For points, where a file would be the
    slowest part.
    """

    def __init__(self, path: Path):
        self.sigmas = path.sigmas
        self.x = path.x.transpose(0, 1).float().contiguous()

    def __len__(self) -> int:
        return len(self.x)

    def gather(self, index: Tensor, at: Tensor) -> dict[str, Tensor]:
        """x (n, s, *shape) and sigma (n, s) at the points `at` of each path, end (n,
        *shape).
        """
        return {
            "x": self.x[index[:, None], at],
            "sigma": self.sigmas[at].float(),
            "end": self.x[index, -1],
        }


def train(
    model: nn.Module,
    trajectories,
    config: TrainConfig,
    distance: Distance | None = None,
    **keep,
) -> Iterator[Step]:
    """Distil a teacher's paths into an HKD: the states evolved from T and from s - 1
    uniform times decode to their end.

    `trajectories` as `trajectories.Trajectories` or `PathsInMemory`; `distance`
    defaults to l1 MSE + l2 feature distance as `config.perceptual` names it. With
    weights for path decoding or linearity every time gets a partner u, uniform too
    (with `config.onward` among the later ones); for the infinitesimal term, its
    neighbour on the stored path. Yields as `fit`.
    Source: HKD algorithm 1, eq 6; the further terms, `losses`.
    """
    if distance is None:
        distance = Distance.of(
            config.perceptual if len(model.config.network.shape) == 3 else "none"
        )
    if config.compile and distance.perceptual is not None:
        distance.perceptual.compile()
    weights = Weights(config.path, config.linear, config.infinitesimal, config.follow)
    levels = len(trajectories.sigmas) - 1

    def batch(step: int) -> dict[str, Tensor]:
        rng = generator(config.seed, step)
        index = batch_indices(len(trajectories), config.batch, config.seed, step)
        count = config.times - 1 if config.consistency else 0
        at = torch.randint(0, levels, (len(index), count), generator=rng)
        # 0 is T
        at = torch.cat([torch.zeros(len(index), 1, dtype=torch.long), at], dim=1)
        batch = trajectories.gather(index, at)
        partners = {}
        if weights.path or weights.linear:
            if config.onward:
                partners["u"] = (
                    at + (torch.rand(at.shape, generator=rng) * (levels - at)).long()
                )
            else:
                partners["u"] = torch.randint(0, levels, at.shape, generator=rng)
        if weights.infinitesimal:
            partners["near"] = torch.where(at + 1 < levels, at + 1, at - 1)
        for name, places in partners.items():
            there = trajectories.gather(index, places)
            batch |= {f"x_{name}": there["x"], f"sigma_{name}": there["sigma"]}
        return batch

    def loss(model, x, sigma, end, progress, labels=None, **further):
        return hkd_loss(
            model,
            distance.to(x.device),
            x,
            sigma,
            end,
            progress,
            labels,
            weights,
            **further,
        )

    yield from fit(model, batch, loss, config, **keep)
