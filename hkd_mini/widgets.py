"""Controls for JupyterLab: mask a spectrum, scrub a trajectory, edit a picture, and see
it at once.

Each function returns one box to show in a notebook. What a control changes is drawn
with numpy into one PNG, so an update costs one decoding of n pictures; encoded states
are kept for every seed. A change asks for a redraw a few milliseconds later and further
changes until then ask for nothing, so a dragged slider is followed at the pace of the
decoder and its last value is always drawn. Without a running event loop (a test, a
script) it is drawn at once. Needs `ipywidgets`, which nothing else in this package
does. Chapters: 13 "Reading the spectrum", 14 "Editing".
"""

import asyncio
import io
from collections.abc import Callable, Iterator
from functools import lru_cache

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, UInt8
from PIL import Image
from torch import Tensor

from .edit import inject, lower_half, lower_left, noised
from .evaluation import PAPER, sheet
from .koopman import apply_mask
from .model import HKD
from .schedule import SIGMA_MAX
from .spectrum import by_level, interval_masks, spectrum

WAIT = 0.02  # seconds from a change to its drawing
CELLS = 8  # a region is painted on CELLS x CELLS squares
INK = (169, 177, 184)  # axes
IDLE = (203, 205, 204)  # modes that are not lit
# a resolution each: the book's colours
HUES = ((0, 114, 178), (209, 81, 27), (15, 157, 116), (227, 160, 8))
STYLE = {"description_width": "7em"}
KEYS = [("growth rate", "alpha"), ("its magnitude", "abs"), ("frequency", "beta")]
OTHERS = [("taken out", 0.0), ("left as they are", 1.0)]
REGIONS = {
    "lower left": lower_left(CELLS),
    "lower half": lower_half(CELLS),
    "everything": torch.ones(CELLS, CELLS),
    "nothing": torch.zeros(CELLS, CELLS),
}


def controls(box: widgets.Widget) -> Iterator[widgets.Widget]:
    """Everything in a box that can be moved, in order: what a reader, or a test, has to
    try.
    """
    if hasattr(box, "children"):
        for child in box.children:
            yield from controls(child)
    elif hasattr(box, "value") and not isinstance(box, (widgets.Image, widgets.HTML)):
        yield box


def follow(draw: Callable[[], None], box: widgets.Widget) -> None:
    """Draw now, and soon after any control of the box has changed.

    At most one redraw waits at a time, and it reads the newest values: nothing queues
    up behind a fast hand.
    """
    waiting = []

    def run():
        waiting.clear()
        draw()

    def ask(_change=None):
        if waiting:
            return
        try:
            waiting.append(asyncio.get_running_loop().call_later(WAIT, run))
        except RuntimeError:  # no loop that could call later
            draw()

    for control in controls(box):
        control.observe(ask, "value")
    draw()


def png(*panels: UInt8[np.ndarray, "_ _ 3"]) -> bytes:
    """Panels of one height side by side, as a PNG that is quick to write."""
    wide = sum(panel.shape[1] + 8 for panel in panels) - 8
    file = io.BytesIO()
    canvas = np.full((max(map(len, panels)), wide, 3), PAPER, np.uint8)
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
    """Everything in a list of tensors, one after another."""
    return torch.cat([part.flatten() for part in parts])


