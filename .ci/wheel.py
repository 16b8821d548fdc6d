"""The wheel as somebody has it who never saw this tree.

    python .ci/wheel.py          # builds both archives, tries the wheel, fills dist/
    python .ci/wheel.py --reuse  # with this environment's packages, nothing downloaded

An sdist is built from the tree and the wheel from the sdist, so neither lacks a file
that the other has. The wheel is installed into a new environment in a temporary folder,
with the versions of constraints.txt. There the first Python of the README runs, and so
does `hkd-mini sample`. With --reuse the new environment sees the packages of the one
that runs this, behind its own; an editable install there stays unseen.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PINS = ["--constraint", str(ROOT / "constraints.txt")]
SAMPLE = "sample --weights hkd-cifar10 --n 2 --seed 0 --out x.npy"
# after the README's lines: whose package that was, and what came out
WHERE = """
import sys
from importlib.metadata import version
from pathlib import Path

where = Path(hkd_mini.__file__).resolve()
assert where.is_relative_to(Path(sys.prefix).resolve()), f"{where}: not the wheel's"
assert version("hkd-mini") == hkd_mini.__version__
assert tuple(images.shape) == (16, 3, 32, 32) and images.abs().max() <= 1
"""
LOOK = """
import numpy as np

x = np.load("x.npy")
assert x.shape == (2, 32, 32, 3) and x.dtype == np.uint8 and x.std() > 10, x.shape
"""


def run(*command: object, cwd: Path) -> str:
    """What a command prints on stdout; none of the caller's Python settings are passed
    on. SystemExit with all that it said when it fails.
    """
    env = {key: value for key, value in os.environ.items() if key[:6] != "PYTHON"}
    words = [str(part) for part in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=env | {"PYTHONNOUSERSITE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\n{shlex.join(words)}: failed")
    return done.stdout


class Environment:
    """A new virtual environment in a folder."""

    def __init__(self, folder: Path):
        run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
        self.folder = folder
        self.scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.scripts / ("python.exe" if os.name == "nt" else "python")

    def pip(self, *arguments: object) -> None:
        quiet = ("--quiet", "--disable-pip-version-check")
        pip = (self.python, "-m", "pip")
        run(*pip, arguments[0], *quiet, *arguments[1:], cwd=self.folder)

    def borrow(self) -> None:
        """Put this process's packages on its path, behind its own. They come as a
        folder and not as a site, so their .pth files are not read.
        """
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = run(self.python, "-I", "-c", where, cwd=self.folder).strip()
        theirs = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        Path(own, "borrowed.pth").write_text("\n".join(sorted(theirs)) + "\n")


def build(folder: Path, pip_args: list[str]) -> tuple[Path, Path]:
    """An sdist of the tree and a wheel of that sdist, in `folder`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = Environment(folder / "tools")
    tools.pip("install", *pip_args, *project["build-system"]["requires"])
    hatchling = (tools.python, "-m", "hatchling", "build", "--target", "sdist")
    run(*hatchling, "--directory", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    tools.pip(
        "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sdist
    )
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def tried(wheel: Path, folder: Path, reuse: bool, pip_args: list[str]) -> None:
    """Install the wheel where nothing else is ours, and use it."""
    assert not folder.resolve().is_relative_to(ROOT), f"{folder} is inside the tree"
    clean = Environment(folder / "clean")
    if reuse:
        clean.borrow()
        clean.pip("install", "--no-deps", wheel)
    else:
        clean.pip("install", *PINS, *pip_args, wheel)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    hello = re.search(r"```python\n(.*?)```", readme, re.S)[1]
    run(clean.python, "-I", "-c", hello + WHERE, cwd=folder)
    run(clean.scripts / "hkd-mini", *SAMPLE.split(), cwd=folder)
    run(clean.python, "-I", "-c", LOOK, cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reuse", action="store_true", help="no packages downloaded")
    parser.add_argument("--pip-args", default="", help="more of pip's options")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    more = shlex.split(options.pip_args)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = build(folder, more)
        wheel = archives[1]
        tried(wheel, folder, options.reuse, more)
        options.out.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            shutil.copy2(archive, options.out)
        size = wheel.stat().st_size
        print(f"wheel {wheel.name}: {size} bytes, hello world ok, sample ok")


if __name__ == "__main__":
    main()
