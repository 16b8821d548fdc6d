"""Networks that guess the noise as denoisers, against a Gaussian's exact guess, and
against diffusers if installed.
"""

import json
import types

import numpy as np
import pytest
import torch
from commands import ends
from torch import nn

from hkd_mini import load
from hkd_mini.diffusion import epsilon
from hkd_mini.diffusion.exact import gaussian_denoiser
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import karras_sigmas
from hkd_mini.engine.mend import mend_torchvision
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.paths import Trajectories

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # DDPM's schedule
ABAR = torch.cumprod(1 - BETAS, 0)
SIGMAS = ((1 - ABAR) / ABAR).sqrt()
LOGS = SIGMAS.log().numpy()
MEAN = torch.tensor([0.3, -0.2, 0.5])
COV = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.05]])
EXACT = gaussian_denoiser(MEAN, COV)


def noise_guess(x, t, class_labels=None):
    """E[n | x] for x = sqrt(abar) x0 + sqrt(1 - abar) n, x0 Gaussian; between steps log
    sigma is linear in t.
    """
    sigma = torch.from_numpy(
        np.exp(np.interp(t.double().numpy(), np.arange(1000), LOGS))
    ).to(x.dtype)[:, None]
    abar = 1 / (1 + sigma**2)
    mean = MEAN.to(x.dtype)
    cov = COV.to(x.dtype)
    total = abar[:, :, None] * cov + (1 - abar)[:, :, None] * torch.eye(
        3, dtype=x.dtype
    )
    return (1 - abar).sqrt() * torch.linalg.solve(total, x - abar.sqrt() * mean)


class Net(nn.Module):
    """Called as diffusers' UNet2DModel is; returns an object with `sample`."""

    def __init__(self, guess=noise_guess):
        super().__init__()
        self.guess = guess
        self.weight = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, sample, timestep, class_labels=None):
        self.seen.append((sample.dtype, timestep, class_labels))
        return types.SimpleNamespace(sample=self.guess(sample, timestep) * self.weight)


def points(n, scale=1.0):
    return scale * torch.randn(
        n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def test_at_the_steps_it_is_the_gaussians_denoiser():
    """At a step of the schedule nothing is interpolated: t is that step, and D is
    exact.
    """
    steps = torch.tensor([0, 1, 10, 250, 600, 999])
    seen = []
    teacher = epsilon.from_epsilon(
        lambda x, t: seen.append(t) or noise_guess(x, t), ABAR
    )
    x = points(6) * (1 + SIGMAS[steps])[:, None]
    torch.testing.assert_close(
        teacher(x, SIGMAS[steps]), EXACT(x, SIGMAS[steps]), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(seen[0], steps.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0123, 0.2, 0.71, 3.0, 31.0, 80.0, 157.0])
def test_between_the_steps_too(sigma):
    x = points(5, (1 + sigma**2) ** 0.5)
    torch.testing.assert_close(
        epsilon.from_epsilon(noise_guess, ABAR)(x, sigma),
        EXACT(x, sigma),
        rtol=1e-7,
        atol=1e-7,
    )
    # a float32 network rounds its guess, and sigma multiplies that
    ours = epsilon.from_epsilon(Net(), ABAR)(x.float(), sigma)
    wish = EXACT(x, sigma)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(
        ours.double(), wish, rtol=0, atol=max(1e-5, 1e-6 * sigma)
    )


def test_why_between_the_steps_and_not_at_the_nearest():
    """Near the picture DDPM's levels lie so far apart that the nearest is wrong by a
    fifth.
    """
    ratio = (SIGMAS[1] / SIGMAS[0]).item()
    assert 0.2 < ratio**0.5 - 1 < 0.25
    sigma = float((SIGMAS[0] * SIGMAS[1]).sqrt()) * 1.001
    x = MEAN + points(200, 0.02)
    nearest = x - sigma * noise_guess(x / (1 + sigma**2) ** 0.5, torch.ones(200))
    ours = epsilon.from_epsilon(noise_guess, ABAR)(x, sigma)
    assert (
        (nearest - EXACT(x, sigma)).abs().max()
        > 1e-4
        > 1e-9
        > (ours - EXACT(x, sigma)).abs().max()
    )


def test_below_the_first_level_it_stays_there_and_above_the_last_it_refuses():
    teacher = epsilon.from_epsilon(noise_guess, ABAR)
    x = MEAN + points(50) @ torch.linalg.cholesky(COV.double()).T
    for sigma in (0.002, 0.0099):
        assert torch.equal(teacher(x, sigma), teacher(x, float(SIGMAS[0])))
        assert (teacher(x, sigma) - EXACT(x, sigma)).abs().max() < float(SIGMAS[0])
    assert 0.0099 < SIGMAS[0] < 0.0101 and 157 < SIGMAS[-1] < 158
    with pytest.raises(
        ValueError, match="sigma = 160: this network knows levels up to 157.4"
    ):
        teacher(x, 160.0)
    with pytest.raises(
        ValueError,
        match="sigma = 80: this network knows levels up to 2.03.*start there",
    ):
        epsilon.from_epsilon(noise_guess, ABAR[:400])(x, 80.0)
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match="a noise level is above 0"):
            teacher(x, bad)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="knows levels up to|not finite"):
            teacher(x, torch.full((50,), bad, dtype=torch.float64))


