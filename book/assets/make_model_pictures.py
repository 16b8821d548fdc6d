"""Draw the model's pictures: `python book/assets/make_model_pictures.py` writes
assets/pictures/{hero,one-step,guesses}.webp.
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import hkd_mini
from hkd_mini.app.evaluation import BACKGROUND, sheet
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.samplers import heun

HERE = Path(__file__).parent
# points of the teacher's path that change visibly
STOPS = [0, 7, 9, 10, 11, 12, 13, 14]
SHOWN = [23, 49, 54, 77, 39]  # of the hundred noises, and
CLASSES = torch.tensor([1, 4, 7, 8, 9])  # what is asked of them
WEIGHT = 2.5  # of the teacher's guidance


def unit_noise(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def kept(picture: Image.Image, name: str) -> None:
    """A picture of pictures as a file, small."""
    picture.save(HERE / "pictures" / f"{name}.webp", quality=88, method=6)


def enlarged(pixels: np.ndarray) -> Image.Image:
    """Three screen pixels a pixel."""
    picture = Image.fromarray(pixels)
    return picture.resize((picture.width * 3, picture.height * 3), Image.BICUBIC)


def hero(model) -> None:
    """One hundred samples, ten of each class, the first of their seed: two columns a
    class.
    """
    classes = torch.arange(10).repeat_interleave(2).repeat(5)
    kept(enlarged(sheet(model.sample(unit_noise(100, 5), classes), 20)), "hero")


def one_step(model, teacher) -> None:
    """Five noises: the guided teacher's path above an arrow's length, and the one step
    beside it.
    """
    noise = unit_noise(100, 5)[SHOWN]
    levels = teacher.noise.sigmas(14)
    path = heun(Guided(teacher, WEIGHT), levels[0] * noise, levels, CLASSES).x.float()
    film = (path / (levels**2 + 0.25).sqrt().view(-1, 1, 1, 1, 1).float())[STOPS] / 2
    film[-1] = path[-1]
    rows = sheet(film.transpose(0, 1).flatten(0, 1).clamp(-1, 1), len(STOPS))
    gap = np.full((len(rows), 16, 3), BACKGROUND, np.uint8)
    once = sheet(model.sample(noise, CLASSES), 1)
    strip = np.concatenate([rows, gap, once], axis=1)
    fig, ax = plt.subplots(figsize=(9.0, 5.2))
    ax.imshow(strip, interpolation="lanczos")
    ax.axis("off")
    ax.text(
        0,
        -5,
        "the guided teacher: 70 evaluations",
        fontsize=15,
        color="C0",
        weight="bold",
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
    file = io.BytesIO()
    fig.savefig(file, dpi=130)
    kept(Image.open(file).convert("RGB"), "one-step")


def guesses(model) -> None:
    """The same noises, encoded once each: what their states decode to at ten times."""
    levels = model.noise.sigmas(14)[[0, 2, 4, 6, 7, 8, 9, 10, 11, 13]]
    times = model.clock.time(levels).float()
    film = model.trajectory(unit_noise(100, 5)[SHOWN], times, CLASSES).transpose(0, 1)
    pixels = sheet(film.flatten(0, 1).clamp(-1, 1), len(levels))
    kept(enlarged(pixels), "guesses")


def main() -> None:
    plt.style.use(HERE / "book.mplstyle")
    model = hkd_mini.load("hkd-cifar10")
    hero(model)
    one_step(model, hkd_mini.load("teacher-cifar10"))
    guesses(model)


if __name__ == "__main__":
    main()
