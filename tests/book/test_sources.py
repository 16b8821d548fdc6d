"""Every formula says where it is from, on one line, and the book's page of formulas and
the package agree.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "hkd_mini").rglob("*.py"))
PAGE = (ROOT / "book" / "paper-to-code.md").read_text(encoding="utf-8")

# A place in HKD as a Source line names it. KDM's places have the names of their rows.
PLACE = re.compile(
    r"\bHKD (?:eq|algorithm|table|figure|section|appendix|definition|proposition"
    r"|theorem) (?:[A-Z]\.)?\d+(?:\.\d+)?"
)
TARGET = re.compile(r"\{py:(\w+)\}`(?:[^`<]*<)?([\w.]+)>?`")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)

each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}"
)


def docstrings(path):
    """Names, dotted inside their module, and docstrings of a file; "" is the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    todo = [("", tree)]
    while todo:
        name, node = todo.pop()
        if text := ast.get_docstring(node):
            yield name, text
        for child in node.body:
            if isinstance(child, DOCUMENTED):
                todo.append((f"{name}.{child.name}".strip("."), child))


def sources(text):
    return [line for line in text.splitlines() if line.startswith("Source:")]


def whole(names, line):
    """Those of `names` that a line says, and not as part of a longer word."""
    return {name for name in names if re.search(rf"{re.escape(name)}(?!\w|\.\w)", line)}


def rows():
    """The page's rows about papers, label by label: (label, row)."""
    cells = re.findall(r"^\| ((?:HKD|KDM) [^|]+?) \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(cells) == len({label for label, _ in cells}) > 40
    return cells


def target(name):
    """What a dotted name stands for; AttributeError or ImportError without it."""
    words = name.split(".")
    for cut in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        for word in words[cut:]:
            found = getattr(found, word)
        return found
    raise ImportError(name)


LINES = {
    (".".join(path.relative_to(ROOT).with_suffix("").parts), name): sources(text)
    for path in MODULES
    for name, text in docstrings(path)
}


@each_module
def test_a_source_is_one_line(path):
    for name, text in docstrings(path):
        lines = text.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if "Source:" in line:
                assert line.startswith("Source: "), f"{name}: inside a line: {line}"
                assert after == "" or after.startswith("Source: "), f"{name}: {after}"
                assert line.endswith("."), f"{name}: cut off: {line}"
                assert not re.search(r"\beqs\b", line), f"{name}: one by one: {line}"
    for line in path.read_text(encoding="utf-8").splitlines():
        assert "Source:" not in line or len(line) <= 88, line


def test_grep_finds_what_hkd_is_made_of():
    wanted = {
        "HKD eq 2": ("hkd_mini.hkd.model", "HKD.encode"),
        "HKD eq 3": ("hkd_mini.hkd.model", "HKD.evolve"),
        "HKD eq 4": ("hkd_mini.koopman.generator", "KoopmanGenerator"),
        "HKD eq 5": ("hkd_mini.hkd.model", "HKD.decode"),
        "HKD eq 6": ("hkd_mini.hkd.objective", "hkd_loss"),
        "HKD algorithm 1": ("hkd_mini.hkd.distil", "train"),
        "HKD algorithm 2": ("hkd_mini.hkd.model", "HKD.sample"),
    }
    for place, where in wanted.items():
        assert any(place in line for line in LINES[where]), (place, where)


@pytest.mark.parametrize(("role", "name"), sorted(set(TARGET.findall(PAGE))))
def test_the_page_leads_to_code(role, name):
    found = target(name)
    kinds = {
        "mod": inspect.ismodule,
        "class": inspect.isclass,
        "func": inspect.isfunction,
        "meth": inspect.isroutine,
        "attr": lambda thing: not inspect.isroutine(thing),
    }
    assert name.startswith("hkd_mini.") and kinds[role](found)
    if role != "mod" and role != "attr":
        assert f"{found.__module__}.{found.__qualname__}" == name, "a second address"


def test_every_link_of_the_page_is_read():
    assert PAGE.count("{py:") == len(TARGET.findall(PAGE)) > 60


def test_what_sources_name_has_a_row_and_the_other_way_round():
    here = {label for label, row in rows() if "not here" not in row}
    named = set()
    for lines in LINES.values():
        for line in lines:
            named |= set(PLACE.findall(line)) | whole(
                {label for label in here if label.startswith("KDM")}, line
            )
            # every mention of KDM is a row's label, or the paper itself
            known = sum(line.count(label) for label in here if label.startswith("KDM"))
            assert line.count("KDM ") == known, line
    assert named == here


@pytest.mark.parametrize(
    ("label", "row"), rows(), ids=[label.replace(" ", "-") for label, _ in rows()]
)
def test_a_row_leads_to_a_function_that_names_it(label, row):
    if "not here" in row:
        assert re.search(r"not here: \w+", row), "say why"
        assert not TARGET.findall(row)
        return
    found = []
    for _, name in TARGET.findall(row):
        for (module, inside), lines in LINES.items():
            if f"{module}.{inside}".strip(".") == name:
                found += lines
    assert any(whole({label}, line) for line in found), f"{label}: none of {row} does"
