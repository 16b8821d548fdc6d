"""What a teacher learns in a fixed time, recipe by recipe.

    python benchmarks/teacher_recipes.py --data cifar

Weighted squared errors of the guess (EDM's loss) on 1,024 test pictures that no recipe
saw: at eight noise levels with the same noises for all, and the mean over EDM's
distribution of levels. Every recipe gets the same time of one thread, counted without
compilation: a few steps are timed first, and the number of images follows. The learning
rate falls over the last 30 per cent, and the average of the weights is measured. Two
processes of one thread: 45 minutes a seed.
"""

import time
from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from common import add, device, in_two_processes, lacks, parser, today
from torch import Tensor, nn

from hkd_mini.diffusion.schedule import lognormal_sigmas
from hkd_mini.diffusion.teacher import Denoiser, edm_loss
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import batch_indices, mirrored, rng_at, to_unit
from hkd_mini.engine.run import Run
from hkd_mini.engine.weights import data_folder

RESULTS = data_folder() / "teacher-recipes.json"
LEVELS = (0.02, 0.1, 0.3, 0.7, 1.5, 4.0, 12.0, 40.0)
PICTURES = 1024
DROPPED = 0.15  # share of classes withheld
TODAY = UNetConfig(
    channels=80,
    mult=(1, 2),
    blocks=2,
    attention=(8,),
    patch=2,
    adaptive_scale=True,
    labels=10,
)
STEADY = TrainConfig(
    batch=64,
    lr=1e-3,
    warmup=2_000,
    decay=0.3,
    ema_halflife=1_000_000,
    compile=True,
)


class Recipe(NamedTuple):
    """What differs from today's: of the network, of the training, whether the weights
    of levels are learned, and a seed.
    """

    name: str
    network: dict = {}
    training: dict = {}
    learned_weights: bool = False
    seed: int = 0


COARSER = {"channels": 64, "mult": (1, 2, 2), "attention": (8, 4)}
SMALL = COARSER | {"blocks": 1}
MUON = {"muon": 0.02}
OFTEN = MUON | {"batch": 32}
RECIPES = [
    Recipe("classes, 15% dropped"),
    Recipe("no classes", {"labels": 0}),
    Recipe("Muon", {}, MUON),
    Recipe("lower resolutions", COARSER),
    Recipe("lower resolutions, Muon", COARSER, MUON),
    Recipe("batch 32, Muon", {}, OFTEN),
    Recipe("small, lower resolutions, batch 32, Muon", SMALL, OFTEN),
    Recipe("small, lower resolutions, batch 64, Muon", SMALL, MUON),
    Recipe(
        "small, lower resolutions, rates doubled", SMALL, {"lr": 2e-3, "muon": 0.04}
    ),
    Recipe("small, lower resolutions, learned weights", SMALL, OFTEN, True),
]


