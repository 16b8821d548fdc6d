"""What a notebook promises before it runs: it was executed, its twin is in step, its
pictures can be heard.
"""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d-", path.name)]
IMAGES = ("image/png", "image/jpeg", "image/svg+xml", "image/gif")
# Folders of somebody's machine, and addresses on it. Text such as
# "/tmp/ipykernel_7/1.py" comes from warnings.
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:tmp|home|root|Users|work|opt|usr|var|mnt|private)/\w|[A-Z]:\\\w|localhost|127\.0\.0\.1"
)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells(path, kind=None):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def prose(path):
    return "\n\n".join(source(cell) for cell in cells(path, "markdown"))


def text_outputs(cell):
    for output in cell.get("outputs", []):
        yield "".join(output.get("text", []))
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield "".join(content)


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(
        "notebooks", ROOT / ".ci" / "notebooks.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_notebook
def test_the_twin_says_what_the_notebook_says(path, tool):
    twin = tool.twin_path(path)
    assert twin.exists(), (
        f"no twin {twin.relative_to(ROOT)}: python .ci/notebooks.py twin "
        f"book/{path.name}"
    )
    assert tool.contents(twin) == tool.contents(path), (
        f"python .ci/notebooks.py twin book/{path.name}"
    )


def test_every_twin_has_a_notebook():
    twins = {path.stem for path in (BOOK / "text").glob("*.md")}
    assert twins <= {path.stem for path in NOTEBOOKS}


@each_notebook
def test_a_changed_notebook_is_noticed(path, tool, tmp_path):
    """The check above would see one changed word (it compares contents, not times)."""
    (tmp_path / "text").mkdir()
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    notebook = json.loads(path.read_text(encoding="utf-8"))
    copy = tmp_path / path.name
    copy.write_text(json.dumps(notebook), encoding="utf-8")
    assert tool.write_twin(copy) and not tool.check(copy)
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["source"] = ["changed = 1\n", *code["source"]]
    copy.write_text(json.dumps(notebook), encoding="utf-8")
    assert tool.check(copy)


@each_notebook
def test_every_cell_was_executed_in_order(path):
    counts = [
        cell["execution_count"] for cell in cells(path, "code") if source(cell).strip()
    ]
    assert counts == list(range(1, len(counts) + 1)), (
        "run it from top to bottom in a fresh kernel"
    )
    failed = [
        out
        for cell in cells(path, "code")
        for out in cell["outputs"]
        if out["output_type"] == "error"
    ]
    assert not failed


@each_notebook
def test_every_picture_has_alt_text(path):
    for cell in cells(path, "code"):
        drawn = any(
            kind in output.get("data", {})
            for output in cell["outputs"]
            for kind in IMAGES
        )
        if drawn and "remove-output" not in cell["metadata"].get("tags", []):
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) >= 20, (
                f"mystnb.image.alt of the cell that starts with {source(cell)[:60]!r}"
            )


