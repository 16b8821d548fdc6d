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

from collections.abc import Callable
from functools import lru_cache

import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.data import unit_noise
from ..hkd.edit import inject, noised
from ..hkd.model import HKD
from ..hkd.spectra import by_level, interval_masks, spectrum
from ..koopman.generator import apply_mask
from .drawing import CELLS, HUES, STYLE, flat, plane, png, rows
from .panel import (
    OTHERS,
    REGIONS,
    kept_ends,
    kept_states,
    one_slider,
    redraw_on_change,
    shared_controls,
    told,
)


def masking(model: HKD, n: int = 8, seed: int = 0) -> widgets.VBox:
    """Choose modes of `model`, resolution by resolution, by quantiles of a rate; weigh
    them; see the eigenvalues and n pictures, at first those of `seed`.

    Per resolution: an interval of ranks, a factor for it, and a switch for all of it.
    Modes outside the interval are taken out, or left as they are. Rows: whole pictures,
    changed ones, the difference (grey is none).
    """
    levels = by_level(model)
    lams = spectrum(model)
    whole = kept_ends(model, kept_states(model, n), n)
    key, number, label, picture, noises = shared_controls(model, seed)
    others = widgets.ToggleButtons(
        options=OTHERS, description="other modes", style=STYLE
    )
    table = {
        level: (
            one_slider(f"{level[0]} x {level[1]}", (0.25, 0.75)),
            one_slider("times", 1.0, 0.0, 3.0, 0.1),
            widgets.Checkbox(
                value=True, description=f"{level[0]} x {level[1]} on", indent=False
            ),
        )
        for level in levels
    }
    reach = max(lam.abs().max().item() for lam in lams) * 1.05 or 1.0

    @torch.no_grad()
    def draw():
        z, before = whole(number.value, label.value)
        planes = []
        changed = list(z)
        for (level, members), hue in zip(levels.items(), HUES):
            band, times, on = table[level]
            some = [lams[i] for i in members]
            low, high = band.value
            group = [list(range(len(some)))]
            lit = [
                m & on.value for m in interval_masks(some, low, high, key.value, group)
            ]
            for i, m in zip(members, lit):
                changed[i] = apply_mask(
                    z[i], torch.where(m, times.value, others.value) * on.value
                )
            planes.append(plane(flat(some), flat(lit), hue, (0.0, reach, reach)))
        after = model.decode(changed, told(model, n, label.value))
        picture.value = png(*planes, rows(before, after, after - before))

    lines = [widgets.HBox(row) for row in table.values()]
    box = widgets.VBox([widgets.HBox([key, noises]), *lines, others, picture])
    redraw_on_change(draw, box)
    return box


def scrubber(model: HKD, n: int = 8, seed: int = 0) -> widgets.VBox:
    """Follow n states of `model` from noise to picture, with all modes moving or only
    those of an interval of ranks; `seed` is the noises' at first.

    The plane has e^{(alpha - i beta)(t - T)}, what each mode has been multiplied with:
    all are 1 at the start. Modes outside the interval stand still. Rows: all modes
    moved, those of the interval moved.
    """
    lams = spectrum(model)
    states = kept_states(model, n)
    T = model.clock.T
    eps = model.clock.eps
    key, number, label, picture, noises = shared_controls(model, seed)
    key.value = "beta"
    way = one_slider("way gone", 0.5, step=0.02)
    band = one_slider("these move", (0.95, 1.0))
    said = widgets.HTML()

    @torch.no_grad()
    def draw():
        t = T + way.value * (eps - T)
        start = states(number.value, label.value)
        classes = told(model, n, label.value)
        low, high = band.value
        moves = interval_masks(lams, low, high, key.value, [list(range(len(lams)))])
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
        pictures = model.decode(moved, classes), model.decode(some, classes)
        picture.value = png(dots, rows(*pictures))
        said.value = f"t = {t:.2f}, noise level {float(model.clock.sigma(t)):.3g}"

    box = widgets.VBox(
        [widgets.HBox([way, said]), widgets.HBox([key, band]), noises, picture]
    )
    redraw_on_change(draw, box)
    return box


