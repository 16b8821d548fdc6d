"""KDM: eigenvalues that are those of the applied matrix, losses by hand, presets at
full width, a critic.
"""

import copy

import pytest
import torch

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.schedule import SIGMA_DATA, SIGMA_MAX
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.onestep.kdm import KDM, kdm_loss
from hkd_mini.onestep.kdm_config import KDM_PRESETS, KDMConfig
from hkd_mini.onestep.kdm_parts import (
    Decomposed,
    Dense,
    Discriminator,
    adversarial_loss,
    spectrum_loss,
)
from hkd_mini.onestep.losses import square

SMALL = UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=())
POINTS = MLPConfig(state=6, width=16, depth=1)


def match(a, b):
    """Largest distance from each number of a to its nearest of b, and back."""
    gap = (a[:, None] - b[None]).abs()
    return max(gap.amin(0).max(), gap.amin(1).max()).item()


@pytest.mark.parametrize("n", [6, 64])
def test_the_shown_eigenvalues_are_those_of_the_applied_matrix(n):
    torch.manual_seed(0)
    operator = Decomposed(n)
    with torch.no_grad():  # far from normal: P is no longer orthogonal
        operator.K += 0.5 * torch.randn(n, n) / n**0.5
        operator.nu.normal_(-1, 1)
        operator.theta.normal_(0, 2)
        operator.bias.normal_()
        zero = operator(torch.zeros(1, n))
        applied = operator(torch.eye(n)) - zero  # rows are K e_i
    assert not torch.allclose(applied @ applied.T, applied.T @ applied, atol=1e-2)
    found = torch.linalg.eigvals(applied.T.double())
    assert match(found, operator.eigenvalues()) < 1e-5
    assert operator.eigenvalues().abs().max() < 1
    torch.testing.assert_close(
        applied.T, operator.matrix().detach(), rtol=1e-4, atol=1e-5
    )


def test_dense_starts_as_the_identity_and_shows_its_spectrum():
    operator = Dense(5)
    z = torch.randn(3, 5)
    assert torch.equal(operator(z), z)
    operator.K.data.normal_()
    applied = (operator(torch.eye(5)) - operator.bias).T
    assert (
        match(torch.linalg.eigvals(applied.detach().double()), operator.eigenvalues())
        < 1e-5
    )


@pytest.mark.parametrize(
    "config",
    [
        KDMConfig(POINTS),
        KDMConfig(POINTS, "decomposed"),
        KDMConfig(SMALL),
        KDMConfig(SMALL, "decomposed", project=10),
        KDMConfig(
            UNetConfig(
                resolution=8,
                channels=8,
                mult=(1, 2),
                blocks=1,
                attention=(),
                patch=2,
                labels=3,
            )
        ),
    ],
)
def test_shapes_and_the_way_through(config, tmp_path):
    torch.manual_seed(0)
    model = KDM(config).eval()
    shape = config.network.shape
    labels = torch.tensor([0, 2, 1]) if config.network.labels else None
    noise = torch.randn(3, *shape)
    z = model.encode_noise(SIGMA_MAX * noise, labels)
    assert (
        z.shape == (3, config.latent) and model.encode(noise, labels).shape == z.shape
    )
    x = model.decode(model.push(z, labels), labels)
    sampled = model.sample(noise, labels)
    assert x.shape == noise.shape and torch.equal(
        sampled, x if len(shape) == 1 else x.clamp(-1, 1)
    )
    torch.testing.assert_close(model(SIGMA_MAX * noise, SIGMA_MAX, labels), x)
    model.save_pretrained(tmp_path)
    again = KDM.from_folder(tmp_path)
    assert again.config == config
    # stored in half precision
    torch.testing.assert_close(
        again.sample(noise, labels), sampled, rtol=0.1, atol=0.05
    )
    if labels is not None:
        other = model.push(z, labels.roll(1)) - model.push(z, labels)
        torch.testing.assert_close(
            other,
            model.control.weight.T[labels.roll(1)] - model.control.weight.T[labels],
        )


