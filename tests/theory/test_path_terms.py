"""The terms that make A work: zero for an exact lift, by hand, what an idle model gets
away with, who follows whom.
"""

import math
from dataclasses import replace

import pytest
import torch

from hkd_mini.diffusion.exact import gaussian_denoiser
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import CLOCKS, SIGMA_DATA, karras_sigmas
from hkd_mini.engine.config import TrainConfig
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective, hkd_loss
from hkd_mini.hkd.paths import PathsInMemory, Trajectories
from hkd_mini.hkd.terms import infinitesimal, linearity, path_decoding, unit_contrast
from hkd_mini.judge.distance import Distance
from hkd_mini.koopman.generator import KoopmanGenerator

MSE = Distance(None)


def weighed(path, linear, infinitesimal, **options):
    """An objective with these weights of the three terms."""
    return Objective(
        path_weight=path,
        linear_weight=linear,
        infinitesimal_weight=infinitesimal,
        **options,
    )


ALL = weighed(1.0, 1.0, 1.0)


class Exact(torch.nn.Module):
    """A Gaussian of deviation sigma_data in the clock `edm`: x = c e^t. States: x and
    e^t, all of rate 1.

    The decoder, told nothing, divides one by the other.
    """

    clock = CLOCKS["edm"]

    def __init__(self):
        super().__init__()
        self.generator = KoopmanGenerator(4)
        self.generator.A.data[:2] = 1.0

    def encode(self, x, t, labels=None):
        return [torch.stack([x[:, 0], x[:, 1], t.exp(), 0 * t], 1)[..., None, None]]

    def evolve(self, states, t, s):
        return [self.generator(states[0], s - t)]

    def decode(self, states, labels=None):
        z = states[0][..., 0, 0]
        return SIGMA_DATA * z[:, :2] / z[:, 2:3]


class Idle(Exact):
    """Where does the path end? A constant of motion, of a Gaussian of deviation 0.1,
    and A = 0.
    """

    def encode(self, x, t, labels=None):
        return [0.1 * x / (0.1**2 + self.clock.sigma(t)[:, None] ** 2).sqrt()]

    evolve = staticmethod(lambda states, t, s: states)
    decode = staticmethod(lambda states, labels=None: states[0])


def batch(deviation, n=5, s=3):
    """Points of the paths of a Gaussian, in pairs: x_t, any x_u, a near one."""
    rng = torch.Generator().manual_seed(0)
    c = torch.randn(n, 1, 2, generator=rng)
    sigma = 0.05 + 8 * torch.rand(n, s, generator=rng) ** 3
    on = lambda level: c * (deviation**2 + level[..., None] ** 2).sqrt()
    sigma_u = sigma.flip(0)
    near = sigma * 1.03
    return {
        **{"x": on(sigma), "sigma": sigma, "end": deviation * c[:, 0]},
        **{
            "x_u": on(sigma_u),
            "sigma_u": sigma_u,
            "x_near": on(near),
            "sigma_near": near,
        },
    }


def points_model():
    torch.manual_seed(0)
    model = HKD(HKDConfig(MLPConfig(channels=8, width=16, depth=2, state=6)))
    model.generators[0].A.data.normal_()
    return model


@pytest.mark.parametrize("detached", [True, False])
def test_every_term_is_zero_for_an_exact_lift(detached):
    terms = hkd_loss(
        Exact(),
        MSE,
        **batch(SIGMA_DATA),
        objective=replace(ALL, detach_noisier=detached),
    )
    assert set(terms) == {
        "loss",
        "mse",
        "perceptual",
        "mse_T",
        "path",
        "linear",
        "infinitesimal",
    }
    assert terms["loss"] < 1e-8 and all(term < 1e-8 for term in terms.values())


def test_an_idle_model_passes_linearity_and_fails_path_decoding():
    terms = hkd_loss(Idle(), MSE, **batch(0.1), objective=ALL)
    assert (
        terms["mse"] < 1e-8 and terms["linear"] < 1e-8 and terms["infinitesimal"] < 1e-4
    )
    assert terms["path"] > 0.01


