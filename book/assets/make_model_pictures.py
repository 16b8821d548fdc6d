"""Draw the model's pictures: `python book/assets/make_model_pictures.py` writes
assets/pictures/{hero,one-step,guesses}.png.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import hkd_mini
from hkd_mini.app.evaluation import BACKGROUND, sheet
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import SIGMA_MIN, karras_sigmas

HERE = Path(__file__).parent
# points of the teacher's path that change visibly
STOPS = [0, 7, 9, 10, 11, 12, 13, 18]


def unit_noise(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def hero(model) -> None:
    """Sixty samples, the first of their seed, three screen pixels a pixel."""
    picture = Image.fromarray(sheet(model.sample(unit_noise(60, 5)), 12))
    picture = picture.resize((picture.width * 3, picture.height * 3), Image.NEAREST)
    picture.save(HERE / "pictures" / "hero.png", optimize=True)


def one_step(model, teacher) -> None:
    """Five noises: the teacher's path above an arrow's length, and the one step beside
    it.
    """
    noise = unit_noise(60, 5)[:5]
    levels = karras_sigmas(18)
    path = heun(teacher, levels[0] * noise, levels).x.float()
    film = (path / (levels**2 + 0.25).sqrt().view(-1, 1, 1, 1, 1).float())[STOPS] / 2
    film[-1] = path[-1]
    rows = sheet(film.transpose(0, 1).flatten(0, 1).clamp(-1, 1), len(STOPS))
    gap = np.full((len(rows), 16, 3), BACKGROUND, np.uint8)
    strip = np.concatenate([rows, gap, sheet(model.sample(noise), 1)], axis=1)
    fig, ax = plt.subplots(figsize=(9.0, 5.2))
    ax.imshow(strip)
    ax.axis("off")
    ax.text(
        0, -5, "the teacher: 35 evaluations", fontsize=15, color="C0", weight="bold"
    )
    ax.text(
        strip.shape[1],
        -5,
        "HKD: one",
        fontsize=15,
        color="C1",
        weight="bold",
        ha="right",
    )
    fig.savefig(HERE / "pictures" / "one-step.png", dpi=130)


def guesses(model) -> None:
    """Five noises, encoded once each: what their states decode to at ten times."""
    levels = karras_sigmas(18)[[0, 2, 4, 6, 8, 10, 11, 12, 14, 17]]
    times = model.clock.time(levels.clamp(min=SIGMA_MIN)).float()
    film = model.trajectory(unit_noise(60, 5)[:5], times).transpose(0, 1)
    picture = Image.fromarray(sheet(film.flatten(0, 1).clamp(-1, 1), len(levels)))
    picture = picture.resize((picture.width * 3, picture.height * 3), Image.NEAREST)
    picture.save(HERE / "pictures" / "guesses.png", optimize=True)


def main() -> None:
    plt.style.use(HERE / "book.mplstyle")
    model = hkd_mini.load("hkd-cifar10")
    teacher = hkd_mini.load("teacher-cifar10")
    hero(model)
    one_step(model, teacher)
    guesses(hkd_mini.load("hkd-cifar10-tiny"))


if __name__ == "__main__":
    main()
