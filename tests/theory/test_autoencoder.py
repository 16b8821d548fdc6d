"""The learned lift: evolution is a group and solves its equation, losses are their
formulas, an exact lift has none.
"""

import numpy as np
import pytest
import torch

from hkd_mini.koopman import flows, systems
from hkd_mini.koopman.autoencoder import (
    MLP,
    KoopmanAutoencoder,
    Terms,
    Weights,
    koopman_loss,
)

SPECTRA = ("fixed", "state")


def make(n=3, d=6, spectrum="fixed", seed=0):
    """A model in double precision with rates of both signs."""
    rng = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = KoopmanAutoencoder(n, d, width=16, spectrum=spectrum).double()
    if spectrum == "fixed":
        model.generator.A.data.normal_()
    torch.random.set_rng_state(rng)
    return model


def points(count, n, seed=1):
    return torch.randn(
        count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("batch", [1, 5])
def test_shapes_and_the_forecast_is_encode_evolve_decode(spectrum, batch):
    model = make(spectrum=spectrum)
    x = points(batch, 3)
    times = [0.0, 0.4, -1.0, 7.0]
    path = model.forecast(x, times)
    assert path.shape == (4, batch, 3) and model.encode(x).shape == (batch, 6, 1, 1)
    for t, there in zip(times, path):
        torch.testing.assert_close(
            there, model.decode(model.evolve(model.encode(x), t))
        )
    torch.testing.assert_close(path[0], model.decode(model.encode(x)))


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_evolution_is_a_group_and_takes_a_time_per_state(spectrum):
    model = make(spectrum=spectrum)
    z = model.encode(points(5, 3))
    torch.testing.assert_close(
        model.evolve(model.evolve(z, 0.7), -1.9), model.evolve(z, -1.2)
    )
    torch.testing.assert_close(model.evolve(z, 0.0), z)
    dt = torch.linspace(-1, 2, 5, dtype=torch.float64)
    one_by_one = torch.cat(
        [model.evolve(z[i : i + 1], float(t)) for i, t in enumerate(dt)]
    )
    torch.testing.assert_close(model.evolve(z, dt), one_by_one)


def test_a_frequency_of_the_state_keeps_lengths_and_solves_its_equation():
    model = make(spectrum="state")
    z = model.encode(points(4, 3))
    p, q = z.chunk(2, dim=1)
    moved_p, moved_q = model.evolve(z, 2.3).chunk(2, dim=1)
    torch.testing.assert_close(p**2 + q**2, moved_p**2 + moved_q**2)
    beta = model.rates(z)  # dw/dt = -i beta(|w|^2) w, so p' = beta q, q' = -beta p
    h = 1e-5
    slope = (model.evolve(z, h) - model.evolve(z, -h)) / (2 * h)
    torch.testing.assert_close(
        slope, torch.cat([beta * q, -beta * p], dim=1), rtol=1e-7, atol=1e-8
    )
    torch.testing.assert_close(model.rates(model.evolve(z, 2.3)), beta)


def test_it_turns_as_the_generator_of_pictures_does():
    """With a constant frequency both spectra are one: the same pairs, the same sense of
    rotation.
    """
    fixed = make(2, 2)
    state = make(2, 2, spectrum="state")
    with torch.no_grad():
        for parameter in state.frequency.parameters():
            parameter.zero_()
        state.frequency.last.bias.fill_(1.3)
        fixed.generator.A[:, 0, 0] = torch.tensor([0.0, 1.3])
    z = points(3, 2)[:, :, None, None]
    torch.testing.assert_close(fixed.evolve(z, 0.9), state.evolve(z, 0.9))


class Exact(KoopmanAutoencoder):
    """The identity as encoder and decoder: exact for a spiral."""

    def encode(self, x):
        return x[:, :, None, None]

    def decode(self, z):
        return z.flatten(1)


def test_an_exact_lift_has_no_loss():
    model = Exact(2, 2).double()
    spiral = systems.spiral(-0.2, 1.5)
    with torch.no_grad():
        model.generator.A[:, 0, 0] = torch.tensor([-0.2, 1.5])
    x = points(5, 2)
    dt = torch.linspace(0.1, 3, 5, dtype=torch.float64)
    y = torch.tensor(
        np.stack([spiral.flow(a, float(t)) for a, t in zip(x.numpy(), dt)])
    )
    assert max(term.item() for term in koopman_loss(model, x, y, dt)) < 1e-14
    wrong = koopman_loss(model, x, y + 0.1, dt)
    assert wrong.reconstruction.item() < 1e-20
    torch.testing.assert_close(
        wrong.prediction, torch.tensor(0.01, dtype=torch.float64)
    )


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_terms_are_the_formulas(spectrum):
    model = make(spectrum=spectrum)
    x = points(4, 3)
    y = points(4, 3, seed=2)
    dt = torch.tensor([0.1, 0.5, -0.3, 2.0], dtype=torch.float64)
    z = model.encode(x)
    z_y = model.encode(y)
    moved = model.evolve(z, dt)
    terms = koopman_loss(model, x, y, dt, Weights(2.0, 3.0, 5.0), relative=False)
    torch.testing.assert_close(
        terms.reconstruction, (model.decode(z) - x).square().mean()
    )
    torch.testing.assert_close(terms.linearity, (moved - z_y).square().mean())
    torch.testing.assert_close(
        terms.prediction, (model.decode(moved) - y).square().mean()
    )
    torch.testing.assert_close(
        terms.loss,
        2 * terms.reconstruction + 3 * terms.linearity + 5 * terms.prediction,
    )
    missed = moved - z_y
    spread = z - z.mean(dim=0)
    per_pair = [
        missed[:, [k, k + 3]].square().mean() / spread[:, [k, k + 3]].square().mean()
        for k in range(3)
    ]
    torch.testing.assert_close(
        koopman_loss(model, x, y, dt).linearity, torch.stack(per_pair).mean()
    )


def test_relative_linearity_does_not_reward_a_small_encoder():
    model = make()
    x = points(4, 3)
    y = points(4, 3, seed=2)
    dt = torch.ones(4, dtype=torch.float64)
    before = [
        koopman_loss(model, x, y, dt, relative=relative).linearity
        for relative in (True, False)
    ]
    with torch.no_grad():
        for parameter in (
            model.encoder.skip.weight,
            model.encoder.last.weight,
            model.encoder.last.bias,
        ):
            parameter.mul_(0.1)
    after = [
        koopman_loss(model, x, y, dt, relative=relative).linearity
        for relative in (True, False)
    ]
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1], 0.01 * before[1])


