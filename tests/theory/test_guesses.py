"""The teacher's guess along a path: what samplers, files and probes say it is, where it
is known exactly, and what asking for it does to A.
"""

import math
from dataclasses import replace

import pytest
import torch

from hkd_mini.diffusion.exact import exact_denoiser, gaussian_denoiser
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import ddpm, euler, heun
from hkd_mini.diffusion.schedule import CLOCKS, SIGMA_DATA, SIGMA_MAX, karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.config import TrainConfig
from hkd_mini.hkd.bands import share_decided
from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective, hkd_loss
from hkd_mini.hkd.paths import PathsInMemory, Trajectories
from hkd_mini.hkd.probe import probe
from hkd_mini.hkd.readout import LinearReadout
from hkd_mini.hkd.terms import guess_decoding, linearity
from hkd_mini.judge.distance import Distance
from hkd_mini.koopman.generator import KoopmanGenerator

SMALL = UNetConfig(
    resolution=8, channels=8, mult=(1, 2), blocks=1, attention=(4,), patch=2
)


def noises(n=40, dim=2, seed=0):
    """x_T of n paths in the plane."""
    rng = torch.Generator().manual_seed(seed)
    return SIGMA_MAX * torch.randn(n, dim, generator=rng, dtype=torch.float64)


def gaussian(n=40, steps=24):
    """Paths of a Gaussian of deviation sigma_data, by Heun's method."""
    covariance = SIGMA_DATA**2 * torch.eye(2, dtype=torch.float64)
    denoiser = gaussian_denoiser(torch.zeros(2, dtype=torch.float64), covariance)
    return heun(denoiser, noises(n), karras_sigmas(steps))


class Exact(torch.nn.Module):
    """A Gaussian in the clock `edm`: the guess is c s^2 e^{-t}, a linear observable of
    rate exactly -1, and the read-out is linear: the first two of four channels.
    """

    clock = CLOCKS["edm"]

    def __init__(self, rate=-1.0):
        super().__init__()
        self.generator = KoopmanGenerator(4)
        self.generator.A.data[:2] = rate

    def encode(self, x, t, labels=None):
        s = SIGMA_DATA**2
        guess = s * x / (s + self.clock.sigma(t)[:, None] ** 2)
        return [torch.cat([guess, 0 * guess], 1)[..., None, None].to(x.dtype)]

    def evolve(self, states, t, s):
        return [self.generator(states[0], s - t)]

    def decode(self, states, labels=None):
        return states[0][:, :2, 0, 0]


def anywhere(path, n, s=3):
    """Points of the paths, and for each another one with its guess: what `hkd_loss`
    takes.
    """
    rng = torch.Generator().manual_seed(1)
    stored = PathsInMemory(path)
    levels = len(path.sigmas) - 1
    at, u = (torch.randint(0, levels, (n, s), generator=rng) for _ in range(2))
    here = stored.gather(torch.arange(n), at)
    there = stored.gather(torch.arange(n), u)
    here.pop("guess")
    return here, {
        "x_u": there["x"],
        "sigma_u": there["sigma"],
        "guess_u": there["guess"],
    }


@pytest.mark.parametrize("sampler", [euler, heun, ddpm])
def test_a_sampler_gives_what_the_denoiser_says(sampler):
    denoiser = exact_denoiser(torch.randn(5, 2, dtype=torch.float64))
    calls = []

    def counted(x, sigma, labels=None):
        calls.append(sigma)
        return denoiser(x, sigma)

    path = sampler(counted, noises(4), karras_sigmas(6))
    assert path.guesses.shape == path.x[:-1].shape and len(calls) == path.nfe
    for x, sigma, guess in zip(path.x, path.sigmas[:-1].tolist(), path.guesses):
        assert torch.equal(denoiser(x, sigma), guess)


def test_the_last_guess_is_the_picture():
    path = heun(exact_denoiser(torch.randn(5, 2).double()), noises(4), karras_sigmas(6))
    assert (path.guesses[-1] - path.x[-1]).abs().max() < 1e-12


