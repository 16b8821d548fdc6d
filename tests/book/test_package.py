"""The package keeps the promises that make it readable: folders in order, short
modules, prefaces, a light import.
"""

import ast
import graphlib
import hashlib
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hkd_mini"
DATA = ROOT / "data"
# A folder imports only from those before it: the parts of the book, in its order.
FOLDERS = ("engine", "koopman", "diffusion", "judge", "hkd", "onestep", "app")
MODULES = sorted(path for f in FOLDERS for path in (PACKAGE / f).glob("*.py"))

each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}"
)


def imported(tree, folder):
    """The modules of this package that a syntax tree in `folder` imports, at its top or
    inside a function, as (folder, module).
    """

    def split(words, names):
        if len(words) == 0:
            return [(name, "") for name in names]
        return [(words[0], words[1])] if words[1:] else [(words[0], n) for n in names]

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                words = name.name.split(".")
                if words[0] == "hkd_mini":
                    yield (words + ["", ""])[1], (words + ["", ""])[2]
        elif isinstance(node, ast.ImportFrom):
            words = node.module.split(".") if node.module else []
            names = [name.name for name in node.names]
            if node.level == 0 and words[:1] == ["hkd_mini"]:
                yield from split(words[1:], names)
            elif node.level == 1:
                yield from split([folder, *words], names)
            elif node.level == 2:
                yield from split(words, names)


def test_the_reader_of_imports_sees_them_all():
    code = (
        "from . import a\nfrom .b import x\nimport hkd_mini.app.c\nfrom hkd_mini "
        "import d\ndef f(): from ..hkd.e import g\nfrom ..hkd import h\nfrom "
        "hkd_mini.judge.i import j"
    )
    assert set(imported(ast.parse(code), "engine")) == {
        ("engine", "a"),
        ("engine", "b"),
        ("app", "c"),
        ("d", ""),
        ("hkd", "e"),
        ("hkd", "h"),
        ("judge", "i"),
    }
    assert not set(
        imported(ast.parse("import torch\nfrom torch.nn import Module"), "a")
    )


