"""What stands around the code agrees with it: one version, goals that exist, one way to
install, a table with every benchmark.
"""

import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "benchmarks/README.md",
        "book/assets/chapter.md",
    )
]
# Actions that GitHub itself makes; anybody else's could read the token.
ACTIONS = {
    "checkout",
    "setup-python",
    "setup-node",
    "upload-artifact",
    "download-artifact",
    "configure-pages",
    "upload-pages-artifact",
    "deploy-pages",
}


def script(name):
    """A file of .ci/ as a module."""
    spec = importlib.util.spec_from_file_location(
        f"ci_{name}", ROOT / ".ci" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = script("release")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


# One version. The metadata of an editable install are not asked: they are as old as
# the install. `make wheel` compares those of a wheel.


def test_the_version_is_the_same_everywhere():
    assert release.disagreements() == []
    assert release.disagreements(f"v{release.version()}") == []


def test_the_package_and_its_wheel_say_that_version():
    import hkd_mini

    assert hkd_mini.__version__ == release.version()
    project = PYPROJECT["project"]
    assert "version" not in project and project["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"] == {"path": "hkd_mini/__init__.py"}


def test_releases_have_dates_and_notes_and_the_newest_comes_first():
    found = release.releases()
    dates = [datetime.date.fromisoformat(entry.date) for entry in found]
    assert dates == sorted(dates, reverse=True)
    numbers = [Version(entry.version) for entry in found]
    assert numbers == sorted(set(numbers), reverse=True)
    assert all("\n- " in entry.notes for entry in found)
    headings = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.M)
    assert headings == ["Unreleased", *(entry.version for entry in found)]
    for heading in headings:
        assert f"\n[{heading}]: https://" in read("CHANGELOG.md")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("hkd_mini/__init__.py", '__version__ = "', '__version__ = "9.', "9."),
        ("CITATION.cff", "\nversion: ", "\nversion: 9.", "CITATION.cff says 9."),
        ("CITATION.cff", "released: 2", "released: 3", "dates it 3"),
        ("CHANGELOG.md", "\n## [0", "\n## [9.0.0] - 2099-01-01\n\n## [0", "says 9.0.0"),
    ],
)
def test_a_forgotten_place_is_named(name, old, new, said, tmp_path):
    for path in ("hkd_mini/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        text = read(path)
        changed = text.replace(old, new, 1) if path == name else text
        assert path != name or changed != text
        (tmp_path / path).write_text(changed, encoding="utf-8")
    assert said in " ".join(release.disagreements(root=tmp_path))


@pytest.mark.parametrize("tag", ["v9.9.9", "{}", "version-{}"])
def test_a_tag_that_is_not_the_version_is_refused(tag):
    assert release.disagreements(tag.format(release.version()))


def test_a_release_without_a_date_is_refused(tmp_path):
    (tmp_path / "CHANGELOG.md").write_text("# C\n\n## [1.0.0]\n\n- all\n")
    with pytest.raises(ValueError, match="YYYY-MM-DD"):
        release.releases(tmp_path)


# Goals and workflows.


def code(text):
    """Fenced blocks and code spans of a page."""
    fences = re.findall(r"^ *(`{3,})\w*\n(.*?)^ *\1", text, re.M | re.S)
    prose = re.sub(r"^ *(`{3,})\w*\n.*?^ *\1 *$", "", text, flags=re.M | re.S)
    return "\n".join([*(block for _, block in fences), *re.findall(r"`(.+?)`", prose)])


def goals(text):
    """What `make ...` is called with in a text of commands."""
    return set(re.findall(r"\bmake +(?:[A-Z_]+=\S+ +|-\S+ +)*([a-z][a-z-]*)", text))


def commands(workflow):
    """Every line that a workflow runs."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    return "\n".join(step.get("run", "") for step in steps)


def called():
    """Who calls make, and with which goals."""
    yield from ((path.name, goals(code(path.read_text("utf-8")))) for path in PAGES)
    yield from ((path.name, goals(commands(path))) for path in WORKFLOWS)
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    yield "pre-commit", goals("\n".join(hook["entry"] for hook in hooks))
    yield "binder", goals(read("binder/postBuild"))
    yield "devcontainer", goals(devcontainer()["postCreateCommand"])


def devcontainer():
    return json.loads(read(".devcontainer/devcontainer.json"))


def test_every_goal_that_is_named_exists():
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.M)[1].split()
    for goal in phony:
        assert re.search(rf"^{goal}:", read("Makefile"), re.M), goal
    for where, named in called():
        assert named <= set(phony), f"{where}: {named - set(phony)}"
    assert {"install", "lint", "test", "execute"} <= dict(called())["CONTRIBUTING.md"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_parses_and_uses_the_pinned_actions(path):
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found["name"] and found["permissions"]["contents"] == "read"
    assert True in found, "on:, which YAML reads as true"
    for name, job in found["jobs"].items():
        assert job["timeout-minutes"], name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            if "uses" in step:
                action = re.fullmatch(r"actions/([a-z-]+)@v\d+", step["uses"])
                assert action and action[1] in ACTIONS, step["uses"]


def test_workflows_use_one_version_of_an_action():
    used = re.findall(r"uses: (\S+)@(\S+)", "".join(p.read_text() for p in WORKFLOWS))
    assert len(set(used)) == len({action for action, _ in used}), sorted(set(used))


def test_a_release_is_tried_before_it_is_made():
    found = yaml.safe_load(read(".github/workflows/release.yml"))
    assert found[True] == {"push": {"tags": ["v*"]}}
    assert found["jobs"]["publish"]["needs"] == "build"
    assert found["jobs"]["publish"]["permissions"] == {"contents": "write"}
    runs = commands(ROOT / ".github/workflows/release.yml")
    steps = ["ci/release.py", "make lint", "make book", "make test", "make wheel"]
    places = [runs.index(step) for step in [*steps, "gh release create"]]
    assert places == sorted(places)


def test_the_book_is_published_from_a_green_main_only():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    pages = jobs["pages"]
    assert pages["needs"] == "everything"
    assert "github.event_name == 'push'" in pages["if"]
    assert "refs/heads/main" in pages["if"]
    assert pages["permissions"] == {"pages": "write", "id-token": "write"}
    names = [
        step["with"]["name"]
        for job in (jobs["everything"], pages)
        for step in job["steps"]
        if "-artifact" in step.get("uses", "") and "name" in step["with"]
    ]
    assert names == ["book", "book"], "what the tests looked at is what is published"


def test_lint_is_said_once():
    """CI and the hook call `make lint`; ruff's and the twins' commands stand there."""
    (repo,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    entries = [hook["entry"] for hook in repo["hooks"]]
    assert sum("lint" in goals(entry) for entry in entries) == 1
    assert not any("ruff" in entry for entry in entries)
    assert "make lint" in commands(ROOT / ".github/workflows/ci.yml")
    assert "ruff" not in "".join(commands(path) for path in WORKFLOWS)


# One way to install, three places.


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_binder_and_codespaces_install_what_make_install_does(tmp_path):
    *_, binder = read("binder/postBuild").splitlines()
    pips = []
    # `make test` passes its own settings on to a make inside it
    env = {key: value for key, value in os.environ.items() if key[:4] != "MAKE"}
    for line in ("make install TORCH=cpu", devcontainer()["postCreateCommand"], binder):
        make, *rest = line.split()
        done = subprocess.run(
            [make, "-n", f"VENV={tmp_path}/venv", *rest],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        pips += re.findall(r"-m pip install .*", done.stdout)
    assert len(pips) == 3 and len(set(pips)) == 1
    assert "--constraint constraints.txt" in pips[0]
    assert "download.pytorch.org/whl/cpu" in pips[0]


def test_binder_and_codespaces_have_a_python_that_ci_has():
    tested = re.findall(r'python: "([\d.]+)"', read(".github/workflows/ci.yml"))
    conda = yaml.safe_load(read("binder/environment.yml"))
    (python,) = (x for x in conda["dependencies"] if x.startswith("python="))
    assert python.removeprefix("python=") in tested
    image = devcontainer()["image"]
    assert re.search(r":\d+-([\d.]+)-", image)[1] in tested


def test_postbuild_stops_at_an_error_and_can_be_run():
    first, *rest = read("binder/postBuild").splitlines()
    assert first == "#!/bin/bash" and "set -euo pipefail" in rest
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--stage", "binder/postBuild"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert listed.stdout.startswith("100755") or not listed.stdout


# What the front page says of the outside world.


def test_one_address_for_the_book():
    address = PYPROJECT["project"]["urls"]["Documentation"]
    config = yaml.safe_load(read("_config.yml"))
    assert config["sphinx"]["config"]["ogp_site_url"] == address
    assert config["html"].get("baseurl", address) == address
    links = re.findall(r"\]\((\S+?)\)", read("README.md"))
    assert links[0] == address
    repository = PYPROJECT["project"]["urls"]["Repository"]
    name = repository.removeprefix("https://github.com/")
    assert address == f"https://{name.split('/')[0]}.github.io/{name.split('/')[1]}/"
    assert f"github.repository == '{name}'" in read(".github/workflows/ci.yml")
    branch = config["repository"]["branch"]
    hub = config["launch_buttons"]["binderhub_url"]
    tour = f"{hub}/v2/gh/{name}/{branch}?urlpath=lab/tree/book/tour.ipynb"
    assert links[1:3] == [tour, f"https://codespaces.new/{name}"]
    assert (ROOT / "book" / "tour.ipynb").is_file()
    colab = config["launch_buttons"]["colab_url"]
    gallery = f"{colab}/github/{name}/blob/{branch}/book/gallery.ipynb"
    assert gallery in links and gallery in read("book/text/gallery.md")
    assert (ROOT / "book" / "gallery.ipynb").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).name)
def test_links_of_the_front_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), target


# Benchmarks, and the wheel's environment.


def test_every_benchmark_is_in_the_table_and_nothing_else():
    rows = re.findall(
        r"^\| \[(\S+?)\]\((\S+?)\) \|(.*)\|$", read("benchmarks/README.md"), re.M
    )
    named = [name for name, _, _ in rows]
    shared = {"board_rows.py", "common.py", "training.py"}
    there = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - shared
    assert len(named) == len(set(named)) and set(named) == there
    for name, target, cells in rows:
        *_, command = (cell.strip() for cell in cells.split("|"))
        assert target == name and f"python benchmarks/{name}" in command
        assert len(cells.split("|")) == 4 and all(map(str.strip, cells.split("|")))


def test_a_borrowed_environment_does_not_see_the_tree(tmp_path):
    """--reuse gives the wheel's environment the packages of this one, but not its
    editable install: what is imported there is the wheel or nothing.
    """
    wheel = script("wheel")
    clean = wheel.Environment(tmp_path / "clean")
    clean.borrow()
    look = (
        "from importlib.util import find_spec as f; s = f('hkd_mini'); "
        "print(f('yaml') is not None, s and s.origin)"
    )
    here, there = wheel.run(clean.python, "-I", "-c", look, cwd=tmp_path).split(" ", 1)
    assert here == "True" and str(ROOT) not in there
