"""What the controls for JupyterLab share: sliders, kept states, and a redraw that
follows the hand.

A change asks for a redraw a few milliseconds later and further changes until then ask
for nothing, so a dragged slider is followed at the pace of the decoder and its last
value is always drawn. Without a running event loop (a test, a script) it is drawn at
once. Needs `ipywidgets`. Chapters: 13 "Reading the spectrum", 14 "Editing".
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import ipywidgets as widgets
import torch
from jaxtyping import Int
from torch import Tensor

from ..engine.data import unit_noise
from ..hkd.edit import lower_half, lower_left
from ..hkd.model import HKD
from .drawing import CELLS, STYLE

WAIT = 0.02  # seconds from a change to its drawing
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


def redraw_on_change(draw: Callable[[], None], box: widgets.Widget) -> None:
    """Call `draw` now, and soon after any control of the box has changed.

    At most one redraw waits at a time, and it reads the newest values: nothing queues
    up behind a fast hand.
    """
    waiting: list[asyncio.TimerHandle] = []

    def run():
        waiting.clear()
        draw()

    def ask(_change: object = None) -> None:
        if waiting:
            return
        try:
            waiting.append(asyncio.get_running_loop().call_later(WAIT, run))
        except RuntimeError:  # no loop that could call later
            draw()

    for control in controls(box):
        control.observe(ask, "value")
    draw()


def told(model: HKD, n: int, label: int) -> Int[Tensor, " n"] | None:
    """The class `label` n times, -1 for none; None for a model without classes."""
    return torch.full((n,), label) if model.config.network.labels else None


def kept_states(model: HKD, n: int) -> Callable[[int, int], list[Tensor]]:
    """States of n noises at T, by seed and class; the last few are kept."""
    shape = model.config.network.shape
    if len(shape) != 3 or n < 1:
        raise ValueError(
            f"n = {n} of shape {tuple(shape)}: wanted at least 1, of a model of "
            "pictures"
        )

    @lru_cache(4)
    @torch.no_grad()
    def states(seed: int, label: int) -> list[Tensor]:
        noise = model.noise.sigma_max * unit_noise(n, shape, seed)
        return model.encode(noise, model.clock.T, told(model, n, label))

    return states


def kept_ends(
    model: HKD, states: Callable[[int, int], list[Tensor]], n: int
) -> Callable[[int, int], tuple[list[Tensor], Tensor]]:
    """Where `states` of n noises arrive, and their pictures, by seed and class; the
    last few are kept.
    """

    @lru_cache(4)
    @torch.no_grad()
    def ends(seed: int, label: int) -> tuple[list[Tensor], Tensor]:
        z = model.evolve(states(seed, label), model.clock.T, model.clock.eps)
        return z, model.decode(z, told(model, n, label))

    return ends


def one_slider(
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


class Shared(NamedTuple):
    """What all three have: a rate to sort by; a seed; a class, -1 for none; a picture;
    and the seed beside the class, if the model has classes, as they are shown.
    """

    key: widgets.Dropdown
    seed: widgets.IntSlider
    label: widgets.Dropdown
    picture: widgets.Image
    noises: widgets.HBox


def shared_controls(model: HKD, seed: int) -> Shared:
    """The controls that all three have, for `model`, with the seed at `seed`."""
    key = widgets.Dropdown(options=KEYS, description="sorted by", style=STYLE)
    number = widgets.IntSlider(
        value=seed, min=0, max=max(99, seed), description="seed", style=STYLE
    )
    classes = range(model.config.network.labels)
    # of no class, a network that always learned with one makes a blend
    none = [("none", -1)] if model.config.network.no_class or not classes else []
    options = [*none, *((str(k), k) for k in classes)]
    label = widgets.Dropdown(options=options, description="class", style=STYLE)
    picture = widgets.Image(format="png", layout={"max_width": "100%"})
    noises = widgets.HBox([number, label] if classes else [number])
    return Shared(key, number, label, picture, noises)
