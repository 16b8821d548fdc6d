"""Precision follows the hardware: what is chosen where, said once, kept when a run is
resumed.
"""

import json
import logging
from dataclasses import replace

import pytest
import torch
from commands import ends
from torch import nn

from hkd_mini.diffusion.samplers import Path
from hkd_mini.engine import data, loop, precision
from hkd_mini.engine.checkpoint import CHECKPOINT
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.files import read_tensors
from hkd_mini.engine.precision import choose, computing, native_bf16
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.hkd.recipes import RECIPES
from hkd_mini.judge.classifier import CLASSIFIER_RECIPE

CONFIG = TrainConfig(images=40, batch=4, checkpoint=2)


@pytest.fixture(autouse=True)
def anew():
    """Nothing chosen before, nor after."""
    choose.cache_clear()
    yield
    choose.cache_clear()


def machine(monkeypatch, bf16=False, amx=False, limit=None):
    """Pretend a processor, and a limit that its user has set."""
    choose.cache_clear()
    monkeypatch.setattr(
        torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False
    )
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)


@pytest.mark.parametrize(
    ("bf16", "amx", "limit", "wanted"),
    [
        (False, False, None, "fp32"),
        (True, False, None, "bf16"),
        (True, True, None, "bf16"),
        (True, True, "DEFAULT", "bf16"),
        (True, True, "avx512_core_bf16", "bf16"),
        (True, True, "AVX512_CORE_AMX", "bf16"),
        (True, True, "AVX512_CORE_VNNI", "fp32"),
        (True, True, "AVX2", "fp32"),
        (True, True, "SSE41", "fp32"),
    ],
)
def test_a_processor_computes_bf16_where_it_has_the_units(
    monkeypatch, bf16, amx, limit, wanted
):
    machine(monkeypatch, bf16, amx, limit)
    assert choose() == choose("auto", torch.device("cpu")) == wanted
    assert bool(native_bf16()) == (wanted == "bf16")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    choose.cache_clear()
    assert choose() == "fp32", "a torch that cannot be asked"


@pytest.mark.parametrize("ampere", [True, False])
def test_a_gpu_computes_bf16_from_ampere_on(monkeypatch, ampere):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: ampere
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
    assert (
        choose("auto", "cuda")
        == choose("auto", torch.device("cuda", 1))
        == ("bf16" if ampere else "fp32")
    )
    if ampere:
        assert choose("tf32", "cuda") == "tf32"
    else:
        with pytest.raises(ValueError, match="from Ampere on has it, this is cuda"):
            choose("tf32", "cuda")
    assert choose("auto", "mps") == "fp32" == choose("fp32", "cuda")
    with pytest.raises(ValueError, match="this is cpu"):
        choose("tf32")


@pytest.mark.parametrize("name", ["tf32", "fp32", "bf16"])
def test_float32_products_on_a_gpu_are_what_was_chosen_and_only_there(name):
    state = lambda: (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )
    before = state()
    with pytest.raises(KeyError), precision.float32_products(name, "cuda"):
        assert state() == (("high", True) if name == "tf32" else ("highest", False))
        raise KeyError
    assert state() == before
    with computing(name, "cpu"):
        assert state() == before
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)


def test_the_choice_is_said_once_and_emulation_is_a_warning(monkeypatch, caplog):
    machine(monkeypatch)
    caplog.set_level(logging.INFO, "hkd_mini")
    for _ in range(3):
        choose(), choose("bf16")
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("INFO", "precision fp32: cpu, no native bf16"),
        (
            "WARNING",
            "precision bf16: emulated on this cpu, many times slower than fp32",
        ),
    ]
    caplog.clear()
    machine(monkeypatch, bf16=True)
    choose(), choose("bf16")
    assert {record.levelname for record in caplog.records} == {"INFO"}
    with pytest.raises(
        ValueError, match="precision = 'fp8': one of auto, bf16, tf32, fp32"
    ):
        choose("fp8")


