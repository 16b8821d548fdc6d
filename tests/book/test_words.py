"""Words of function spaces and of Part II's methods are introduced where they are first
used: that paragraph leads to the glossary.
"""

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
CHAPTERS = sorted((BOOK / "text").glob("[0-9][0-9]-*.md"))
GLOSSARY = (BOOK / "glossary.md").read_text(encoding="utf-8")
# an entry of the glossary, and how a text says it
WORDS = {
    "L2": r"L\^2\b",
    "Gram matrix": r"Gram matri",
    "Weak limit": r"weak limit",
    "Continuous spectrum": r"continuous spectr",
    "Residual spectrum": r"residual spectr",
    "Ergodic": r"ergodic",
    "Generalised Laplace average": r"Laplace average",
    "Bagging": r"bagging",
    "HAVOK": r"HAVOK",
    "mpEDMD": r"mpEDMD",
    "gEDMD": r"gEDMD",
    "Pseudospectrum": r"pseudospectr",
}


def paragraphs():
    """Those of all chapters in order, without their cells and their exercises."""
    for path in CHAPTERS:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"```\{code-cell\}.*?\n```\n", "", text, flags=re.DOTALL)
        box_left_out = text.split("```\n", 1)[-1].split("\n## Exercises")[0]
        yield from ((path.stem, part) for part in box_left_out.split("\n\n"))


def introduced(entry, said, parts):
    """The chapter that says the word first, and whether it leads to the glossary."""
    for chapter, part in parts:
        if re.search(said, part, re.IGNORECASE):
            terms = re.findall(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`", part)
            return chapter, entry.lower() in [term.lower() for term in terms]
    return None, False


@pytest.mark.parametrize("entry", WORDS)
def test_a_word_is_introduced_where_it_is_first_used(entry):
    assert re.search(rf"^{entry}\n  \S", GLOSSARY, re.MULTILINE)
    chapter, leads = introduced(entry, WORDS[entry], paragraphs())
    assert leads, f"{chapter} says {entry!r} before anything leads to the glossary"


def test_a_word_that_comes_unannounced_is_noticed():
    parts = [("01", "A weak limit."), ("02", "The {term}`weak limit` of a function.")]
    assert introduced("Weak limit", "weak limit", parts) == ("01", False)
    assert introduced("Weak limit", "weak limit", parts[1:]) == ("02", True)
    assert introduced("Weak limit", "weak limit", []) == (None, False)