def plane(
    points: Complex[Tensor, " modes"],
    lit: Bool[Tensor, " modes"],
    hue: tuple,
    reach: tuple,
    size: int = 204,
) -> UInt8[np.ndarray, "size size 3"]:
    """Modes as dots of the complex plane, the lit ones in colour over the others;
    `reach` is centre, half width, half height.
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
    panel = np.full((size, size, 3), PAPER, np.uint8)
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


def _states(model: HKD, n: int) -> Callable[[int], list[Tensor]]:
    """States of n noises at T, by seed; the last few are kept."""
    shape = model.config.network.shape
    if len(shape) != 3 or n < 1:
        raise ValueError(
            f"n = {n} of shape {tuple(shape)}: wanted at least 1, of a model of "
            "pictures"
        )

    @lru_cache(4)
    @torch.no_grad()
    def states(seed: int) -> list[Tensor]:
        noise = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
        return model.encode(SIGMA_MAX * noise, model.clock.T)

    return states


def _slider(
    description: str,
    value: float | tuple,
    low: float = 0.0,
    high: float = 1.0,
    step: float = 0.05,
):
    """A slider of numbers, or of an interval where two are given."""
    kind = widgets.FloatRangeSlider if isinstance(value, tuple) else widgets.FloatSlider
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=description,
        style=STYLE,
        readout_format=".2f",
    )


def _shared(seed: int) -> tuple[widgets.Dropdown, widgets.IntSlider, widgets.Image]:
    """What all three have: a rate to sort by, a seed, a picture."""
    key = widgets.Dropdown(options=KEYS, description="sorted by", style=STYLE)
    picture = widgets.Image(format="png", layout={"max_width": "100%"})
    return (
        key,
        widgets.IntSlider(
            value=seed, min=0, max=max(99, seed), description="seed", style=STYLE
        ),
        picture,
    )


def masking(model: HKD, n: int = 8, seed: int = 0) -> widgets.VBox:
    """Choose modes of each resolution by quantiles of a rate; weigh them; see the
    eigenvalues and the pictures.

    Per resolution: an interval of ranks, a factor for it, and a switch for all of it.
    Modes outside the interval are taken out, or left as they are. Rows: whole pictures,
    changed ones, the difference (grey is none).
    """
    levels = by_level(model)
    lams = spectrum(model)
    states = _states(model, n)
    key, number, picture = _shared(seed)
    others = widgets.ToggleButtons(
        options=OTHERS, description="other modes", style=STYLE
    )
    table = {
        level: (
            _slider(f"{level[0]} x {level[1]}", (0.25, 0.75)),
            _slider("times", 1.0, 0.0, 3.0, 0.1),
            widgets.Checkbox(
                value=True, description=f"{level[0]} x {level[1]} on", indent=False
            ),
        )
        for level in levels
    }
    reach = max(lam.abs().max().item() for lam in lams) * 1.05 or 1.0

    @lru_cache(4)
    def whole(seed):
        z = model.evolve(states(seed), model.clock.T, model.clock.eps)
        return z, model.decode(z)

    @torch.no_grad()
    def draw():
        z, before = whole(number.value)
        planes = []
        changed = list(z)
        for (level, members), hue in zip(levels.items(), HUES):
            band, times, on = table[level]
            some = [lams[i] for i in members]
            lit = [
                m & on.value
                for m in interval_masks(
                    some, *band.value, key.value, [list(range(len(some)))]
                )
            ]
            for i, m in zip(members, lit):
                changed[i] = apply_mask(
                    z[i], torch.where(m, times.value, others.value) * on.value
                )
            planes.append(plane(flat(some), flat(lit), hue, (0.0, reach, reach)))
        after = model.decode(changed)
        picture.value = png(*planes, rows(before, after, after - before))

    lines = [widgets.HBox(row) for row in table.values()]
    box = widgets.VBox([widgets.HBox([key, number]), *lines, others, picture])
    follow(draw, box)
    return box


def scrubber(model: HKD, n: int = 8, seed: int = 0) -> widgets.VBox:
    """Follow states from noise to picture, with all modes moving or only those of an
    interval of ranks.

    The plane has e^{(alpha - i beta)(t - T)}, what each mode has been multiplied with:
    all are 1 at the start. Modes outside the interval stand still. Rows: all modes
    moved, those of the interval moved.
    """
    lams = spectrum(model)
    states = _states(model, n)
    T = model.clock.T
    eps = model.clock.eps
    key, number, picture = _shared(seed)
    key.value = "beta"
    way = _slider("way gone", 0.5, step=0.02)
    band = _slider("these move", (0.95, 1.0))
    said = widgets.HTML()

    @torch.no_grad()
    def draw():
        t = T + way.value * (eps - T)
        start = states(number.value)
        moves = interval_masks(lams, *band.value, key.value, [list(range(len(lams)))])
        moved = model.evolve(start, T, t)
        some = [
            torch.where(m.repeat(2, 1, 1), z, y) for m, z, y in zip(moves, moved, start)
        ]
        dots = plane(
            (flat(lams).conj() * (t - T)).exp(),
            flat(moves),
            HUES[0],
            (1.0, 1.5, 1.5),
            136,
        )
        picture.value = png(dots, rows(model.decode(moved), model.decode(some)))
        said.value = f"t = {t:.2f}, noise level {float(model.clock.sigma(t)):.3g}"

    box = widgets.VBox(
        [widgets.HBox([way, said]), widgets.HBox([key, band]), number, picture]
    )
    follow(draw, box)
    return box


def _squares() -> tuple[widgets.GridBox, Callable[[Tensor], None]]:
    """Squares to switch on and off, row by row, and what paints all of them."""
    places = [
        f"row {i + 1}, column {j + 1}" for i in range(CELLS) for j in range(CELLS)
    ]
    size = {"width": "22px", "height": "22px", "padding": "0", "margin": "1px"}
    cells = [
        widgets.ToggleButton(tooltip=place, button_style="info", layout=size)
        for place in places
    ]

    def paint(weights: Float[Tensor, "8 8"]):
        for cell, on in zip(cells, (weights >= 0.5).flatten().tolist()):
            cell.value = on

    return widgets.GridBox(
        cells,
        layout={"grid_template_columns": f"repeat({CELLS}, 24px)", "grid_gap": "0"},
    ), paint


def editing_bench(
    model: HKD, references: Float[Tensor, "k 3 h w"], seed: int = 0, n: int = 6
) -> widgets.VBox:
    """Inject a band of a clean picture, within a painted region, into n pictures on
    their way.

    `references` in [-1, 1], noised to the time of the edit. Left: the reference, dimmed
    where nothing is taken. Rows: pictures as they would be, edited, the difference.
    Raises ValueError for references of another size.
    """
    shape = model.config.network.shape
    T = model.clock.T
    eps = model.clock.eps
    if tuple(references.shape[1:]) != tuple(shape) or not len(references):
        raise ValueError(
            f"references of shape {tuple(references.shape)}: wanted (k, "
            f"{', '.join(map(str, shape))})"
        )
    key, number, picture = _shared(seed)
    which = widgets.IntSlider(
        value=0, min=0, max=len(references) - 1, description="reference", style=STYLE
    )
    band = _slider("ranks", (0.0, 0.5))
    ratio = _slider("ratio", 0.5)
    way = _slider("way gone", 0.5)
    start = widgets.Dropdown(
        options=list(REGIONS), value="lower half", description="region", style=STYLE
    )
    squares, paint = _squares()
    states = _states(model, n)
    paint(REGIONS[start.value])
    start.observe(lambda change: paint(REGIONS[change.new]), "value")
    lams = spectrum(model)
    levels = by_level(model).values()
    unit = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    whole = lru_cache(4)(
        torch.no_grad()(lambda seed: model.decode(model.evolve(states(seed), T, eps)))
    )

    @lru_cache(8)
    @torch.no_grad()
    def encoded(k: int, t: float) -> list[Tensor]:
        return model.encode(noised(model, references[k : k + 1], unit, t), t)

    @torch.no_grad()
    def draw():
        t = T + way.value * (eps - T)
        where = torch.tensor([cell.value for cell in squares.children]).float()
        where = where.view(CELLS, CELLS).kron(
            torch.ones(shape[1] // CELLS, shape[2] // CELLS)
        )
        masks = interval_masks(lams, *band.value, key.value, levels)
        z = model.evolve(states(number.value), T, t)
        mixed = inject(z, encoded(which.value, t), masks, ratio.value, where)
        before = whole(number.value)
        after = model.decode(model.evolve(mixed, t, eps))
        # fades to paper
        shown = references[which.value] * (0.3 + 0.7 * where) + 0.7 * (1 - where)
        picture.value = png(
            rows(shown[None], scale=6), rows(before, after, after - before)
        )

    right = widgets.VBox([which, band, key, ratio, way, number])
    box = widgets.VBox([widgets.HBox([widgets.VBox([start, squares]), right]), picture])
    follow(draw, box)
    return box
