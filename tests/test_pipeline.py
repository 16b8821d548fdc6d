"""The whole road by the command line, in one go: pictures, features, teacher, paths,
HKD, samples, distance.

A budget of a few steps: what is asked is that the pieces fit, not that the pictures are
good.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

import hkd_mini
from hkd_mini.engine import cifar10, data

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ["--precision", "fp32", "--compile", "False"]


def synthetic(root):
    """CIFAR-10's binary layout, full length: gradients, one colour for each class, one
    tilt for each picture.
    """
    folder = root / cifar10.CIFAR10_FOLDER
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:32, 0:32].astype(np.uint8)
    colours = rng.integers(0, 160, (10, 3), dtype=np.uint8)
    for name in [file for files in cifar10.CIFAR10_FILES.values() for file in files]:
        labels = rng.integers(0, 10, 10_000)
        tilt = rng.integers(0, 2, (10_000, 2, 1, 1), dtype=np.uint8)
        ramp = tilt[:, :1] * x + tilt[:, 1:] * y
        records = np.empty((10_000, 3073), np.uint8)
        records[:, 0] = labels
        records[:, 1:] = (colours[labels][:, :, None, None] + ramp).reshape(10_000, -1)
        records.tofile(folder / name)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """CIFAR-10 where it is, else its likeness."""
    folder = cifar10.cache_dir() / cifar10.CIFAR10_FOLDER
    there = all(
        (folder / name).is_file()
        for files in cifar10.CIFAR10_FILES.values()
        for name in files
    )
    return cifar10.cache_dir() if there else synthetic(tmp_path_factory.mktemp("cifar"))


def command(*arguments):
    """Run `python -m hkd_mini ...` as a user would; the last line that it prints."""
    line = [sys.executable, "-m", "hkd_mini", *map(str, arguments)]
    # batches of a few: a second thread gains nothing, and waits for ever where another
    # program has the other core
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(line)}\n{done.stderr[-3000:]}"
    print(f"{time.monotonic() - began:5.1f} s  hkd-mini {arguments[0]}")
    return done.stdout.splitlines()[-1]


def test_from_pictures_to_a_distance(pictures, tmp_path):
    at = {name: tmp_path / name for name in ("features", "teacher", "paths", "hkd")}
    samples = {name: tmp_path / f"{name}.npy" for name in ("hkd", "teacher")}

    assert command("data", "cifar10", "--root", pictures) == str(
        pictures / cifar10.CIFAR10_FOLDER
    )
    train = ["--data", pictures, "--batch", 16, *PLAIN]
    assert command("features", *train, "--out", at["features"], "--images", 320) == str(
        at["features"]
    )
    command(
        "teacher",
        "--preset",
        "cifar10-mini",
        *train,
        "--out",
        at["teacher"],
        "--images",
        64,
    )
    command(
        "trajectories",
        "--teacher",
        at["teacher"],
        "--n",
        12,
        "--times",
        3,
        "--steps",
        3,
        "--batch",
        6,
        "--guidance",
        2,
        "--no-class",
        0.3,
        "--out",
        at["paths"],
        "--precision",
        "fp32",
    )
    command(
        "distill",
        "--preset",
        "cifar10-mini",
        "--teacher",
        at["teacher"],
        "--trajectories",
        at["paths"],
        "--out",
        at["hkd"],
        "--images",
        16,
        "--batch",
        4,
        "--perceptual",
        at["features"],
        *PLAIN,
    )
    for name, path in samples.items():
        assert command(
            "sample",
            "--weights",
            at[name],
            "--n",
            10,
            "--seed",
            1,
            "--steps",
            3,
            "--out",
            path,
        ) == str(path)
    judged = json.loads(
        command(
            "evaluate",
            "--samples",
            samples["hkd"],
            "--data",
            pictures,
            "--features",
            at["features"],
            "--seed",
            1,
            "--real",
            2000,
        )
    )

    for name, steps in (("features", 20), ("teacher", 4), ("hkd", 4)):
        left = {path.name for path in at[name].iterdir()}
        assert {
            "model.safetensors",
            "config.json",
            "checkpoint.safetensors",
            "training.json",
            "log.jsonl",
        } <= left
        log = [
            json.loads(line)
            for line in (at[name] / "log.jsonl").read_text().splitlines()
        ]
        assert [line["step"] for line in log] == list(range(1, steps + 1))
        assert log[-1]["images"] == steps * (4 if name == "hkd" else 16)
        assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in log)
        assert (at[name] / "model.safetensors").stat().st_size <= 16 * 2**20
    assert {"mse", "perceptual", "mse_T"} <= set(log[-1]["terms"]) and log[-1]["terms"][
        "perceptual"
    ] > 0
    with safetensors.safe_open(at["paths"] / "shard-00000.safetensors", "pt") as shard:
        assert shard.get_slice("x").get_shape() == [12, 3, 3, 32, 32]
    teacher = hkd_mini.load(at["teacher"]).config
    assert teacher.no_class, "the preset withholds a share of the classes"
    model = hkd_mini.load(at["hkd"])
    assert (
        model.config == hkd_mini.PRESETS["cifar10-mini"]
        and sum(p.numel() for p in model.parameters()) <= 8_000_000
    )
    for path in samples.values():
        x = np.load(path)
        assert x.shape == (10, 32, 32, 3) and x.dtype == np.uint8 and x.std() > 0
    image = model.sample(
        torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    )
    ours = np.load(samples["hkd"]).astype(int)
    assert (
        abs(data.to_uint8(image).permute(0, 2, 3, 1).numpy().astype(int) - ours).max()
        <= 1
    ), "the script and the command agree"
    assert (
        judged["frechet"] > 0
        and 0 <= judged["precision"] <= 1
        and 0 <= judged["recall"] <= 1
    )
    assert (judged["n"], judged["n_real"], judged["features"]) == (
        10,
        2000,
        str(at["features"]),
    )
