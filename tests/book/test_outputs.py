"""What nbval compares is what a reader reads: no bytes of pictures, no packed tables,
no more digits than two processors agree on; and executing again changes no byte.
"""

import base64
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
# nbval's own list of what it never compares, beside what compared.cfg takes out
IGNORED = ("image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json")
PACKED = re.compile(r"[A-Za-z0-9+/]{400,}={0,2}")
DIGITS = (
    5  # significant ones of a number with a point: float32 has seven, networks less
)
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*\.\d+(?![\w.])")


def rules():
    """The pairs (pattern, replacement) that conftest.py hands to nbval."""
    text = (ROOT / "book" / "assets" / "compared.cfg").read_text(encoding="utf-8")
    return re.findall(r"^regex: (.*)$\n^replace: (.*)$", text, flags=re.MULTILINE)


def compared(notebook):
    """(cell, text) for every output, as nbval compares it."""
    for k, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            parts = [output.get("text", "")]
            parts += [
                v for kind, v in output.get("data", {}).items() if kind not in IGNORED
            ]
            for part in parts:
                text = part if isinstance(part, str) else "".join(part)
                for pattern, replacement in rules():
                    text = re.sub(pattern, replacement, text)
                yield k, text


def packed(notebook):
    return [
        (k, m.group()[:40])
        for k, text in compared(notebook)
        for m in PACKED.finditer(text)
    ]


def too_exact(notebook):
    """Numbers of more significant digits than DIGITS in compared text, code aside."""
    for k, text in compared(notebook):
        text = re.sub(r"<script.*?</script>", "", text, flags=re.S)
        for number in NUMBER.findall(text):
            if len(number.replace(",", "").replace(".", "").lstrip("0")) > DIGITS:
                yield k, number


@pytest.fixture(scope="module")
def execute():
    """The program that executes chapters."""
    sys.path.insert(0, str(ROOT / ".ci"))
    spec = importlib.util.spec_from_file_location(
        "execute", ROOT / ".ci" / "execute.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / ".ci"))


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_no_bytes_are_compared(path):
    assert not packed(json.loads(path.read_text(encoding="utf-8")))


@each_notebook
def test_no_number_has_more_digits_than_processors_agree_on(path):
    assert not list(too_exact(json.loads(path.read_text(encoding="utf-8"))))


def shown(text, kind="text/html"):
    cell = {"outputs": [{"output_type": "display_data", "data": {kind: text}}]}
    return {"cells": [cell]}


def test_packed_bytes_and_long_numbers_are_noticed():
    """In code as it was until November 2026, in a JPEG inside HTML, and in print."""
    table = base64.b64encode(bytes(range(256)) * 4).decode()
    inline = f'<script type="module">mount(e, {{"points":"{table}"}});</script>'
    apart = f'<script type="application/json" id="data-kdm">{{"p":"{table}"}}</script>'
    assert packed(shown(inline)) and not packed(shown(apart))
    assert not packed(shown(f'<img src="data:image/jpeg;base64,{table}">'))
    assert packed(shown(table, "application/javascript"))
    assert not packed(shown(table, "image/png"))
    for said, found in (("error 0.0012345, 1,234.5", []), ("0.123456", ["0.123456"])):
        assert [n for _, n in too_exact(shown(said, "text/plain"))] == found


def png(shift=0.0, size=80, noise=0):
    """A card with a line, `shift` pixels down, some of its numbers off by `noise`."""
    picture = Image.new("RGB", (4 * size, 4 * size), "#fdfcf9")
    line = (0, 4 * (20 + shift), 4 * size, 4 * (60 + shift))
    ImageDraw.Draw(picture).line(line, "#0072b2", 12)
    small = np.asarray(picture.resize((size, size), Image.Resampling.BOX)).astype(int)
    off = noise * (np.random.default_rng(0).random(small.shape) < 0.1)
    file = io.BytesIO()
    Image.fromarray((small + off).clip(0, 255).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def test_pictures_that_look_the_same_are_the_stored_ones(execute):
    assert execute.alike_bytes(png(noise=1), png())
    assert execute.alike_bytes(png(shift=0.02), png())
    assert not execute.alike_bytes(png(shift=3), png())
    assert not execute.alike_bytes(png(size=81), png())
    slim = execute.small(png())
    assert len(slim) < len(png()) and execute.alike_bytes(slim, png())


def test_data_that_differ_by_rounding_are_the_stored_ones(execute):
    data = lambda numbers: f'<script type="application/json" id="a">{numbers}</script>'
    assert execute.alike_text(data("[0.50001,1]"), data("[0.5,1]"))
    assert not execute.alike_text(data("[0.52,1]"), data("[0.5,1]"))
    assert not execute.alike_text(data("[0.5]"), data("[0.5,1]"))
    assert not execute.alike_text("x" + data("[1]"), "y" + data("[1]"))
    table = np.arange(400, dtype=np.int16)
    moved = table + (np.arange(400) % 50 == 0)
    coded = lambda t: data('{"t":"' + base64.b64encode(t.astype("<i2")).decode() + '"}')
    assert execute.alike_text(coded(moved), coded(table))
    assert not execute.alike_text(coded(table + 1), coded(table))


def notebook(seed, picture, said="3 of 4"):
    """A notebook with one cell that shows a widget and a picture, as a run leaves
    it.
    """
    rng = np.random.default_rng(seed)
    box, slider, layout, link = (rng.bytes(16).hex() for _ in range(4))
    models = {
        slider: {"layout": f"IPY_MODEL_{layout}", "value": 1},
        box: {"children": [f"IPY_MODEL_{slider}"]},
        link: {"source": [f"IPY_MODEL_{slider}", "index"]},
        layout: {"width": "100%"},
    }
    state = {k: {"model_name": "M", "state": models[k]} for k in sorted(models)}
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": box}}
    cell = nbformat.v4.new_code_cell("show()", id="one", execution_count=1)
    cell.metadata["execution"] = {"iopub.status.busy": str(seed)}
    image = {"image/png": base64.b64encode(picture).decode(), "text/plain": "<Figure>"}
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=said),
        nbformat.v4.new_output("display_data", data=image),
        nbformat.v4.new_output("display_data", data=view),
    ]
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    return nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": widgets})


