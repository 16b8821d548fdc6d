"""A run that is killed, stopped or poisoned leaves a whole checkpoint, and goes on as
if nothing had happened.

Run as a program, this file is the victim: `python test_resume.py MOMENT FOLDER` trains
and dies at MOMENT.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser, train_teacher
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import data, files, loop, weights
from hkd_mini.engine.checkpoint import BEFORE, CHECKPOINT
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import Images
from hkd_mini.engine.run import Run
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.hkd.paths import Trajectories

ROOT = pathlib.Path(__file__).resolve().parents[2]
# dropout draws from the global generator, attention and patches change the layout of
# memory: all must survive
NETWORK = UNetConfig(
    channels=16,
    mult=(1, 2),
    blocks=1,
    attention=(8,),
    patch=2,
    dropout=0.1,
    adaptive_scale=True,
)
CONFIG = TrainConfig(
    precision="fp32",
    images=33,
    batch=3,
    lr=3e-3,
    warmup=12,
    decay=0.5,
    ema_halflife=6,
    checkpoint=4,
    seed=3,
)
# when the victim dies: the step of the last whole checkpoint
MOMENTS = {"step": "8", "fsync": "4", "replace": "4"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order, here as in the victims."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(out, config=CONFIG, network=NETWORK, resume=False):
    """A denoiser, and its training on 17 pictures of noise: the run crosses two
    epochs.
    """
    pictures = torch.randint(
        256,
        (17, 3, 32, 32),
        generator=torch.Generator().manual_seed(1),
        dtype=torch.uint8,
    )
    torch.manual_seed(0)
    denoiser = Denoiser(network)
    images = Images(pictures, torch.zeros(17, dtype=torch.long), ("noise",))
    return denoiser, train_teacher(
        denoiser, images, config, out=str(out), resume=resume
    )


def victim(moment, out):
    """Train, and die without a word at the step, or inside the write of the second
    checkpoint.
    """
    calls = []

    def half(descriptor):
        calls.append(descriptor)
        # what a crash leaves of a file whose pages were not all written
        if len(calls) == 2:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def never(source, target, replace=os.replace):
        calls.append(target)
        os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else replace(
            source, target
        )

    if moment == "fsync":
        os.fsync = half
    if moment == "replace":
        os.replace = never
    for step in start(out)[1]:
        if moment == "step" and step.step == 10:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """One folder for each moment, left behind by a victim; the three die side by
    side.
    """
    folders = {moment: tmp_path_factory.mktemp(moment) for moment in MOMENTS}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, moment, str(folder)], env=environment
        )
        for moment, folder in folders.items()
    ]
    assert [child.wait(timeout=200) for child in running] == [-signal.SIGKILL] * len(
        running
    )
    return folders


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights and the last checkpoint's bytes of a run from end to end."""
    out = tmp_path_factory.mktemp("whole")
    denoiser, steps = start(out)
    assert [step.step for step in steps] == list(range(1, 12))
    return denoiser.state_dict(), (out / CHECKPOINT).read_bytes()


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key], theirs[key]) for key in ours
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_as_if_undisturbed(killed, undisturbed, moment):
    out = killed[moment]
    assert files.read_tensors(out / CHECKPOINT)[1]["step"] == MOMENTS[moment]
    assert bool(list(out.glob(".*.part"))) == (moment != "step"), (
        "the write that was under way"
    )
    denoiser, steps = start(out, resume=True)
    assert next(steps).step == int(MOMENTS[moment]) + 1
    list(steps)
    assert same(denoiser.state_dict(), undisturbed[0])
    assert (out / CHECKPOINT).read_bytes() == undisturbed[1], (
        "weights, average, moments, step, RNG"
    )


def test_a_signal_saves_and_says_so(tmp_path, undisturbed):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    seen = []
    for step in start(tmp_path)[1]:
        seen.append((step.step, step.stopped))
        if step.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [
        (1, False),
        (2, False),
        (3, False),
        (4, False),
        (5, False),
        (6, True),
    ]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert files.read_tensors(tmp_path / CHECKPOINT)[1]["step"] == "6"
    denoiser, steps = start(tmp_path, resume=True)
    assert [step.step for step in steps] == [7, 8, 9, 10, 11]
    assert same(denoiser.state_dict(), undisturbed[0])
    again, steps = start(tmp_path, resume=True)
    assert list(steps) == [] and same(again.state_dict(), undisturbed[0]), (
        "a finished run has nothing to do"
    )