def test_relative_linearity_does_not_reward_a_constant_encoder():
    """With A = 0 a constant added to E changes no error, so it must change no loss; and
    a nearly constant encoder has one.
    """
    model = make()
    model.generator.A.data.zero_()
    x = points(4, 3)
    y = points(4, 3, seed=2)
    dt = torch.ones(4, dtype=torch.float64)
    before = koopman_loss(model, x, y, dt).linearity
    assert before > 0.1
    with torch.no_grad():
        model.encoder.last.bias.add_(1000.0)
    after = koopman_loss(model, x, y, dt).linearity
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


def test_a_batch_of_one_has_no_relative_linearity():
    model = make()
    x = points(1, 3)
    with pytest.raises(ValueError, match="a batch of 1 has no variance"):
        koopman_loss(model, x, x, torch.ones(1, dtype=torch.float64))
    assert koopman_loss(model, x, x, torch.zeros(1), relative=False).linearity == 0


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("relative", [True, False])
def test_gradients_reach_every_parameter_and_agree_with_differences(spectrum, relative):
    model = make(2, 4, spectrum)
    x = points(3, 2)
    y = points(3, 2, seed=2)
    dt = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    value = lambda: koopman_loss(model, x, y, dt, relative=relative).loss
    value().backward()
    rng = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        way = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        h = 1e-6
        with torch.no_grad():
            ahead = parameter.add_(h * way) is not None and value().item()
            behind = parameter.sub_(2 * h * way) is not None and value().item()
            parameter.add_(h * way)
        torch.testing.assert_close(
            (ahead - behind) / (2 * h),
            (parameter.grad * way).sum().item(),
            rtol=1e-5,
            atol=1e-7,
            msg=name,
        )


def test_it_learns_a_spiral_and_its_rates():
    """A short training on a linear flow finds alpha and beta, which nobody told it."""
    torch.manual_seed(0)
    model = KoopmanAutoencoder(2, 2, width=32)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        model.generator.A[1] = 1.0
    spiral = systems.spiral(-0.3, 1.2)
    times = np.linspace(0, 4, 21)
    paths = torch.tensor(
        flows.trajectory(spiral, rng.uniform(-1, 1, (200, 2)), times),
        dtype=torch.float32,
    )
    adam = torch.optim.Adam(model.parameters(), 5e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(400):
        i, k = (torch.randint(top, (128,), generator=draw) for top in (200, 21))
        loss = koopman_loss(model, paths[0, i], paths[k, i], k * 0.2).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = model.generator.eigenvalues().flatten()[0]
    assert abs(found.real + 0.3) < 0.05 and abs(abs(found.imag) - 1.2) < 0.05


def test_a_generator_starts_at_rest_and_a_network_next_to_a_linear_map():
    model = KoopmanAutoencoder(2, 4)
    z = model.encode(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(model.evolve(z, 9.0), z)
    net = MLP(2, 2, width=512)
    x = 2 * torch.rand(100, 2, generator=torch.Generator().manual_seed(1)) - 1
    assert 0.5 < net.first.weight.std().item() < 2  # bends all over the box
    assert (net(x) - net.skip(x)).std() < 0.2 * net.skip(x).std()


def test_bad_input_is_a_ValueError():
    with pytest.raises(ValueError, match="d = 3"):
        KoopmanAutoencoder(2, 3)
    with pytest.raises(ValueError, match="d = 3"):
        KoopmanAutoencoder(2, 3, spectrum="state")
    with pytest.raises(ValueError, match="spectrum = 'adaptive'"):
        KoopmanAutoencoder(2, 4, spectrum="adaptive")
    with pytest.raises(ValueError, match="generator.eigenvalues"):
        make().rates(torch.zeros(1, 6, 1, 1))


def test_results_have_names():
    model = make()
    x = points(2, 3)
    terms = koopman_loss(
        model, x, x, torch.zeros(2, dtype=torch.float64), Weights(linearity=0)
    )
    assert isinstance(terms, Terms) and terms.linearity.item() == 0
    assert terms.loss.item() == pytest.approx(2 * terms.reconstruction.item())
