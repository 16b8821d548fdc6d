"""What the card of `hkd-cifar10-tiny` says about its generator is measured from the
bundled weights and paths.
"""

import copy
import re

import pytest
import torch

import hkd_mini
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.probe import probe

NAME = "hkd-cifar10-tiny"


def said(row):
    """The numbers of a row of the card's table."""
    card = (data_folder() / NAME / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {row}")]
    return [float(number) for number in re.findall(r"0\.\d+", line)]


@pytest.fixture(scope="module")
def measured(small_held_out_paths):
    """A probe of the model, and of one whose A is 0 in the encoder too."""
    model = hkd_mini.load(NAME)
    idle = copy.deepcopy(model)
    with torch.no_grad():
        for generator in idle.generators:
            generator.A.zero_()
    paths = small_held_out_paths
    return tuple(probe(each, paths, from_every_time=False) for each in (model, idle))


def test_errors_at_the_end(measured):
    model, idle = measured
    found = [
        model.with_A.error_at_the_end,
        model.without_A.error_at_the_end,
        idle.with_A.error_at_the_end,
    ]
    stated = said("error to the teacher's end")
    assert stated == pytest.approx([float(value) for value in found], rel=0.05)


def test_errors_on_the_way(measured):
    model, idle = measured
    found = [each.with_A.error_of_guesses.max() for each in (model, idle)]
    stated = said("error to the teacher's guesses")
    assert stated == pytest.approx([float(value) for value in found], rel=0.05)