def test_executing_again_changes_no_byte(execute):
    empty = nbformat.v4.new_notebook()
    first = execute.settled(notebook(1, png()), empty)
    again = execute.settled(notebook(2, png(noise=1)), first)
    assert nbformat.writes(again) == nbformat.writes(first)
    assert "execution" not in first.cells[0].metadata
    other = execute.settled(notebook(3, png(shift=3), "2 of 4"), first)
    assert other.cells[0].outputs[0].text == "2 of 4"
    assert other.cells[0].outputs[1] != first.cells[0].outputs[1]
    assert other.cells[0].outputs[2] == first.cells[0].outputs[2]


def test_a_kernel_that_dies_at_birth_is_started_again_and_no_oftener():
    spec = importlib.util.spec_from_file_location("settings", ROOT / "conftest.py")
    settings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(settings)
    tried = []

    def start(deaths):
        tried.append(deaths)
        if len(tried) <= deaths:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return "a kernel"

    assert settings.patiently(start)(2) == "a kernel" and len(tried) == 3
    tried.clear()
    with pytest.raises(RuntimeError, match="died"):
        settings.patiently(start)(3)
    assert len(tried) == 3


def test_widgets_are_stored_small(execute):
    """No layout says what it leaves open, a frame has few colours, and what only a
    kernel can move has none.
    """
    frame = {"path": ["value"], "data": base64.b64encode(png()).decode()}
    models = {
        "a": {"model_name": "LayoutModel", "state": {"width": "9em", "top": None}},
        "b": {"model_name": "ImageModel", "state": {}, "buffers": [frame]},
    }
    execute.settle_widgets(models, {})
    assert models["a"]["state"] == {"width": "9em"}
    slim = base64.b64decode(frame["data"])
    assert len(slim) < len(png()) and execute.alike_bytes(slim, png())
    execute.settle_widgets(models, {}, {"b"})
    assert frame["data"] == base64.b64encode(execute.EMPTY).decode()
    live = notebook(1, png())
    assert execute.needing_a_kernel(live) == set()
    live.cells[0].metadata["tags"] = ["hide-input", "remove-output"]
    assert len(execute.needing_a_kernel(live)) == 3  # box, slider, layout
