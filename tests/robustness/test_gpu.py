"""What benchmarks/gpu.py checks on a GPU holds on the processor, where it is tried."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("gradients", "bf16", "compiled", "resumed", "sampling")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("gpu_script", FOLDER / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_script", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [name for name in NAMES if name != "compiled"])
def test_the_checks_on_the_processor(gpu, name):
    """All but compilation, whose own test is in tests/theory/test_training_scale.py."""
    assert set(gpu.CHECKS) == set(NAMES)
    assert gpu.CHECKS[name]("cpu") >= 0


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_checks_on_the_gpu(gpu, name):
    assert gpu.CHECKS[name]("cuda") >= 0


@pytest.mark.gpu
@no_gpu
def test_the_gpu_computes_bf16_from_ampere_on():
    from hkd_mini.engine.precision import choose, native_bf16

    major, _ = torch.cuda.get_device_capability()
    assert (
        (choose("auto", "cuda") == "bf16") == bool(native_bf16("cuda")) == (major >= 8)
    )


def test_a_dropout_that_is_not_resumed_is_noticed(gpu, monkeypatch):
    """The check fails when the checkpoint's random numbers are not taken up."""
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    with pytest.raises(AssertionError):
        gpu.CHECKS["resumed"]("cpu")