def test_a_distillation_resumes_too(tmp_path):
    torch.manual_seed(0)
    network = MLPConfig(channels=8, width=16, depth=1, state=6)
    denoiser = Denoiser(network).eval()
    list(make(denoiser, (2,), 40, tmp_path / "paths", times=5, steps=6, batch=16))
    paths = Trajectories(tmp_path / "paths")
    config = replace(CONFIG, images=70, batch=7)
    asked = Objective(times=3, perceptual="none", lr_scale_A=7.0)

    def distil(out, stop=None, resume=False):
        model = HKD.from_teacher(
            denoiser, HKDConfig(network, clock="edm", spatial="shared")
        )
        losses = []
        for step in train(model, paths, config, asked, out=str(out), resume=resume):
            losses.append(step.loss)
            if step.step == stop:
                os.kill(os.getpid(), signal.SIGINT)
        return model.state_dict(), losses

    whole, losses = distil(tmp_path / "a")
    distil(tmp_path / "b", stop=3)
    assert files.read_tensors(tmp_path / "b" / CHECKPOINT)[1]["step"] == "4"
    resumed, rest = distil(tmp_path / "b", resume=True)
    assert same(resumed, whole) and rest == losses[4:]
    assert whole["generators.0.A"].abs().max() > 0, "the generator was trained"


def checkpoint(tmp_path):
    next(start(tmp_path, replace(CONFIG, checkpoint=1))[1])
    return tmp_path / CHECKPOINT


def test_another_configuration_model_or_file_is_refused(tmp_path):
    path = checkpoint(tmp_path)
    config = replace(CONFIG, checkpoint=1)
    with pytest.raises(
        ValueError,
        match=(
            r"checkpoint\.safetensors is of another configuration \(lr: 0.003 there, "
            r"0.5 here\)"
        ),
    ):
        next(start(tmp_path, replace(config, lr=0.5), resume=True)[1])
    with pytest.raises(
        ValueError, match=r"checkpoint\.safetensors is of another model"
    ):
        next(start(tmp_path, config, replace(NETWORK, blocks=2), resume=True)[1])
    files.write_tensors(path, {"a": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: not a checkpoint"):
        next(start(tmp_path, config, resume=True)[1])


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    path = checkpoint(tmp_path)
    content = path.read_bytes()
    cut = [content[:n] for n in (0, 5, 100, len(content) // 2, len(content) - 1)] + [
        content + b"\0"
    ]
    flipped = [bytearray(content) for _ in range(4)]
    for damaged, place in zip(
        flipped, (3, 200, len(content) // 2, len(content) - 2), strict=True
    ):
        damaged[place] ^= 4
    for damaged in cut + flipped:
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"checkpoint\.safetensors: (not a whole|altered)"
        ):
            next(start(tmp_path, replace(CONFIG, checkpoint=1), resume=True)[1])
    path.write_bytes(content)
    assert (
        next(start(tmp_path, replace(CONFIG, checkpoint=1), resume=True)[1]).step == 2
    )


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path, undisturbed, caplog
):
    for step in start(tmp_path)[1]:
        if step.step == 9:  # checkpoints of step 4 and of step 8
            break
    path = tmp_path / CHECKPOINT
    before = tmp_path / BEFORE
    assert files.read_tensors(before)[1]["step"] == "4"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    for state in ("altered", "cut", "missing"):
        path.write_bytes(damaged if state == "altered" else damaged[:99])
        if state == "missing":
            path.unlink()
        with pytest.raises(FileExistsError, match="a run is there already"):
            next(start(tmp_path)[1])
        caplog.clear()
        denoiser, steps = start(tmp_path, resume=True)
        assert next(steps).step == 5
        steps.close()
        (message,) = caplog.messages
        assert str(path) in message and f"going on from {before}, step 4" in message
    path.write_bytes(damaged)
    denoiser, steps = start(tmp_path, resume=True)
    assert next(step.step for step in steps if step.step == 8) == 8
    assert files.read_tensors(before)[1]["step"] == "4", "the damaged one is not kept"
    list(steps)
    assert same(denoiser.state_dict(), undisturbed[0])
    assert path.read_bytes() == undisturbed[1]
    assert files.read_tensors(before)[1]["step"] == "8"
    before.write_bytes(b"x")
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: altered"):
        next(start(tmp_path, resume=True)[1])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, what):
    """The root of 0 is finite, its slope is not."""

    def fit(poison, resume=False):
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        config = TrainConfig(
            images=40, batch=4, checkpoint=3, seed=11, precision="fp32"
        )

        def batch(step, share):
            x = torch.randn(4, 2, generator=data.rng_at(config.seed, step))
            if step == poison:
                x = x * (torch.nan if what == "loss" else 0.0)
            return {"x": x[share]}

        def loss(model, x, progress):
            return {
                "loss": model(x).square().mean()
                + x.mul(model.weight).square().sum().sqrt()
            }

        return model, loop.fit(model, batch, loss, config, str(tmp_path), resume)

    number = "nan" if what == "loss" else r"\d.*gradient norm nan"
    with pytest.raises(
        FloatingPointError, match=rf"step 7: loss {number}.*seed 11, step 7"
    ):
        list(fit(poison=7)[1])
    tensors, about = files.read_tensors(tmp_path / CHECKPOINT)
    assert about["step"] == "6" and all(v.isfinite().all() for v in tensors.values())
    model, steps = fit(poison=None, resume=True)
    assert [step.step for step in steps] == [
        7,
        8,
        9,
        10,
    ] and model.weight.isfinite().all()


@pytest.mark.parametrize("prefetch", [None, False, True])
def test_batches_are_drawn_ahead_where_that_helps(prefetch):
    """The same batches either way; on a CPU a second thread would only take cores from
    the step.
    """
    threads = set()

    def batch(step, share):
        threads.add(threading.current_thread() is threading.main_thread())
        x = torch.randn(4, 2, generator=data.rng_at(11, step))
        return {"x": x[share]}

    def run(prefetch):
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        config = TrainConfig(images=40, batch=4, precision="fp32")
        loss = lambda model, x, progress: {"loss": model(x).square().mean()}
        return [s.loss for s in loop.fit(model, batch, loss, config, prefetch=prefetch)]

    losses = run(prefetch)
    apart = prefetch or (prefetch is None and torch.accelerator.is_available())
    assert threads == {not apart}
    assert losses == run(False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("images", -1),
        ("checkpoint", 0),
        ("precision", "fp16"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} = '?{value}"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("times", 0), ("lr_scale_A", -1.0), ("path_weight", -1.0)]
)
def test_an_objective_that_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} = {value}"):
        Objective(**{field: value})


