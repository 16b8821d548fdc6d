"""Muon for the filters inside, Adam for the rest: by hand, and as one optimiser."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser, train_teacher
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import files
from hkd_mini.engine.checkpoint import CHECKPOINT
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.optimizer import AdamAndMuon, filters_inside, optimizer_for

NETWORK = UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(8,), patch=2)
CONFIG = TrainConfig(
    images=36,
    batch=6,
    muon=0.02,
    lr=3e-3,
    warmup=0,
    ema_halflife=0,
    checkpoint=3,
    precision="fp32",
)
PICTURES = torch.rand(18, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def denoiser():
    torch.manual_seed(0)
    return Denoiser(NETWORK).to(memory_format=torch.channels_last)


def test_a_first_step_moves_a_filter_bank_by_singular_values_of_about_the_rate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 10, 3), nn.GroupNorm(2, 10), nn.Conv2d(10, 4, 1))
    model = model.to(memory_format=torch.channels_last)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = optimizer_for(model, replace(CONFIG, muon=0.01), None, False)
    model(torch.randn(8, 6, 8, 8)).square().mean().backward()
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        moved = p.detach() - old
        if p.ndim == 4:
            values = torch.linalg.svdvals(moved.flatten(1)) / 0.01
            tall = max(1, p.shape[0] / p[0].numel()) ** 0.5
            assert (values > 0.5 * tall).all() and (values < 1.5 * tall).all()
        else:  # Adam's first step is its rate, whatever the gradient is
            assert torch.allclose(moved.abs(), torch.tensor(CONFIG.lr), rtol=1e-3)


def test_it_is_muon_of_the_matrices():
    model = denoiser()
    optimizer = optimizer_for(model, CONFIG, None, False)
    bank = filters_inside(model)[2]
    matrix = nn.Parameter(bank.detach().permute(0, 2, 3, 1).flatten(1).clone())
    alone = torch.optim.Muon([matrix], CONFIG.muon, weight_decay=0.0)
    for k in range(3):
        gradient = torch.randn(bank.shape, generator=torch.Generator().manual_seed(k))
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        bank.grad.copy_(gradient)
        matrix.grad = gradient.permute(0, 2, 3, 1).flatten(1)
        optimizer.step()
        alone.step()
    assert torch.allclose(bank.permute(0, 2, 3, 1).flatten(1), matrix, atol=1e-6)


def test_every_weight_has_one_optimiser_and_pictures_are_read_by_adam():
    model = denoiser()
    optimizer = optimizer_for(model, CONFIG, None, False)
    names = {id(p): name for name, p in model.named_parameters()}
    filters = [names[id(p)] for p in optimizer.filters]
    rest = [names[id(p)] for g in optimizer.adam.param_groups for p in g["params"]]
    assert sorted(filters + rest) == sorted(names.values())
    assert {
        "net.encoder.blocks.16x16_conv.weight",
        "net.decoder.out_conv.weight",
    } < set(rest)
    assert len(filters) > 10


def test_a_stopped_run_goes_on_as_if_undisturbed(tmp_path):
    whole = denoiser()
    list(train_teacher(whole, PICTURES, CONFIG, out=str(tmp_path / "whole")))
    for step in train_teacher(denoiser(), PICTURES, CONFIG, out=str(tmp_path / "b")):
        if step.step == 3:
            break
    again = denoiser()
    list(train_teacher(again, PICTURES, CONFIG, out=str(tmp_path / "b"), resume=True))
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    moments = files.read_tensors(tmp_path / "b" / CHECKPOINT)[0]
    assert any(name.endswith("momentum_buffer") for name in moments)
    assert any(name.endswith("exp_avg_sq") for name in moments)


def test_a_checkpoint_from_before_muon_goes_on(tmp_path):
    config = replace(CONFIG, muon=0.0)
    for step in train_teacher(denoiser(), PICTURES, config, out=str(tmp_path)):
        if step.step == 3:
            break
    tensors, meta = files.read_tensors(tmp_path / CHECKPOINT)
    meta["config"] = json.dumps(
        {k: v for k, v in json.loads(meta["config"]).items() if k != "muon"}
    )
    files.write_tensors(tmp_path / CHECKPOINT, tensors, meta)
    run = lambda config: list(
        train_teacher(denoiser(), PICTURES, config, out=str(tmp_path), resume=True)
    )
    with pytest.raises(ValueError, match=r"muon: None there, 0\.02 here"):
        run(CONFIG)
    assert [step.step for step in run(config)] == [4, 5, 6]


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="no convolutions"):
        optimizer_for(Denoiser(MLPConfig()), CONFIG, None, False)
    scattered = nn.Conv2d(6, 10, 3)  # memory that is not channels_last
    with pytest.raises(ValueError, match="channels_last"):
        AdamAndMuon([scattered.weight], [{"params": [], "scale": 1}], CONFIG, {})
    with pytest.raises(ValueError, match=r"muon = -1\.0"):
        replace(CONFIG, muon=-1.0)