def test_a_gaussian_guess_moves_at_rate_minus_one():
    path = gaussian(steps=200)
    t = CLOCKS["edm"].time(path.sigmas[:-1])[:, None, None]
    still = path.guesses * t.exp()
    assert ((still / still[0] - 1).abs().max()) < 1e-3


def test_at_high_noise_every_guess_moves_at_rate_minus_one_in_the_log_clock():
    """D - mean = Cov n / sigma for any data: here three points in the plane, where the
    mixture's guess is known.
    """
    points = torch.tensor([[1.0, 0.2], [-0.4, 0.5], [-0.6, -0.7]], dtype=torch.float64)
    denoiser = exact_denoiser(points)
    n = torch.randn(
        6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    centred = points - points.mean(0)
    covariance = centred.T @ centred / len(points)
    for sigma in (50.0, 80.0):
        guess = denoiser(points.mean(0) + sigma * n, sigma) - points.mean(0)
        assert (guess * sigma - n @ covariance).abs().max() < 3 / sigma


def test_near_the_picture_a_mixtures_guess_stands_still():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    path = heun(exact_denoiser(points), noises(50), karras_sigmas(40))
    late = path.sigmas[:-1] < 0.05
    assert (path.guesses[late] - path.x[-1]).abs().max() < 1e-6
    assert (path.guesses[0] - path.x[-1]).abs().mean() > 0.4


def test_an_exact_lift_with_a_linear_readout_loses_nothing():
    path = gaussian(steps=400)
    here, there = anywhere(path, 40)
    asked = Objective(perceptual="none", guess_weight=1.0, linear_weight=1.0)
    for rate, most in ((-1.0, 1e-5), (0.0, math.inf)):
        model = Exact(rate)
        loss = hkd_loss(model, Distance(None), **here, objective=asked, **there)
        assert loss["guess"] < most and loss["mse"] < most and loss["linear"] < most
    assert loss["guess"] > 0.01 and loss["mse"] > 0.01  # with A = 0


def test_guess_decoding_by_hand():
    model = Exact()
    x = torch.tensor([[2.0, -1.0]])
    t = torch.tensor([0.7])
    sigma = torch.tensor([3.0])
    wish = torch.tensor([[0.25, 0.5]])
    states = model.encode(x, t)
    moved = states[0][:, :2, 0, 0] * math.exp(-(CLOCKS["edm"].time(3.0) - 0.7))
    found = guess_decoding(model, states, t, wish, sigma)
    assert found.item() == pytest.approx(((moved - wish) ** 2).mean().item(), rel=1e-5)


def test_linearity_in_units_of_the_variance_ignores_what_all_share():
    rng = torch.Generator().manual_seed(5)
    z = torch.randn(6, 4, 1, 1, generator=rng)
    y = z + 0.1 * torch.randn(6, 4, 1, 1, generator=rng)
    t = torch.ones(6)
    model = Exact(0.0)
    at = lambda scale, shift: linearity(
        model, [z + shift], t, [y + shift], t, False, scale
    )
    assert torch.allclose(at("variance", 0.0), at("variance", 100.0), rtol=1e-3)
    assert (at("size", 100.0) < 1e-3 * at("size", 0.0)).all()
    gap = (y - z).square().flatten(1).sum(1) / y.var(0, correction=0).sum()
    assert torch.allclose(at("variance", 0.0), gap)
    with pytest.raises(ValueError, match="linear_scale = 'length'"):
        Objective(linear_scale="length")


def teacher(network=SMALL):
    torch.manual_seed(0)
    return Denoiser(network).eval()


def test_stored_guesses_are_the_teachers(tmp_path):
    denoiser = teacher()
    for _ in make(denoiser, SMALL.shape, 5, tmp_path, times=4, steps=9, batch=2):
        pass
    stored = Trajectories(tmp_path)
    for k in range(5):
        path = stored.path(k)
        guesses = stored.guesses(k)
        assert guesses.shape == path.shape and torch.equal(guesses[-1], path[-1])
        for x, sigma, guess in zip(path, stored.sigmas[:-1].tolist(), guesses):
            with torch.no_grad():
                wish = denoiser(x[None], sigma)[0]
            assert (wish - guess).abs().max() < 2e-3 * max(1, sigma / 80)


def test_paths_without_guesses_say_so(tmp_path):
    for _ in make(teacher(), SMALL.shape, 4, tmp_path, steps=6, guesses=False):
        pass
    stored = Trajectories(tmp_path)
    assert "guess" not in stored.gather(torch.tensor([0]), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="without guesses"):
        stored.guesses(0)
    config = TrainConfig(images=4, batch=2, precision="fp32")
    model = HKD(HKDConfig(SMALL))
    with pytest.raises(ValueError, match="carry none"):
        next(
            train(model, stored, config, Objective(perceptual="none", guess_weight=1.0))
        )
    assert probe(model.eval(), stored).with_A.error_of_guesses is None
    with pytest.raises(FileExistsError):
        make(teacher(), SMALL.shape, 4, tmp_path, steps=6)
    with pytest.raises(ValueError, match="guesses"):
        make(teacher(), SMALL.shape, 4, tmp_path, steps=6, resume=True)


def test_a_sampler_without_guesses_is_told(tmp_path):
    silent = lambda *a: heun(*a)._replace(guesses=None)
    with pytest.raises(ValueError, match="guesses=False"):
        list(make(teacher(), SMALL.shape, 2, tmp_path, steps=6, sampler=silent))


def test_the_probe_measures_guesses():
    path = gaussian(n=9)
    model = HKD(HKDConfig(MLPConfig(width=16), rates=(0.0, 1.0))).eval()
    found = probe(model, PathsInMemory(path))
    start = model.encode(path.x[0].float(), model.clock.T)
    for k, sigma in enumerate(path.sigmas[:-1].tolist()):
        u = model.clock.time(sigma)
        picture = model.decode(model.evolve(start, model.clock.T, u))
        wish = (picture - path.guesses[k]).square().mean().item()
        assert found.with_A.error_of_guesses[k].item() == pytest.approx(wish, rel=1e-3)
    assert (found.with_A.error_of_guesses != found.without_A.error_of_guesses).any()


@pytest.mark.parametrize("readout", ["network", "linear"])
def test_training_on_guesses_moves_A_and_repeats(readout):
    data = PathsInMemory(gaussian())
    asked = Objective(times=2, perceptual="none", guess_weight=1.0, lr_scale_A=10.0)
    recipe = TrainConfig(images=160, batch=16, lr=1e-3, precision="fp32")

    def run():
        torch.manual_seed(0)
        model = HKD(HKDConfig(MLPConfig(width=16), readout=readout))
        return model, list(train(model, data, recipe, asked))

    model, steps = run()
    assert "guess" in steps[0].terms and model.generators[0].A.abs().max() > 1e-3
    again, _ = run()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters())
    )


