"""Teacher: solver orders by slope, exact denoisers by quadrature and formulas, EDM's
preconditioning, loss, costs.
"""

import math

import pytest
import torch

from hkd_mini.diffusion.exact import exact_denoiser, gaussian_denoiser
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import ddpm, euler, heun
from hkd_mini.diffusion.schedule import SIGMA_DATA, expand, karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser, edm_loss, one_hot
from hkd_mini.diffusion.unet import UNetConfig

F64 = torch.float64
MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=F64)
# far from diagonal
COV = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.2]], dtype=F64)


def gaussian_flow(x, t, s):
    """The exact flow of N(MEAN, COV): x - m scales by sqrt((lam + s^2) / (lam + t^2))
    along each eigenvector.
    """
    lam, basis = torch.linalg.eigh(COV)
    return MEAN + (x - MEAN) @ (basis * ((lam + s**2) / (lam + t**2)).sqrt()) @ basis.T


@pytest.mark.parametrize(
    "method, order", [(euler, 1), (heun, 2)], ids=["euler", "heun"]
)
def test_order_by_the_slope_of_the_error(method, order):
    x = (
        torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=F64) * 5
        + MEAN
    )
    wish = gaussian_flow(x, 5.0, 0.1)
    counts = [40, 80, 160, 320]
    errors = []
    for n in counts:
        levels = karras_sigmas(n + 1, 0.1, 5.0)[:-1]
        errors.append(
            (method(gaussian_denoiser(MEAN, COV), x, levels).x[-1] - wish)
            .abs()
            .max()
            .item()
        )
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert all(abs(slope - order) < 0.12 for slope in slopes), slopes


def test_whole_path_follows_the_flow():
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(1), dtype=F64) * 80
    path = heun(gaussian_denoiser(MEAN, COV), x, karras_sigmas(400))
    for level, point in zip(path.sigmas.tolist(), path.x):
        torch.testing.assert_close(
            point, gaussian_flow(x, 80.0, level), rtol=1e-3, atol=1e-3
        )


def test_gaussian_denoiser_is_the_posterior_mean():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    sigma = torch.tensor([0.0, 0.002, 0.5, 3.0, 80.0], dtype=F64)
    ours = gaussian_denoiser(MEAN, COV)(x, sigma)
    for i, s in enumerate(sigma.tolist()):
        # cov (cov + s^2)^-1
        gain = torch.linalg.solve(COV + s**2 * torch.eye(3, dtype=F64), COV).T
        torch.testing.assert_close(ours[i], MEAN + gain @ (x[i] - MEAN))
    torch.testing.assert_close(gaussian_denoiser(MEAN, COV)(x[2:3], 0.5), ours[2:3])
    assert gaussian_denoiser(MEAN, COV)(x.float(), 0.5).dtype == torch.float32


def test_exact_denoiser_by_brute_force():
    points = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(4), dtype=F64)
    sigma = [0.05, 0.3, 1.0, 5.0, 80.0]
    ours = exact_denoiser(points)(x, torch.tensor(sigma, dtype=F64))
    for one, s, guess in zip(x, sigma, ours):
        logs = [
            -sum(
                (a - b) ** 2
                for a, b in zip(one.flatten().tolist(), y.flatten().tolist())
            )
            / (2 * s**2)
            for y in points
        ]
        weights = [math.exp(v - max(logs)) for v in logs]
        wish = sum(w * y for w, y in zip(weights, points)) / sum(weights)
        torch.testing.assert_close(guess, wish, rtol=1e-10, atol=1e-12)


