"""A classifier that is not here to classify, but to be looked through.

How far apart are two pictures, or two sets of pictures? Pixels answer badly; the
features of a network trained to name what is in a picture answer better. Papers use
networks trained on ImageNet, which are downloads. Here a compact residual network
trained on CIFAR-10 itself does the job offline: its stages give a perceptual distance
(`distance.FeatureDistance`), its pooled last stage the Frechet distance (`metrics`).
Both rank models on this data and are comparable with nothing else. It is trained by
`hkd-mini features`. Chapters: 10 "Training", 11 "What one step buys".
Source: He et al. 2016.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..engine.config import Step, TrainConfig, at_least, counts
from ..engine.data import Images, batch_indices, mirrored, rng_at, to_unit
from ..engine.loop import fit
from ..engine.weights import Saved


@dataclass(frozen=True)
class ClassifierConfig:
    """Widths of the three stages (16x16, 8x8, 4x4 for 32x32 pictures) and the number of
    classes.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    classes: int = 10

    def __post_init__(self):
        object.__setattr__(self, "widths", counts("widths", self.widths))
        if not self.widths:
            raise ValueError("widths = (): at least one stage")
        at_least(self, classes=1)


class Classifier(nn.Module, Saved):
    """A compact ResNet for 3x32x32 pictures in [-1, 1], made to be looked through.

    `features(x)` lists one map per stage (for a perceptual distance), `embed(x)`
    (batch, widths[-1]) pools the last (for a Frechet distance), forward gives logits
    (batch, classes). The first convolution sees 2x2 patches, so it is cheap on a CPU.
    """

    config_types = (ClassifierConfig,)

    def __init__(self, config: ClassifierConfig = ClassifierConfig()):
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList()
        c = 12
        for width in config.widths:
            self.stages.append(
                nn.ModuleList(
                    [conv_bn(c, width), conv_bn(width, width), conv_bn(width, width)]
                )
            )
            c = width
        self.head = nn.Linear(c, config.classes)

    def features(self, x: Float[Tensor, "batch 3 h w"]) -> list[Tensor]:
        """One map of x per stage: (batch, widths[i], h / 2^(i+1), w / 2^(i+1))."""
        maps = []
        x = F.pixel_unshuffle(x, 2)
        for i, stage in enumerate(self.stages):
            widen, first, second = stage.children()
            x = widen(F.max_pool2d(x, 2) if i else x)
            x = x + second(first(x))
            maps.append(x)
        return maps

    def embed(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """The mean over locations of the last map of x."""
        return self.features(x)[-1].mean((2, 3))

    def forward(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch classes"]:
        return self.head(self.embed(x))


def conv_bn(c_in: int, c_out: int) -> nn.Sequential:
    """3x3 convolution, c_in to c_out channels, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


CLASSIFIER_RECIPE = TrainConfig(
    images=300_000, batch=128, lr=2e-3, warmup=20_000, decay=0.8, ema_halflife=2_000
)


def train_classifier(
    classifier: Classifier, images: Images, config: TrainConfig, **keep
) -> Iterator[Step]:
    """Train `classifier` on `images`: cross entropy, mirrored pictures shifted by up to
    4 pixels; yields as `fit`, which gets `config` and `keep` (out, resume).
    """

    side = images.x.shape[-1]

    def batch(step: int, share: slice) -> dict[str, Tensor]:
        rng = rng_at(config.seed, step)
        index = batch_indices(len(images.x), config.batch, config.seed, step)
        flip = torch.rand(len(index), generator=rng) < 0.5
        i, j = torch.randint(0, 9, (2, len(index), 1, 1, 1), generator=rng)[:, share]
        index = index[share]
        x = mirrored(to_unit(images.x[index]), flip[share])
        x = F.pad(x, (4, 4, 4, 4), mode="reflect")
        rows = i + torch.arange(side)[:, None]
        cols = j + torch.arange(side)
        x = x[
            torch.arange(len(x))[:, None, None, None],
            torch.arange(3)[:, None, None],
            rows,
            cols,
        ]
        return {"x": x, "labels": images.labels[index]}

    def loss(
        model: nn.Module, x: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        logits = model(x)
        return {
            "loss": F.cross_entropy(logits.float(), labels, label_smoothing=0.1),
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }

    yield from fit(classifier, batch, loss, config, **keep)
