"""Every page is in the table of contents, every link inside the book leads somewhere,
and every name that a page imports from the package is there.
"""

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
PAGES = sorted([*BOOK.glob("*.ipynb"), *BOOK.glob("*.md"), *BOOK.glob("api/*.md")])
# In code that runs and in code that is only shown, by one name or by many in brackets.
IMPORTED = re.compile(
    r"^[ \t]*from[ \t]+(hkd_mini[\w.]*)[ \t]+import[ \t]+(?:\(([^)]*)\)|([^(\n]+))",
    re.MULTILINE,
)


def text_of(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(
        "".join(cell["source"]) for cell in found if cell["cell_type"] == "markdown"
    )


def imported_names(text):
    """(module, name) of every `from hkd_mini... import name` in a text."""
    for module, many, few in IMPORTED.findall(text):
        for name in re.sub(r"#.*", "", many or few).split(","):
            if name.strip():
                yield module, name.split()[0]


def is_there(module, name):
    """Whether `from module import name` works: an attribute, or a module inside."""
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError as error:
        if error.name not in (module, f"{module}.{name}"):
            raise  # something else is not installed
        return False
    return True


def without_code(text):
    text = re.sub(
        r"^(`{3,}|:{3,})(?:python|bash|text|console)?\n.*?^\1\s*$",
        "",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    return re.sub(r"`[^`\n]*`", "", text)


def contents(entry):
    yield entry.get("root") or entry["file"]
    for key in ("parts", "chapters", "sections"):
        for child in entry.get(key, []):
            yield from (
                contents(child)
                if "file" in child
                else contents({"file": None, **child})
            )


def test_the_contents_list_every_page_once():
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    listed = [name for name in contents(toc) if name]
    assert len(listed) == len(set(listed))
    assert set(listed) == {
        str(path.relative_to(BOOK).with_suffix("").as_posix()) for path in PAGES
    }


@pytest.mark.parametrize(
    "path", PAGES, ids=lambda path: path.relative_to(BOOK).as_posix()
)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(path))):
        # other sites, and places on this page (the build checks those)
        if re.match(r"[a-z]+:|#", target):
            continue
        name = target.split("#")[0]
        assert (path.parent / name).exists(), f"{target} in {path.name}"


@pytest.mark.parametrize(
    "path", PAGES, ids=lambda path: path.relative_to(BOOK).as_posix()
)
def test_included_code_exists(path):
    for directive, block in re.findall(
        r"\{literalinclude\} (\S+)\n((?::.*\n)*)", text_of(path)
    ):
        included = path.parent / directive
        assert included.exists(), directive
        for name in re.findall(r":pyobject: (\S+)", block):
            leaf = name.split(".")[-1]
            assert re.search(
                rf"^\s*(?:def|class) {leaf}\b",
                included.read_text(encoding="utf-8"),
                re.MULTILINE,
            ), name
        for words in re.findall(r":(?:start|end)-at: (.+)", block):
            assert words.strip("'") in included.read_text(encoding="utf-8"), words


@pytest.mark.parametrize(
    "path",
    [*PAGES, *sorted(BOOK.glob("text/*.md")), ROOT / "README.md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_imported_names_exist(path):
    """Also in cells that are shown and never run, where nothing else would notice."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join(
            "".join(cell["source"]) for cell in json.loads(text)["cells"]
        )
    missing = {place for place in imported_names(text) if not is_there(*place)}
    assert not missing, f"{path.name} imports {missing}, which the package has not"


def test_the_reader_of_shown_imports_sees_them_all():
    text = (
        "from hkd_mini import HKD, train as fit  # two\n"
        "    from hkd_mini.engine.data import (\n    load_cifar10,  # moved, once\n"
        "    rng_at,\n)\nfrom hkd_mini.diffusion import samplers\n"
        "from numpy import pi\n"
    )
    found = list(imported_names(text))
    assert found == [
        ("hkd_mini", "HKD"),
        ("hkd_mini", "train"),
        ("hkd_mini.engine.data", "load_cifar10"),
        ("hkd_mini.engine.data", "rng_at"),
        ("hkd_mini.diffusion", "samplers"),
    ]
    assert [is_there(*place) for place in found] == [True, True, False, True, True]
    assert not is_there("hkd_mini.nowhere", "HKD")


def test_cited_papers_are_in_the_bibliography():
    keys = set(
        re.findall(
            r"^@\w+\{([^,\s]+),",
            (BOOK / "references.bib").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    for path in PAGES:
        for cited in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text_of(path)):
            assert {key.strip() for key in cited.split(",")} <= keys, (
                f"{cited} in {path.name}"
            )
