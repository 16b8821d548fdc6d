"""Code that a reader reads: it fits the page, and a line assigns one thing.

Line length and statements behind a semicolon are ruff's to see (`make lint`); here it
is run on what is committed, and asked for what it has no rule for.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("hkd_mini", "benchmarks", "tests", "book/assets", ".ci")
MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def parts(path):
    """A file of Python as it is, a notebook cell by cell."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    cells = json.loads(text)["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def written(target):
    """What an assignment's target changes, as text."""
    if isinstance(target, (ast.Tuple, ast.List)):
        return set().union(*map(written, target.elts))
    return {ast.unparse(target)}


def packed(tree):
    """Assignments of several values at once that could stand on lines of their own.

    `a, b = b, a + b` cannot: what is assigned first is read by the second.
    """
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
            continue
        target = node.targets[0]
        if not isinstance(target, ast.Tuple) or len(target.elts) != len(
            node.value.elts
        ):
            continue
        changed = set()
        for place, value in zip(target.elts, node.value.elts):
            read = {ast.unparse(n) for n in ast.walk(value)}
            read |= {ast.unparse(n) for n in ast.walk(place)} - written(place)
            if changed & read or any(isinstance(n, ast.Starred) for n in target.elts):
                break
            changed |= written(place)
        else:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", MODULES + NOTEBOOKS, ids=lambda path: path.name)
def test_a_line_assigns_one_thing(path):
    found = [text for part in parts(path) for text in packed(ast.parse(part))]
    assert not found, f"one assignment a line: {found}"


def test_what_is_packed():
    code = "a, b = 1, 2\nc, d = d, c\nx, y = f(), g(x)\nm, n = f()\no.a, p = 1, 2"
    assert list(packed(ast.parse(code))) == ["a, b = (1, 2)", "o.a, p = (1, 2)"]


def test_ruff_has_nothing_to_say():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("no ruff beside this Python: pip install ruff")
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run(
            [ruff, *command], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def bare(tree):
    """Parameters of functions and methods with public names, nested ones too, that say
    no type.
    """
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.name.startswith("_"):
            continue
        given = node.args
        for place in given.posonlyargs + given.args + given.kwonlyargs:
            if place.annotation is None and place.arg not in ("self", "cls"):
                yield f"{node.name}({place.arg})"


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.is_relative_to(ROOT / "hkd_mini")],
    ids=lambda path: path.name,
)
def test_a_public_parameter_says_its_type(path):
    found = list(bare(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found, f"parameters without a type: {found}"


def test_what_is_bare():
    code = (
        "def f(a, b: int, *c, d=1, **e): pass\ndef _g(a): pass\nclass A:\n"
        "    def h(self, x: int, /, y): pass\n    @classmethod\n    def i(cls): pass"
    )
    assert list(bare(ast.parse(code))) == ["f(a)", "f(d)", "h(y)"]


def test_types_are_part_of_lint():
    """mypy takes a while: `make lint` runs it, no test does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert "\t$(BIN)/mypy\n" in recipe
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[tool.mypy]\nfiles = ["hkd_mini"]\n' in project


def test_an_unchecked_line_says_why():
    """`# type: ignore` names the rule and, on the same line, the reason."""
    for path in MODULES:
        if path.is_relative_to(ROOT / "hkd_mini"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if "# type: ignore" in line:
                    assert re.search(r"# type: ignore\[[a-z-]+\]  # \w", line), line
