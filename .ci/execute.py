"""Execute notebooks as the committed ones are, and change no byte without a reason.

    python .ci/execute.py book/07-one-step-in-the-plane.ipynb ...

A notebook runs from top to bottom in a fresh kernel; then what differs from run to run
or from machine to machine without a reader's seeing it is settled: widgets are numbered
in the order in which they appear instead of at random, streams are whole, figures of
few colours become small PNGs, and an output that says and shows what the stored one
does is the stored one, byte for byte. So history grows only by what has changed.
"""

import argparse
import base64
import copy
import io
import json
import math
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from notebooks import WIDGETS, write_twin
from PIL import Image

VIEW = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg")
DATA = re.compile(r'(<script type="application/json"[^>]*>)([^<]*)')
ADDRESS = re.compile(r"data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)")
COLOURS = (64, 128, 256)  # of a figure that becomes a palette PNG: the fewest that do
BRIGHTEST = 40  # of 255: the most by which one pixel may differ unseen,
MEAN = 0.3  # and all of them on average
FLIPPED = 0.05  # share of bytes that rounding may change in a packed table
EMPTY = base64.b64decode(  # a PNG of one transparent point
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
ROUNDING = 2e-3  # relative, of a number in a live picture's data


def executed(path: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook after a run in a fresh kernel, beside the files that it reads."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


def pixels(content: bytes) -> np.ndarray | None:
    """A PNG or JPEG as (height, width, 4) numbers from 0 to 255; None for all else."""
    if not content.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return None
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    return np.asarray(picture).astype(float)


def alike_bytes(new: bytes, old: bytes) -> bool:
    """Whether two pictures look the same, or two packed tables differ by rounding."""
    ours = pixels(new)
    theirs = pixels(old)
    if ours is None or theirs is None:
        a = np.frombuffer(new, np.uint8)
        b = np.frombuffer(old, np.uint8)
        return len(a) == len(b) and np.count_nonzero(a != b) <= FLIPPED * len(a)
    if ours.shape != theirs.shape:
        return False
    gap = np.abs(ours - theirs)
    return gap.max() <= BRIGHTEST and gap.mean() <= MEAN


def alike(new, old) -> bool:
    """Whether two pieces of JSON are the same but for rounding."""
    if isinstance(new, bool) or isinstance(old, bool):
        return new is old
    if isinstance(new, (int, float)) and isinstance(old, (int, float)):
        return math.isclose(new, old, rel_tol=ROUNDING, abs_tol=ROUNDING)
    if type(new) is not type(old):
        return False
    if isinstance(new, dict):
        return list(new) == list(old) and all(alike(new[k], old[k]) for k in new)
    if isinstance(new, list):
        return len(new) == len(old) and all(map(alike, new, old))
    if isinstance(new, str) and new != old and min(len(new), len(old)) >= 64:
        return alike_base64(new.partition("base64,")[2] or new, old)
    return new == old


def alike_base64(new: str, old: str) -> bool:
    """The same for bytes in base64."""
    try:
        ours = base64.b64decode(new, validate=True)
        theirs = base64.b64decode(old.partition("base64,")[2] or old, validate=True)
    except ValueError:
        return False
    return alike_bytes(ours, theirs)


def alike_text(new: str, old: str) -> bool:
    """Whether two texts say the same; data and pictures in them but for rounding."""
    bare = lambda text: ADDRESS.sub("", DATA.sub(r"\1", text))
    if bare(new) != bare(old):
        return False
    pairs = zip(DATA.findall(new), DATA.findall(old), strict=True)
    stills = zip(ADDRESS.findall(new), ADDRESS.findall(old), strict=True)
    return all(alike(json.loads(a[1]), json.loads(b[1])) for a, b in pairs) and all(
        alike_base64(a, b) for a, b in stills
    )


def small(content: bytes) -> bytes:
    """A PNG of so few COLOURS that it can just not be seen; all else as it was."""
    if not content.startswith(b"\x89PNG"):
        return content
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    if picture.getextrema()[3] != (255, 255):  # a palette has no soft edges
        return content
    for colours in COLOURS:
        file = io.BytesIO()
        few = picture.convert("RGB").quantize(colours, kmeans=2)
        few.save(file, "png", optimize=True)
        slim = file.getvalue()
        if alike_bytes(slim, content):
            return slim if len(slim) < len(content) else content
    return content


def family(state: dict, model: str) -> list[str]:
    """A widget's model and those that it is made of, each once."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in state and name not in found:
            found[name] = None
            text = json.dumps(state[name]["state"], sort_keys=True)
            for part in re.findall(r"IPY_MODEL_([0-9a-f]{32})", text):
                visit(part)

    visit(model)
    return list(found)


def states(notebook: nbformat.NotebookNode) -> dict:
    """The models of a notebook's widgets."""
    return notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})


