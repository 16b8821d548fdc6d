"""What the chapters say of themselves: what each needs, and how long it takes.

What a chapter needs are the links in its box, after "You need"; a link that stands
after "for single sections" is kept apart.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

BOOK = Path(__file__).resolve().parents[1]
PAGE = BOOK / "map.md"
ABOVE = "% the table, by make_map.py\n"
BELOW = "\n% end of the table"


class Chapter(NamedTuple):
    """A chapter as its page says: what it needs, how long it takes."""

    number: int
    page: str
    title: str
    """Up to a colon."""
    needs: tuple[int, ...]
    single: tuple[int, ...]
    """Chapters of which single sections are needed."""
    minutes: int
    seconds: int
    exercises: int


def prose(path: Path) -> str:
    """The Markdown of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
    )


def linked(text: str) -> tuple[int, ...]:
    """The chapters that a text links to."""
    found = re.findall(r"\]\((\d\d)-[\w-]+\.ipynb", text)
    return tuple(sorted({int(number) for number in found}))


def reading_minutes(text: str) -> int:
    """75 words a minute and two minutes for a displayed formula, to ten minutes.
    Exercises do not count.
    """
    text = text.split("\n## Exercises")[0]
    text = re.sub(r"`{3,}\{literalinclude\}.*?`{3,}", "", text, flags=re.DOTALL)
    formulas = re.findall(r"\$\$.*?\$\$", text, flags=re.DOTALL)
    words = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL).split()
    return max(10, round((len(words) / 75 + 2 * len(formulas)) / 10) * 10)


def chapter(path: Path) -> Chapter:
    """Read one notebook."""
    text = prose(path)
    pattern = r"\*\*You need\*\*(.*?)\n- \*\*Run time\*\*(.*?)\n"
    box = re.search(pattern, text, re.DOTALL)
    always, _, single = box.group(1).partition("for single sections")
    return Chapter(
        int(path.name[:2]),
        path.stem,
        re.search(r"^# (.+?)(?:: .+)?$", text, re.MULTILINE).group(1),
        linked(always),
        linked(single),
        reading_minutes(text),
        int(re.search(r"(\d+) seconds", box.group(2)).group(1)),
        len(re.findall(r"\{exercise(?:-start)?\}", text)),
    )


def chapters() -> dict[int, Chapter]:
    """Every chapter of the book, by number."""
    found = (chapter(path) for path in sorted(BOOK.glob("[0-9][0-9]-*.ipynb")))
    return {one.number: one for one in found}


def before(book: dict[int, Chapter], number: int) -> set[int]:
    """All that a chapter rests on, near and far."""
    near = book[number].needs
    return set(near).union(*(before(book, n) for n in near))


def arrows(book: dict[int, Chapter]) -> list[tuple[int, int]]:
    """(needed, needing), without what follows from the rest."""
    found = []
    for one in book.values():
        far = set().union(*(before(book, n) for n in one.needs))
        found += [(n, one.number) for n in one.needs if n not in far]
    return found


def paths() -> dict[str, list[int]]:
    """The chapters of each reading path, in order: the tables of map.md."""
    text = PAGE.read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^\((?=\w+-path\)=)", text, flags=re.MULTILINE)[1:]:
        cells = re.findall(r"^\| (\[.*?) \|", part.split("\n## ", 2)[1], re.MULTILINE)
        found[part.split("-")[0]] = [n for cell in cells for n in linked(cell)]
    return found


def table(book: dict[int, Chapter]) -> str:
    """The same in words, with times."""
    link = lambda n: f"[{n}]({book[n].page}.ipynb)"
    lines = [
        "| chapter | needs | read (min) | run (s) | exercises |",
        "|---|---|--:|--:|--:|",
    ]
    for one in book.values():
        needs = ", ".join(map(link, one.needs)) or "nothing"
        if one.single:
            needs += "; sections of " + ", ".join(map(link, one.single))
        lines.append(
            f"| {one.number} [{one.title}]({one.page}.ipynb) | {needs} |"
            f" {one.minutes} | {one.seconds} | {one.exercises} |"
        )
    return "\n".join(lines)


def with_table(text: str, lines: str) -> str:
    """The page with its table replaced."""
    head, rest = text.split(ABOVE)
    return head + ABOVE + lines + BELOW + rest.split(BELOW[1:])[1]
