"""What a user gets wrong is said in one line on standard error, with exit status 2,
before any work is lost.
"""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ends

from hkd_mini import load
from hkd_mini.app import cli
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine.checkpoint import CHECKPOINT
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.run import Run
from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.model import HKD
from hkd_mini.judge.classifier import Classifier, ClassifierConfig

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "data",
    "features",
    "teacher",
    "trajectories",
    "distill",
    "onestep",
    "sample",
    "evaluate",
    "info",
)


def refused(capsys, *arguments):
    """The one line that a wrong command is answered with."""
    status, out, err = ends(capsys, *arguments)
    assert (
        (status, out) == (2, "")
        and err.startswith("hkd-mini: ")
        and err.count("\n") == 1
    ), err
    assert "Traceback" not in err
    return err


@pytest.fixture
def toy(tmp_path):
    """A teacher of points, its paths, an HKD: all untrained, as the preset has them."""
    torch.manual_seed(0)
    teacher = Denoiser(MLPConfig()).eval()
    teacher.save_pretrained(tmp_path / "teacher")
    # in half precision, as it was saved
    teacher = Denoiser.from_folder(tmp_path / "teacher")
    HKD(HKDConfig(MLPConfig())).save_pretrained(tmp_path / "hkd")
    Classifier(ClassifierConfig((8, 8, 16))).save_pretrained(tmp_path / "features")
    list(make(teacher, (2,), 20, tmp_path / "paths", times=3, steps=3))
    list(
        make(
            lambda x, sigma, labels: x,
            (3, 8, 8),
            2,
            tmp_path / "pictures",
            times=3,
            steps=3,
        )
    )
    return tmp_path


