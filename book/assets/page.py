"""What the chapters' interactive cells share, so that a cell says what is drawn and not
how a slider is wired.

Three ways to move a picture, for three places. `flipbook` needs no kernel: frames drawn
in advance, turned by a slider, in the rendered page and in JupyterLab alike. `live`
needs a kernel: any value, drawn on demand; its cells are tagged `remove-output`, since
in a page without a kernel nothing may pretend. `in_page` computes in the reader's
browser: a small module from assets/live, put into the output together with its data, so
that the page asks nobody for anything and JupyterLab runs it too.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
from IPython.display import HTML
from PIL import Image

LIVE = Path(__file__).parent / "live"
WIDE = {"max_width": "100%"}


def png(fig, colors: int = 48, dpi: int = 100) -> bytes:
    """A figure as a small PNG of few colours; the figure is closed."""
    file = io.BytesIO()
    small = io.BytesIO()
    fig.savefig(file, format="png", dpi=dpi)
    plt.close(fig)
    few = Image.open(file).convert("RGB").quantize(colors, kmeans=1)
    few.save(small, format="png", optimize=True)
    return small.getvalue()


def flipbook(
    frames: Mapping[object, bytes], description: str, start: int = 0
) -> widgets.VBox:
    """Pictures {label: PNG} behind one slider, linked without a kernel."""
    pictures = [
        widgets.Image(value=frame, format="png", layout=WIDE)
        for frame in frames.values()
    ]
    book = widgets.Stack(pictures, selected_index=start)
    slider = widgets.SelectionSlider(
        options=[str(label) for label in frames],
        index=start,
        description=description,
        layout={"width": "100%", "max_width": "32rem"},
    )
    slider.style.description_width = "initial"
    widgets.jslink((slider, "index"), (book, "selected_index"))
    return widgets.VBox([slider, book])


def live(draw: Callable, **controls: widgets.Widget) -> widgets.VBox:
    """In JupyterLab: `draw(**values)` returns a figure (or PNG bytes), anew whenever
    one of the controls moves.
    """
    picture = widgets.Image(format="png", layout=WIDE)

    def redraw(_=None):
        drawn = draw(**{name: control.value for name, control in controls.items()})
        picture.value = drawn if isinstance(drawn, bytes) else png(drawn)

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    return widgets.VBox([*controls.values(), picture])


def in_page(module: str, alt: str, **data) -> HTML:
    """assets/live/MODULE.mjs at work in the output: its `mount(element, data)`.

    Modules may import from "./stage.mjs" and others beside it, and export functions;
    all become one inline script. `alt` says what can be seen and moved. `data` stands
    beside it as JSON, in an element that tests do not compare (assets/compared.cfg).
    """
    own = (LIVE / f"{module}.mjs").read_text(encoding="utf-8")
    shared = sorted(set(re.findall(r'from "\./(\w+\.mjs)"', own)) | {"stage.mjs"})
    sources = [*((LIVE / name).read_text(encoding="utf-8") for name in shared), own]
    script = "\n".join(
        re.sub(r"^import .*?;\n", "", source, flags=re.M | re.S) for source in sources
    )
    script = re.sub(r"^export ", "", script, flags=re.M)
    script = re.sub(r"^\s*//.*\n", "", script, flags=re.M)
    return HTML(
        f'<div class="live" id="live-{module}" role="group" aria-label="{alt}">'
        "<noscript>This picture computes in your browser and needs JavaScript; its "
        "still is above.</noscript></div>\n"
        f'<script type="application/json" id="data-{module}">{packed(data)}</script>\n'
        f'<script type="module">\n{script}\n'
        f'mount(document.getElementById("live-{module}"), '
        f'JSON.parse(document.getElementById("data-{module}").textContent));\n'
        "</script>"
    )


def packed(data: dict) -> str:
    """JSON on one line that may stand inside a script element: no `<` is left in it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