def views(cell: nbformat.NotebookNode) -> list[str]:
    """The models of the widgets that a cell shows."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [each[VIEW]["model_id"] for each in data if VIEW in each]


def number_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Name the models of widgets 0, 1, ... in the order in which cells show them."""
    state = states(notebook)
    names: dict[str, str] = {}

    def visit(model: str) -> None:
        for each in family(state, model):
            names.setdefault(each, f"{len(names):032x}")

    def renamed(text: str) -> str:
        return re.sub(
            r"\b(IPY_MODEL_)?([0-9a-f]{32})\b",
            lambda m: (m[1] or "") + names.get(m[2], m[2]),
            text,
        )

    for cell in notebook.cells:
        for model in views(cell):
            visit(model)
    # links between widgets are shown nowhere: in the order of what they say
    for model in sorted(state, key=lambda m: renamed(json.dumps(state[m]))):
        visit(model)
    return nbformat.from_dict(json.loads(renamed(json.dumps(notebook))))


def needing_a_kernel(notebook: nbformat.NotebookNode) -> set[str]:
    """The models of widgets that no page shows, since its cells leave them out."""
    hidden = lambda cell: "remove-output" in cell.metadata.get("tags", [])
    models = {True: set(), False: set()}
    for cell in notebook.cells:
        for model in views(cell):
            models[hidden(cell)].update(family(states(notebook), model))
    return models[True] - models[False]


def settle_output(new: dict, old: dict | None) -> dict:
    """One output: what the stored one shows as well is taken from there."""
    data = new.get("data", {})
    before = (old or {}).get("data", {})
    for kind in data:
        if kind == "image/png":
            slim = small(base64.b64decode(data[kind]))
            data[kind] = base64.b64encode(slim).decode()
        if kind in PICTURES:
            if kind in before and alike_base64(data[kind], before[kind]):
                data[kind] = before[kind]
        elif kind.startswith("text/") and kind in before:
            if alike_text(data[kind], before[kind]):
                data[kind] = before[kind]
    return new


def settle_widgets(new: dict, old: dict, without: Collection[str] = ()) -> None:
    """Models of widgets: frames that look like the stored ones are those, others are
    small, and those of the models `without` are empty until a kernel draws them; what a
    layout leaves open is not said.
    """
    for name, model in new.items():
        if model["model_name"] == "LayoutModel":
            said = model["state"].items()
            model["state"] = {k: value for k, value in said if value is not None}
        before = {b["path"][0]: b["data"] for b in old.get(name, {}).get("buffers", [])}
        for frame in model.get("buffers", []):
            if name in without:
                frame["data"] = base64.b64encode(EMPTY).decode()
                continue
            slim = small(base64.b64decode(frame["data"]))
            frame["data"] = base64.b64encode(slim).decode()
            stored = before.get(frame["path"][0])
            if stored and alike_base64(frame["data"], stored):
                frame["data"] = stored


def settled(
    new: nbformat.NotebookNode, old: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """`new` as it is to be stored, `old` being what is stored now."""
    new = number_widgets(copy.deepcopy(new))
    before = {cell["id"]: cell.get("outputs", []) for cell in old.cells}
    for cell in new.cells:
        cell.metadata.pop("execution", None)
        for k, output in enumerate(cell.get("outputs", [])):
            stored = before.get(cell["id"], [])
            settle_output(output, stored[k] if k < len(stored) else None)
    settle_widgets(states(new), states(old), needing_a_kernel(new))
    if "language_info" in old.metadata:  # a version of Python is no news
        new.metadata["language_info"] = old.metadata["language_info"]
    return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    paths = parser.parse_args().notebooks
    os.environ.pop("MPLBACKEND", None)
    os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for path in paths:
        old = path.read_text(encoding="utf-8")
        new = settled(executed(path), nbformat.reads(old, as_version=4))
        text = nbformat.writes(new) + "\n"
        if text != old:
            path.write_text(text, encoding="utf-8")
        write_twin(path)
        print(f"{path}: {'changed' if text != old else 'as it was'}", file=sys.stderr)


if __name__ == "__main__":
    main()
