"""A release has one version, in four places; this says whether they agree.

    python .ci/release.py         # the version, if all places name it
    python .ci/release.py v0.1.0  # and if the tag does: what that release brought

The version stands in hkd_mini/__init__.py. pyproject.toml reads it there, so that a
wheel has no other. CITATION.cff repeats it with the date, CHANGELOG.md with the date
and what changed; the newest release there is the one meant. Exit status 1 when two of
them differ.
"""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Release(NamedTuple):
    """A section of the changelog: version, date as YYYY-MM-DD, and the text below."""

    version: str
    date: str
    notes: str


def version(root: Path = ROOT) -> str:
    """What hkd_mini.__version__ is, without importing torch to learn it."""
    text = (root / "hkd_mini" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == (
            "__version__"
        ):
            return ast.literal_eval(node.value)
    raise ValueError("hkd_mini/__init__.py has no line __version__ = ...")


def citation(root: Path = ROOT) -> tuple[str, str]:
    """Version and date of CITATION.cff."""
    text = (root / "CITATION.cff").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(version|date-released): *[\"']?([\w.-]+)", text, re.M))
    return found.get("version", "none"), found.get("date-released", "none")


def releases(root: Path = ROOT) -> list[Release]:
    """The changelog's releases, newest first; what is not released yet is none."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    text = re.sub(r"^\[[^\]]+\]: .*\n?", "", text, flags=re.M)  # addresses at the end
    _, *sections = re.split(r"^## ", text, flags=re.M)
    found = []
    for section in sections:
        title, _, notes = section.partition("\n")
        if title.strip() == "[Unreleased]":
            continue
        match = re.fullmatch(r"\[(\d\S*)\] - (\d{4}-\d\d-\d\d)", title.strip())
        if match is None:
            raise ValueError(f"CHANGELOG.md: ## {title}: want ## [1.2.3] - YYYY-MM-DD")
        found.append(Release(match[1], match[2], notes.strip()))
    return found


def disagreements(tag: str | None = None, root: Path = ROOT) -> list[str]:
    """What differs from hkd_mini.__version__, a line each."""
    want = version(root)
    newest = releases(root)[0]
    cited, dated = citation(root)
    said = {"CITATION.cff": cited, "CHANGELOG.md": newest.version}
    if tag is not None:
        said["the tag"] = tag.removeprefix("v") if tag.startswith("v") else repr(tag)
    wrong = [
        f"{place} says {this}, and hkd_mini.__version__ is {want}"
        for place, this in said.items()
        if this != want
    ]
    if dated != newest.date:
        wrong.append(f"CITATION.cff dates it {dated}, and CHANGELOG.md {newest.date}")
    return wrong


def main() -> int:
    tag = sys.argv[1] if len(sys.argv) > 1 else None
    wrong = disagreements(tag)
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(version() if tag is None else releases()[0].notes)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