def test_the_folders_are_the_parts_of_the_book():
    found = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert found == set(FOLDERS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__"}


@each_module
def test_a_module_imports_only_from_folders_before_its_own(path):
    mine = path.parent.name
    others = list(imported(ast.parse(path.read_text(encoding="utf-8")), mine))
    for folder, module in others:
        assert FOLDERS.index(folder) <= FOLDERS.index(mine), (
            f"{mine}/{path.stem} imports {folder}/{module}"
        )


def test_no_two_modules_need_each_other():
    ties = {
        (path.parent.name, path.stem): set(
            imported(ast.parse(path.read_text(encoding="utf-8")), path.parent.name)
        )
        for path in MODULES
        if path.stem != "__init__"
    }
    graphlib.TopologicalSorter(ties).prepare()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_says_what_it_holds_and_hides_no_module(folder):
    package = importlib.import_module(f"hkd_mini.{folder}")
    modules = {path.stem for path in MODULES if path.parent.name == folder}
    assert not modules & set(package.__all__), "a name that hides a module"
    assert all(hasattr(package, name) for name in package.__all__)
    assert "Chapter" in package.__doc__ and "Start with" in package.__doc__


def statements(tree):
    """How much a tree does, however its lines are broken."""
    return sum(isinstance(node, ast.stmt) for node in ast.walk(tree))


@each_module
def test_a_module_is_a_chapter_and_a_function_fits_a_screen(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 250, f"{len(text.splitlines())} lines"
    assert statements(tree) <= 185, f"{statements(tree)} statements are packed"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert statements(node) <= 40, f"{node.name}: {statements(node)} statements"
    preface = ast.get_docstring(tree)
    assert preface and 4 <= len(preface.splitlines()) <= 19, (
        "a preface of about ten lines"
    )


@each_module
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
    ]
    assert not [node.name for node in public if not ast.get_docstring(node)]


@each_module
def test_no_global_seed_no_pickle_no_silent_repair(path):
    """Randomness is an argument; weights cannot run code; a NaN is an error, not a
    zero.
    """
    banned = {
        "torch.load",
        "pickle.load",
        "pickle.loads",
        "torch.nan_to_num",
        "np.nan_to_num",
        "np.random.seed",
    }
    # a program may seed the process that it is
    if path.stem not in ("commands", "distilling"):
        banned |= {"torch.manual_seed", "torch.cuda.manual_seed_all", "random.seed"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not banned & {
        ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
    }


@each_module
def test_the_book_has_a_page_for_it(path):
    page = ROOT / "book" / "api" / f"{path.parent.name}.md"
    name = (
        path.parent.name
        if path.stem == "__init__"
        else f"{path.parent.name}.{path.stem}"
    )
    assert f"automodule:: hkd_mini.{name}\n" in page.read_text(encoding="utf-8")
    index = (page.parent / "index.md").read_text(encoding="utf-8")
    assert f"({page.name})" in index
    assert path.stem == "__init__" or f"`{path.stem}`" in index


def test_every_page_has_a_module():
    for page in (ROOT / "book" / "api").glob("*.md"):
        for name in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8")):
            importlib.import_module(name)
        assert page.stem == "index" or page.stem in FOLDERS


def test_importing_the_package_is_light():
    heavy = (
        "lpips",
        "matplotlib",
        "diffusers",
        "accelerate",
        "torchvision",
        "tensorboard",
        "pooch",
        "IPython",
    )
    program = (
        f"import sys, hkd_mini; print([name for name in {heavy} if name in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_names_that_stay():
    import hkd_mini

    for name in hkd_mini.__all__:
        assert hasattr(hkd_mini, name)
    assert {
        "load",
        "train",
        "spectrum",
        "TrainConfig",
        "HKD",
        "HKDConfig",
        "PRESETS",
    } <= set(dir(hkd_mini))


def manifest():
    path = DATA / "MANIFEST.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    found = found.get("files", found)
    if isinstance(found, dict):
        return [
            (name, entry if isinstance(entry, str) else entry["sha256"])
            for name, entry in found.items()
        ]
    return [(entry.get("path") or entry["file"], entry["sha256"]) for entry in found]


@pytest.mark.parametrize(("name", "digest"), manifest())
def test_bundled_files_are_the_ones_described(name, digest):
    found = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
    assert found == digest, f"data/{name} is not what its card describes"


@pytest.mark.skipif(not manifest(), reason="data/MANIFEST.json is not there yet")
def test_every_bundled_file_is_described_and_small():
    described = {name for name, _ in manifest()}
    there = {
        path.relative_to(DATA).as_posix(): path
        for path in DATA.rglob("*")
        if path.is_file()
    }
    undescribed = {
        name for name in there if not name.endswith((".md", "MANIFEST.json"))
    } - described
    assert not undescribed
    assert all(path.stat().st_size <= 16 * 2**20 for path in there.values()), (
        "at most 16 MB a file"
    )
    assert not [
        name
        for name in there
        if name.endswith((".pt", ".pth", ".pkl", ".pickle", ".ckpt"))
    ]


def test_a_wheel_carries_the_data():
    """What `pip install hkd-mini` unpacks holds the weights where the package looks for
    them.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'data = "hkd_mini/_data"' in text
    assert '"_data"' in (PACKAGE / "engine" / "weights.py").read_text(encoding="utf-8")


def test_the_tracked_tree_is_small():
    """Git keeps every version: weights at most 16 MB a file and 40 MB in all, the tree
    60 MiB.
    """
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: nothing is tracked")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {path: path.stat().st_size for path in paths if path.exists()}
    weights = {p: s for p, s in sizes.items() if p.name == "model.safetensors"}
    assert max(weights.values()) <= 16e6
    assert sum(weights.values()) <= 40e6
    assert sum(sizes.values()) <= 60 * 2**20