def test_the_interrupted_command_says_how_to_go_on(tmp_path, capsys):
    from hkd_mini.app.cli import main

    out = tmp_path / "teacher"
    flags = [
        "teacher",
        "--preset",
        "toy2d",
        "--data",
        "two_moons",
        "--out",
        str(out),
        "--batch",
        "8",
        "--images",
        "800",
    ]

    def interrupted(*arguments, write=Run.step):
        if arguments[1] == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", interrupted)
        with pytest.raises(
            SystemExit, match="stopped after step 41 and saved; go on with --resume"
        ):
            main(flags)
    assert not (out / weights.WEIGHTS).exists()
    main([*flags, "--resume"])
    assert capsys.readouterr().out.strip() == str(out)
    lines = (out / "log.jsonl").read_text().splitlines()
    assert len(lines) == 100 and (out / weights.WEIGHTS).exists()


def test_a_log_has_each_step_once(tmp_path):
    """Whatever a killed run had logged after it last saved, and half a line of it."""
    from hkd_mini.app.cli import main

    out = tmp_path / "teacher"
    flags = ["teacher", "--preset", "toy2d", "--data", "two_moons", "--out", str(out)]
    flags += ["--batch", "8", "--images", "400", "--checkpoint", "20"]

    def crash(*arguments, write=Run.step):
        if arguments[1] == 34:
            raise RuntimeError("the machine lost its power")
        return write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", crash)
        with pytest.raises(RuntimeError, match="lost its power"):
            main(flags)
    log = out / "log.jsonl"
    assert len(log.read_text().splitlines()) == 34
    with open(log, "a") as file:
        file.write('{"step": 35, "im')
    main([*flags, "--resume"])
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 51))


if __name__ == "__main__":
    victim(*sys.argv[1:])


def test_a_run_that_is_there_is_resumed_or_left_alone(tmp_path):
    short = replace(CONFIG, images=6)
    list(start(tmp_path, short)[1])
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(FileExistsError, match="a run is there already; resume it"):
        next(start(tmp_path, short)[1])
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert list(start(tmp_path, short, resume=True)[1]) == []