class Weighted(nn.Module):
    """A denoiser and u(sigma), the logarithm of the loss expected at a level, so that
    every level pulls alike: loss / exp(u) + u.
    Source: EDM2 eq 21 (Karras et al. 2024).
    """

    def __init__(self, denoiser: Denoiser, learned: bool):
        super().__init__()
        self.denoiser = denoiser
        self.waves = nn.Parameter(torch.linspace(0.5, 8, 32), requires_grad=False)
        self.u = nn.Linear(64, 1, bias=False) if learned else None
        if self.u is not None:
            nn.init.zeros_(self.u.weight)

    def loss(
        self, x0: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        if self.u is None:
            return edm_loss(self.denoiser, x0, sigma, noise, labels)
        phase = sigma.log()[:, None] / 4 * self.waves
        u = self.u(torch.cat([phase.sin(), phase.cos()], 1)).flatten()
        s = self.denoiser.noise.sigma_data
        weight = (sigma**2 + s**2) / (sigma * s) ** 2
        x = x0 + sigma[:, None, None, None] * noise
        error = (self.denoiser(x, sigma, labels) - x0).square().flatten(1).mean(1)
        return (weight * error / u.exp() + u).mean()


def run_of(recipe: Recipe, config: TrainConfig) -> Run:
    """A run that has not begun."""
    torch.compiler.reset()
    torch.manual_seed(config.seed)
    denoiser = Denoiser(replace(TODAY, **recipe.network))
    model = Weighted(denoiser, recipe.learned_weights)
    loss = lambda model, progress, **b: {"loss": model.loss(**b)}
    return Run(model, loss, config)


def batch(images, config: TrainConfig, step: int, classes: bool) -> dict:
    """A batch of a run: pictures mirrored at random, levels, noises, classes."""
    rng = rng_at(config.seed, step)
    index = batch_indices(len(images.x), config.batch, config.seed, step)
    x0 = mirrored(to_unit(images.x[index]), torch.rand(len(index), generator=rng) < 0.5)
    sigma = lognormal_sigmas(len(index), rng)
    noise = torch.randn(x0.shape, generator=rng)
    told = torch.rand(len(index), generator=rng) >= DROPPED
    found = {"x0": x0, "sigma": sigma, "noise": noise}
    if classes:
        found["labels"] = torch.where(told, images.labels[index], -1)
    return found


def trained(recipe: Recipe, folder: str, minutes: float) -> tuple[Recipe, dict]:
    """A recipe, and what it measures after so many minutes of one thread."""
    torch.set_num_threads(1)
    images = load_cifar10("train", folder)
    config = replace(STEADY, **recipe.training, seed=recipe.seed)
    classes = bool(recipe.network.get("labels", TODAY.labels))
    run = run_of(recipe, config)
    times = []
    for step in range(12):  # the first ones compile
        began = time.process_time()
        run.step(step, batch(images, config, step, classes))
        times.append(time.process_time() - began)
    pace = min(times)
    config = replace(config, images=int(60 * minutes / pace) * config.batch)
    run = run_of(recipe, config)
    for step in range(config.steps):
        if step == 1:
            began = time.process_time()
        run.step(step, batch(images, config, step, classes))
    spent = time.process_time() - began
    denoiser = run.ema.denoiser.eval()
    found = measured(denoiser, load_cifar10("test", folder), classes)
    return recipe, {
        **found,
        "images": config.images,
        "seconds": spent,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
    }


@torch.no_grad()
def measured(denoiser: Denoiser, images, classes: bool) -> dict:
    """Held-out loss by level, told no class and told it, and over EDM's levels."""
    x0 = to_unit(images.x[:PICTURES])
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(x0.shape, generator=rng)
    spread = lognormal_sigmas(PICTURES, rng)
    told = {"none": None}
    if classes:
        told = {"none": torch.full((PICTURES,), -1), "class": images.labels[:PICTURES]}

    def score(sigma: Tensor, labels: Tensor | None) -> float:
        total = 0.0
        for i in range(0, PICTURES, 128):
            part = slice(i, i + 128)
            y = None if labels is None else labels[part]
            total += edm_loss(denoiser, x0[part], sigma[part], noise[part], y).item()
        return total / (PICTURES / 128)

    return {
        who: {
            "levels": [score(torch.full((PICTURES,), s), y) for s in LEVELS],
            "mean": score(spread, y),
        }
        for who, y in told.items()
    }


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("--data", required=True, help="the folder with CIFAR-10")
    ask.add_argument("--minutes", type=float, default=7, help="a recipe's time")
    ask.add_argument("--seeds", type=int, default=1)
    options = ask.parse_args()
    torch.set_num_threads(1)
    about = {"levels": LEVELS, "device": device(), "training": asdict(STEADY)}
    rows = [r._replace(seed=s) for s in range(options.seeds) for r in RECIPES]
    named = lambda recipe: {**recipe._asdict(), "minutes": options.minutes}
    wanted = [
        (row, options.data, options.minutes)
        for row in rows
        if lacks(RESULTS, named(row))
    ]
    for recipe, found in in_two_processes(trained, wanted):
        add(RESULTS, about, {**named(recipe), **found, "date": today()})
        means = (f"{w} {found[w]['mean']:.4f}" for w in ("none", "class") if w in found)
        print(recipe.name, recipe.seed, *means, found["images"], flush=True)


if __name__ == "__main__":
    main()
