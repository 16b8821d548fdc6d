"""How each preset's teacher and HKD are trained, so that a command line's `--preset`
names a model and how it came about.

Chapter: 10 "Training".
Source: EDM appendix F.2 (teacher); HKD section 4.1, HKD appendix D.4 (student).
"""

from dataclasses import replace
from typing import NamedTuple

from ..engine.config import TrainConfig
from .objective import PAPER, Objective


class Recipe(NamedTuple):
    """How a preset's teacher and HKD are trained, what is asked of the HKD, and the
    share of classes withheld from the teacher.
    """

    teacher: TrainConfig
    distill: TrainConfig
    objective: Objective = PAPER
    drop_labels: float = 0.0


# EDM appendix F.2: 200 million images; HKD section 4.1, appendix D.4: 8 GPUs, constant
# rate, s = 5
_AS_PUBLISHED = Recipe(
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
    ),
    Objective(perceptual="vgg"),
)

# a folder of one's own, on a CPU: small batches, so that a thousand steps take minutes
_YOURS = Recipe(
    TrainConfig(images=128_000, batch=16, lr=1e-3, decay=0.3, ema_halflife=10_000),
    TrainConfig(images=32_000, batch=16, lr=1e-3, decay=0.4, ema_halflife=2_000),
    Objective(times=2),
)

# the bundled models': some hours of two cores, minutes of a GPU
_TEACHER = TrainConfig(
    images=1_250_000,
    batch=64,
    lr=1.5e-3,
    muon=0.03,
    decay=0.4,
    ema_halflife=30_000,
    compile=True,
)
_STUDENT = TrainConfig(
    images=600_000,
    batch=64,
    lr=7e-4,
    muon=0.012,
    warmup=10_000,
    decay=0.5,
    ema_halflife=10_000,
    compile=True,
)
# the paper's objective, in a distance that sees texture too
_PAPER = Objective(times=2, texture_weight=12.0)
# and guess decoding and latent linearity between the points that are there already
_GUESSES = replace(
    _PAPER,
    lr_scale_A=10.0,
    guess_weight=4.0,
    linear_weight=0.1,
    linear_scale="variance",
    detach_noisier=False,
    partners="own",
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
        ),
        Objective(perceptual="none"),
    ),
    "cifar10-mini": Recipe(_TEACHER, _STUDENT, _GUESSES, drop_labels=0.15),
    "cifar10-mini-paper": Recipe(_TEACHER, _STUDENT, _PAPER, drop_labels=0.15),
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
        ),
        Objective(times=2),
    ),
    "images32-mini": _YOURS,
    "images64-mini": _YOURS,
    "cifar10": _AS_PUBLISHED,
    "cifar10-cond": _AS_PUBLISHED,
    "ffhq64": Recipe(
        replace(_AS_PUBLISHED.teacher, batch=256, lr=2e-4),
        replace(_AS_PUBLISHED.distill, batch=64),
        _AS_PUBLISHED.objective,
    ),
}