def test_exact_denoiser_by_quadrature():
    """Points fill a line as a density does: the sum becomes E[y | x] = int y N(x; y,
    s^2) dy / int N(x; y, s^2) dy.
    """
    from scipy.integrate import quad

    # uniform on (-1, 2)
    grid = (torch.arange(4000, dtype=F64)[:, None] + 0.5) / 4000 * 3 - 1
    for x, s in [(0.1, 0.3), (1.9, 0.5), (-3.0, 1.0), (20.0, 8.0)]:
        density = lambda y, x=x, s=s: math.exp(-((x - y) ** 2) / (2 * s**2))
        wish = quad(lambda y, p=density: y * p(y), -1, 2)[0] / quad(density, -1, 2)[0]
        assert math.isclose(
            exact_denoiser(grid)(torch.tensor([[x]], dtype=F64), s).item(),
            wish,
            rel_tol=1e-5,
            abs_tol=1e-6,
        )


def test_exact_denoiser_of_a_gaussian_cloud_nears_the_gaussian_one():
    cloud = (
        MEAN
        + torch.randn(20_000, 3, generator=torch.Generator().manual_seed(5), dtype=F64)
        @ torch.linalg.cholesky(COV).T
    )
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(6), dtype=F64)
    torch.testing.assert_close(
        exact_denoiser(cloud)(x, 1.0),
        gaussian_denoiser(MEAN, COV)(x, 1.0),
        rtol=0,
        atol=0.03,
    )


def test_exact_denoiser_ends_on_a_point():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
    noise = torch.randn(33, 2, generator=torch.Generator().manual_seed(7)) * 80
    ends = heun(exact_denoiser(points), noise, karras_sigmas(18)).x[-1]
    near = torch.cdist(ends, points).min(1)
    assert near.values.max() < 1e-4 and near.indices.unique().tolist() == [0, 1, 2]


def test_ddpm_keeps_the_gaussians_variance():
    """Deviations along each axis obey v' = (r + (1 - r) k)^2 v + s^2 (1 - r), which
    tends to lam as steps shrink.
    """
    lam, basis = torch.linalg.eigh(COV)
    n = 20_001
    errors = []
    for steps in (40, 160):
        levels = karras_sigmas(steps, 0.02, 8.0)
        v = lam + 8.0**2
        for t, s in zip(levels[:-1].tolist(), levels[1:].tolist()):
            r = (s / t) ** 2
            k = lam / (lam + t**2)
            v = (r + (1 - r) * k) ** 2 * v + s**2 * (1 - r)
        errors.append((v / lam - 1).abs().max())
        if steps == 40:
            noise = torch.randn(
                n, 3, generator=torch.Generator().manual_seed(8), dtype=F64
            )
            start = MEAN + noise * (lam + 8.0**2).sqrt() @ basis.T
            path = ddpm(
                gaussian_denoiser(MEAN, COV),
                start,
                levels,
                generator=torch.Generator().manual_seed(9),
            )
            sampled = ((path.x[-1] - MEAN) @ basis).var(0)
            torch.testing.assert_close(sampled, v, rtol=4 * (2 / n) ** 0.5, atol=0)
            assert (path.x[-1].mean(0) - MEAN).abs().max() < 4 * (
                COV.diag().max() / n
            ) ** 0.5
    assert errors[0] < 0.2 and errors[1] < errors[0] / 3  # first order


@pytest.mark.parametrize(
    "method, count",
    [(euler, 18), (heun, 35), (ddpm, 18)],
    ids=["euler", "heun", "ddpm"],
)
def test_cost_shape_and_dtype(method, count):
    calls = []
    denoise = gaussian_denoiser(torch.zeros(2), torch.eye(2))

    def counted(x, sigma, labels=None):
        calls.append((float(sigma), labels))
        return denoise(x, sigma)

    x = torch.randn(1, 2, generator=torch.Generator().manual_seed(0)) * 80
    labels = torch.tensor([3])
    path = method(counted, x, karras_sigmas(18), labels)
    assert path.nfe == len(calls) == count and min(c[0] for c in calls) == 0.002
    assert all(c[1] is labels for c in calls)
    assert (
        path.x.shape == (19, 1, 2)
        and path.x.dtype == x.dtype
        and torch.equal(path.x[0], x)
    )