def test_schedules_that_are_none():
    for abar in (
        [],
        [0.5],
        [0.9, 1.0],
        [0.5, 0.9],
        [0.9, 0.9],
        [0.9, 0.0],
        [1.0, 0.5],
        [0.9, float("nan")],
    ):
        with pytest.raises(ValueError, match="wanted a falling list within|not finite"):
            epsilon.from_epsilon(noise_guess, torch.tensor(abar))


def test_labels_precision_and_outputs():
    net = Net()
    teacher = epsilon.from_epsilon(net, ABAR.tolist())
    assert (
        teacher(points(4), 0.5).dtype == torch.float64
        and net.seen[-1][0] == torch.float32
    )
    assert net.seen[-1][1].shape == (4,) and net.seen[-1][2] is None
    labels = torch.tensor([1, 0, 2, 1])
    teacher(points(4), torch.tensor([0.5]), labels)
    assert net.seen[-1][2] is labels
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(points(4).float(), 0.5).dtype == torch.float32
    net.bfloat16()
    teacher.eps_model.guess = lambda x, t: x
    teacher(points(4), 0.5)
    assert net.seen[-1][0] == torch.bfloat16 and net.seen[-1][1].dtype == torch.float32
    # a network that also guesses the variance
    with pytest.raises(ValueError, match="wanted the noise alone"):
        epsilon.from_epsilon(lambda x, t: torch.cat([x, x], 1), ABAR)(points(4), 0.5)


def test_it_is_a_teacher(tmp_path):
    """Heun's path through it is the exact Gaussian's; its paths are stored, under the
    network's own fingerprint.
    """
    x_T = points(6, 80.0)
    ours, wish = (
        heun(d, x_T, karras_sigmas(18))
        for d in (epsilon.from_epsilon(noise_guess, ABAR), EXACT)
    )
    torch.testing.assert_close(ours.x[:-3], wish.x[:-3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        ours.x[-1], wish.x[-1], rtol=0, atol=float(SIGMAS[0])
    )  # the last levels lie below sigma_0
    teacher = epsilon.from_epsilon(Net(), ABAR)
    list(make(teacher, (3,), 8, tmp_path / "paths", times=3, steps=5))
    assert Trajectories(tmp_path / "paths").shape == (3,)
    with pytest.raises(ValueError, match="."):
        other = Net()
        nn.init.constant_(other.weight, 0.5)
        list(
            make(
                epsilon.from_epsilon(other, ABAR),
                (3,),
                9,
                tmp_path / "paths",
                times=3,
                steps=5,
                resume=True,
            )
        )


def folder_of(path, flat, kind="epsilon"):
    for part, file, content in (
        ("unet", "config.json", {"_class_name": "UNet2DModel"}),
        ("scheduler", "scheduler_config.json", {"prediction_type": kind}),
    ):
        (path if flat else path / part).mkdir(parents=True, exist_ok=True)
        (path if flat else path / part).joinpath(file).write_text(json.dumps(content))
    return path


def test_a_model_or_a_folder(tmp_path, monkeypatch):
    """What is asked of diffusers, with a stand-in for it: weights as safetensors, the
    schedule of the folder.
    """
    net = Net().train()
    teacher = epsilon.diffusers_teacher(net, ABAR)
    assert not net.training
    torch.testing.assert_close(
        teacher(points(2), 0.7).double(), EXACT(points(2), 0.7), rtol=0, atol=1e-5
    )
    with pytest.raises(ValueError, match="give alphas_cumprod"):
        epsilon.diffusers_teacher(net)
    with pytest.raises(
        FileNotFoundError,
        match="config.json: no such file; wanted a folder of diffusers'",
    ):
        epsilon.diffusers_teacher(tmp_path)
    asked = []

    def scheduler(folder):
        asked.append(folder)
        kind = json.loads((folder / "scheduler_config.json").read_text())[
            "prediction_type"
        ]
        return types.SimpleNamespace(
            config=types.SimpleNamespace(prediction_type=kind),
            alphas_cumprod=ABAR.float(),
        )

    def model(folder, **options):
        asked.append((folder, options))
        return Net()

    stand_in = types.SimpleNamespace(
        UNet2DModel=types.SimpleNamespace(from_pretrained=model),
        DDPMScheduler=types.SimpleNamespace(from_pretrained=scheduler),
    )
    monkeypatch.setitem(__import__("sys").modules, "diffusers", stand_in)
    for flat in (True, False):
        where = folder_of(tmp_path / f"flat-{flat}", flat)
        found = epsilon.diffusers_teacher(where)
        assert asked[-2:] == [
            where / ("" if flat else "scheduler"),
            (where / ("" if flat else "unet"), {"use_safetensors": True}),
        ]
        torch.testing.assert_close(
            found(points(2), 0.7).double(), EXACT(points(2), 0.7), rtol=0, atol=1e-5
        )
    with pytest.raises(ValueError, match="prediction 'flow': one of epsilon, v_pred"):
        epsilon.diffusers_teacher(folder_of(tmp_path / "v", True, "flow"))
    file = folder_of(tmp_path / "edm", True) / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "EDMEulerScheduler"}))
    with pytest.raises(ValueError, match="EDMEulerScheduler.*module:function"):
        epsilon.diffusers_teacher(tmp_path / "edm")
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ImportError, match="pip install diffusers"):
        epsilon.diffusers_teacher(folder_of(tmp_path / "none", True))


