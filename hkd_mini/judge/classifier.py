"""A classifier that is not here to classify, but to be looked through.

How far apart are two pictures, or two sets of pictures? Pixels answer badly; the
features of a network trained to name what is in a picture answer better. Papers use
networks trained on ImageNet, which are downloads. Here compact networks trained on
CIFAR-10 itself do the job offline: their stages give a perceptual distance
(`distance.FeatureDistance`), their pooled last stage the Frechet distance (`metrics`).
There are three architectures, so that what a student learns through need not be what
judges it. They rank models on this data and are comparable with nothing else. They are
trained by `hkd-mini features`. Chapters: 10 "Training", 11 "What one step buys".
Source: He et al. 2016 (residual); Simonyan & Zisserman 2015 (plain); Liu et al. 2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from ..engine.config import Step, TrainConfig, at_least, counts
from ..engine.data import Images, batch_indices, mirrored, rng_at, to_unit
from ..engine.loop import fit
from ..engine.weights import Saved

KINDS = ("residual", "plain", "depthwise")
FIRST = 32  # channels at the full side, where plain begins; the others fold it first
EXPANSION = 3  # of the channels, between a depthwise block's two matrices


@dataclass(frozen=True)
class ClassifierConfig:
    """Size and kind of a classifier. Raises ValueError for a width or number of classes
    below 1, or blocks of no known kind.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    """Channels of the stages (16x16, 8x8, 4x4 for 32x32 pictures)."""
    classes: int = 10
    """Number of classes."""
    blocks: str = "residual"
    """What a stage is made of: residual (a ResNet's), plain (two convolutions and
    average pooling, as in VGG) or depthwise (each channel by itself, then across
    channels, as in ConvNeXt)."""

    def __post_init__(self):
        object.__setattr__(self, "widths", counts("widths", self.widths))
        if not self.widths:
            raise ValueError("widths = (): at least one stage")
        if self.blocks not in KINDS:
            raise ValueError(f"blocks = {self.blocks!r}: one of {', '.join(KINDS)}")
        at_least(self, classes=1)


class Classifier(nn.Module, Saved):
    """A compact network for 3x32x32 pictures in [-1, 1], made to be looked through.

    `features(x)` lists one map per stage (for a perceptual distance), `embed(x)`
    (batch, widths[-1]) pools the last (for a Frechet distance), forward gives logits
    (batch, classes). `config.blocks` says which of three architectures it is.
    """

    config_types = (ClassifierConfig,)

    def __init__(self, config: ClassifierConfig = ClassifierConfig()):
        super().__init__()
        self.config = config
        plain = config.blocks == "plain"
        self.first = conv_bn(3, FIRST) if plain else nn.PixelUnshuffle(2)
        c = FIRST if plain else 12
        self.stages = nn.ModuleList()
        for i, width in enumerate(config.widths):
            self.stages.append(self._stage(i, c, width))
            c = width
        self.head = nn.Linear(c, config.classes)

    def _stage(self, i: int, c: int, width: int) -> nn.Module:
        if self.config.blocks == "plain":
            return nn.Sequential(conv_bn(c, width), conv_bn(width, width))
        if self.config.blocks == "residual":
            return Residual(c, width)
        # the deeper, the cheaper a block is beside what it can do
        blocks = [Depthwise(width) for _ in range(i + 1)]
        widen = conv_bn(4 * c, width, side=1) if i else conv_bn(c, width)
        return nn.Sequential(widen, *blocks)

    def _halved(self, x: Tensor, stage: int) -> Tensor:
        """x with half the side, before a stage, unless it was folded before the
        first.
        """
        if self.config.blocks == "plain":
            return F.avg_pool2d(x, 2)
        if stage == 0:
            return x
        residual = self.config.blocks == "residual"
        return F.max_pool2d(x, 2) if residual else F.pixel_unshuffle(x, 2)

    def features(self, x: Float[Tensor, "batch 3 h w"]) -> list[Tensor]:
        """One map of x per stage: (batch, widths[i], h / 2^(i+1), w / 2^(i+1))."""
        maps = []
        x = self.first(x)
        for i, stage in enumerate(self.stages):
            x = stage(self._halved(x, i))
            maps.append(x)
        return maps

    def embed(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """The mean over locations of the last map of x."""
        return self.features(x)[-1].mean((2, 3))

    def forward(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch classes"]:
        return self.head(self.embed(x))


class Residual(nn.Sequential):
    """Three convolutions to `width` channels, the last two beside a skip: y = f0(x); y
    + f2(f1(y)).
    Source: He et al. 2016.
    """

    def __init__(self, c: int, width: int):
        super().__init__(
            conv_bn(c, width), conv_bn(width, width), conv_bn(width, width)
        )

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h w"]:
        widen, first, second = self.children()
        x = widen(x)
        return x + second(first(x))


class Depthwise(nn.Module):
    """x + W2 relu(W1 norm(d(x))): d a 3x3 convolution of each of `c` channels by
    itself, W1 and W2 matrices across channels.
    Source: Liu et al. 2022 (ConvNeXt, with 7x7), Sandler et al. 2018.
    """

    def __init__(self, c: int):
        super().__init__()
        self.spatial = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
        self.norm = nn.BatchNorm2d(c)
        self.expand = nn.Conv2d(c, EXPANSION * c, 1)
        self.project = nn.Conv2d(EXPANSION * c, c, 1)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        inner = self.expand(self.norm(self.spatial(x)))
        return x + self.project(F.relu(inner))


def conv_bn(c_in: int, c_out: int, side: int = 3) -> nn.Sequential:
    """Convolution of an odd `side`, c_in to c_out channels, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, side, padding=side // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


@torch.no_grad()
def share_found(
    classifier: Classifier,
    images: Num[Tensor, "n 3 h w"],
    labels: Int[Tensor, " n"],
    batch: int = 500,
) -> float:
    """Share of `images`, uint8 or floats in [-1, 1], in which `classifier` finds the
    class of `labels`: its accuracy on pictures, or how well samples show the class that
    was asked for. Looks at `batch` of them at once, on its own device.

    Raises ValueError for no images, or a classifier in training mode.
    """
    if classifier.training or not len(images):
        raise ValueError(
            f"{len(images)} images, training mode {classifier.training}: wanted at "
            "least one image, and .eval() first"
        )
    device = next(classifier.parameters()).device
    unit = lambda x: to_unit(x) if x.dtype == torch.uint8 else x
    named = [classifier(unit(x).to(device)).argmax(1) for x in images.split(batch)]
    return float((torch.cat(named).cpu() == labels).float().mean())


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
