"""Runs of the training loop, one step at a time, for the scripts that measure them: a
teacher's and HKD's, of the same cost, and what a step computes.
"""

from dataclasses import replace

import torch
from common import seconds
from torch.utils.flop_counter import FlopCounterMode

from hkd_mini.diffusion.schedule import SIGMA_MAX, SIGMA_MIN, lognormal_sigmas
from hkd_mini.diffusion.teacher import Denoiser, edm_loss
from hkd_mini.engine.data import rng_at
from hkd_mini.engine.run import Run
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import hkd_loss
from hkd_mini.judge.distance import Distance

TIMES = 2  # points of each path


def plain(network, config):
    """EDM's training of a network: a run, and its batch of `config.batch` pictures."""
    rng = rng_at(0, 1)
    x0, noise = torch.randn(2, config.batch, *network.shape, generator=rng).mul(0.5)
    batch = {"x0": x0, "noise": noise, "sigma": lognormal_sigmas(config.batch, rng)}
    return Run(
        Denoiser(network),
        lambda model, progress, **b: {"loss": edm_loss(model, **b)},
        config,
        None,
    ), batch


def distilled(preset, config, perceptual="none"):
    """HKD's training: a run, and its batch of `config.batch // TIMES` paths with
    `TIMES` points each.
    """
    rng = rng_at(0, 2)
    paths = config.batch // TIMES
    distance = Distance.of(perceptual)
    if config.compile and distance.perceptual is not None:
        distance.perceptual.compile()
    end, noise = torch.randn(2, paths, *preset.network.shape, generator=rng).mul(0.5)
    sigma = (
        torch.rand(paths, TIMES, generator=rng) * (SIGMA_MAX - SIGMA_MIN) + SIGMA_MIN
    )
    x = end[:, None] + sigma[:, :, None, None, None] * noise[:, None]

    def loss(model, progress, **b):
        return hkd_loss(model, distance.to(b["x"].device), progress=progress, **b)

    return Run(HKD(preset), loss, replace(config, batch=paths), None), {
        "x": x,
        "sigma": sigma,
        "end": end,
    }


def operations(run, batch):
    """Floating-point operations of a step's convolutions and products, both ways, for
    one evaluated picture.
    """
    few = {
        k: v[: 1 if "end" in batch else TIMES].to(run.accelerator.device)
        for k, v in batch.items()
    }
    compiled = {part: part._compiled_call_impl for part in run.model.modules()}
    for part in compiled:  # the counter sees eager calls alone
        part._compiled_call_impl = None
    with FlopCounterMode(display=False) as counter:
        run.objective(few, 0.5)["loss"].backward()
    for part, call in compiled.items():
        part._compiled_call_impl = call
    return counter.get_total_flops() / TIMES


def product_rate(device, n, precision="bf16", repeats=20):
    """Operations a second of n x n products in `precision`, bf16 or fp32."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, n, n, device=device, dtype=kind)
    a @ b
    took = seconds(lambda: [a @ b for _ in range(repeats)], device)
    return repeats * 2 * n**3 / took