@pytest.mark.parametrize("sigma", [0.0123, 0.71, 3.0, 31.0, 157.0])
def test_networks_that_guess_the_picture_or_v(sigma):
    """Of one Gaussian all three kinds are known, and are one denoiser."""
    x = points(5, (1 + sigma**2) ** 0.5)
    c = (1 + sigma**2) ** -0.5

    def picture(y, t):
        return EXACT(y / c, sigma)

    def v(y, t):  # sqrt(abar) n - sqrt(1 - abar) x0
        return c * noise_guess(y, t) - sigma * c * picture(y, t)

    for kind, guess in (("sample", picture), ("v_prediction", v)):
        teacher = epsilon.from_epsilon(guess, ABAR, kind)
        torch.testing.assert_close(
            teacher(x, sigma), EXACT(x, sigma), rtol=1e-6, atol=1e-6
        )
    with pytest.raises(ValueError, match="prediction 'x0': one of epsilon"):
        epsilon.from_epsilon(noise_guess, ABAR, "x0")


def pipeline(diffusers, folder, kind, **network):
    """A small pipeline of diffusers', written to `folder`; network and scheduler."""
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **network,
    ).eval()
    how = {"prediction_type": kind, "beta_schedule": "scaled_linear"}
    how |= {"beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's: to 14.6
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler(**how)).save_pretrained(
        folder, safe_serialization=True
    )
    return net, diffusers.DDIMScheduler(clip_sample=False, **how)


@pytest.fixture(scope="module")
def diffusers():
    mend_torchvision()
    return pytest.importorskip(
        "diffusers", reason="diffusers is a test-only extra: pip install diffusers"
    )


@pytest.mark.parametrize("kind", epsilon.PREDICTIONS)
def test_as_diffusers(diffusers, tmp_path, kind):
    """A small UNet2DModel, saved and read back; its deterministic scheduler's guess of
    x0 is our D, and the noise ends where the schedule does.
    """
    net, scheduler = pipeline(diffusers, tmp_path, kind)
    teacher = epsilon.diffusers_teacher(tmp_path)
    last = float((1 / scheduler.alphas_cumprod[-1] - 1).sqrt())
    assert teacher.noise.sigma_max == pytest.approx(last, rel=1e-5) and 14 < last < 15
    assert teacher.config.shape == (3, 8, 8) and teacher.config.labels == 0
    scheduler.set_timesteps(1000)
    x0 = torch.randn(2, 3, 8, 8)
    for t in (0, 100, 999):
        sigma = float(
            ((1 - scheduler.alphas_cumprod[t]) / scheduler.alphas_cumprod[t]).sqrt()
        )
        x = x0 * (1 + sigma**2) ** 0.5
        with torch.no_grad():
            wish = scheduler.step(net(x0, t).sample, t, x0).pred_original_sample
            torch.testing.assert_close(
                teacher(x, sigma), wish, rtol=1e-4, atol=1e-4 * (1 + sigma)
            )


def test_a_pipeline_to_a_sheet(diffusers, tmp_path, capsys):
    """A folder of diffusers', with classes, by the command line."""
    pipeline(diffusers, tmp_path / "pipe", "v_prediction", num_class_embeds=3)
    teacher = ["--teacher", tmp_path / "pipe"]
    paths = [*teacher, "--n", 4, "--steps", 2, "--out", tmp_path / "paths"]
    assert ends(capsys, "trajectories", *paths)[0] == 0
    few = ["--images", 4, "--batch", 2, "--compile", False, "--channels", 16]
    few += ["--perceptual", "none", "--precision", "fp32"]
    student = [*teacher, "--trajectories", tmp_path / "paths", *few]
    status, _, err = ends(capsys, "distill", *student, "--out", tmp_path / "hkd")
    assert status == 0, err
    model = load(tmp_path / "hkd")
    network = model.config.network
    assert (network.shape, network.labels) == ((3, 8, 8), 3)
    assert 14 < model.noise.sigma_max < 15
    for weights in ("hkd", "pipe"):
        sheet = ["--n", 6, "--classes", 0, 2, "--steps", 2, "--out"]
        words = ["sample", "--weights", tmp_path / weights, *sheet]
        assert ends(capsys, *words, tmp_path / f"{weights}.png")[0] == 0
        assert (tmp_path / f"{weights}.png").is_file()
    assert "(3, 8, 8), 3 classes" in ends(capsys, "info", tmp_path / "pipe")[1]