def test_the_program_refuses_in_one_line():
    """From outside, warnings of libraries included."""
    command = [
        sys.executable,
        "-m",
        "hkd_mini",
        "teacher",
        "--preset",
        "cifar11",
        "--data",
        "here",
        "--out",
        "there",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    names = ", ".join(PRESETS)
    assert done.stderr == (
        f"hkd-mini: no preset 'cifar11': there are {names} [an example: hkd-mini "
        "teacher --help]\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    status, out, err = ends(capsys, command, "--help")
    assert (status, err) == (0, "") and f"hkd-mini {command}" in out
    first = cli.COMMANDS[command].__doc__.split("\n")[0]
    assert " ".join(first.split()[:4]) in " ".join(out.split())
    assert f"Example: hkd-mini {command}" in " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_can_be_typed(capsys, command, monkeypatch):
    """What stands in the help is read by the command, to the last flag."""
    function = cli.COMMANDS[command]
    (line,) = re.findall(r"Example: hkd-mini (.*)\n", function.__doc__)
    called = []
    typed = functools.wraps(function)(lambda **words: called.append(words))
    monkeypatch.setitem(cli.COMMANDS, command, typed)
    assert ends(capsys, *line.split())[0] == 0 and len(called) == 1


def test_errors_end_with_what_to_do_next(capsys):
    line = refused(capsys, "info", "hkd-mars")
    assert line.endswith("[an example: hkd-mini info --help]\n")


def test_a_shell_can_complete_the_commands():
    words = ["--tyro-print-completion", "bash"]
    done = subprocess.run(
        [sys.executable, "-m", "hkd_mini", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "complete -" in done.stdout
    assert all(command in done.stdout for command in COMMANDS)


def test_the_program_lists_its_commands(capsys):
    status, out, _ = ends(capsys, "--help")
    assert (
        status == 0
        and all(command in out for command in COMMANDS)
        and set(cli.COMMANDS) == set(COMMANDS)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("sample",),
        ("sample", "--weights", "x", "--n", "many", "--out", "x"),
    ],
)
def test_flags_that_cannot_be_read_end_with_2(capsys, arguments):
    status, out, err = ends(capsys, *arguments)
    assert status == 2 and out == "" and err


def test_unknown_names(capsys, toy):
    out = toy / "out"
    assert "no preset 'x'" in refused(
        capsys,
        "distill",
        "--preset",
        "x",
        "--teacher",
        toy / "teacher",
        "--trajectories",
        toy / "paths",
        "--out",
        out,
    )
    assert "no data set 'mnist'" in refused(capsys, "data", "mnist")
    line = refused(
        capsys, "teacher", "--preset", "toy2d", "--data", "square", "--out", out
    )
    assert "no point set 'square': there are checkerboard" in line
    line = refused(
        capsys, "sample", "--weights", "hkd-mars", "--n", 2, "--out", out / "x.npy"
    )
    assert "hkd-mars: no folder" in line and "bundled" in line
    train = [
        "distill",
        "--preset",
        "toy2d",
        "--teacher",
        toy / "teacher",
        "--trajectories",
        toy / "paths",
        "--out",
        out,
    ]
    assert "clock = 'sun': one of rho" in refused(capsys, *train, "--clock", "sun")
    assert "precision = 'fp8': one of auto" in refused(
        capsys, *train, "--precision", "fp8"
    )
    assert "precision = 'fp8': one of auto" in refused(
        capsys,
        "trajectories",
        "--teacher",
        toy / "teacher",
        "--n",
        4,
        "--out",
        out,
        "--precision",
        "fp8",
    )
    assert not (out / "checkpoint.safetensors").exists()


def test_missing_folders(capsys, toy):
    nowhere = toy / "nowhere"
    for arguments in (
        ("features", "--data", nowhere),
        ("teacher", "--preset", "cifar10-mini", "--data", nowhere),
        ("trajectories", "--teacher", nowhere, "--n", 3),
        (
            "distill",
            "--preset",
            "toy2d",
            "--teacher",
            nowhere,
            "--trajectories",
            toy / "paths",
        ),
        (
            "distill",
            "--preset",
            "toy2d",
            "--teacher",
            toy / "teacher",
            "--trajectories",
            nowhere,
        ),
    ):
        assert str(nowhere) in refused(capsys, *arguments, "--out", toy / "out")
    assert str(nowhere) in refused(
        capsys, "evaluate", "--samples", nowhere / "x.npy", "--data", nowhere
    )
    assert str(nowhere) in refused(
        capsys, "evaluate", "--weights", nowhere, "--data", nowhere
    )
    assert not (toy / "out").exists()


def test_shapes_that_do_not_fit(capsys, toy):
    from PIL import Image

    (toy / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(toy / "images" / "a.png")
    line = refused(
        capsys,
        "teacher",
        "--preset",
        "cifar10-mini",
        "--resolution",
        30,
        "--data",
        toy / "images",
        "--out",
        toy / "out",
    )
    assert "resolution 30 cannot be halved 2 times at patch 2: the nearest" in line
    line = refused(
        capsys,
        "distill",
        "--preset",
        "toy2d",
        "--teacher",
        toy / "teacher",
        "--trajectories",
        toy / "pictures",
        "--out",
        toy / "out",
    )
    assert "paths of shape (3, 8, 8), the preset wants (2,)" in line
    line = refused(
        capsys,
        "distill",
        "--preset",
        "cifar10-mini",
        "--teacher",
        toy / "teacher",
        "--trajectories",
        toy / "paths",
        "--out",
        toy / "out",
    )
    assert "the teacher's network is MLPConfig" in line
    line = refused(
        capsys, "trajectories", "--teacher", toy / "hkd", "--n", 3, "--out", toy / "out"
    )
    assert f"{toy / 'hkd'} is a HKD, wanted a Denoiser" in line


def test_paths_of_another_teacher(capsys, toy):
    """A student starts from the weights of its teacher: they must be whose paths it
    learns.
    """
    torch.manual_seed(1)
    Denoiser(MLPConfig()).save_pretrained(toy / "other")
    paths = ["--trajectories", toy / "paths", "--out", toy / "out"]
    for command in (["distill", "--preset", "toy2d"], ["onestep", "--method", "KD"]):
        line = refused(capsys, *command, "--teacher", toy / "other", *paths)
        assert f"{toy / 'paths'}: paths of another teacher" in line
    assert not (toy / "out").exists()
    line = refused(
        capsys,
        "distill",
        "--preset",
        "cifar10-tiny",
        "--teacher",
        "teacher-cifar10-tiny",
        "--trajectories",
        ROOT / "data" / "trajectories-cifar10",
        "--out",
        toy / "out",
    )
    assert "paths of another teacher" in line


def test_what_is_there_is_not_written_over(capsys, toy):
    """Neither by a second run without --resume, nor by a first one into the folder of
    a model.
    """
    out = toy / "out"
    few = ["--images", 64, "--batch", 32, "--out"]
    train = ["teacher", "--preset", "toy2d", "--data", "spiral", *few]
    distil = ["distill", "--preset", "toy2d", "--teacher", toy / "teacher"]
    distil += ["--trajectories", toy / "paths", *few]
    step = ["onestep", "--method", "CD", "--teacher", toy / "teacher"]
    step += ["--data", "spiral", *few]
    assert ends(capsys, *train, out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    for command in (train, distil, step):
        line = refused(capsys, *command, out)
        assert f"{out / CHECKPOINT} is there already: --resume to go on, or" in line
        for extra in ([], ["--resume"]):
            line = refused(capsys, *command, toy / "teacher", *extra)
            assert "model.safetensors is there already: use another folder" in line
    assert "is there already" in refused(
        capsys, "features", "--data", toy, "--out", out
    )
    assert before == {p.name: p.read_bytes() for p in out.glob("*.safetensors")}


def test_nothing_to_resume_is_said(capsys, toy, caplog):
    caplog.set_level("INFO", logger="hkd_mini")
    few = ["--images", 64, "--batch", 32, "--resume", "--out"]
    train = ["teacher", "--preset", "toy2d", "--data", "spiral", *few, toy / "out"]
    new = f"{toy / 'out'}: no checkpoint to resume, starting anew"
    assert ends(capsys, *train)[0] == 0 and caplog.messages.count(new) == 1
    assert ends(capsys, *train)[0] == 0 and caplog.messages.count(new) == 1
    paths = ["trajectories", "--teacher", toy / "teacher", "--n", 3, "--resume"]
    new = f"{toy / 'p'}: no shards to resume, starting anew"
    for _ in range(2):
        assert ends(capsys, *paths, "--out", toy / "p")[0] == 0
        assert caplog.messages.count(new) == 1


@pytest.mark.parametrize("empty", ["", " "])
def test_empty_words_are_refused(capsys, toy, monkeypatch, empty):
    """`--out "$UNSET"` is no wish for the current folder."""
    monkeypatch.chdir(toy)
    train = ["teacher", "--preset", "toy2d", "--data", "spiral"]
    for flag in ("--out", "--from"):
        rest = [] if flag == "--out" else ["--out", toy / "out"]
        assert f"{flag} is empty" in refused(capsys, *train, *rest, flag, empty)
        assert f"{flag} is empty" in refused(capsys, *train, *rest, f"{flag}={empty}")
    for flag in ("--weights", "--samples", "--weaker", "--features", "--data"):
        assert f"{flag} is empty" in refused(capsys, "evaluate", flag, empty)
    assert "--root is empty" in refused(capsys, "data", "cifar10", "--root", empty)
    assert not (toy / "model.safetensors").exists() and not (toy / "out").exists()


def test_empty_names_are_refused_from_python():
    with pytest.raises(ValueError, match="name = ''"):
        load("")
    with pytest.raises(ValueError, match="out = '': wanted a folder"):
        make(lambda x, sigma, labels: x, (2,), 2, "")
    with pytest.raises(ValueError, match="out = '': wanted a folder"):
        Run(Denoiser(MLPConfig()), lambda: None, TrainConfig(), "")


def test_numbers_that_do_not_do(capsys, toy):
    hkd = toy / "hkd"
    out = toy / "out"
    assert "n = 0" in refused(
        capsys, "sample", "--weights", hkd, "--n", 0, "--out", out / "x.npy"
    )
    assert "ends in .npy" in refused(
        capsys, "sample", "--weights", hkd, "--n", 2, "--out", out / "x.png"
    )
    assert "n = 0" in refused(
        capsys, "evaluate", "--weights", hkd, "--n", 0, "--data", toy
    )
    assert "steps = 1: a teacher takes at least 2" in refused(
        capsys,
        "sample",
        "--weights",
        toy / "teacher",
        "--n",
        2,
        "--steps",
        1,
        "--out",
        out / "x.npy",
    )
    paths = ["trajectories", "--teacher", toy / "teacher", "--out", out / "paths"]
    assert "n = 0 paths" in refused(capsys, *paths, "--n", 0)
    assert "times = 1" in refused(capsys, *paths, "--n", 3, "--times", 1)
    assert "already holds 1 shards: --resume" in refused(
        capsys, *paths[:-1], toy / "paths", "--n", 20
    )
    train = ["teacher", "--preset", "toy2d", "--data", "spiral", "--out", out]
    assert "batch = 0: at least 1" in refused(capsys, *train, "--batch", 0)
    assert "images = -5: at least 1" in refused(capsys, *train, "--images", -5)


def test_samples_that_are_none(capsys, toy):
    path = toy / "x.npy"
    for content in (b"", b"\x80\x04N.", b"some text"):
        path.write_bytes(content)
        assert f"{path}: not a whole .npy file" in refused(
            capsys, "evaluate", "--samples", path, "--data", toy
        )
    np.save(path, np.zeros((4, 32, 32, 3), np.float32))
    assert "wanted uint8" in refused(
        capsys, "evaluate", "--samples", path, "--data", toy
    )
    np.save(path, np.zeros((4, 8, 8, 3), np.uint8))
    assert "wanted (3, 32, 32)" in refused(capsys, "evaluate", "--samples", path)
    assert "no pictures in" in refused(
        capsys, "evaluate", "--samples", path, "--data", toy
    )
    np.save(path, np.zeros((4, 32, 32, 3), np.uint8))
    line = refused(
        capsys, "evaluate", "--samples", path, "--features", toy / "features"
    )
    assert "need data" in line
    assert "real = 0 pictures" in refused(
        capsys, "evaluate", "--samples", path, "--data", toy, "--real", 0
    )
    line = refused(
        capsys, "evaluate", "--samples", path, "--data", toy, "--features", toy / "hkd"
    )
    assert "holds a HKD, wanted a Classifier" in line
    line = refused(
        capsys,
        "evaluate",
        "--samples",
        path,
        "--data",
        toy / "nowhere",
        "--features",
        toy / "features",
    )
    assert f"{toy / 'nowhere'}: no such folder" in line
    assert "either --samples FILE.npy or --weights" in refused(
        capsys, "evaluate", "--data", toy
    )
    assert "either --samples" in refused(
        capsys, "evaluate", "--samples", path, "--weights", toy / "hkd"
    )


def test_points_by_the_command_line(capsys, toy):
    """Everything that needs no picture: train, resume, integrate, distil with every
    switch, sample.
    """
    out = toy / "out"
    train = [
        "teacher",
        "--preset",
        "toy2d",
        "--data",
        "pinwheel",
        "--out",
        out / "t",
        "--images",
        640,
        "--batch",
        64,
    ]
    assert ends(capsys, *train)[:2] == (0, f"{out / 't'}\n")
    assert ends(capsys, *train, "--resume")[:2] == (0, f"{out / 't'}\n")
    assert "batch: 64 there, 32 here" in refused(capsys, *train[:-1], 32, "--resume")
    made = json.loads((out / "t" / "training.json").read_text())
    assert made["config"]["images"] == 640 and made["seconds"] >= 0
    paths = [
        "trajectories",
        "--teacher",
        out / "t",
        "--n",
        70,
        "--out",
        out / "p",
        "--times",
        4,
        "--steps",
        5,
    ]
    assert (
        ends(capsys, *paths)[:2] == (0, f"{out / 'p'}\n")
        and ends(capsys, *paths, "--resume")[0] == 0
    )
    switches = [
        "--clock",
        "edm",
        "--encoder-time",
        "none",
        "--spatial",
        "shared",
        "--koopman",
        False,
        "--consistency",
        False,
    ]
    status = ends(
        capsys,
        "distill",
        "--preset",
        "toy2d",
        "--teacher",
        out / "t",
        "--trajectories",
        out / "p",
        "--out",
        out / "h",
        "--images",
        320,
        "--batch",
        32,
        *switches,
    )[0]
    assert status == 0
    config = HKD.from_folder(out / "h").config
    assert (config.clock, config.encoder_time, config.spatial, config.koopman) == (
        "edm",
        "none",
        "shared",
        False,
    )
    for weights in ("h", "t"):
        samples = [out / "new" / f"{weights}{i}.npy" for i in (0, 1)]
        for path in samples:
            assert (
                ends(
                    capsys,
                    "sample",
                    "--weights",
                    out / weights,
                    "--n",
                    9,
                    "--seed",
                    3,
                    "--steps",
                    4,
                    "--out",
                    path,
                )[0]
                == 0
            )
        one, two = map(np.load, samples)
        assert (
            one.shape == (9, 2)
            and one.dtype == np.float32
            and np.isfinite(one).all()
            and (one == two).all()
        )