# --- the linear read-out


def linear_model(**changes):
    torch.manual_seed(1)
    config = HKDConfig(SMALL, readout="linear", pairs=6, rates=(-3.0, 3.0), **changes)
    model = HKD.from_teacher(teacher(), config)
    return model


@pytest.mark.parametrize("spatial", ["local", "shared"])
def test_the_picture_is_the_sum_of_what_its_modes_draw(spatial):
    model = linear_model(spatial=spatial)
    noise = torch.randn(2, *SMALL.shape)
    clock = model.clock
    with torch.no_grad():
        states = model.encode(80 * noise, clock.T)
        whole = model.decode(model.evolve(states, clock.T, 0.3))
        total = torch.zeros_like(whole)
        for level in range(2):
            for pair in range(6):
                masks = [torch.zeros(6, 1, 1) for _ in range(2)]
                masks[level][pair] = 1
                total += model.decode(model.evolve(states, clock.T, 0.3, masks))
    assert (total - whole).abs().max() < 1e-6 and whole.abs().max() > 1e-3


def test_a_whole_teacher_becomes_the_encoder():
    model = linear_model()
    net = teacher().net
    assert (
        [tuple(z.shape[1:]) for z in model.encode(torch.zeros(1, 3, 8, 8), 1.0)]
        == [
            (12, 4, 4),
            (12, 2, 2),
        ]
        == model.state_shapes
    )
    for mine, theirs in (
        (model.encoder.down, net.encoder),
        (model.encoder.up.blocks, net.decoder.blocks),
        (model.embedding, net.embedding),
    ):
        theirs = theirs.state_dict()
        assert theirs.keys() == mine.state_dict().keys()
        assert all(torch.equal(v, theirs[k]) for k, v in mine.state_dict().items())


