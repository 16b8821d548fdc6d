"""A classifier that is not here to classify, but to be looked through.

How far apart are two pictures, or two sets of pictures? Pixels answer badly; the
features of a network trained to name what is in a picture answer better. Papers use
networks trained on ImageNet, which are downloads. Here a compact residual network (He
et al. 2016) trained on CIFAR-10 itself does the job offline: its stages give a
perceptual distance (`losses.FeatureDistance`), its pooled last stage the Frechet
distance (`metrics`). Both rank models on this data and are comparable with nothing
else. It is trained by `hkd-mini features`. Chapters: 10 "Training", 11 "What one step
buys".
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .weights import Saved


@dataclass(frozen=True)
class ClassifierConfig:
    """Widths of the three stages (16x16, 8x8, 4x4 for 32x32 pictures) and the number of
    classes.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    classes: int = 10

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))


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
        """One map per stage: (batch, widths[i], h / 2^(i+1), w / 2^(i+1))."""
        maps = []
        x = F.pixel_unshuffle(x, 2)
        for i, (widen, first, second) in enumerate(self.stages):
            x = widen(F.max_pool2d(x, 2) if i else x)
            x = x + second(first(x))
            maps.append(x)
        return maps

    def embed(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        """The mean over locations of the last map."""
        return self.features(x)[-1].mean((2, 3))

    def forward(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch classes"]:
        return self.head(self.embed(x))


def conv_bn(c_in: int, c_out: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )
