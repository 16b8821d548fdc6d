"""What is used rather than read: models by name, the command line, evaluation, controls
for JupyterLab, files for a browser.

`zoo.load` opens every bundled model, `cli` is the command `hkd-mini` (with `flags` and
`logs`), `evaluation` draws and judges samples. `widgets` needs ipywidgets, and
`onnx_export` needs onnx: import these two yourself. Start with `zoo`. Chapters: 15 and
19.
"""

from .evaluation import draw, evaluate
from .zoo import load

__all__ = [
    "draw",
    "evaluate",
    "load",
]
