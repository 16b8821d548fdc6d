"""Three doors to one environment: pyproject.toml, constraints.txt and environment.yml
agree. Checked offline.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_to_a_version_it_allows():
    for text in [
        *PROJECT["dependencies"],
        *(line for extra in EXTRAS.values() for line in extra),
    ]:
        wish = Requirement(text)
        pins = [pin for pin in PINS if normal(pin.name) == normal(wish.name)]
        assert pins, f"constraints.txt does not pin {wish.name}"
        for pin in pins:
            (spec,) = pin.specifier
            assert spec.operator == "==", f"{pin} is not exact"
            assert wish.specifier.contains(spec.version, prereleases=True), (
                f"{pin}, but pyproject.toml wants {wish}"
            )


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_each_system_and_python_gets_one_pin_a_name(python, system):
    where = {
        "python_version": python,
        "python_full_version": python + ".9",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[
            system
        ],
        "os_name": "nt" if system == "win32" else "posix",
    }
    names = [
        normal(pin.name)
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate(where)
    ]
    assert len(names) == len(set(names)), {
        name for name in names if names.count(name) > 1
    }
    assert len(names) > 150


def test_what_runs_here_is_what_is_pinned():
    """Each pin that this machine has installed is installed in that version (skipped
    outside `make install`).
    """
    if not Path(sys.prefix, ".installed").exists():
        pytest.skip("this Python was not set up by `make install`")
    from importlib.metadata import distributions

    installed = {
        normal(dist.name): dist.version.split("+")[0] for dist in distributions()
    }
    for pin in PINS:
        if normal(pin.name) in installed and (
            pin.marker is None or pin.marker.evaluate()
        ):
            assert pin.specifier.contains(
                installed[normal(pin.name)], prereleases=True
            ), pin


def test_conda_installs_the_same_extras_with_the_same_pins():
    (pip,) = (line["pip"] for line in CONDA["dependencies"] if isinstance(line, dict))
    assert "--constraint constraints.txt" in pip
    (editable,) = (line for line in pip if line.startswith("--editable"))
    extras = re.fullmatch(r"--editable \.\[(.+)\]", editable).group(1).split(",")
    assert set(extras) == set(EXTRAS)
    assert set(pip) == {"--constraint constraints.txt", editable}, (
        "anything else belongs into pyproject.toml"
    )


def test_conda_lines_are_well_formed():
    assert set(CONDA) == {"name", "channels", "dependencies"}
    assert CONDA["name"] == PROJECT["name"] and CONDA["channels"] == ["conda-forge"]
    for line in CONDA["dependencies"]:
        if isinstance(line, str):
            assert re.fullmatch(
                r"[a-z0-9-]+(?:(?:[<>=!]=?)[\d.*]+(?:,(?:[<>=!]=?)[\d.*]+)*)?", line
            ), line
    (python,) = (
        line for line in CONDA["dependencies"] if str(line).startswith("python")
    )
    offered = SpecifierSet(python.removeprefix("python"))
    wanted = SpecifierSet(PROJECT["requires-python"])
    for minor in range(8, 15):
        assert not offered.contains(f"3.{minor}.0") or wanted.contains(f"3.{minor}.0")
    assert offered.contains("3.10.0"), "the lowest Python that pyproject.toml promises"


def test_the_makefile_installs_every_extra_with_the_pins():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert (
        f"--constraint constraints.txt --editable '.[{','.join(EXTRAS)}]'" in makefile
    )
    assert "pytest --nbval book tests" in makefile
    assert " -W --keep-going -n" in makefile


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("goal", ["install", "book", "test", "lab", "lint", "clean"])
def test_the_goals_of_the_makefile_are_known_to_make(goal):
    env = {
        key: value for key, value in os.environ.items() if not key.startswith("MAKE")
    }
    done = subprocess.run(
        ["make", "-n", goal], cwd=ROOT, capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr


def test_one_address_for_the_repository():
    url = PROJECT["urls"]["Repository"]
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == url
    assert (
        yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))[
            "repository-code"
        ]
        == url
    )
    assert f'"{url}"' in (ROOT / "book" / "assets" / "colab.py").read_text(
        encoding="utf-8"
    )


def test_pages_need_only_what_npm_can_prove():
    """Exact versions and a digest each, so what the pages carry is what was
    reviewed.
    """
    packages = json.loads(
        (ROOT / "book" / "assets" / "npm" / "package.json").read_text(encoding="utf-8")
    )
    assert set(packages["dependencies"]) == set(packages["integrity"])
    assert all(
        re.fullmatch(r"\d+\.\d+\.\d+", version)
        for version in packages["dependencies"].values()
    )
    assert all(
        digest.startswith("sha512-") for digest in packages["integrity"].values()
    )
