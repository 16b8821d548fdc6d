"""The pages for finding one's way: the map says what the chapters' boxes say, the paths
can be walked, and the cheat sheet names what exists.
"""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hkd_mini.app import cli

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "assets"))
import make_map  # noqa: E402
from chapters import (  # noqa: E402
    ABOVE,
    BELOW,
    before,
    chapters,
    linked,
    paths,
    prose,
    table,
)

REDRAW = "python book/assets/make_map.py"
CHAPTERS = chapters()
ON_RAMPS = ("map", "cheat-sheet", "self-check")
HOURS = {"two": 2, "eight": 8, "ten": 10}


def page(name):
    return (BOOK / f"{name}.md").read_text(encoding="utf-8")


def cells(row):
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_the_table_says_what_the_boxes_say():
    now = table(CHAPTERS).splitlines()
    stored = page("map").split(ABOVE)[1].split(BELOW)[0].splitlines()
    assert len(stored) == len(now) == 2 + len(CHAPTERS), REDRAW
    for was, row in zip(stored[2:], now[2:]):
        *said, minutes, seconds, _ = cells(was)
        *says, m, s, _ = cells(row)
        assert said == says, REDRAW
        # a paragraph more needs no new table, a section does
        assert abs(int(minutes) - int(m)) <= 20, REDRAW
        assert int(seconds) == int(s), REDRAW


def test_the_picture_says_what_the_boxes_say():
    drawn = make_map.svg(CHAPTERS, paths())
    assert make_map.PICTURE.read_text(encoding="utf-8") == drawn, REDRAW


def test_the_arrows_leave_out_only_what_follows():
    """Along the arrows one meets all that the boxes ask for, and each arrow is one of
    their links.
    """
    arrows = make_map.arrows(CHAPTERS)

    def reached(n):
        near = {a for a, b in arrows if b == n}
        return near.union(*map(reached, near))

    for n, one in CHAPTERS.items():
        assert reached(n) == before(CHAPTERS, n)
        assert {a for a, b in arrows if b == n} <= set(one.needs)
    assert all(a < b for a, b in arrows)
    assert before(CHAPTERS, 2) == {1} and 6 in before(CHAPTERS, 9)


def test_a_box_is_read_as_it_is_written(tmp_path):
    text = prose(BOOK / "18-limits.ipynb")
    box = re.search(r"\*\*You need\*\*.*", text).group()
    assert set(CHAPTERS[18].needs) | set(CHAPTERS[18].single) == set(linked(box))
    assert CHAPTERS[18].single == (4, 6, 13)
    assert linked("[a](03-dmd.ipynb), [b](tour.ipynb), [c](12-theorems.ipynb#x)") == (
        3,
        12,
    )


def on_the_way(path):
    """Points along an SVG path of M, L, Q and C."""
    at = np.zeros(2)
    t = np.linspace(0, 1, 60)[:, None]
    for command, numbers in re.findall(r"([MLQC])([^MLQC]*)", path):
        p = np.array(numbers.split(), float).reshape(-1, 2)
        if command == "L":
            yield from at + t * (p[0] - at)
        elif command == "Q":
            yield from (1 - t) ** 2 * at + 2 * t * (1 - t) * p[0] + t**2 * p[1]
        elif command == "C":
            first = (1 - t) ** 3 * at + 3 * t * (1 - t) ** 2 * p[0]
            yield from first + 3 * t**2 * (1 - t) * p[1] + t**3 * p[2]
        at = p[-1]


def test_no_arrow_runs_through_a_box():
    half = np.array(make_map.BOX) / 2
    centres = {n: np.array(make_map.centre(n)) for n in CHAPTERS}
    for start, end in make_map.arrows(CHAPTERS):
        points = np.array(list(on_the_way(make_map.arrow(start, end))))
        assert (points >= 0).all() and points[:, 0].max() <= make_map.WIDTH
        for n, at in centres.items():
            inside = (abs(points - at) < half - 1).all(1)
            assert not inside.any(), f"{start} -> {end} through {n}: CORNERS"
    apart = [abs(a - b) > 2 * half for a in centres.values() for b in centres.values()]
    assert sum(not gap.any() for gap in apart) == len(centres)  # each with itself


