"""Two processes train what one trains: the same global batch, half each, and the same
weights to rounding.

Run as a program under torchrun, this file is one of the two: `torchrun --nproc_per_node
2 THIS_FILE FOLDER`. Under `accelerate launch` it is the command line with a checkpoint
every 4 steps, and with a rank that may die: `accelerate launch THIS_FILE command VICTIM
distill ...`.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from hkd_mini.app import cli
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser, train_teacher
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import data, files, loop, weights
from hkd_mini.engine.checkpoint import BEFORE, CHECKPOINT
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import Images
from hkd_mini.engine.run import Run
from hkd_mini.hkd import make_paths
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.hkd.recipes import RECIPES

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOY = MLPConfig(channels=8, width=16, depth=1, state=6)
NETWORK = UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(8,), patch=2)
CONFIG = TrainConfig(
    precision="fp32",
    images=120,
    batch=10,
    lr=3e-3,
    warmup=20,
    decay=0.3,
    ema_halflife=20,
    clip=0.03,
    checkpoint=5,
)
ASKED = Objective(times=3, perceptual="none")
SHARD = 8
HERE = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def distil(paths, config=CONFIG, **keep):
    """A toy HKD, its generator in the plane of an `edm` clock."""
    torch.manual_seed(0)
    model = HKD(HKDConfig(TOY, clock="edm"))
    return model, train(model, Trajectories(paths), config, ASKED, **keep)


def teach(**changes):
    """A small U-Net with attention, on pictures of noise."""
    pictures = torch.randint(
        256,
        (23, 3, 32, 32),
        generator=torch.Generator().manual_seed(1),
        dtype=torch.uint8,
    )
    torch.manual_seed(0)
    denoiser = Denoiser(NETWORK)
    images = Images(pictures, torch.zeros(23, dtype=torch.long), ("noise",))
    return denoiser, train_teacher(
        denoiser, images, replace(CONFIG, images=40, **changes)
    )


def ablate():
    """A U-Net HKD whose skips are dropped: every weight that is trained must still get
    a gradient in every process.
    """
    x = torch.randn(8, 3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    model = HKD(HKDConfig(NETWORK, hierarchy="bottleneck-only"))

    def loss(model, x, progress):
        states = model.encode(x[:, 0], model.clock.T)
        return {
            "loss": (
                model.decode(model.evolve(states, model.clock.T, model.clock.eps))
                - x[:, 1]
            )
            .square()
            .mean()
        }

    return model, loop.fit(
        model, lambda step, share: {"x": x[share]}, loss, replace(CONFIG, images=30)
    )


def poisoned(**keep):
    """Step 6 holds one number that is none, in the half of the second process."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)

    def batch(step, share):
        x = torch.randn(10, 2, generator=data.rng_at(0, step))
        x[1] *= torch.nan if step == 6 else 1
        return {"x": x[share]}

    return model, loop.fit(
        model,
        batch,
        lambda model, x, progress: {"loss": model(x).square().mean()},
        CONFIG,
        **keep,
    )


RUNS = {
    "teach": lambda folder: teach(),
    "teach-muon": lambda folder: teach(muon=0.01),
    "ablate": lambda folder: ablate(),
    "distil": lambda folder: distil(folder / "paths"),
}


def distill(folder, out):
    """The command line that distils `folder`'s paths."""
    given = {
        "preset": "toy2d",
        "teacher": folder / "big",
        "trajectories": folder / "paths",
        "out": folder / out,
    }
    return [
        "distill",
        *(
            str(part)
            for name, value in (given | {"batch": 10}).items()
            for part in (f"--{name}", value)
        ),
    ]


