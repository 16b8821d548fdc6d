"""Keep notebooks and their text twins together.

    python .ci/notebooks.py check book/*.ipynb    # does each twin say what its notebook says?
    python .ci/notebooks.py twin  book/*.ipynb    # write the twins from the notebooks
    python .ci/notebooks.py strip book/*.ipynb    # drop widget metadata that holds no state

A notebook in book/ is what runs and is shown; its twin in book/text/ is what is reviewed. `jupytext --sync`
trusts modification times, which a clone scrambles, so here the contents are compared. Metadata of a widget
without its `state` makes nbconvert and GitHub fail, so it is dropped.
"""

import json
import sys
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import load_jupytext_config
from jupytext.formats import long_form_one_format

WIDGETS = "application/vnd.jupyter.widget-state+json"


def twin_path(path: Path) -> Path:
    """book/x.ipynb -> book/text/x.md"""
    return path.parent / "text" / (path.stem + ".md")


def twin_text(path: Path) -> str:
    """The text twin that the notebook calls for, as `jupytext --to md:myst` writes it."""
    config = load_jupytext_config(str(path.resolve()))
    format_ = long_form_one_format("md:myst")
    config.set_default_format_options(format_)
    return jupytext.writes(jupytext.read(path), format_, config=config)


def strip(path: Path) -> bool:
    """Remove widget metadata without `state`; True when the file changed."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    widgets = notebook["metadata"].get("widgets")
    if widgets is None or "state" in widgets.get(WIDGETS, {}):
        return False
    del notebook["metadata"]["widgets"]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def check(path: Path) -> bool:
    """True when the twin is missing or says something else than the notebook."""
    twin = twin_path(path)
    return not twin.exists() or twin.read_text(encoding="utf-8") != twin_text(path)


def write_twin(path: Path) -> bool:
    """Write the twin; True when it changed."""
    changed = check(path)
    if changed:
        twin_path(path).parent.mkdir(exist_ok=True)
        twin_path(path).write_text(twin_text(path), encoding="utf-8")
    return changed


COMMANDS = {
    "check": (check, "is out of step with its twin; `python .ci/notebooks.py twin` writes the twin anew"),
    "twin": (write_twin, "has a new twin"),
    "strip": (strip, "lost widget metadata without state"),
}


def main() -> int:
    command, message = COMMANDS[sys.argv[1]]
    changed = [Path(name) for name in sys.argv[2:] if name.endswith(".ipynb") and command(Path(name))]
    for path in changed:
        nbformat.validate(nbformat.read(path, as_version=4))
        print(f"{path} {message}")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
