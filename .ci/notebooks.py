"""Keep notebooks and their text twins together.

    python .ci/notebooks.py check book/*.ipynb  # does each twin say what it should?
    python .ci/notebooks.py twin  book/*.ipynb  # write the twins from the notebooks
    python .ci/notebooks.py strip book/*.ipynb  # drop widget metadata without state

A notebook in book/ is what runs and is shown; its twin in book/text/ is what is
reviewed. `jupytext --sync` trusts modification times, which a clone scrambles, so here
the contents are compared, cell by cell. Metadata of widgets without their `state` makes
nbconvert and GitHub fail, so it is dropped.
"""

import json
import sys
from pathlib import Path

import jupytext
from jupytext.config import load_jupytext_config
from jupytext.formats import long_form_one_format

WIDGETS = "application/vnd.jupyter.widget-state+json"
KEPT = ("mystnb", "tags")  # the metadata that a twin carries, as in pyproject.toml


def twin_path(path: Path) -> Path:
    """book/x.ipynb -> book/text/x.md"""
    return path.parent / "text" / (path.stem + ".md")


def contents(path: Path) -> list[tuple]:
    """What both members of a pair have to agree on: kind, source and metadata of every
    cell.
    """
    notebook = jupytext.read(path, fmt="md:myst" if path.suffix == ".md" else None)
    return [
        (
            cell.cell_type,
            cell.source.strip(),
            {key: cell.metadata[key] for key in KEPT if cell.metadata.get(key)},
        )
        for cell in notebook.cells
    ]


def check(path: Path) -> bool:
    """True when the twin is missing or says something else than the notebook."""
    twin = twin_path(path)
    return not twin.exists() or contents(twin) != contents(path)


def write_twin(path: Path) -> bool:
    """Write the twin as `jupytext --to md:myst` does, if it is out of step; True when
    it was.
    """
    if not check(path):
        return False
    config = load_jupytext_config(str(path.resolve()))
    format_ = long_form_one_format("md:myst")
    config.set_default_format_options(format_)
    twin_path(path).parent.mkdir(exist_ok=True)
    twin_path(path).write_text(
        jupytext.writes(jupytext.read(path), format_, config=config), encoding="utf-8"
    )
    return True


def strip(path: Path) -> bool:
    """Remove widget metadata without `state`; True when the file changed."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    widgets = notebook["metadata"].get("widgets")
    if widgets is None or "state" in widgets.get(WIDGETS, {}):
        return False
    del notebook["metadata"]["widgets"]
    path.write_text(
        json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return True


COMMANDS = {
    "check": (
        check,
        "is out of step with its twin; `python .ci/notebooks.py twin` writes the twin "
        "anew",
    ),
    "twin": (write_twin, "has a new twin"),
    "strip": (strip, "lost widget metadata without state"),
}


def main() -> int:
    command, message = COMMANDS[sys.argv[1]]
    changed = [
        Path(name)
        for name in sys.argv[2:]
        if name.endswith(".ipynb") and command(Path(name))
    ]
    for path in changed:
        print(f"{path} {message}")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