@pytest.mark.parametrize(
    "path", NOTEBOOKS + sorted(BOOK.glob("*.md")), ids=lambda path: path.name
)
def test_every_included_picture_has_alt_text(path):
    text = prose(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    assert not re.findall(r"!\[\s*\]\(", text), (
        "![](...) without a word for those who cannot see it"
    )
    for tag in re.findall(r"<img\b[^>]*>", text):
        assert re.search(r'alt="[^"]{10,}"', tag), tag
    for block in re.findall(
        r"(?:`{3,}|:{3,})\{(?:figure|image)\}.*?(?:`{3,}|:{3,})", text, flags=re.DOTALL
    ):
        assert re.search(r"^:alt: \S.{10,}", block, flags=re.MULTILINE), block[:80]


@each_notebook
def test_nothing_tells_on_a_machine(path):
    for cell in cells(path):
        for text in (source(cell), *text_outputs(cell)):
            assert not MACHINE.search(text), MACHINE.search(text).group()
    assert "papermill" not in json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert not any("execution" in cell["metadata"] for cell in cells(path)), (
        "record_timing=False, please"
    )


@each_notebook
def test_nothing_is_said_on_stderr(path):
    for cell in cells(path, "code"):
        assert not any(output.get("name") == "stderr" for output in cell["outputs"]), (
            source(cell)[:60]
        )


@each_notebook
def test_no_bare_object_is_shown(path):
    """What a cell ends with by chance says nothing to a reader, as
    `set_grad_enabled(mode=False)`: results are printed, drawn or told in HTML.
    """
    for cell in cells(path, "code"):
        results = [o for o in cell["outputs"] if o["output_type"] == "execute_result"]
        bare = [o for o in results if set(o["data"]) == {"text/plain"}]
        assert not bare, source(cell)[-60:]


@each_notebook
def test_it_is_small(path):
    assert path.stat().st_size < 1.5e6, "smaller figures, fewer frames"


@each_notebook
def test_widget_metadata_holds_its_state(path, tool):
    widgets = json.loads(path.read_text(encoding="utf-8"))["metadata"].get(
        "widgets", {tool.WIDGETS: {"state": {}}}
    )
    assert "state" in widgets.get(tool.WIDGETS, {}), (
        f"python .ci/notebooks.py strip book/{path.name}"
    )


@each_notebook
def test_it_opens_on_colab(path):
    first = cells(path, "code")[0]
    assert source(first) == (BOOK / "assets" / "colab.py").read_text(
        encoding="utf-8"
    ).rstrip("\n")
    assert "remove-cell" in first["metadata"]["tags"], "nobody wants to read it"


def test_the_colab_cell_fetches_and_installs_the_book(tmp_path):
    """Run the cell with a pretended Colab, where git and pip only write down what they
    were asked.
    """
    cell = (BOOK / "assets" / "colab.py").read_text(encoding="utf-8")
    (tmp_path / "hkd-mini" / "book").mkdir(parents=True)
    program = (
        "import sys, types, subprocess, os\n"
        "sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
        "asked = []\n"
        "subprocess.run = lambda command, check: asked.append(command)\n"
        f"exec({cell!r})\n"
        "print(asked[0][:2], asked[1][1:4], asked[1][-1], "
        "os.path.basename(os.getcwd()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        done.stdout.strip()
        == "['git', 'clone'] ['-m', 'pip', 'install'] ./hkd-mini book"
    )
    alone = subprocess.run(
        [sys.executable, "-c", cell],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert alone.stdout == alone.stderr == ""  # and outside Colab it does nothing


@each_chapter
def test_a_chapter_has_its_parts(path):
    text = prose(path)
    assert re.match(
        r"#\s+\S",
        source(cells(path, "markdown")[0]).lstrip("(").split(")=\n")[-1].lstrip(),
    ), "a title"
    box = re.search(
        r"\{admonition\} In this chapter$.*?^(?:`{3,}|:{3,})$",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    assert box, "the box: what you will do, learn and need"
    for word in ("will", "learn", "need", "second"):
        assert re.search(rf"\b{word}", box.group()), f"the box says nothing of {word!r}"
    for heading in (
        "Exercises",
        "Next steps",
        "Further reading|Read further",
        "What to remember",
    ):
        assert re.search(
            rf"^##+ .*(?:{heading})", text, flags=re.MULTILINE | re.IGNORECASE
        ), f"no heading {heading!r}"
    assert "{cite" in re.split(r"Further reading|Read further", text)[-1], (
        "further reading cites"
    )


@each_chapter
def test_a_chapter_has_exercises_with_folded_solutions(path):
    text = prose(path)
    exercises = re.findall(
        r"\{exercise(?:-start)?\}.*?:label: (\S+)", text, flags=re.DOTALL
    )
    solutions = re.findall(r"\{solution(?:-start)?\} (\S+)\s+((?::.*\n)*)", text)
    assert len(exercises) >= 4
    assert {name for name, _ in solutions} == set(exercises)
    assert all("dropdown" in options for _, options in solutions), (
        "solutions are folded"
    )


@each_chapter
def test_a_chapter_shows_a_picture_early_and_asserts_its_numbers(path):
    drawn = [
        any(
            kind in output.get("data", {})
            for output in cell.get("outputs", [])
            for kind in IMAGES
        )
        or "{figure}" in source(cell)
        for cell in cells(path)
    ]
    assert any(drawn[:8]), "a picture within the first screen"
    assert any("assert " in source(cell) for cell in cells(path, "code"))


@each_notebook
def test_code_cells_are_short_enough_to_read(path):
    for cell in cells(path, "code"):
        lines = source(cell).splitlines()
        folded = "hide-input" in cell["metadata"].get("tags", [])
        assert len(lines) <= (100 if folded else 65), f"{len(lines)} lines: {lines[0]}"
        done = sum(isinstance(n, ast.stmt) for n in ast.walk(ast.parse(source(cell))))
        assert done <= 45, f"{done} statements: {lines[0]}"
