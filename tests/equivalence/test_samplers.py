"""Samplers against independent integrators: torchdiffeq, scipy, EDM's algorithm in
numpy, diffusers if installed.
"""

import numpy as np
import pytest
import torch

from hkd_mini.diffusion.exact import exact_denoiser
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import ddpm, euler, heun
from hkd_mini.diffusion.schedule import karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser

POINTS = torch.randn(
    13, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
NOISE = 80 * torch.randn(
    5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)


def denoise(x, sigma):
    """The exact denoiser of POINTS for one sample, in numpy, one formula: a posterior
    mean.
    """
    logs = -((POINTS.numpy() - x) ** 2).sum(1) / (2 * sigma**2)
    weights = np.exp(logs - logs.max())
    return weights @ POINTS.numpy() / weights.sum()


def edm(x, sigmas, second_order):
    """EDM's deterministic sampler step by step, from the paper's listing."""
    path = [x]
    for i in range(len(sigmas) - 1):
        d = (x - denoise(x, sigmas[i])) / sigmas[i]
        step = sigmas[i + 1] - sigmas[i]
        euler_x = x + step * d
        if second_order and sigmas[i + 1] != 0:
            d_next = (euler_x - denoise(euler_x, sigmas[i + 1])) / sigmas[i + 1]
            x = x + step * (0.5 * d + 0.5 * d_next)
        else:
            x = euler_x
        path.append(x)
    return np.stack(path)


def test_every_second_point_keeps_both_ends_and_its_guess():
    denoiser = exact_denoiser(POINTS)
    whole = heun(denoiser, NOISE, karras_sigmas(6))
    half = whole.every(2)
    assert half.nfe == whole.nfe and len(half.x) == 4
    assert torch.equal(half.sigmas, whole.sigmas[[0, 2, 4, 6]])
    assert torch.equal(half.x, whole.x[[0, 2, 4, 6]])
    assert torch.equal(half.guesses[1], denoiser(half.x[1], half.sigmas[1]))
    assert whole._replace(guesses=None).every(3).guesses is None
    for k in (0, 4):
        with pytest.raises(ValueError, match="a divisor of 6"):
            whole.every(k)


@pytest.mark.parametrize("method", [euler, heun])
@pytest.mark.parametrize("n", [2, 18])
def test_edms_algorithm_in_numpy(method, n):
    path = method(exact_denoiser(POINTS), NOISE, karras_sigmas(n))
    for i, x in enumerate(NOISE.numpy()):
        np.testing.assert_allclose(
            path.x[:, i],
            edm(x, karras_sigmas(n).tolist(), method is heun),
            rtol=1e-9,
            atol=1e-9,
        )


def slope(denoiser):
    return lambda sigma, x: (x - denoiser(x, float(sigma))) / sigma


def network():
    torch.manual_seed(0)
    denoiser = Denoiser(MLPConfig(dim=3, channels=8, width=16, depth=2)).eval()
    for parameter in denoiser.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return denoiser


@pytest.mark.parametrize(
    "denoiser", [exact_denoiser(POINTS), network()], ids=["exact", "network"]
)
def test_heun_nears_torchdiffeqs_adaptive_solution(denoiser):
    """The same equation by others' adaptive solver of order five: the gap is Heun's own
    and shrinks fourfold.
    """
    odeint = pytest.importorskip(
        "torchdiffeq", reason="torchdiffeq is a test-only extra"
    ).odeint
    levels = lambda n: karras_sigmas(n, 0.3, 80.0)[:-1]
    # a network runs in float32 whatever x is
    tolerance = 1e-6 if isinstance(denoiser, Denoiser) else 1e-9
    with torch.no_grad():
        ends = torch.tensor([80.0, 0.3], dtype=torch.float64)
        wish = odeint(
            slope(denoiser),
            NOISE,
            ends,
            method="dopri5",
            rtol=tolerance,
            atol=tolerance,
        )[-1]
    errors = [
        (heun(denoiser, NOISE, levels(n + 1)).x[-1] - wish).abs().max().item()
        for n in (40, 80)
    ]
    assert errors[1] < 0.01 and errors[0] / errors[1] > 3


@pytest.mark.parametrize("ours, theirs", [(euler, "euler"), (heun, "heun2")])
def test_step_for_step_as_torchdiffeqs_fixed_grid(ours, theirs):
    """On one grid both are the same method, so every point of the path agrees to
    rounding.
    """
    odeint = pytest.importorskip(
        "torchdiffeq", reason="torchdiffeq is a test-only extra"
    ).odeint
    levels = karras_sigmas(20)[:-1]
    wish = odeint(slope(exact_denoiser(POINTS)), NOISE, levels, method=theirs)
    torch.testing.assert_close(
        ours(exact_denoiser(POINTS), NOISE, levels).x, wish, rtol=1e-9, atol=1e-9
    )


def test_heun_nears_scipys_solution():
    from scipy.integrate import solve_ivp

    x = NOISE[0].numpy()
    wish = solve_ivp(
        lambda s, y: (y - denoise(y, s)) / s,
        (80.0, 0.3),
        x,
        method="DOP853",
        rtol=1e-10,
        atol=1e-10,
    ).y[:, -1]
    ours = heun(
        exact_denoiser(POINTS), NOISE[:1], karras_sigmas(300, 0.3, 80.0)[:-1]
    ).x[-1, 0]
    np.testing.assert_allclose(ours, wish, atol=1e-3)


def test_ancestral_steps_are_the_ddpm_posterior():
    """Ho et al.'s eq 7 in their letters (abar, beta), with x / sqrt(1 + sigma^2) for
    their variance-preserving x.
    """
    levels = torch.tensor([3.0, 1.2, 0.4], dtype=torch.float64)
    path = ddpm(
        exact_denoiser(POINTS),
        NOISE / 30,
        levels,
        generator=torch.Generator().manual_seed(2),
    )
    rng = torch.Generator().manual_seed(2)
    for k, (t, s) in enumerate(zip(levels[:-1].tolist(), levels[1:].tolist())):
        abar_t = 1 / (1 + t**2)
        abar_s = 1 / (1 + s**2)
        alpha = abar_t / abar_s
        x0 = torch.stack([torch.from_numpy(denoise(x, t)) for x in path.x[k].numpy()])
        mean = (
            abar_s**0.5 * (1 - alpha) * x0
            + alpha**0.5 * (1 - abar_s) * (abar_t**0.5 * path.x[k])
        ) / (1 - abar_t)
        std = ((1 - abar_s) / (1 - abar_t) * (1 - alpha)) ** 0.5
        step = mean + std * torch.randn(NOISE.shape, generator=rng, dtype=torch.float64)
        torch.testing.assert_close(
            path.x[k + 1], step / abar_s**0.5, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize(
    "ours, theirs", [(euler, "EulerDiscreteScheduler"), (heun, "HeunDiscreteScheduler")]
)
def test_as_diffusers(ours, theirs):
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers is a test-only extra: pip install diffusers"
    )
    scheduler = getattr(diffusers, theirs)(
        use_karras_sigmas=True, prediction_type="sample"
    )
    scheduler.set_timesteps(18)
    sigmas = scheduler.sigmas.double()
    denoiser = exact_denoiser(POINTS)
    grid = sigmas.unique().flip(0)  # Heun's list names inner levels twice
    x = NOISE / 80 * grid[0]
    wish = ours(denoiser, x, grid).x[-1]
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)  # sets the step's index
        x = scheduler.step(
            denoiser(x, scheduler.sigmas[scheduler.step_index].double()), t, x
        ).prev_sample
    torch.testing.assert_close(x.double(), wish, rtol=1e-4, atol=1e-4)
