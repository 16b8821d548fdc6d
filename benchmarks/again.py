"""Measure again all that the book says about the bundled models, and say what changed.

    python benchmarks/again.py --data cifar                 # all: a day of two cores
    python benchmarks/again.py --data cifar claims editing  # some
    python benchmarks/again.py --list                       # what there is

After new weights in data/, or on another machine. Each step is a script of this folder,
in the order in which one needs the other; a file of rows is measured anew, and comes
back where its script fails. A number counts as changed when it differs by more than
`--by`, a share of what it was; claims when they differ by more than their tolerance.
Chapters are executed by `make execute` afterwards: their cells assert what they say.
"""

import json
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

from common import parser, stored

from hkd_mini.engine.weights import data_folder

HERE = pathlib.Path(__file__).resolve().parent
DATA = data_folder()


class Part(NamedTuple):
    """A script with its arguments, the file in data/ that it writes, and whether it
    fills that file row by row.
    """

    words: str
    file: str
    rows: bool = False


PARTS = {
    "bundle": Part("bundle.py --data DATA", "MANIFEST.json"),
    "ablations": Part("ablations.py", "ablations/results.json", rows=True),
    "guidance": Part("guidance.py --data DATA", "guidance.json", rows=True),
    "stopping": Part("stopping.py --data DATA", "stopping.json"),
    "neighbours": Part("neighbours.py --data DATA", "neighbours.json"),
    "spectral": Part("spectral.py", "spectrum.json"),
    "modes": Part("modes.py", "modes.json"),
    "editing": Part("editing.py", "editing.json"),
    "beside": Part(
        "side_by_side_cifar.py --data DATA", "side-by-side/cifar10-mini.json", rows=True
    ),
    "claims": Part("claims.py --data DATA", "claims.json"),
    "cards": Part("cards.py", "claims.json"),
    "manifest": Part("bundle.py", "MANIFEST.json"),
}


def numbers(value: object, place: str = "") -> dict[str, float]:
    """Every number in a JSON value by its place in it; claims by their names."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {}
    if isinstance(value, (int, float)):
        return {place: float(value)}
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        assert isinstance(value, list)
        named = all(isinstance(v, dict) and "id" in v for v in value)
        pairs = [(v["id"] if named else k, v) for k, v in enumerate(value)]
    found: dict[str, float] = {}
    for key, inner in pairs:
        found |= numbers(inner, f"{place}/{key}".lstrip("/"))
    return found


def changed(before: object, after: object, by: float) -> dict[str, tuple]:
    """What differs by more than the share `by`, or the tolerance that stands beside it;
    None for what is on one side alone.
    """
    old = numbers(before)
    new = numbers(after)
    found = {}
    for place in {**old, **new}:
        a = old.get(place)
        b = new.get(place)
        if a is not None and b is not None:
            beside = re.sub("/value$", "/tolerance", place)
            bound = old[beside] if beside != place and beside in old else by * abs(a)
            if abs(a - b) <= bound:
                continue
        found[place] = (a, b)
    return found


def measure(part: Part, data: str) -> None:
    """Run one script; what was in its file comes back where it fails."""
    file = DATA / part.file
    before = file.read_bytes() if file.is_file() else None
    if part.rows:
        file.unlink(missing_ok=True)
    words = [data if word == "DATA" else word for word in part.words.split()]
    try:
        subprocess.run([sys.executable, HERE / words[0], *words[1:]], check=True)
    except BaseException:
        if before is not None:
            file.write_bytes(before)
        raise


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("--data", help="folder with CIFAR-10")
    ask.add_argument("--by", type=float, default=0.02, help="share of a number")
    ask.add_argument("--list", action="store_true", help="the parts and their files")
    ask.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help="which; none: all of them"
    )
    options = ask.parse_args()
    if options.list:
        for name, part in PARTS.items():
            print(f"{name:12} {part.words:36} data/{part.file}")
        return
    if options.data is None:
        ask.error("--data: the folder with CIFAR-10")
    summary = {}
    for name, part in PARTS.items():
        if options.parts and name not in options.parts:
            continue
        before = stored(DATA / part.file)
        print(f"\n{name}: {part.words}", flush=True)
        measure(part, options.data)
        moved = changed(before, stored(DATA / part.file), options.by)
        for place, (a, b) in moved.items():
            print(f"  {place}: {a} -> {b}")
        summary[name] = len(moved)
    print(json.dumps({"changed": summary}))


if __name__ == "__main__":
    main()
