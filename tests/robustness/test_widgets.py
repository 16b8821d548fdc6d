"""The controls for JupyterLab: each one changes the picture, wrong arguments are named,
an update is quick.
"""

import asyncio
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hkd_mini
from hkd_mini import HKD, HKDConfig
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.data import unit_noise

widgets = pytest.importorskip("ipywidgets")
from hkd_mini.app import panel  # noqa: E402, after the check that it is there
from hkd_mini.app import widgets as ours  # noqa: E402
from hkd_mini.app.drawing import rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def moving(**network):
    """Two resolutions and rates of both signs; random weights."""
    torch.manual_seed(0)
    network = UNetConfig(
        channels=16, mult=(1, 1), blocks=1, attention=(), resolution=16, **network
    )
    net = HKD(HKDConfig(network)).eval()
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for generator in net.generators:
        generator.A.data.normal_(0, 1.0)
    return net


@pytest.fixture(scope="module")
def model():
    return moving()


def references(model, k=3):
    return (
        torch.rand(
            k, *model.config.network.shape, generator=torch.Generator().manual_seed(1)
        )
        * 2
        - 1
    )


MAKERS = {
    "masking": lambda model: ours.masking(model, n=2),
    "scrubber": lambda model: ours.scrubber(model, n=2),
    "editing_bench": lambda model: ours.editing_bench(model, references(model), n=2),
}
each = pytest.mark.parametrize("name", MAKERS)


def picture(box):
    (found,) = (child for child in box.children if isinstance(child, widgets.Image))
    return found


def moved(control):
    """Another value that the control may have."""
    if isinstance(control, (widgets.Checkbox, widgets.ToggleButton)):
        return not control.value
    if hasattr(control, "options"):
        values = [
            option[1] if isinstance(option, tuple) else option
            for option in control.options
        ]
        return next(value for value in values if value != control.value)
    if isinstance(control.value, tuple):
        low, high = control.value
        return (low + 0.25, high) if low + 0.25 < high else (low - 0.25, high)
    return control.value + (1 if isinstance(control, widgets.IntSlider) else 0.1)


def idle(box):
    """The controls that leave the picture as it was, in words."""
    found = []
    for control in list(panel.controls(box)):
        before = picture(box).value
        was = control.value
        control.value = moved(control)
        if picture(box).value == before:
            found.append(control.description or control.tooltip)
        # a resolution that is switched off makes other controls idle
        control.value = was
    return found


@each
def test_every_control_changes_the_picture(name, model):
    box = MAKERS[name](model)
    assert len(list(panel.controls(box))) >= 4
    image = Image.open(io.BytesIO(picture(box).value))
    assert image.format == "PNG" and image.width > 2 * image.height / 3
    if name == "editing_bench":  # squares of 2 x 2 pixels, all of which count
        next(panel.controls(box)).value = "everything"
    assert not idle(box)


@each
def test_a_cut_callback_is_noticed(name, model):
    box = MAKERS[name](model)
    everything = list(panel.controls(box))
    everything[1].unobserve_all()
    assert idle(box) == [everything[1].description or everything[1].tooltip]


@each
def test_every_control_has_a_name(name, model):
    assert all(
        control.description or control.tooltip
        for control in panel.controls(MAKERS[name](model))
    )


@each
def test_a_model_of_classes_is_asked_for_one(name, model):
    """And what is shown for a class is what the model decodes for it."""
    words = [c.description for c in panel.controls(MAKERS[name](model))]
    assert "class" not in words
    named = lambda box: next(c for c in panel.controls(box) if c.description == "class")
    always = named(MAKERS[name](moving(labels=3)))  # of none it would make a blend
    assert always.options == (("0", 0), ("1", 1), ("2", 2))
    knowing = moving(labels=3, no_class=True)
    box = MAKERS[name](knowing)
    label = named(box)
    assert label.options == (("none", -1), *always.options)
    shown = set()
    for _, k in label.options:
        label.value = k
        shown.add(picture(box).value)
    assert len(shown) == 4
    if name == "masking":  # everything kept: the last columns are samples
        for control in panel.controls(box):
            if isinstance(control, widgets.FloatRangeSlider):
                control.value = (0, 1)
        noise = unit_noise(2, knowing.config.network.shape, 0)
        sample = rows(*2 * [knowing.sample(noise, torch.tensor([2, 2]))])
        image = Image.open(io.BytesIO(picture(box).value)).convert("RGB")
        corner = image.width - sample.shape[1]
        found = np.asarray(image)[: sample.shape[0], corner:]
        assert np.abs(found.astype(int) - sample).max() <= 1  # rounding


