"""Pictures for the controls: a PNG drawn with numpy, a sheet of rows, a plane of rates.

An update has to be quick, so nothing here draws a figure: pixels are written where they
belong, in the book's colours.
Chapters: 13 "Reading the spectrum", 14 "Editing".
"""

import io

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, UInt8
from PIL import Image
from torch import Tensor

from .evaluation import BACKGROUND, sheet

CELLS = 8  # a region is painted on CELLS x CELLS squares
INK = (169, 177, 184)  # axes
IDLE = (203, 205, 204)  # modes that are not lit
# a resolution each: the book's colours
HUES = ((0, 114, 178), (209, 81, 27), (15, 157, 116), (227, 160, 8))
STYLE = {"description_width": "7em"}


def png(*panels: UInt8[np.ndarray, "_ _ 3"]) -> bytes:
    """Panels of one height side by side, as a PNG that is quick to write."""
    wide = sum(panel.shape[1] + 8 for panel in panels) - 8
    file = io.BytesIO()
    canvas = np.full((max(map(len, panels)), wide, 3), BACKGROUND, np.uint8)
    x = 0
    for panel in panels:
        canvas[: len(panel), x : x + panel.shape[1]] = panel
        x += panel.shape[1] + 8
    Image.fromarray(canvas).save(file, "png", compress_level=1)
    return file.getvalue()


def rows(
    *pictures: Float[Tensor, "n 3 h w"], scale: int = 2
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Rows of pictures in [-1, 1], clipped, every pixel `scale` times as large."""
    small = sheet(torch.cat([x.clamp(-1, 1) for x in pictures]), len(pictures[0]))
    return small.repeat(scale, 0).repeat(scale, 1)


def flat(parts: list[Tensor]) -> Tensor:
    """Everything in `parts`, a list of tensors, one after another: (numbers,)."""
    return torch.cat([part.flatten() for part in parts])


def plane(
    points: Complex[Tensor, " modes"],
    lit: Bool[Tensor, " modes"],
    hue: tuple,
    reach: tuple,
    size: int = 204,
) -> UInt8[np.ndarray, "size size 3"]:
    """Modes as dots of the complex plane, the lit ones in colour over the others.

    `points` are rates, `hue` the colour (red, green, blue) in 0..255, `reach` the
    centre, half width and half height of what is shown, `size` the side in pixels.
    """
    centre, wide, high = reach
    column = (
        ((points.real - centre) / wide + 1)
        .mul((size - 3) / 2)
        .round()
        .clamp(0, size - 3)
        .long()
    )
    row = (1 - points.imag / high).mul((size - 3) / 2).round().clamp(0, size - 3).long()
    panel = np.full((size, size, 3), BACKGROUND, np.uint8)
    panel[size // 2] = INK
    if abs(centre) < wide:
        panel[:, round((1 - centre / wide) * (size - 3) / 2) + 1] = INK
    for chosen, colour in ((~lit, IDLE), (lit, hue)):
        i = row[chosen].numpy()
        j = column[chosen].numpy()
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            panel[i + down, j + right] = colour
    panel[[0, -1]] = panel[:, [0, -1]] = INK
    return panel
