"""The README's way from a folder of 300 mixed files to a sheet and a distance, and
chapter 19's, which is run as it stands.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ends
from mixed_folder import mixed_folder
from PIL import Image

from hkd_mini import load

ROOT = Path(__file__).resolve().parents[1]


def commands(page, heading):
    """The commands of the first block of bash below a heading that starts
    `hkd-mini`.
    """
    text = (ROOT / page).read_text(encoding="utf-8").split(heading, 1)[1]
    block = re.search(r"```bash\n(hkd-mini .*?)```", text, re.DOTALL).group(1)
    lines = block.replace("\\\n", " ").splitlines()
    return [line.split("#")[0].split()[1:] for line in lines]


def smaller(words):
    """The same command at a budget of seconds; the flags stay those of the page."""
    text = " ".join(words)
    text = re.sub(r"--images \d+", "--images 4 --batch 2 --precision fp32", text)
    text = re.sub(r"--n \d+", "--n 6", text)
    return text.split() + (["--steps", "3"] if words[0] == "trajectories" else [])


def test_readme_from_mixed_files_to_a_sheet_and_a_distance(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    whole = mixed_folder("my-pictures", 300)
    typed = commands("README.md", "### Your own pictures")
    assert [words[0] for words in typed] == [
        "features",
        "teacher",
        "trajectories",
        "distill",
        "sample",
        "evaluate",
    ]
    for words in typed:
        status, said, error = ends(capsys, *smaller(words))
        assert status == 0, f"{' '.join(words)}: {error[-2000:]}"
    found = json.loads(said.splitlines()[-1])
    assert found["n_real"] == whole == 297 and found["size"] == [64, 64]
    assert found["reference"] == "my-pictures" and np.isfinite(found["frechet"])
    assert found["features"] == "mine/features"
    assert Image.open("sheet.png").size == (3 * 64 + 4, 2 * 64 + 2)
    assert load("mine/features").config.classes == 3
    record = json.loads(Path("mine/hkd/training.json").read_text())
    assert record["data"]["n"] == 297 and record["data"]["classes"] == 3
    status, _, error = ends(capsys, "evaluate", "--weights", "mine/hkd", "--n", 4)
    assert status == 2 and "was trained on my-pictures, not on CIFAR-10" in error


@pytest.mark.slow
def test_chapter_19_as_it_is_written(capsys, tmp_path, monkeypatch):
    """On a folder that is not CIFAR-10, with its broken files."""
    monkeypatch.chdir(tmp_path)
    mixed_folder("my-pictures", 120)
    page = "book/text/19-your-own-pictures.md"
    for words in commands(page, "## Type it"):
        status, said, error = ends(capsys, *words)
        assert status == 0, f"{' '.join(words)}: {error[-2000:]}"
    found = json.loads(said.splitlines()[-1])
    assert found["reference"] == "my-pictures" and found["size"] == [16, 16]
    sheet = np.asarray(Image.open("sheet.png"))
    assert sheet.ndim == 3 and sheet.std() > 0


def test_the_maker_of_the_folder_is_a_script(tmp_path, monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(sys, "argv", ["mixed_folder.py", str(tmp_path / "mine")])
    runpy.run_path(str(ROOT / "tests" / "mixed_folder.py"), run_name="__main__")
    assert capsys.readouterr().out == "297\n"
    kept = [p for p in (tmp_path / "mine").rglob("*") if p.is_file()]
    endings = {p.suffix for p in kept}
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".TIFF", ".gif"} <= endings