def test_keeping_everything_is_the_whole_picture(model):
    box = ours.masking(model, n=2)
    start = picture(box).value
    for control in panel.controls(box):
        if isinstance(control, widgets.FloatRangeSlider):
            control.value = (0, 1)
    pixels = torch.tensor(
        list(Image.open(io.BytesIO(picture(box).value)).convert("RGB").tobytes())
    )
    wide = Image.open(io.BytesIO(start)).width
    # the last column of pictures: 16 pixels, twice as large
    pictures = pixels.view(-1, wide, 3)[:, -66:]
    assert torch.equal(pictures[:32, -32:], pictures[36:68, -32:])  # whole, changed
    assert pictures[72:104, -32:].float().std() == 0  # and no difference


def test_the_bench_shows_the_guess_that_an_edit_changes(model):
    box = ours.editing_bench(model, references(model), n=2)
    ratio, region = (
        next(c for c in panel.controls(box) if c.description == word)
        for word in ("ratio", "region")
    )

    def line(k):
        """Row k of the pictures on the right, two of 16 pixels, twice as large."""
        image = Image.open(io.BytesIO(picture(box).value)).convert("RGB")
        corner = image.width - 2 * 2 * 18
        return image.crop((corner, 36 * k, image.width, 36 * k + 36)).tobytes()

    region.value = "everything"
    assert line(0) != line(1) and line(2) != line(3)
    ratio.value = 0.0
    assert line(0) == line(1) and line(2) == line(3)
    region.value = "nothing"
    ratio.value = 1.0
    assert line(0) == line(1) and line(2) == line(3)


def test_in_a_loop_changes_are_drawn_once_and_the_last_one_counts():
    slider = widgets.IntSlider()
    drawn = []

    async def drag():
        panel.redraw_on_change(
            lambda: drawn.append(slider.value), widgets.VBox([slider])
        )
        for value in range(1, 21):
            slider.value = value
        assert drawn == [0]  # not yet
        await asyncio.sleep(5 * panel.WAIT)
        assert drawn == [0, 20]
        slider.value = 7
        await asyncio.sleep(5 * panel.WAIT)

    asyncio.run(drag())
    assert drawn == [0, 20, 7]
    slider.value = 8  # no loop: at once
    assert drawn == [0, 20, 7, 8]


def test_errors(model):
    points = HKD(HKDConfig(MLPConfig()))
    for make in (ours.masking, ours.scrubber):
        with pytest.raises(ValueError, match="a model of pictures"):
            make(points)
        with pytest.raises(ValueError, match="n = 0"):
            make(model, n=0)
    with pytest.raises(ValueError, match=r"references of shape \(2, 3, 8, 8\)"):
        ours.editing_bench(model, torch.zeros(2, 3, 8, 8))


def test_the_package_does_not_need_ipywidgets():
    program = (
        "import sys; sys.modules['ipywidgets'] = None\n"
        "import hkd_mini\n"
        "try:\n    import hkd_mini.app.widgets\n"
        "except ImportError as error:\n    print('missing', 'ipywidgets' in "
        "str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "missing True"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hkd-cifar10", "hkd-cifar10-tiny"])
def test_every_move_is_drawn(name):
    """And how many a second one core draws is said: five are wanted of eight
    samples.
    """
    model = hkd_mini.load(name)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        box = ours.masking(model, n=8)
        slider = next(
            c for c in panel.controls(box) if isinstance(c, widgets.FloatRangeSlider)
        )
        drawn = []
        picture(box).observe(lambda change: drawn.append(1), "value")
        start = time.process_time()
        for k in range(1, 11):
            slider.value = (0.25, 0.75 - 0.05 * k)
        rate = len(drawn) / (time.process_time() - start)
    finally:
        torch.set_num_threads(before)
    print(f"{name}: {rate:.0f} updates a second on one core")
    assert len(drawn) >= 10