@pytest.mark.parametrize("name", ["theory", "generative"])
def test_a_path_can_be_walked(name):
    """What a chapter needs comes before it."""
    route = paths()[name]
    assert len(route) >= 7
    for k, n in enumerate(route):
        assert set(CHAPTERS[n].needs) <= set(route[:k]), f"chapter {n}"


def test_paths_take_the_time_that_they_say():
    text = page("map")
    told = re.findall(r"^\*\*About (\w+) hours", text, re.MULTILINE)
    route = paths()
    assert set(route) == {"theory", "generative", "package"}
    for hours, name in zip(told, ("theory", "generative")):
        minutes = sum(CHAPTERS[n].minutes for n in route[name])
        assert 0.75 < HOURS[hours] * 60 / minutes < 1.25, (name, minutes)
    assert HOURS[told[2]] == 2


# Links into chapters: headings and labels


def slugs(text):
    """The anchors of the headings of a page, as MyST makes them."""
    for title in re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.strip().lower().replace(" ", "-"))


def labels():
    """Everything that {ref}, {eq}, {numref} and {prf:ref} may name, and its page."""
    pattern = r"^:(?:label|name): (\S+)$|^\((\S+)\)=$|^\$\$ \((\S+)\)$"
    found = {}
    for path in sorted(BOOK.glob("*.ipynb")):
        for names in re.findall(pattern, prose(path), re.MULTILINE):
            found |= {name: path.stem for name in names if name}
    return found


LABELS = labels()


def targets(text):
    """(page, place) of every link of a text into a notebook, by heading or label."""
    yield from re.findall(r"\]\(([\w-]+)\.ipynb(?:#([\w-]+))?\)", text)
    role = r"\{(?:ref|eq|numref|prf:ref)\}`(?:[^`<]*<)?([\w-]+)>?`"
    for label in re.findall(role, text):
        assert label in LABELS, label
        yield LABELS[label], label


@pytest.mark.parametrize("name", ON_RAMPS)
def test_links_into_chapters_lead_to_a_place(name):
    anchors = {path.stem: set(slugs(prose(path))) for path in BOOK.glob("*.ipynb")}
    for stem, place in targets(page(name)):
        assert stem in anchors, stem
        assert not place or place in LABELS or place in anchors[stem], f"{stem}#{place}"


# The cheat sheet


def test_the_cheat_sheet_names_what_exists():
    named = re.findall(r"\{py:(\w+)\}`.*?<([\w.]+)>`", page("cheat-sheet"))
    assert len(named) >= 24
    for kind, path in named:
        module, _, name = path.rpartition(".")
        if kind == "meth":
            module, _, owner = module.rpartition(".")
            assert hasattr(getattr(importlib.import_module(module), owner), name)
        else:
            assert hasattr(importlib.import_module(module), name), path


def test_the_cheat_sheets_fields_exist():
    from hkd_mini.hkd.config import HKDConfig
    from hkd_mini.hkd.objective import Objective
    from hkd_mini.hkd.probe import Answers, Probe
    from hkd_mini.koopman.generator import KoopmanGenerator

    text = page("cheat-sheet")
    for name in ("path_weight", "guess_weight", "linear_weight", "times"):
        assert f"`{name}`" in text and hasattr(Objective, name)
    assert '`readout="linear"`' in text and HKDConfig(readout="linear")
    for owner, names in {
        Probe: ("with_A", "without_A"),
        Answers: ("mean_centred_residual",),
        KoopmanGenerator: ("alpha", "beta", "eigenvalues"),
    }.items():
        for name in names:
            assert f"`.{name}" in text and hasattr(owner, name)


def test_the_cheat_sheets_commands_exist(capsys):
    (block,) = re.findall(r"```bash\n(.*?)```", page("cheat-sheet"), re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    assert {line.split()[1] for line in lines} == {
        "data",
        "teacher",
        "trajectories",
        "distill",
        "sample",
        "evaluate",
    }
    for line in lines:
        program, command, *rest = line.split()
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        told = capsys.readouterr().out
        for flag in re.findall(r"--[\w-]+", " ".join(rest)):
            assert re.search(rf"{flag}\b", told), f"{command} {flag}"
        assert program == "hkd-mini"


def test_the_cheat_sheets_python_runs():
    (block,) = re.findall(r"```python\n(.*?)```", page("cheat-sheet"), re.DOTALL)
    names = {}
    exec(block, names)
    assert tuple(names["images"].shape) == (16, 3, 32, 32)