def test_the_loss_by_hand():
    torch.manual_seed(0)
    model = KDM(KDMConfig(POINTS, noise=0.0)).eval()
    x0, noise = torch.randn(2, 3, 2)
    with torch.no_grad():
        model.operator.K.normal_()
        model.operator.bias.normal_()
        z_T = model.encode_noise(SIGMA_MAX * noise)
        z_0 = model.encode(x0)
        pushed = torch.stack([model.operator.K @ z + model.operator.bias for z in z_T])
        latent = sum((a - b).square().mean() for a, b in zip(z_0, pushed)) / 3
        back, made = ((model.decode(z) - x0).square().mean() for z in (z_0, pushed))
        torch.testing.assert_close(
            kdm_loss(model, None, x0, noise, None, 0.5, square), latent + back + made
        )
    scaled = SIGMA_MAX * noise / (SIGMA_MAX**2 + SIGMA_DATA**2) ** 0.5
    # what the encoder of the noise sees has unit deviation
    assert (scaled - noise).abs().max() < 1e-3


def test_latent_noise_is_added_in_both_places():
    torch.manual_seed(0)
    model = KDM(KDMConfig(POINTS, noise=0.4))
    x0, noise = torch.randn(2, 3, 2)
    a, b = (kdm_loss(model, None, x0, noise, None, 0.5, square) for _ in range(2))
    assert a != b
    torch.manual_seed(1)
    a = kdm_loss(model, None, x0, noise, None, 0.5, square)
    torch.manual_seed(1)
    assert torch.equal(a, kdm_loss(model, None, x0, noise, None, 0.5, square))


def test_the_critic_and_the_model_pull_apart():
    torch.manual_seed(0)
    critic = Discriminator(3, 8)
    made = torch.randn(4, 3, 32, 32, requires_grad=True)
    real = torch.randn(4, 3, 32, 32)
    fooled, mistaken = adversarial_loss(critic, made, real)
    logits = critic(made)
    torch.testing.assert_close(fooled, -torch.nn.functional.logsigmoid(logits).mean())
    wish = (
        -(
            torch.nn.functional.logsigmoid(critic(real)).mean()
            + torch.nn.functional.logsigmoid(-logits).mean()
        )
        / 2
    )
    torch.testing.assert_close(mistaken, wish)
    fooled.backward()
    assert made.grad.abs().sum() > 0 and all(
        p.grad is None for p in critic.parameters()
    )
    made.grad = None
    mistaken.backward()
    assert made.grad is None and all(
        p.grad.abs().sum() > 0 for p in critic.parameters()
    )


def test_spectrum_loss_pairs_by_modulus():
    a = torch.tensor([1.0 + 0j, 0.1j, -0.5])
    assert spectrum_loss(a, a[[2, 0, 1]]) == 0
    torch.testing.assert_close(
        spectrum_loss(a, torch.tensor([0.1j, -0.5, 2.0 + 0j])), torch.tensor(1 / 3)
    )
    torch.manual_seed(0)
    model = KDM(KDMConfig(POINTS, "decomposed", eigen=1.0))
    before = copy.deepcopy(model.operator.theta.data)
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    kdm_loss(model, None, *torch.randn(2, 3, 2), None, 0.5, square).backward()
    adam.step()
    assert not torch.equal(before, model.operator.theta)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="operator = 'sparse'"):
        KDMConfig(operator="sparse")
    with pytest.raises(ValueError, match="5 numbers"):
        KDMConfig(MLPConfig(state=5), "decomposed")
    with pytest.raises(ValueError, match="adversarial = 0.1: the critic"):
        KDM(KDMConfig(POINTS, adversarial=0.1))


def test_presets_have_the_sizes_of_the_papers_code():
    millions = {}
    for name, config in KDM_PRESETS.items():
        with torch.device("meta"):
            model = KDM(config)
        parts = [p for n, p in model.named_parameters() if not n.startswith("critic")]
        millions[name] = sum(p.numel() for p in parts) / 1e6
    assert 46 < millions["cifar10"] < 49  # method table: 47.5
    assert 17 < millions["64x64"] < 20  # 18.2
    assert KDM_PRESETS["64x64"].latent == 512 and KDM_PRESETS["cifar10"].latent == 1024
