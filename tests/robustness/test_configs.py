"""A saved model whose description was cut, altered or misspelt is refused by name."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from commands import ends

from hkd_mini.app.zoo import load
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import weights
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.judge.classifier import Classifier, ClassifierConfig
from hkd_mini.koopman.dmd import dmd, forecast
from hkd_mini.onestep.kdm import KDM
from hkd_mini.onestep.kdm_config import KDMConfig

TOY = MLPConfig(channels=8, width=16, depth=1, state=6)
SMALL = UNetConfig(
    resolution=8, channels=8, mult=(1, 2), blocks=1, attention=(4,), patch=2
)
MODELS = {
    "hkd": lambda: HKD(HKDConfig(TOY)),
    "teacher": lambda: Denoiser(SMALL),
    "kdm": lambda: KDM(KDMConfig(TOY)),
    "classifier": lambda: Classifier(ClassifierConfig((4, 4, 8))),
    "plain classifier": lambda: Classifier(ClassifierConfig((4, 4), 3, "plain")),
}
OTHERS = (-1, 0, 10**12, 0.5, -1e300, math.nan, "x", "", None, [], [1, "x"], {}, True)


def places(config, before=()):
    """Every field of a configuration, those within others too."""
    for name, value in config.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from places(value, (*before, name))


def altered(saved, place, value=None, name=None):
    """`saved` with another value at `place`, or another name of it."""
    new = copy.deepcopy(saved)
    inner = new["config"]
    for key in place[:-1]:
        inner = inner[key]
    if name is not None:
        inner[name] = inner.pop(place[-1])
    else:
        inner[place[-1]] = value
    return new


@pytest.fixture(params=MODELS)
def folder(request, tmp_path):
    torch.manual_seed(0)
    MODELS[request.param]().save_pretrained(tmp_path)
    return tmp_path


def test_a_field_that_is_none(folder):
    """Every field with other values, a third of them each: the same model, or a
    ValueError that names the file.
    """
    path = folder / weights.CONFIG
    saved = json.loads(path.read_text())
    whole = load(folder)
    refused = 0
    for number, place in enumerate(places(saved["config"])):
        for value in OTHERS[number % 3 :: 3]:
            path.write_text(json.dumps(altered(saved, place, value)))
            try:
                model = load(folder)
            except ValueError as error:
                assert str(folder) in str(error), error
                refused += 1
            else:  # a field without a part in the weights
                assert model.state_dict().keys() == whole.state_dict().keys()
                json.dumps(dataclasses.asdict(model.config), allow_nan=False)
        path.write_text(json.dumps(altered(saved, place, name=place[-1] + "s")))
        with pytest.raises(ValueError, match=f"config.json: .*has no {place[-1]}s"):
            load(folder)
    assert refused > 2.5 * len(list(places(saved["config"])))


def test_a_description_that_is_no_json(capsys, folder):
    path = folder / weights.CONFIG
    for content in ("", "{", "[" * 100_000, '{"config": ' * 50_000, "[]", "null", "\0"):
        path.write_text(content)
        arguments = ["--weights", folder, "--n", 2, "--out", folder / "x.npy"]
        status, out, err = ends(capsys, "sample", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert str(path) in err and "Traceback" not in err


def test_a_manifest_that_was_cut(tmp_path, monkeypatch):
    whole = (weights.data_folder() / weights.MANIFEST).read_text()
    monkeypatch.setattr(weights, "data_folder", lambda: tmp_path)
    for content in (whole[:999], "", "[]", '{"a": 3}'):
        (tmp_path / weights.MANIFEST).write_text(content)
        with pytest.raises(ValueError, match=f"{weights.MANIFEST}: "):
            weights.verify(tmp_path / "hkd-cifar10")


def test_weights_beyond_half_precision_are_kept(tmp_path):
    """They were saved as infinities, and loaded."""
    torch.manual_seed(0)
    model = HKD(HKDConfig(TOY))
    with torch.no_grad():
        model.generators[0].A[0] = 1e6
    model.save_pretrained(tmp_path)
    assert load(tmp_path).generators[0].A[0].item() == 1e6
    with torch.no_grad():
        model.generators[0].A[0] = math.inf
    with pytest.raises(ValueError, match="generators.0.A holds numbers that are not"):
        model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.generators[0].A[0] = 1.0
    model.save_pretrained(tmp_path)
    tensors, about = weights.read_tensors(tmp_path / weights.WEIGHTS)
    tensors["generators.0.A"][0] = math.nan
    weights.write_tensors(tmp_path / weights.WEIGHTS, tensors, about)
    with pytest.raises(ValueError, match="safetensors: generators.0.A holds numbers"):
        load(tmp_path)


def test_the_rate_of_what_is_gone_at_once():
    x = np.random.default_rng(0).normal(size=(9, 2))
    fit = dmd(x, 0 * x)
    assert (fit.rates.real == -np.inf).all() and (fit.rates.imag == 0).all()
    assert np.allclose(forecast(fit, x, np.array([0.0, 1.0])), [x, 0 * x])
    fit = dmd(x, x @ np.array([[0.0, -2.0], [2.0, 0.0]]), dt=0.5)
    np.testing.assert_allclose(fit.rates, np.log(fit.eigenvalues) / 0.5)