def test_wrong_rates_are_seen_by_both_terms():
    model = Exact()
    model.generator.A.data[:2] = 1.5
    terms = hkd_loss(model, MSE, **batch(SIGMA_DATA), objective=ALL)
    assert terms["linear"] > 0.01
    # |1.5 - 1|^2
    assert float(terms["infinitesimal"].detach()) == pytest.approx(0.25, rel=0.05)


def test_unit_contrast():
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([80.0])
    assert unit_contrast(80 * x, sigma).std() == pytest.approx(SIGMA_DATA, rel=0.02)
    assert torch.equal(unit_contrast(x, torch.zeros(1)), x)


def test_terms_by_hand():
    """One path at a time, no folding, no shortcut."""
    model = points_model()
    b = batch(0.3)
    terms = hkd_loss(
        model, MSE, **b, objective=weighed(0.5, 0.25, 2.0, detach_noisier=False)
    )
    path = torch.zeros(5, 3)
    linear = torch.zeros(5, 3)
    near = torch.zeros(5, 3)
    time = lambda level: float(model.clock.time(level))
    size = lambda z: z[0].square().sum()
    for i in range(5):
        for k in range(3):
            t, u, v = (
                time(b[name][i, k]) for name in ("sigma", "sigma_u", "sigma_near")
            )
            z, z_u, z_v = (
                model.encode(b[n][i : i + 1, k], w)
                for n, w in (("x", t), ("x_u", u), ("x_near", v))
            )
            wish = b["x_u"][i, k] * 0.5 / math.sqrt(0.25 + b["sigma_u"][i, k] ** 2)
            path[i, k] = (model.decode(model.evolve(z, t, u)) - wish).square().mean()
            linear[i, k] = size([model.evolve(z, t, u)[0] - z_u[0]]) / size(z_u)
            near[i, k] = size([(model.evolve(z_v, v, t)[0] - z[0]) / (t - v)]) / size(z)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-5)
    close(terms["path"], path.mean())
    close(terms["linear"], linear.mean())
    close(terms["infinitesimal"], near.mean())
    close(
        terms["loss"],
        terms["mse"]
        + 0.5 * terms["path"]
        + 0.25 * terms["linear"]
        + 2 * terms["infinitesimal"],
    )


def test_the_noisier_state_is_followed():
    """With `detach_noisier` the target is the noisier state of each pair, whatever
    the order, and it gets no gradient.
    """
    model = points_model()
    z, y = (torch.randn(2, 6, 1, 1, requires_grad=True) for _ in range(2))
    # z is noisier in the first pair, y in the second
    t = torch.tensor([0.9, 0.2])
    u = torch.tensor([0.3, 0.8])
    linearity(model, [z], t, [y], u).sum().backward()
    assert (z.grad[0] == 0).all() and (y.grad[1] == 0).all()
    assert z.grad[1].abs().max() > 0 and y.grad[0].abs().max() > 0
    gap = model.evolve([y], u, t)[0][0] - z[0]
    torch.testing.assert_close(
        linearity(model, [z], t, [y], u)[0], gap.square().sum() / z[0].square().sum()
    )
    swapped = linearity(model, [y], u, [z], t)
    torch.testing.assert_close(swapped, linearity(model, [z], t, [y], u))
    z.grad = y.grad = None
    linearity(model, [z], t, [y], u, detach_noisier=False).sum().backward()
    assert (z.grad.abs().amax(1) > 0).all() and (y.grad.abs().amax(1) > 0).all()


