"""The package keeps the promises that make it readable: floors, short modules,
prefaces, a light import.
"""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hkd_mini"
DATA = ROOT / "data"
MODULES = sorted(
    path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")
)

# A module imports only from lower floors. The ground is what even floor 0 may use.
FLOORS = {
    -1: ["weights", "dictionaries", "precision"],
    0: [
        "systems",
        "dmd",
        "schedule",
        "data",
        "koopman",
        "networks",
        "classifier",
        "stochastic",
        "pickles",
    ],
    1: ["teacher", "loop", "metrics", "model", "autoencoder"],
    2: ["trajectories", "losses", "spectrum", "released", "kdm"],
    3: ["train", "evaluation", "edit", "onestep", "onnx_export"],
    4: ["cli", "widgets"],
}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}
# One step inside a floor: HKD starts from a teacher's weights, and follows the shape of
# its Denoiser.
NEIGHBOURS = {("model", "teacher")}

# Statements of the longer ones, lists rather than chapters: the blocks of the U-Net,
# one function for each command, one for each widget; and what a run has to keep.
LONGER = {"networks": 205, "cli": 225, "loop": 235, "widgets": 200}

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


def siblings(tree):
    """The modules of this package that a syntax tree imports, at its top or inside a
    function.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                name.name.split(".")[1]
                for name in node.names
                if name.name.startswith("hkd_mini.")
            )
        elif isinstance(node, ast.ImportFrom):
            if (
                node.level == 1
                and node.module is None
                or node.module == "hkd_mini"
                and node.level == 0
            ):
                yield from (name.name for name in node.names)
            elif node.level == 1:
                yield node.module.split(".")[0]
            elif node.module and node.module.startswith("hkd_mini."):
                yield node.module.split(".")[1]


def test_the_reader_of_imports_sees_them_all():
    code = (
        "from . import a\nfrom .b import x\nimport hkd_mini.c\nfrom hkd_mini import "
        "d\ndef f(): from .e import g"
    )
    assert set(siblings(ast.parse(code))) == {"a", "b", "c", "d", "e"}
    assert (
        set(siblings(ast.parse("import torch\nfrom torch.nn import Module"))) == set()
    )


@each_module
def test_a_module_imports_only_from_lower_floors(path):
    assert path.stem in FLOOR, (
        f"{path.stem} has no floor: give it one in FLOORS, and in book/api/index.md"
    )
    for other in siblings(ast.parse(path.read_text(encoding="utf-8"))):
        assert FLOOR[other] < FLOOR[path.stem] or (path.stem, other) in NEIGHBOURS, (
            f"{path.stem} imports {other}"
        )


def statements(tree):
    """How much a tree does, however its lines are broken."""
    return sum(isinstance(node, ast.stmt) for node in ast.walk(tree))


@each_module
def test_a_module_is_a_chapter_and_a_function_fits_a_screen(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    count = statements(tree)
    assert count <= LONGER.get(path.stem, 185), f"{count} statements: 185 are a chapter"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert statements(node) <= 40, f"{node.name}: {statements(node)} statements"
    preface = ast.get_docstring(tree)
    assert preface and 5 <= len(preface.splitlines()) <= 16, (
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
    if path.stem != "cli":  # a program may seed the process that it is
        banned |= {"torch.manual_seed", "torch.cuda.manual_seed_all", "random.seed"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not banned & {
        ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
    }


@each_module
def test_the_book_has_a_page_for_it(path):
    page = ROOT / "book" / "api" / f"{path.stem}.md"
    assert f"automodule:: hkd_mini.{path.stem}" in page.read_text(encoding="utf-8")
    assert f"({path.stem}.md)" in (page.parent / "index.md").read_text(encoding="utf-8")


def test_every_page_has_a_module():
    pages = {path.stem for path in (ROOT / "book" / "api").glob("*.md")} - {"index"}
    assert pages == {path.stem for path in MODULES}


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
    assert '"_data"' in (PACKAGE / "weights.py").read_text(encoding="utf-8")


def test_the_tracked_tree_is_small():
    """Git keeps every version: weights at most 16 MB a file, all else 36 MB."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: nothing is tracked")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {path: path.stat().st_size for path in paths if path.exists()}
    weights = {p: s for p, s in sizes.items() if p.name == "model.safetensors"}
    assert max(weights.values()) <= 16e6
    assert sum(sizes.values()) - sum(weights.values()) <= 36e6
