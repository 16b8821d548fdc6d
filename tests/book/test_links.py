"""Every page is in the table of contents, and every link inside the book leads
somewhere.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
PAGES = sorted([*BOOK.glob("*.ipynb"), *BOOK.glob("*.md"), *BOOK.glob("api/*.md")])


def text_of(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(
        "".join(cell["source"]) for cell in found if cell["cell_type"] == "markdown"
    )


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