def test_rates_are_spread_over_the_pairs_in_every_clock():
    for clock in ("rho", "edm", "log"):
        model = linear_model(clock=clock)
        for generator in model.generators:
            alpha = generator.alpha * (model.clock.T - model.clock.eps)
            assert (
                torch.allclose(alpha[:, 0, 0], torch.linspace(-3, 3, 6), atol=1e-5)
                and not generator.beta.any()
            )
    assert not any(g.A.any() for g in linear_model(koopman=False).generators)


def test_a_linear_readout_is_saved_and_loaded(tmp_path):
    model = linear_model()
    model.save_pretrained(tmp_path)
    again = HKD.from_pretrained(tmp_path)
    noise = torch.randn(2, *SMALL.shape)
    assert again.config == model.config
    assert (again.sample(noise) - model.sample(noise)).abs().max() < 0.02


def test_a_sample_costs_what_it_did():
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    network = PRESETS["cifar10-mini"].network
    for readout in ("network", "linear"):
        model = HKD(HKDConfig(network, readout=readout)).eval()
        with FlopCounterMode(display=False) as counter:
            model.sample(torch.zeros(1, *network.shape))
        counts.append(counter.get_total_flops())
    assert counts[1] < 1.05 * counts[0]


def test_an_anchored_encoder_names_each_pair_where_it_is_largest():
    free = linear_model().eval()
    anchored = linear_model(anchored=True).eval()
    anchored.load_state_dict(free.state_dict())
    T = free.clock.T
    eps = free.clock.eps
    x = torch.randn(3, *SMALL.shape)
    t = torch.tensor([0.2, 0.7, T])
    with torch.no_grad():
        named = free.encode(x, t)
        found = anchored.encode(x, t)
        for zeta, z, generator in zip(named, found, anchored.generators):
            assert (z.abs() <= zeta.abs() + 1e-6).all()  # no factor above 1
            falls = (generator.alpha[:, 0, 0] >= 0).repeat(2)
            assert falls.any() and not falls.all()
            for kind, anchor in ((falls, T), (~falls, eps)):
                moved = generator(zeta, t - anchor)
                assert torch.allclose(z[:, kind], moved[:, kind], rtol=1e-4, atol=1e-6)
        # and wherever it was encoded, what evolves is the same
        for u in (0.1, 0.9):
            for a, zeta, g in zip(
                anchored.evolve(found, t, u), named, anchored.generators
            ):
                wish = g.from_anchor(zeta, u, (eps, T))
                assert torch.allclose(a, wish, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rates", [(1.0, math.inf), (0.0, math.nan)])
def test_rates_that_are_no_numbers_are_refused(rates):
    with pytest.raises(ValueError, match="two finite numbers"):
        HKDConfig(SMALL, rates=rates)


def test_an_anchor_needs_the_time():
    with pytest.raises(ValueError, match="anchored"):
        HKDConfig(SMALL, anchored=True, encoder_time="none")


@pytest.mark.parametrize("hierarchy", ["bottleneck", "bottleneck-only"])
def test_a_linear_readout_has_no_skips(hierarchy):
    with pytest.raises(ValueError, match="linear read-out has none"):
        HKDConfig(SMALL, readout="linear", hierarchy=hierarchy)


def test_the_readout_ignores_what_it_is_told_and_has_no_constant():
    readout = LinearReadout(SMALL, 6)
    states = [torch.zeros(1, 12, 4, 4), torch.zeros(1, 12, 2, 2)]
    assert not readout(states, torch.ones(1, 4)).any()
    assert all(layer.bias is None for layer in readout.maps)


# --- what is decided when


def test_what_is_decided_by_frequency():
    rng = torch.Generator().manual_seed(2)
    ends = torch.randn(6, 3, 16, 16, generator=rng)
    ends += 5  # the mean picture is nobody's decision
    edges = (0, 1.5, 4, 12)
    mean = ends.mean(0).expand_as(ends)
    axis = torch.fft.fftfreq(16, 1 / 16)
    coarse = torch.hypot(axis[:, None], axis) < 1.5
    half = mean + torch.fft.ifft2(torch.fft.fft2(ends - mean) * coarse).real
    found = share_decided(torch.stack([mean, half, ends, 2 * mean - ends]), ends, edges)
    wish = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [-3, -3, -3]])
    assert torch.allclose(found, wish, atol=1e-5)