def test_ddpm_is_repeatable_and_random():
    x = torch.ones(3, 2)
    denoise = gaussian_denoiser(torch.zeros(2), torch.eye(2))
    run = lambda seed: ddpm(
        denoise, x, karras_sigmas(5), generator=torch.Generator().manual_seed(seed)
    ).x[-1]
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_sampler_errors():
    denoise = gaussian_denoiser(torch.zeros(2), torch.eye(2))
    for method in (euler, heun, ddpm):
        for levels in (
            torch.tensor([1.0]),
            torch.tensor([1.0, 2.0]),
            torch.tensor([2.0, 1.0, 1.0]),
            torch.ones(2, 2),
        ):
            with pytest.raises(ValueError, match="falling list"):
                method(denoise, torch.ones(1, 2), levels)
        with pytest.raises(ValueError, match="batch of 0"):
            method(denoise, torch.ones(0, 2), karras_sigmas(3))


class Constant(torch.nn.Module):
    """Stands in for the network: returns a fixed output and keeps what it was given."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, x, c_noise, labels=None):
        self.seen = x, c_noise, labels
        return self.out


def test_preconditioning_by_hand():
    denoiser = Denoiser(MLPConfig())
    s = SIGMA_DATA
    x = torch.randn(3, 2)
    out = torch.randn(3, 2)
    sigma = torch.tensor([0.01, 0.7, 80.0])
    denoiser.net = Constant(out)
    got = denoiser(x, sigma)
    for i, level in enumerate(sigma.tolist()):
        total = level**2 + s**2
        torch.testing.assert_close(
            got[i], s**2 / total * x[i] + level * s / math.sqrt(total) * out[i]
        )
        torch.testing.assert_close(denoiser.net.seen[0][i], x[i] / math.sqrt(total))
        assert math.isclose(denoiser.net.seen[1][i], math.log(level) / 4, rel_tol=1e-5)
    assert (
        denoiser(x.double(), 0.7).dtype == F64
        and denoiser.net.seen[0].dtype == torch.float32
    )
    assert denoiser.net.seen[1].shape == (3,)  # one level for all reaches every sample


def test_preconditioning_limits():
    """At sigma -> 0 the guess is x itself, at sigma_max it is s F: the network is in
    charge only where it must be.
    """
    denoiser = Denoiser(MLPConfig())
    denoiser.net = Constant(torch.ones(3, 2))
    x = torch.randn(3, 2)
    torch.testing.assert_close(denoiser(x, 1e-4), x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        denoiser(x, 1e4), torch.full((3, 2), SIGMA_DATA), rtol=1e-3, atol=1e-3
    )


def test_unit_variance_in_and_out():
    """At every level c_in gives the network inputs of unit variance, and the loss asks
    for such outputs.
    """
    rng = torch.Generator().manual_seed(0)
    x0 = SIGMA_DATA * torch.randn(50_000, 2, generator=rng)
    noise = torch.randn(50_000, 2, generator=rng)
    for level in (0.01, 0.5, 10.0):
        total = math.hypot(level, SIGMA_DATA)
        x = x0 + level * noise
        target = (x0 - SIGMA_DATA**2 / total**2 * x) / (level * SIGMA_DATA / total)
        assert abs((x / total).var() - 1) < 0.03 and abs(target.var() - 1) < 0.03


def test_loss_weight_and_identity():
    rng = torch.Generator().manual_seed(1)
    x0 = torch.randn(5, 3, generator=rng, dtype=F64)
    noise = torch.randn(5, 3, generator=rng, dtype=F64)
    sigma = torch.tensor([0.01, 0.2, 0.5, 2.0, 60.0], dtype=F64)
    assert edm_loss(lambda x, s, labels: x0, x0, sigma, noise) == 0
    # squared error 1: the weights' mean is left
    off = edm_loss(lambda x, s, labels: x0 + 1, x0, sigma, noise)
    wish = sum((s**2 + 0.25) / (s * 0.5) ** 2 for s in sigma.tolist()) / 5
    assert math.isclose(off, wish, rel_tol=1e-12)
    # the guess "x": error sigma^2 n^2
    lazy = edm_loss(lambda x, s, labels: x, x0, sigma, noise)
    assert math.isclose(
        lazy, (((sigma**2 + 0.25) / 0.25)[:, None] * noise**2).mean(), rel_tol=1e-10
    )


def test_loss_is_the_networks_squared_error_against_its_unit_target():
    """EDM's identity: weight * |D - x0|^2 = |F - (x0 - c_skip x) / c_out|^2, so every
    level starts at about 1.
    """
    denoiser = Denoiser(MLPConfig())
    rng = torch.Generator().manual_seed(2)
    x0 = torch.randn(4, 2, generator=rng)
    noise = torch.randn(4, 2, generator=rng)
    sigma = torch.tensor([0.05, 0.4, 3.0, 50.0])
    out = torch.randn(4, 2, generator=rng)
    denoiser.net = Constant(out)
    level = sigma[:, None].double()
    total = (sigma[:, None].double() ** 2 + 0.25).sqrt()
    target = (x0 - 0.25 / total**2 * (x0 + level * noise)) / (level * 0.5 / total)
    torch.testing.assert_close(
        edm_loss(denoiser, x0, sigma, noise).double(),
        (out - target).square().mean(),
        rtol=1e-4,
        atol=0,
    )


def test_labels_reach_the_network_one_hot():
    denoiser = Denoiser(MLPConfig(labels=3))
    denoiser.net = Constant(torch.zeros(2, 2))
    denoiser(torch.ones(2, 2), 1.0, torch.tensor([2, 0]))
    assert denoiser.net.seen[2].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(None, 3) is None
    with pytest.raises(ValueError, match="no classes"):
        one_hot(torch.tensor([0]), 0)
    assert one_hot(torch.tensor([1, -1]), 3).tolist() == [[0, 1, 0], [0, 0, 0]]
    for bad in (-2, 3):
        with pytest.raises(ValueError, match="this network knows 0 to 2"):
            one_hot(torch.tensor([0, bad]), 3)


def test_expand():
    x = torch.ones(3, 1, 2, 2)
    assert expand(0.5, x).shape == (1, 1, 1, 1) and expand(torch.ones(3), x).shape == (
        3,
        1,
        1,
        1,
    )
    assert expand(torch.ones(3, dtype=F64), x).dtype == torch.float32


def test_network_denoiser_is_smooth_from_batch_of_one():
    config = UNetConfig(
        resolution=8, channels=8, mult=(1, 2), blocks=1, attention=(4,), labels=4
    )
    denoiser = Denoiser(config).eval()
    x = torch.randn(3, 3, 8, 8)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    labels = torch.tensor([0, 3, 1])
    whole = denoiser(x, sigma, labels)
    alone = torch.cat(
        [denoiser(x[i : i + 1], sigma[i : i + 1], labels[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def test_a_teacher_widened_by_classes_ignores_them_at_first_and_keeps_its_outputs():
    torch.manual_seed(0)
    plain = Denoiser(MLPConfig(width=8, depth=1, state=4)).eval()
    told = plain.widened(MLPConfig(width=8, depth=1, state=4, labels=3)).eval()
    x = torch.randn(5, 2)
    labels = torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(plain(x, 2.0), told(x, 2.0, labels))
    again = told.widened(told.config)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            told.state_dict().values(), again.state_dict().values(), strict=True
        )
    )
    with pytest.raises(ValueError, match="cannot start one of"):
        plain.widened(MLPConfig(width=16, depth=1, state=4))
    with pytest.raises(ValueError, match="cannot start one of"):
        told.widened(plain.config)
