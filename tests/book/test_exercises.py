"""What every exercise of the book says before its solution: how hard it is, how many
minutes it takes, and a folded hint.
"""

import json
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
BARE = ("claims", "gallery")  # numbers, and pictures: nothing to solve
NOTEBOOKS = sorted(path for path in BOOK.glob("*.ipynb") if path.stem not in BARE)
MINUTES = (5, 10, 15, 20, 25, 30, 40, 45, 60)
# exercise, hint and the start of the solution, one after the other
EXERCISE = re.compile(
    r"^```\{exercise\} (?P<title>[^\n]+)\n"
    r":label: (?P<label>ex-[a-z0-9-]+)\n"
    r"\*Difficulty (?P<marks>●○○|●●○|●●●) · (?P<minutes>\d+) minutes\*\n\n"
    r"(?P<task>(?!```).+?)\n```\n\n"
    r"```\{hint\}\n:class: dropdown\n(?P<hint>.+?)\n```\n\n"
    r"`{3,4}\{solution-start\} (?P<solution>\S+)\n:class: dropdown\n`{3,4}$",
    flags=re.MULTILINE | re.DOTALL,
)


def prose(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    words = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return "\n\n".join(words)


def started(text):
    """The labels of all exercises, whatever form they have."""
    return re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: (\S+)", text)


def faults(text):
    """The labels of the exercises that lack difficulty, minutes or a hint, or say them
    in another form.
    """
    found = {}
    for match in EXERCISE.finditer(text):
        whole = match["label"] == match["solution"]
        found[match["label"]] = whole and int(match["minutes"]) in MINUTES
    return [label for label in started(text) if not found.get(label)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exercise_has_a_difficulty_minutes_and_a_folded_hint(path):
    text = prose(path)
    assert len(started(text)) >= 4
    assert not faults(text), "in the form of book/assets/chapter.md"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_hint_is_one_or_two_sentences(path):
    for match in EXERCISE.finditer(prose(path)):
        hint = match["hint"]
        assert "\n" not in hint and 20 < len(hint) < 300, match["label"]
        assert hint.endswith((".", "?")), match["label"]
        assert len(re.findall(r"[.?](?= [A-Z]|$)", hint)) <= 3, match["label"]
        assert hint not in match["task"], match["label"]


@pytest.mark.parametrize(
    "without", ["*Difficulty", " · 15 minutes", ":class: dropdown", "```{hint}"]
)
def test_an_exercise_without_one_of_them_is_noticed(without):
    template = (BOOK / "assets" / "chapter.md").read_text(encoding="utf-8")
    example = template[template.index("```{exercise}") :]
    assert started(example) == ["ex-name-rates"] and not faults(example)
    assert faults(example.replace(without, "")) == ["ex-name-rates"]