def test_a_gaussian_decides_by_its_variance():
    """A component of variance v ends at sqrt(v) n; the guess at level s is sqrt(v /
    (v + s^2)) of that.
    """
    rng = torch.Generator().manual_seed(4)
    n = torch.randn(4000, 1, 4, 4, generator=rng, dtype=torch.float64)
    sigma = 0.7
    for v in (0.04, 1.0):
        ends = v**0.5 * n
        guess = v / (v + sigma**2) ** 0.5 * n
        share = share_decided(guess[None], ends, (0, 3))
        gap = 1 - (v / (v + sigma**2)) ** 0.5
        assert share.item() == pytest.approx(1 - gap**2, abs=0.01)


def test_rings_and_pictures_that_are_not_there_are_refused():
    x = torch.zeros(3, 1, 8, 8)
    with pytest.raises(ValueError, match="ring 1"):
        share_decided(x[None], x, (0, 2, 2))
    with pytest.raises(ValueError, match="at least 2"):
        share_decided(x[None, :1], x[:1])
    with pytest.raises(ValueError, match="square"):
        share_decided(x[None, ..., :4], x[..., :4])


def test_own_partners_are_the_next_points_at_no_further_encoding():
    torch.manual_seed(0)
    model = HKD(HKDConfig(MLPConfig(channels=8, width=16, depth=1, state=6)))
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(5, 3, 2, generator=rng)
    guess = torch.randn(5, 3, 2, generator=rng)
    end = torch.randn(5, 2, generator=rng)
    sigma = torch.rand(5, 3, generator=rng) + 0.1
    asked = Objective(
        times=3,
        perceptual="none",
        guess_weight=2.0,
        linear_weight=0.3,
        linear_scale="variance",
        detach_noisier=False,
    )
    following = {
        f"{name}_u": torch.cat([v[:, 1:], v[:, :1]], 1)
        for name, v in {"x": x, "sigma": sigma, "guess": guess}.items()
    }
    wish = hkd_loss(model, Distance(None), x, sigma, end, objective=asked, **following)
    calls = []
    encode = model.encode
    model.encode = lambda *a: calls.append(a) or encode(*a)
    own = replace(asked, partners="own")
    mse = Distance(None)
    found = hkd_loss(model, mse, x, sigma, end, objective=own, guess=guess)
    assert len(calls) == 1 and found.keys() == wish.keys()
    for name, value in wish.items():
        assert torch.allclose(found[name], value, rtol=1e-5), name


@pytest.mark.parametrize(
    "options", [{"times": 1}, {"consistency": False}, {"later_only": True}]
)
def test_own_partners_need_points_to_choose_from(options):
    with pytest.raises(ValueError, match="partners = 'own' wants"):
        Objective(partners="own", **options)
    with pytest.raises(ValueError, match="one of drawn, own"):
        Objective(partners="mine")