def test_infinitesimal_is_the_lie_derivative():
    """As the neighbour comes near: |dz/dt - A z|^2 / |z|^2, with the derivative by
    forward differentiation.
    """
    model = points_model()
    x = torch.randn(1, 2)
    t = torch.tensor([0.6])
    h = 1e-3
    slope = torch.tensor([[1.0, -2.0]])  # a field that is constant near x
    z, dz = torch.autograd.functional.jvp(
        lambda x, t: model.encode(x, t)[0], (x, t), (slope, torch.ones(1))
    )
    wish = (
        dz - torch.einsum("hwij,bjhw->bihw", model.generators[0].dense(), z)
    ).square().sum() / z.square().sum()
    for sign in (1, -1):
        got = infinitesimal(
            model,
            [z],
            t,
            model.encode(x + sign * h * slope, t + sign * h),
            t + sign * h,
            detach_noisier=False,
        )
        torch.testing.assert_close(got[0], wish, rtol=0.02, atol=1e-4)


def test_path_decoding_moves_the_generator():
    """From A = 0 the paper's loss with a constant of motion has no pull on A; path
    decoding has.
    """
    model = points_model()
    b = batch(0.3)
    x = b["x"].flatten(0, 1)
    t = model.clock.time(b["sigma"].flatten())
    path_decoding(
        model, model.encode(x, t), t, b["x_u"].flatten(0, 1), b["sigma_u"].flatten()
    ).sum().backward()
    assert model.generators[0].A.grad.abs().min() > 0


# --- in training
# ----------------------------------------------------------------------------------


def paths(n=40):
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(3))
    return heun(
        gaussian_denoiser(torch.zeros(2), 0.04 * torch.eye(2)),
        80 * noise,
        karras_sigmas(6),
    )


def run(data, **weights):
    torch.manual_seed(0)
    model = HKD(HKDConfig(MLPConfig(channels=8, width=16, depth=1, state=6)))
    config = TrainConfig(images=120, batch=12, precision="fp32")
    asked = Objective(times=3, perceptual="none", **weights)
    return model, list(train(model, data, config, asked))


def test_in_memory_paths_are_those_of_the_folder(tmp_path):
    list(
        make(
            gaussian_denoiser(torch.zeros(2), torch.eye(2)),
            (2,),
            9,
            tmp_path,
            times=7,
            steps=6,
        )
    )
    stored = Trajectories(tmp_path)
    guesses = torch.stack([stored.guesses(k)[:-1] for k in range(9)], dim=1)
    here = PathsInMemory(
        type(paths())(stored.sigmas, stored.paths(range(9)), 11, guesses)
    )
    index = torch.tensor([4, 0, 8])
    at = torch.tensor([[0, 3], [5, 1], [2, 2]])
    there = stored.gather(index, at)
    mine = here.gather(index, at)
    assert len(here) == 9 and there.keys() == mine.keys()
    assert all(torch.equal(there[key], mine[key]) for key in there)


def test_training_with_the_terms_reports_them_and_repeats():
    data = PathsInMemory(paths())
    model, steps = run(
        data, path_weight=1.0, linear_weight=0.1, infinitesimal_weight=0.01
    )
    assert {"path", "linear", "infinitesimal"} < set(steps[0].terms) and len(
        steps
    ) == 10
    again, _ = run(data, path_weight=1.0, linear_weight=0.1, infinitesimal_weight=0.01)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters())
    )
    other, _ = run(
        data,
        path_weight=1.0,
        linear_weight=0.1,
        infinitesimal_weight=0.01,
        detach_noisier=False,
    )
    assert not all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters())
    )


def test_without_weights_nothing_is_drawn_or_added():
    seen = []

    class Spy(PathsInMemory):
        def gather(self, index, at):
            seen.append(at)
            return super().gather(index, at)

    _, steps = run(Spy(paths()))
    assert len(seen) == len(steps) == 10 and set(steps[0].terms) == {
        "mse",
        "perceptual",
        "mse_T",
    }
    assert all((at < 6).all() and (at[:, 0] == 0).all() for at in seen)


@pytest.mark.parametrize("name", ["path", "guess", "linear", "infinitesimal"])
def test_a_negative_weight_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}_weight = -1"):
        Objective(**{f"{name}_weight": -1.0})
