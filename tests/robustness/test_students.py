"""Every one-step method keeps one protocol: what a sample costs is what is counted, a
student samples, is saved and opened, and a run that was killed goes on to the same
weights.
"""

import os
import signal
import sys

import pytest
import torch
from commands import ends

import hkd_mini
from hkd_mini import TrainConfig
from hkd_mini.diffusion.networks import MLPConfig, PointNet
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine.checkpoint import CHECKPOINT
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.paths import PathsInMemory
from hkd_mini.onestep.methods import METHODS, distil
from hkd_mini.onestep.students import Matched, Student

NETWORK = MLPConfig(channels=8, width=16, depth=1, state=6)
CONFIG = TrainConfig(
    images=16 * 20,
    batch=16,
    lr=3e-3,
    warmup=32,
    ema_halflife=64,
    checkpoint=2,
    precision="fp32",
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return Denoiser(NETWORK).eval()


@pytest.fixture(scope="module")
def data(teacher):
    unit = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    levels = teacher.noise.sigmas(6).float()
    return {
        "pairs": PathsInMemory(heun(teacher, 80 * unit, levels)),
        "images": 0.5 * torch.randn(60, 2, generator=torch.Generator().manual_seed(2)),
    }


def halves_of(module):
    """Passes through halves of networks that a sample took: a gradient counts twice."""
    count = {"forward": 0, "backward": 0}

    def back(grad):
        count["backward"] += 1

    def hook(part, inputs, output):
        state = output[0] if isinstance(output, list) else output
        count["forward"] += 1
        if state.requires_grad:
            state.register_hook(back)

    return count, [
        part.register_forward_hook(hook)
        for part in module.modules()
        if isinstance(part, PointNet)
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_costs_what_is_counted(name, teacher, data):
    """A forward pass counts 1 and a gradient 2 more. Every pass of a network for points
    is one of its encoder and one of its decoder, so halves are counted and divided;
    KDM's networks are halves themselves.
    """
    method = METHODS[name]
    student = method.student(teacher).train()
    frozen = Denoiser(NETWORK).requires_grad_(False)
    u = torch.rand(16, generator=torch.Generator().manual_seed(3))
    x0 = 0.5 * torch.randn(16, 2)
    given = dict(method.stages[-1].arguments)
    if method.metric:
        given["d"] = lambda a, b, progress: (a - b).square().mean(1)
    count, hooks = halves_of(torch.nn.ModuleList([student, frozen]))
    loss = method.loss(student, frozen, x0, torch.randn(16, 2), u, 0.5, **given)
    loss.backward()
    for hook in hooks:
        hook.remove()
    halves = count["forward"] + 2 * count["backward"]
    assert method.cost == (halves if name == "KDM" else halves / 2)


@pytest.mark.parametrize("name", METHODS)
def test_a_student_is_made_trained_sampled_saved_and_opened(
    name, teacher, data, tmp_path
):
    method = METHODS[name]
    assert method.name == name
    torch.manual_seed(0)
    student = method.student(teacher)
    before = [p.clone() for p in student.parameters()]
    steps = list(distil(student, name, data[method.data], CONFIG, teacher))
    assert [s.step for s in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].images == len(steps) * CONFIG.batch
    after = student.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    unit = torch.randn(9, 2)
    x = student.sample(unit, labels=None)
    assert x.shape == (9, 2) and x.isfinite().all() and not x.requires_grad
    kept = student.generator if isinstance(student, Matched) else student
    kept.save_pretrained(tmp_path)
    again = hkd_mini.load(tmp_path)
    assert type(again) is type(kept)
    torch.testing.assert_close(again.sample(unit), x, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["KD", "PD", "DMD", "KDM"])
def test_a_killed_run_goes_on_to_the_same_weights(name, teacher, data, tmp_path):
    """A signal in the middle (of PD, in its third stage), a new student, --resume."""
    method = METHODS[name]

    def start(out, resume=False, stop=None):
        torch.manual_seed(0)
        student = method.student(teacher)
        keep = {"out": str(out), "resume": resume}
        losses = {}
        for step in distil(student, name, data[method.data], CONFIG, teacher, **keep):
            losses[step.step] = step.loss
            if step.step == stop:
                os.kill(os.getpid(), signal.SIGINT)
        return student.state_dict(), losses

    whole, losses = start(tmp_path / "whole")
    _, first = start(tmp_path / "killed", stop=5)
    assert max(first) == 6, "the step that was under way is finished and kept"
    resumed, rest = start(tmp_path / "killed", resume=True)
    assert min(rest) == 7 and first | rest == losses
    assert all(torch.equal(resumed[k], v) for k, v in whole.items())
    folders = sorted(p.parent.name for p in (tmp_path / "whole").rglob(CHECKPOINT))
    assert folders == ([f"stage-{i}" for i in range(7)] if name == "PD" else ["whole"])


def test_the_checkpoint_of_another_method_is_refused(teacher, data, tmp_path):
    student = Student.of(teacher)
    list(distil(student, "CD", data["images"], CONFIG, teacher, out=str(tmp_path)))
    again = distil(
        *(student, "ECM", data["images"], CONFIG, teacher),
        out=str(tmp_path),
        resume=True,
    )
    with pytest.raises(ValueError, match="method: CD there, ECM here"):
        next(again)


@pytest.mark.parametrize("name", ["DMD", "PD", "KDM", "CD"])
def test_students_by_the_command_line(name, teacher, tmp_path, capsys):
    teacher.save_pretrained(tmp_path / "teacher")
    teacher = Denoiser.from_folder(tmp_path / "teacher")
    list(make(teacher, (2,), 60, tmp_path / "paths", times=3, steps=5))
    source = {"pairs": ("--trajectories", tmp_path / "paths")}
    flags = source.get(METHODS[name].data, ("--data", "two_moons"))
    out = tmp_path / "out"
    words = ("onestep", "--method", name, "--teacher", tmp_path / "teacher")
    few = ("--images", 320, "--batch", 16, "--checkpoint", 2)
    status, said, error = ends(capsys, *words, *flags, "--out", out, *few)
    assert (status, said) == (0, f"{out}\n"), error
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    # each of PD's stages has whole batches alone
    assert len(lines) == (17 if name == "PD" else 20)
    status, *_ = ends(capsys, *words, *flags, "--out", out, *few, "--resume")
    assert status == 0
    sampled = ("sample", "--weights", out, "--n", 4, "--out", tmp_path / "x.npy")
    assert ends(capsys, *sampled)[0] == 0
    wrong = ("--data", "two_moons") if flags[0] != "--data" else source["pairs"]
    status, _, error = ends(capsys, *words, *wrong, "--out", out, *few)
    assert status == 2 and "learns from" in error and error.count("\n") == 1


def test_a_function_as_teacher_by_the_command_line(tmp_path, capsys, monkeypatch):
    """A plain function in a file of the user's: its paths, and a student of them."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from hkd_mini.diffusion.schedule import Noise\n\n\n"
        "def ring(x, sigma, labels=None):\n"
        "    size = x.norm(dim=1, keepdim=True)\n"
        "    return 0.7 * x / size\n\n\n"
        "ring.noise = Noise(sigma_max=10.0)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    path = list(sys.path)
    words = ("trajectories", "--teacher", "mine:ring", "--n", 30, "--steps", 5)
    assert ends(capsys, *words, "--out", "p", "--shape", 2)[0] == 0
    few = ("--images", 64, "--batch", 16)
    student = ("distill", "--preset", "toy2d", "--teacher", "mine:ring")
    assert ends(capsys, *student, "--trajectories", "p", "--out", "s", *few)[0] == 0
    model = hkd_mini.load(tmp_path / "s")
    assert model.noise.sigma_max == 10.0 and sys.path == path
    for name, said in (
        ("mine:square", "mine has no function square"),
        ("nowhere:ring", "No module named 'nowhere'"),
    ):
        asked = ("trajectories", "--teacher", name, *words[3:], "--shape", 2)
        status, _, error = ends(capsys, *asked, "--out", "q")
        assert status == 2 and said in error
    status, _, error = ends(capsys, *words, "--out", "q")
    assert status == 2 and "say --shape" in error


def test_pictures_of_64_by_64_from_folder_to_distance(tmp_path, capsys):
    """The preset of a few million parameters, on a folder of pictures."""
    import json

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for i in range(6):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{i}.png")
    few = ("--images", 4, "--batch", 2, "--compile", False)
    run = lambda *words: ends(capsys, *words)
    out = tmp_path / "teacher"
    words = ("teacher", "--preset", "images64-mini", "--data", tmp_path / "mine")
    assert run(*words, "--out", out, *few)[0] == 0
    model = hkd_mini.load(out)
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 5e6
    words = ("trajectories", "--teacher", out, "--n", 3, "--steps", 2)
    assert run(*words, "--out", tmp_path / "paths")[0] == 0
    words = ("distill", "--preset", "images64-mini", "--teacher", out, "--trajectories")
    student = tmp_path / "student"
    few = (*few, "--perceptual", "none")
    assert run(*words, tmp_path / "paths", "--out", student, *few)[0] == 0
    words = ("evaluate", "--weights", student, "--n", 8, "--data", tmp_path / "mine")
    status, said, error = run(*words)
    assert status == 0, error
    found = json.loads(said.splitlines()[-1])
    assert found["n_real"] == 6 and found["n"] == 8 and found["frechet"] > 0
    status, _, error = run("evaluate", "--weights", student, "--n", 3)
    assert status == 2 and f"was trained on {tmp_path / 'mine'}, not on" in error
    assert found["reference"] == str(tmp_path / "mine") and found["size"] == [64, 64]
