"""What the README and the landing page tell a newcomer to type runs, and gives what the
comments say.
"""

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["README.md", "book/index.md"])
def test_the_python_on_the_front_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S
    )
    names = {}
    exec("\n".join(blocks), names)
    assert (
        tuple(names["images"].shape) == (16, 3, 32, 32)
        and names["images"].abs().max() <= 1
    )
    if page == "README.md":  # the first snippet ends in a picture
        assert "sheet.png" in blocks[0]
        assert Image.open("sheet.png").size == (4 * 32 + 3 * 2,) * 2
    if "mixed" in names:
        assert names["image"].shape == (1, 3, 32, 32) and names["without"].shape == (
            3,
            1,
            3,
            32,
            32,
        )
