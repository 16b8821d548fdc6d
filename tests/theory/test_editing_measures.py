"""What benchmarks/editing.py measures with: parts of a change add up, controls of equal
change are equal.
"""

import importlib
from pathlib import Path

import pytest
import torch

from hkd_mini.hkd.bands import radial_power

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "editing.py"


@pytest.fixture(scope="module")
def editing():
    if not SCRIPT.is_file():
        pytest.skip("no benchmarks beside the package")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        return importlib.import_module("editing")


def pictures(n, seed):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_a_change_is_the_sum_of_its_parts(editing):
    before = pictures(5, 0)
    after = pictures(5, 1)
    total, low, low8 = editing.change(after, before)
    torch.testing.assert_close(total, (after - before).square().mean((1, 2, 3)))
    assert (low < low8).all() and (low8 < total).all()
    # rings from 1; what is missing is the mean
    rings = radial_power(after - before).mean(1)
    torch.testing.assert_close(
        low, rings[:, :4].sum(1) + (after - before).mean((2, 3)).square().mean(1)
    )


def test_low_frequencies_are_what_they_are_called(editing):
    axis = torch.arange(32) * 2 * torch.pi / 32
    for cycles, where in ((3, 1.0), (4, 1.0), (6, 0.0)):
        wave = (cycles * axis).cos().expand(1, 3, 32, 32)
        total, low, low8 = editing.change(wave, torch.zeros_like(wave))
        torch.testing.assert_close(
            low / total, torch.tensor([where]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(low8, total)


def test_the_control_of_equal_change_changes_as_much(editing):
    grid = editing.GRID
    # (grid, 3, pairs)
    control = torch.stack([grid**2 * 3, grid**2, grid**2 * 2], 1)[..., None].expand(
        -1, -1, 4
    )
    # the last is more than all modes can do
    total = torch.tensor([0.0, 0.031, 1.2, 5.0])
    equal, ratios = editing.at_equal_change(control, total)
    torch.testing.assert_close(equal[0], total.clamp(max=3.0))
    torch.testing.assert_close(equal[1], equal[0] / 3)
    assert ratios[0] == 0 and ratios[-1] == 1 and (ratios.diff() > 0).all()


def test_dealing_keeps_how_many(editing):
    masks = [
        torch.rand(4, 2, 2, generator=torch.Generator().manual_seed(k)) < 0.3
        for k in range(3)
    ]
    dealt = editing.dealt(masks)
    assert [m.sum() for m in dealt] == [m.sum() for m in masks]
    assert any(not torch.equal(a, b) for a, b in zip(dealt, masks))


def test_an_interval_holds_the_mean(editing):
    values = torch.randn(400, generator=torch.Generator().manual_seed(3)) + 2
    mean, low, high = editing.interval(values)
    assert low < mean < high and 0.15 < high - low < 0.25