def one_of_two(folder):
    """All that two processes do together; what each saw and holds goes to files with
    its number.
    """
    folder = pathlib.Path(folder)
    rank = int(os.environ["RANK"])
    seen = {}
    make_paths.SHARD = SHARD
    torch.set_num_threads(1)
    for name, run in RUNS.items():
        model, steps = run(folder)
        seen[name] = [[step.loss, step.grad_norm] for step in steps]
        files.write_tensors(folder / f"{name}{rank}.safetensors", model.state_dict())
    steps = distil(folder / "paths", out=str(folder / "stopped"))[1]
    for step in steps:
        seen["stopped"] = [step.step, step.stopped]
        if step.step == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # one process alone is asked
    model, steps = distil(folder / "paths", out=str(folder / "stopped"), resume=True)
    seen["resumed"] = [step.step for step in steps]
    files.write_tensors(folder / f"resumed{rank}.safetensors", model.state_dict())
    try:
        list(poisoned(out=str(folder / "poisoned"))[1])
    except FloatingPointError as error:
        seen["poisoned"] = str(error)
    cli.main(
        [
            "trajectories",
            "--teacher",
            str(folder / "teacher"),
            "--n",
            "29",
            "--out",
            str(folder / "shared"),
            "--batch",
            "3",
            "--times",
            "5",
            "--steps",
            "6",
            "--precision",
            "fp32",
        ]
    )
    cli.main([*distill(folder, "by-command"), "--images", "40"])
    (folder / f"seen{rank}.json").write_text(json.dumps(seen))


