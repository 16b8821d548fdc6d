"""Weights that are cut, flipped, foreign or dressed-up pickles: refused by name, and
nothing in them ever runs.
"""

import hashlib
import inspect
import json
import os
import pickle
import re

import numpy as np
import pytest
import safetensors.torch
import torch

from hkd_mini.app import evaluation
from hkd_mini.app.zoo import load
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import files, weights
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.hkd.recipes import RECIPES
from hkd_mini.judge import distance, metrics
from hkd_mini.judge.classifier import Classifier, ClassifierConfig
from hkd_mini.onestep.methods import distil

TOY = MLPConfig(channels=8, width=16, depth=1, state=6)
# who judges, who judges besides, and what students learn through
CLASSIFIERS = {
    "features-cifar10": "residual",
    "judge-cifar10": "depthwise",
    "perceptual-cifar10": "plain",
}
SMALL = UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(8,), patch=2)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    HKD(HKDConfig(TOY, clock="edm")).save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def test_what_is_saved_comes_back(tmp_path):
    torch.manual_seed(0)
    for model in (
        HKD(HKDConfig(SMALL, spatial="shared")),
        Denoiser(TOY),
        Classifier(ClassifierConfig((8, 8, 16))),
    ):
        model.save_pretrained(tmp_path / "it")
        again = load(tmp_path / "it")
        assert (
            type(again) is type(model)
            and again.config == model.config
            and not again.training
        )
        for name, value in model.state_dict().items():
            assert torch.equal(
                again.state_dict()[name],
                value.half().float() if value.is_floating_point() else value,
            )
            assert again.state_dict()[name].dtype == value.dtype


def test_equal_tensors_are_equal_bytes(tmp_path):
    tensors = {"b": torch.arange(5), "a": torch.ones(())}
    remarks = {k: k for k in "qwertyuiop"}
    for name in ("1", "2"):
        files.write_tensors(tmp_path / name, tensors, remarks)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    found, about = files.read_tensors(tmp_path / "1")
    assert torch.equal(found["b"], tensors["b"]) and torch.equal(
        found["a"], tensors["a"]
    )
    assert {k: about[k] for k in remarks} == remarks


def test_a_cut_file_is_refused(folder):
    path = folder / weights.WEIGHTS
    content = path.read_bytes()
    for size in (0, 4, 8, 60, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(
            ValueError, match=re.escape(f"{path}: not a whole safetensors file")
        ):
            load(folder)


def test_a_flipped_bit_is_refused_wherever_it_is(folder):
    path = folder / weights.WEIGHTS
    content = path.read_bytes()
    # a key of another name is another program's remark: that file passes
    key = content.index(files.SEAL.encode())
    places = set(range(0, len(content), 97)) - set(
        range(key - 1, key + len(files.SEAL) + 1)
    )
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            files.read_tensors(path)
    path.write_bytes(content)
    files.read_tensors(path)


def test_files_of_other_programs_have_no_digest_and_load(folder):
    tensors = files.read_tensors(folder / weights.WEIGHTS)[0]
    safetensors.torch.save_file(tensors, folder / weights.WEIGHTS)
    assert isinstance(load(folder), HKD)


class Trap:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_a_pickle_is_refused_and_does_not_run(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    path = folder / weights.WEIGHTS
    samples = tmp_path / "x.npy"
    for save in (
        lambda: torch.save({"w": Trap()}, path),
        lambda: path.write_bytes(pickle.dumps(Trap())),
    ):
        save()
        with pytest.raises(
            ValueError,
            match=re.escape(f"{path}: not a whole safetensors file") + ".*[Pp]ickle",
        ):
            load(folder)
    for save in (
        lambda: np.save(samples, np.array([Trap()])),
        lambda: samples.write_bytes(pickle.dumps(Trap())),
    ):
        save()
        with pytest.raises(
            ValueError, match=re.escape(f"{samples}: not a whole .npy file")
        ):
            evaluation.read_samples(samples)
    assert not (tmp_path / "sprung").exists()


def rewrite(folder, **changes):
    path = folder / weights.CONFIG
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, **changes}))
    return path