def _region() -> tuple[widgets.VBox, Callable[[], Float[Tensor, "8 8"]]]:
    """A region to choose by name or to paint, square by square, and what is painted."""
    places = [
        f"row {i + 1}, column {j + 1}" for i in range(CELLS) for j in range(CELLS)
    ]
    size = {"width": "22px", "height": "22px", "padding": "0", "margin": "1px"}
    cells = [
        widgets.ToggleButton(tooltip=place, button_style="info", layout=size)
        for place in places
    ]
    start = widgets.Dropdown(
        options=list(REGIONS), value="lower half", description="region", style=STYLE
    )

    def paint(_change: object = None):
        for cell, on in zip(cells, (REGIONS[start.value] >= 0.5).flatten().tolist()):
            cell.value = on

    def painted() -> Tensor:
        return torch.tensor([float(cell.value) for cell in cells]).view(CELLS, CELLS)

    start.observe(paint, "value")
    paint()
    squares = widgets.GridBox(
        cells,
        layout={"grid_template_columns": f"repeat({CELLS}, 24px)", "grid_gap": "0"},
    )
    return widgets.VBox([start, squares]), painted


def _check_references(model: HKD, references: Tensor) -> None:
    shape = model.config.network.shape
    if tuple(references.shape[1:]) != tuple(shape) or not len(references):
        raise ValueError(
            f"references of shape {tuple(references.shape)}: wanted (k, "
            f"{', '.join(map(str, shape))})"
        )


def editing_bench(
    model: HKD, references: Float[Tensor, "k 3 h w"], seed: int = 0, n: int = 6
) -> widgets.VBox:
    """Inject a band of a clean picture, within a painted region, into n pictures of
    `model` on their way, at first those of `seed`.

    `references` in [-1, 1], noised to the time of the edit. Left: the reference, dimmed
    where nothing is taken. Rows: what the states decode to at that time, without the
    edit and with it; pictures as they would be, edited, the difference. Raises
    ValueError for references of another size.
    """
    _check_references(model, references)
    shape = model.config.network.shape
    T = model.clock.T
    eps = model.clock.eps
    key, number, label, picture, noises = shared_controls(model, seed)
    which = widgets.IntSlider(
        value=0, min=0, max=len(references) - 1, description="reference", style=STYLE
    )
    band = one_slider("ranks", (0.0, 0.5))
    ratio = one_slider("ratio", 0.5)
    way = one_slider("way gone", 0.5)
    region, painted = _region()
    states = kept_states(model, n)
    whole = kept_ends(model, states, n)
    lams = spectrum(model)
    levels = by_level(model).values()
    unit = unit_noise(1, shape, seed)

    @lru_cache(8)
    @torch.no_grad()
    def encoded(k: int, t: float, label: int) -> list[Tensor]:
        x = noised(model, references[k : k + 1], unit, t)
        return model.encode(x, t, told(model, 1, label))

    @torch.no_grad()
    def draw():
        t = T + way.value * (eps - T)
        square = torch.ones(shape[1] // CELLS, shape[2] // CELLS)
        where = painted().kron(square)
        low, high = band.value
        masks = interval_masks(lams, low, high, key.value, levels)
        classes = told(model, n, label.value)
        z = model.evolve(states(number.value, label.value), T, t)
        reference = encoded(which.value, t, label.value)
        mixed = inject(z, reference, masks, ratio.value, where)
        _, before = whole(number.value, label.value)
        after = model.decode(model.evolve(mixed, t, eps), classes)
        # fades to paper
        shown = references[which.value] * (0.3 + 0.7 * where) + 0.7 * (1 - where)
        guesses = model.decode(z, classes), model.decode(mixed, classes)
        picture.value = png(
            rows(shown[None], scale=6), rows(*guesses, before, after, after - before)
        )

    right = widgets.VBox([which, band, key, ratio, way, *noises.children])
    box = widgets.VBox([widgets.HBox([region, right]), picture])
    redraw_on_change(draw, box)
    return box