def command(victim, *arguments):
    """The command line, checkpoints every 4 steps; process `victim` dies without a word
    in its step 7.
    """
    recipe = RECIPES["toy2d"]
    RECIPES["toy2d"] = recipe._replace(distill=replace(recipe.distill, checkpoint=4))

    def step(run, number, batch, whole=Run.step):
        if number == 6 and os.environ["RANK"] == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(run, number, batch)

    Run.step = step
    cli.main([*arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two toy teachers, and paths."""
    folder = tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    Denoiser(TOY).save_pretrained(folder / "teacher")
    Denoiser(MLPConfig()).save_pretrained(folder / "big")
    teacher = Denoiser.from_folder(folder / "big")
    list(make(teacher, (2,), 40, folder / "paths", times=5, steps=6))
    return folder


@pytest.fixture(scope="module")
def folder(made):
    """What the two left behind."""
    environment = os.environ | HERE
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        __file__,
        str(made),
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (made / "stdout").write_text(done.stdout)
    return made


@pytest.fixture
def seen(folder):
    return [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_trains(folder, seen, name):
    model, steps = RUNS[name](folder)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    alone = [[step.loss, step.grad_norm] for step in steps]
    assert len(alone) >= 3 and max(norm for _, norm in alone) > CONFIG.clip, (
        "the clip is at work"
    )
    torch.testing.assert_close(
        torch.tensor(seen[0][name]), torch.tensor(alone), rtol=1e-4, atol=1e-5
    )
    assert seen[0][name] == seen[1][name], "both report the mean over all"
    ours, theirs = (
        files.read_tensors(folder / f"{name}{rank}.safetensors")[0] for rank in (0, 1)
    )
    for key, value in model.state_dict().items():
        assert torch.equal(ours[key], theirs[key]), key
        if name == "teach-muon":
            # bfloat16 rounds what gradients hardly show, and Muon shows it
            moved = (value - before[key]).norm()
            gap = (ours[key] - value).norm()
            assert gap <= 0.4 * moved, (key, gap, moved)
        else:
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-5)
    moved = [
        key
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    ]
    assert len(moved) > len(before) / 2


def test_a_signal_to_one_stops_both_and_both_resume(folder, seen):
    assert [s["stopped"] for s in seen] == [[4, True]] * 2
    assert [s["resumed"] for s in seen] == [list(range(5, 13))] * 2
    whole = files.read_tensors(folder / "distil0.safetensors")[0]
    for rank in (0, 1):
        resumed = files.read_tensors(folder / f"resumed{rank}.safetensors")[0]
        assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    there = {path.name for path in (folder / "stopped").iterdir()}
    assert CHECKPOINT in there and there <= {CHECKPOINT, BEFORE}, "one writer, no half"


def test_poison_in_one_half_stops_both(folder, seen):
    assert seen[0]["poisoned"] == seen[1]["poisoned"] and seen[0][
        "poisoned"
    ].startswith("step 6: loss nan")
    tensors, about = files.read_tensors(folder / "poisoned" / CHECKPOINT)
    assert about["step"] == "5" and all(
        value.isfinite().all() for value in tensors.values()
    )


def test_the_paths_are_shared_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(make_paths, "SHARD", SHARD)
    teacher = Denoiser.from_folder(folder / "teacher")
    list(make(teacher, (2,), 29, tmp_path, times=5, steps=6, batch=3))
    shards = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert (
        len(shards) == 4
        and {path.name: path.read_bytes() for path in (folder / "shared").iterdir()}
        == shards
    )


def test_the_command_speaks_once(folder):
    out = folder / "by-command"
    assert (folder / "stdout").read_text().split() == [str(folder / "shared"), str(out)]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert isinstance(HKD.from_folder(out), HKD)


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(ValueError, match="batch 7 does not divide among 2 processes"):
        list(loop.fit(torch.nn.Linear(2, 1), dict, dict, replace(CONFIG, batch=7)))


LAUNCH = (
    "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no"
)


def launch(folder, *program):
    """`accelerate launch` of two processes, on CPUs whatever the machine has; started,
    not waited for.

    With `--cpu`, or with neither flag where there is no GPU, accelerate leaves the
    second process to MPI and starts one; `--multi_gpu` starts as many as it is told,
    and where no GPU is seen they talk by gloo.
    """
    start = [
        sys.executable,
        "-m",
        *LAUNCH.split(),
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        *program,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [*start, "--images", "120"], env=os.environ | HERE, cwd=folder, **pipes
    )


def losses(out):
    """Of every step in log.jsonl the last loss."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


@pytest.fixture(scope="module")
def launched(made):
    """The job undisturbed, and the same job with its second process killed; side by
    side.
    """
    names = {"whole": ["-m", "hkd_mini"], "killed": [__file__, "command", "1"]}
    running = {
        name: launch(made, *start, *distill(made, name))
        for name, start in names.items()
    }
    return {
        name: (job.communicate(timeout=400), job.returncode)
        for name, job in running.items()
    }


def test_accelerate_launch_trains_what_one_process_trains(made, launched):
    (said, complaint), status = launched["whole"]
    assert status == 0, complaint[-4000:]
    assert said.split() == [str(made / "whole")], "one speaks for both"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cli.main([*distill(made, "alone"), "--images", "120"])
    torch.set_num_threads(threads)
    together = losses(made / "whole")
    alone = losses(made / "alone")
    assert list(together) == list(alone) == list(range(1, 13))
    torch.testing.assert_close(
        torch.tensor([*together.values()]),
        torch.tensor([*alone.values()]),
        rtol=0,
        atol=1e-5,
    )


def test_a_killed_process_ends_the_job_which_resumes(made, launched):
    (said, complaint), status = launched["killed"]
    assert status != 0 and not said.strip(), "no hang, no success"
    assert "SIGKILL" in complaint, complaint[-4000:]
    out = made / "killed"
    assert (
        files.read_tensors(out / CHECKPOINT)[1]["step"] == "4"
        and not (out / weights.WEIGHTS).exists()
    )
    job = launch(
        made, __file__, "command", "none", *distill(made, "killed"), "--resume"
    )
    said, complaint = job.communicate(timeout=400)
    assert job.returncode == 0 and said.split() == [str(out)], complaint[-4000:]
    found = losses(out)
    whole = losses(made / "whole")
    assert set(found) >= set(range(5, 13)) and found.items() <= whole.items(), (
        "to the last digit"
    )
    ours, theirs = (
        files.read_tensors(made / name / weights.WEIGHTS)[0]
        for name in ("killed", "whole")
    )
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


if __name__ == "__main__":
    command(*sys.argv[2:]) if sys.argv[1] == "command" else one_of_two(*sys.argv[1:])