def test_a_configuration_that_does_not_fit_is_refused(folder):
    config = json.loads((folder / weights.CONFIG).read_text())["config"]
    path = rewrite(folder, config={**config, "wings": 2})
    with pytest.raises(ValueError, match=re.escape(f"{path}: HKDConfig has no wings")):
        load(folder)
    rewrite(folder, config={**config, "clock": "cuckoo"})
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: clock = 'cuckoo'"):
        load(folder)
    rewrite(
        folder, config={**config, "network": {**config["network"], "depth": "three"}}
    )
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load(folder)
    rewrite(folder, config={**config, "network": {**config["network"], "state": 8}})
    with pytest.raises(
        ValueError,
        match=re.escape(f"{folder / weights.WEIGHTS}: does not fit config.json"),
    ):
        load(folder)
    for text in ("{", "[1, 2]", '{"model": "HKD"}', "\xff\xfe"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load(folder)


def test_another_kind_of_model_is_refused(folder):
    with pytest.raises(ValueError, match="holds a HKD, wanted a Denoiser"):
        Denoiser.from_pretrained(str(folder))
    assert isinstance(HKD.from_pretrained(str(folder)), HKD)
    rewrite(folder, model="Oracle")
    with pytest.raises(
        ValueError,
        match="holds a 'Oracle', wanted one of HKD, Denoiser, Student, KDM, Classifier",
    ):
        load(folder)
    (folder / weights.WEIGHTS).unlink()
    rewrite(folder, model="HKD")
    with pytest.raises(FileNotFoundError, match=re.escape(weights.WEIGHTS)):
        load(folder)


FOLDERS = sorted(
    path.parent.relative_to(weights.data_folder()).as_posix()
    for path in weights.data_folder().rglob(weights.CONFIG)
)


@pytest.mark.parametrize("name", FOLDERS)
def test_everything_bundled_opens_by_name(name):
    """The class is stored, not guessed."""
    model = load(name)
    kind = json.loads((weights.data_folder() / name / weights.CONFIG).read_text())
    assert type(model).__name__ == kind["model"] and not model.training


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A data folder of our own, with a manifest."""
    root = tmp_path / "bundle"
    monkeypatch.setattr(weights, "data_folder", lambda: root)
    torch.manual_seed(0)
    HKD(HKDConfig(TOY)).save_pretrained(root / "hkd-toy")
    for name, blocks in CLASSIFIERS.items():
        config = ClassifierConfig((8, 8, 16), blocks=blocks)
        Classifier(config).save_pretrained(root / name)
    listed = [path for path in sorted(root.glob("*/*")) if path.suffix != ".md"]
    sums = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in listed
    }
    (root / weights.MANIFEST).write_text(json.dumps(sums))
    return root


def test_a_missing_folder_is_answered_with_the_bundled_names(bundled):
    with pytest.raises(
        FileNotFoundError,
        match=r"hkd-mars: .*bundled are only: features-cifar10, hkd-toy, judge-cifar10",
    ):
        load("hkd-mars")


def test_bundled_weights_are_verified_by_the_manifest(bundled):
    """A whole file with a sound digest of its own is still not the one that was
    bundled.
    """
    assert isinstance(load("hkd-toy"), HKD)
    path = bundled / "hkd-toy" / weights.WEIGHTS
    content = path.read_bytes()
    tensors = files.read_tensors(path)[0]
    files.write_tensors(path, {k: v + 1 for k, v in tensors.items()})
    with pytest.raises(ValueError, match=re.escape(f"{path}: missing or altered")):
        load("hkd-toy")
    path.unlink()
    with pytest.raises(ValueError, match=re.escape(f"{path}: missing or altered")):
        load("hkd-toy")
    path.write_bytes(content)
    altered = rewrite(bundled / "hkd-toy")
    with pytest.raises(ValueError, match=re.escape(f"{altered}: missing or altered")):
        load("hkd-toy")
    assert isinstance(load(bundled / "hkd-toy"), HKD), (
        "a folder of the user's own is not in the manifest"
    )


@pytest.mark.parametrize(
    ("name", "blocks"), [*CLASSIFIERS.items(), ("cifar", "residual")]
)
def test_the_perceptual_distance_verifies_its_classifier(bundled, name, blocks):
    seen_by = distance.Distance.of(name).perceptual.classifier
    assert seen_by.config.blocks == blocks
    path = bundled / distance.bundled(name) / weights.WEIGHTS
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        distance.Distance.of(name)


def test_who_judges_has_not_taught():
    """By default a student learns through a network that is no judge's, of another
    architecture than either judge; and the bundled ones are what their names say.
    """
    learns = {Objective().perceptual, RECIPES["cifar10-mini"].objective.perceptual}
    learns |= {inspect.signature(distil).parameters["perceptual"].default}
    assert learns == {distance.BUNDLED}
    judges = {distance.JUDGE, distance.SECOND}
    assert distance.bundled("cifar") == distance.JUDGE
    assert not {distance.bundled(name) for name in learns} & judges
    kinds = {name: load(name).config.blocks for name in CLASSIFIERS}
    assert kinds == CLASSIFIERS and {*learns, *judges} == set(CLASSIFIERS)


def test_statistics_that_were_altered_are_refused(tmp_path):
    path = tmp_path / "reference.safetensors"
    metrics.save_statistics(path, metrics.statistics([torch.randn(9, 3)]))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        metrics.load_statistics(path)


def test_a_full_disk_leaves_the_old_file_and_no_half(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, {"x": torch.zeros(3)})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_tensors(path, {"x": torch.ones(3)})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert torch.equal(files.read_tensors(path)[0]["x"], torch.zeros(3))


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"PK\x03\x04 an archive", b"not numbers"]
)
def test_samples_that_are_no_array_are_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy: not a whole \.npy file"):
        evaluation.read_samples(tmp_path / "x.npy")


def test_samples_cut_or_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    x = np.arange(5 * 32 * 32 * 3, dtype=np.uint8).reshape(5, 32, 32, 3)
    np.save(path, x)
    assert torch.equal(
        evaluation.read_samples(path), torch.from_numpy(x).permute(0, 3, 1, 2)
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"x\.npy: not a whole"):
        evaluation.read_samples(path)
    for other in (x.astype(np.float32), x[0], x.transpose(0, 3, 1, 2)):
        np.save(path, other)
        with pytest.raises(
            ValueError, match=r"x\.npy: .*wanted uint8 \(n, height, width, 3\)"
        ):
            evaluation.read_samples(path)
