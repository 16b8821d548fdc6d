"""Chapter 9 has what the paper leaves open: a row for each point, and every row says
what the paper says, what is done here, and what another choice costs.
"""

import re
from pathlib import Path

import torch

from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "text" / "09-architecture.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| \*\*(\d+)\.\*\* (.+)$", re.MULTILINE)


def test_all_points_are_there_and_say_all():
    rows = ROW.findall(PAGE)
    assert [int(number) for number, _ in rows] == list(range(1, 29))
    for number, row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[:-1]]
        assert len(cells) == 4 and cells[0].endswith("?"), number
        assert all(cells[:3]), number
        # the last point is a reading, and has no other choice
        assert cells[3] or number == "28", number


def test_the_page_says_what_the_defaults_are():
    rows = dict(ROW.findall(PAGE))
    default = HKDConfig()
    assert default.clock == "rho" and "the clock `rho`" in rows["10"]
    assert default.encoder_time == "sigma" and 'encoder_time="none"' in rows["3"]
    assert default.spatial == "local" and 'spatial="shared"' in rows["8"]
    assert Objective().lr_scale_A == 1 and "yes in the paper's objective" in rows["22"]


def test_the_sizes_that_the_page_names():
    rows = dict(ROW.findall(PAGE))
    with torch.device("meta"):
        large = HKD(PRESETS["cifar10"])
    embedding = sum(p.numel() for p in large.embedding.parameters())
    assert f"{embedding / 1e6:.2f} million" in rows["5"]
    shapes = PRESETS["cifar10-mini-paper"].state_shapes
    shared = sum(d for d, _, _ in shapes)
    local = sum(d * h * w for d, h, w in shapes)
    assert f"{shared} numbers instead of {local:,}" in rows["8"]
