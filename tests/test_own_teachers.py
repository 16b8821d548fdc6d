"""The README's way from a teacher of one's own, a function or a pipeline of diffusers,
to a sheet and a distance; the noise of both ends at 14.6.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ends
from mixed_folder import mixed_folder
from PIL import Image
from test_own_pictures import commands, smaller

from hkd_mini import load
from hkd_mini.engine.mend import mend_torchvision

# a denoiser without a network: it knows the pictures of the folder, and no others
MODULE = """
import torch
from hkd_mini.diffusion.exact import exact_denoiser
from hkd_mini.diffusion.schedule import Noise
from hkd_mini.engine.data import to_unit
from hkd_mini.engine.folders import load_images

pictures = to_unit(load_images("my-pictures", 32, skip_broken=True).x)
guess = exact_denoiser(pictures)

def denoise(x, sigma):
    return guess(x, sigma)

denoise.noise = Noise(sigma_min=0.01, sigma_max=14.6)
denoise.shape = (3, 32, 32)
"""


def pipeline(folder):
    """A small pipeline of diffusers', with Stable Diffusion's noise."""
    mend_torchvision()
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is a test-only extra: pip install diffusers"
    )
    network = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    noise = diffusers.DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    made = diffusers.DDPMPipeline(network, noise)
    made.save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", "diffusers"])
def test_readme_from_a_teacher_to_a_sheet_and_a_distance(
    kind, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    assert mixed_folder("my-pictures", 36) == 33
    Path("my_module.py").write_text(MODULE)
    mine = "my_module:denoise"
    teacher = mine if kind == "function" else pipeline(tmp_path / "pipe")
    typed = commands("README.md", "### Your own teacher")
    assert [words[0] for words in typed] == ["trajectories", "distill"]
    assert all(mine in words for words in typed)
    # what follows is as for pictures, but for the features of labelled ones
    after = commands("README.md", "### Your own pictures")[-2:]
    after[1][after[1].index("mine/features")] = "cifar"
    for words in typed + after:
        words = [teacher if word == mine else word for word in words]
        few = ["--images", "4", "--batch", "2", "--precision", "fp32"]
        few += ["--perceptual", "none"]
        words = smaller(words) + (few if words[0] == "distill" else [])
        status, said, error = ends(capsys, *words)
        assert status == 0, f"{' '.join(words)}: {error[-2000:]}"
    model = load("mine/hkd")
    assert model.noise.sigma_max == pytest.approx(14.6, abs=0.1)
    assert model.config.network.shape == (3, 32, 32)
    found = json.loads(said.splitlines()[-1])
    assert found["n_real"] == 33 and found["reference"] == "my-pictures"
    assert np.isfinite(found["frechet"]) and found["size"] == [32, 32]
    assert Image.open("sheet.png").size == (3 * 32 + 4, 2 * 32 + 2)
    sys.modules.pop("my_module", None)