def steps(folder, config, resume=False):
    torch.manual_seed(0)

    def batch(step, share):
        rng = data.rng_at(config.seed, step)
        return {"x": torch.randn(4, 3, generator=rng)[share]}

    def loss(model, x, progress):
        return {"loss": model(x).float().square().mean()}

    return loop.fit(nn.Linear(3, 2), batch, loss, config, str(folder), resume)


@pytest.mark.parametrize("began", ["fp32", "bf16"])
def test_a_resumed_run_keeps_its_precision_or_says_that_it_changes(
    tmp_path, monkeypatch, caplog, began
):
    machine(monkeypatch, bf16=began == "bf16")
    run = steps(tmp_path, CONFIG)
    assert [next(run).precision for _ in range(2)] == [began] * 2
    assert read_tensors(tmp_path / CHECKPOINT)[1]["precision"] == began
    run.close()
    machine(monkeypatch, bf16=began != "bf16")
    assert next(steps(tmp_path, CONFIG, resume=True)).precision == began
    assert any("emulated" in record.getMessage() for record in caplog.records) == (
        began == "bf16"
    )
    caplog.clear()
    other = "fp32" if began == "bf16" else "bf16"
    assert (
        next(steps(tmp_path, replace(CONFIG, precision=other), resume=True)).precision
        == other
    )
    said = [
        record.getMessage()
        for record in caplog.records
        if "from here on" in record.getMessage()
    ]
    assert said == [
        f"{tmp_path / CHECKPOINT} was computed in {began}, from here on it is {other}"
    ]
    caplog.clear()
    assert (
        next(steps(tmp_path, replace(CONFIG, precision=began), resume=True)).precision
        == began
    )
    assert not any("from here on" in record.getMessage() for record in caplog.records)


def test_resumed_paths_keep_their_precision(tmp_path, monkeypatch):
    def making(n, resume):
        return list(
            make(
                nn.Identity(),
                (2,),
                n,
                tmp_path,
                precision="auto",
                resume=resume,
                guesses=False,
                sampler=still,
            )
        )

    def still(denoiser, x, sigmas, labels):
        return Path(sigmas, x.expand(len(sigmas), *x.shape), 0)

    machine(monkeypatch, bf16=True)
    making(600, resume=False)
    (tmp_path / "shard-00001.safetensors").unlink()
    machine(monkeypatch)
    making(600, resume=True)
    assert len(Trajectories(tmp_path)) == 600, (
        "two precisions in one folder would be refused"
    )


def test_a_command_says_it_once_and_writes_it_down(
    tmp_path, monkeypatch, capsys, caplog
):
    machine(monkeypatch)
    flags = (
        "teacher",
        "--preset",
        "toy2d",
        "--data",
        "two_moons",
        "--batch",
        8,
        "--images",
        24,
    )
    for wish, found in (("auto", "fp32"), ("bf16", "bf16")):
        caplog.clear()
        out = tmp_path / wish
        assert ends(capsys, *flags, "--precision", wish, "--out", out)[0] == 0
        said = [record.getMessage().split(":")[0] for record in caplog.records]
        assert [line for line in said if line.startswith("precision")] == [
            f"precision {found}"
        ]
        assert json.loads((out / "training.json").read_text())["precision"] == found
        assert {
            json.loads(line)["precision"]
            for line in (out / "log.jsonl").read_text().splitlines()
        } == {found}
    weights = ends(
        capsys,
        "sample",
        "--weights",
        tmp_path / "auto",
        "--n",
        2,
        "--out",
        tmp_path / "x.npy",
    )
    assert weights[0] == 0


def test_every_recipe_of_pictures_leaves_the_choice_to_the_hardware():
    assert TrainConfig().precision == CLASSIFIER_RECIPE.precision == "auto"
    for name, recipe in RECIPES.items():
        wanted = "fp32" if name == "toy2d" else "auto"
        assert {recipe.teacher.precision, recipe.distill.precision} == {wanted}, name
