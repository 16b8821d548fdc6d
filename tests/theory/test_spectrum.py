"""Spectrum: eigenvalues as matrices have them, bands that partition, sort keys,
intervals, levels, gains.
"""

import math

import pytest
import torch

import hkd_mini
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.schedule import SIGMA_MAX
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd.bands import (
    cumulative_effect,
    decode_bands,
    mean_frequency,
    radial_power,
    rate_map,
    ring_power,
    scale_bands,
)
from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.spectra import (
    at_largest,
    band_masks,
    by_level,
    gains,
    interval_masks,
    ranks,
    rate,
    readings,
    spectrum,
)
from hkd_mini.koopman.generator import apply_mask

keys = pytest.mark.parametrize("key", ["alpha", "abs", "beta"])


def model(spatial="local", rates=1.0):
    torch.manual_seed(0)
    net = HKD(
        HKDConfig(
            UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=()),
            spatial=spatial,
        )
    ).eval()
    for generator in net.generators:
        generator.A.data.normal_(0, rates) if rates else None
    return net


def test_eigenvalues_are_those_of_the_generators():
    net = model()
    assert hkd_mini.spectrum is spectrum
    assert [tuple(lam.shape) for lam in spectrum(net)] == [
        (d // 2, h, w) for d, h, w in net.state_shapes
    ]
    for lam, generator in zip(spectrum(net), net.generators):
        d = generator.A.shape[0]
        theirs = torch.linalg.eigvals(generator.dense().detach().double()).flatten(0, 1)
        mine = torch.cat([lam, lam.conj()]).flatten(1).T.to(theirs)
        assert mine.shape == theirs.shape == (lam[0].numel(), d)
        assert (mine[:, :, None] - theirs[:, None, :]).abs().amin(1).max() < 1e-6
        assert not lam.requires_grad and lam.dtype == torch.complex64


def test_shared_and_points():
    assert all(lam.shape[1:] == (1, 1) for lam in spectrum(model("shared")))
    assert [
        tuple(lam.shape) for lam in spectrum(HKD(HKDConfig(MLPConfig(state=10))))
    ] == [(5, 1, 1)]


def test_gains_are_how_lengths_change():
    net = model()
    z = [torch.randn(3, *shape) for shape in net.state_shapes]
    with torch.no_grad():
        moved = net.evolve(z, 0.9, 0.2)
    length = lambda v: torch.hypot(*v.chunk(2, dim=1))
    for before, after, gain in zip(z, moved, gains(net, 0.9, 0.2)):
        torch.testing.assert_close(
            length(after), gain * length(before), rtol=1e-4, atol=1e-5
        )


def test_by_level():
    net = model()
    assert net.state_shapes == [(8, 8, 8), (8, 8, 8), (8, 4, 4), (16, 4, 4), (16, 4, 4)]
    assert by_level(net) == {(8, 8): [0, 1], (4, 4): [2, 3, 4]} and list(
        by_level(net)
    ) == [(8, 8), (4, 4)]
    with torch.device("meta"):
        levels = by_level(HKD(PRESETS["cifar10"]))
    assert {k: len(v) for k, v in levels.items()} == {
        (32, 32): 5,
        (16, 16): 5,
        (8, 8): 6,
    }  # the last: 5 skips and the bottleneck


def test_rate_keys():
    lam = torch.tensor([-2 + 1j, 1 - 3j, 0.5 + 0j])
    assert (
        rate(lam).tolist() == [-2, 1, 0.5]
        and rate(lam, "abs").tolist() == [2, 1, 0.5]
        and rate(lam, "beta").tolist() == [1, 3, 0]
    )
    with pytest.raises(ValueError, match="key = 'low': one of alpha, abs, beta"):
        rate(lam, "low")


@keys
@pytest.mark.parametrize("bands", [1, 3, 4, 7])
def test_bands_partition_and_are_ordered(bands, key):
    for lam, masks in zip(
        spectrum(model()), band_masks(spectrum(model()), bands, key), strict=True
    ):
        assert masks.shape == (bands, *lam.shape) and masks.dtype == torch.bool
        assert (masks.sum(0) == 1).all()
        counts = masks.flatten(1).sum(1)
        assert counts.max() - counts.min() <= 1
        values = [rate(lam, key)[mask] for mask in masks]
        assert all(a.max() <= b.min() for a, b in zip(values, values[1:]))


def test_bands_of_a_state_sum_to_the_state_and_differ():
    net = model()
    z = [torch.randn(1, *shape) for shape in net.state_shapes]
    masks = band_masks(spectrum(net), 4)
    with torch.no_grad():
        parts = [net.evolve(z, 1.0, 0.0, [m[b] for m in masks]) for b in range(4)]
        whole = net.evolve(z, 1.0, 0.0)
    for i, y in enumerate(whole):
        torch.testing.assert_close(sum(part[i] for part in parts), y)
        assert all((part[i] != 0).sum() == y.numel() // 4 for part in parts)


def test_equal_rates_are_split_in_storage_order():
    lam = torch.zeros(4, 1, 2, dtype=torch.complex64)
    masks = band_masks([lam], 4)[0].flatten(1)
    assert masks.int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]
    assert all(
        (m.sum((1, 2, 3)) > 0).all() for m in band_masks(spectrum(model(rates=0)), 4)
    )


@keys
def test_intervals(key):
    lams = spectrum(model())
    cuts = [0.0, 0.1, 0.35, 0.8, 1.0]
    parts = [interval_masks(lams, a, b, key) for a, b in zip(cuts, cuts[1:])]
    for i, lam in enumerate(lams):
        assert (sum(part[i].int() for part in parts) == 1).all()
        for part, a, b in zip(parts, cuts, cuts[1:]):
            assert abs(part[i].sum() - (b - a) * lam.numel()) <= 1
        assert rate(lam, key)[parts[0][i]].max() <= rate(lam, key)[~parts[0][i]].min()
    assert all(m.all() for m in interval_masks(lams, 0.0, 1.0, key))
    assert not any(m.any() for m in interval_masks(lams, 0.4, 0.4, key))
    for quarter, bands in zip(
        interval_masks(lams, 0.25, 0.5, key), band_masks(lams, 4, key)
    ):
        assert torch.equal(quarter, bands[1])


def test_errors():
    with pytest.raises(ValueError, match="bands = 0"):
        band_masks(spectrum(model()), 0)
    for low, high in [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1)]:
        with pytest.raises(ValueError, match=f"quantiles from {low} to {high}"):
            interval_masks(spectrum(model()), low, high)


def states_of(net, batch=3):
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(batch, *shape, generator=generator) for shape in net.state_shapes
    ]


def test_joint_ranks_are_those_of_all_the_group():
    net = model()
    lams = spectrum(net)
    groups = list(by_level(net).values())
    for group in groups:
        joint = torch.cat([ranks(lams, "alpha", groups)[i].flatten() for i in group])
        rates = torch.cat([lams[i].real.flatten() for i in group])
        assert torch.equal(joint.argsort(), rates.argsort())
        torch.testing.assert_close(
            joint.sort().values, torch.arange(len(joint)).double() / len(joint)
        )
    thirds = band_masks(lams, 3, groups=groups)
    assert all(m.sum(0).eq(1).all() for m in thirds)
    for group in groups:
        sizes = sum(thirds[i].flatten(1).sum(1) for i in group)
        assert sizes.max() - sizes.min() <= 1
    with pytest.raises(ValueError, match="each of 5 states once"):
        ranks(lams, groups=[[0, 1], [1, 2, 3]])


@keys
def test_parts_of_a_state_sum_to_the_state(key):
    net = model()
    z = states_of(net)
    for mask, state in zip(band_masks(spectrum(net), 3, key), z):
        parts = torch.stack([apply_mask(state, m) for m in mask])
        torch.testing.assert_close(parts.sum(0), state, rtol=0, atol=1e-6)


def test_keeping_everything_is_the_sample_to_the_bit():
    net = model(rates=0.3)
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    T = net.clock.T
    eps = net.clock.eps
    with torch.no_grad():
        states = net.encode(SIGMA_MAX * noise, T)
        all_of_it = interval_masks(spectrum(net), 0.0, 1.0)
        assert torch.equal(
            net.decode(net.evolve(states, T, eps, all_of_it)).clamp(-1, 1),
            net.sample(noise),
        )
        moved = net.evolve(states, T, eps)
        whole = decode_bands(net, moved, [torch.ones_like(m)[None] for m in all_of_it])
        assert torch.equal(whole[0].clamp(-1, 1), net.sample(noise))
        none = decode_bands(
            net, moved, [torch.zeros_like(m)[None] for m in all_of_it], keep=False
        )
        assert torch.equal(none, whole)


def test_keep_and_leave_out_are_complements():
    net = model(rates=0.3)
    z = states_of(net)
    masks = band_masks(spectrum(net), 2)
    kept = decode_bands(net, z, masks)
    left = decode_bands(net, z, masks, keep=False)
    assert kept.shape == (2, 3, 3, 8, 8)
    assert (
        torch.equal(kept[0], left[1])
        and torch.equal(kept[1], left[0])
        and not torch.equal(kept[0], kept[1])
    )


def test_scaling_bands():
    net = model()
    z = states_of(net)
    masks = band_masks(spectrum(net), 3)
    same = scale_bands(z, masks, [1, 1, 1])
    assert all(torch.equal(a, b) for a, b in zip(same, z))
    back = scale_bands(scale_bands(z, masks, [2.0, 0.5, 4.0]), masks, [0.5, 2.0, 0.25])
    assert all(torch.equal(a, b) for a, b in zip(back, z))
    without = scale_bands(z, masks, [0.0, 1.0, 1.0])
    assert all(
        torch.equal(a, apply_mask(b, ~m[0])) for a, b, m in zip(without, z, masks)
    )
    with pytest.raises(ValueError, match="2 factors for 3 bands"):
        scale_bands(z, masks, [1, 2])


def test_cumulative_effect_is_the_integral():
    net = model(rates=0.7)
    lams = spectrum(net)
    z = states_of(net)
    T = net.clock.T
    lams[0][0, 0, 0] = 0  # a rate of zero is the limit
    masks = band_masks(lams, 4)
    found = cumulative_effect(lams, z, masks, torch.tensor([0.0, 0.35, 1.0]))
    for lam, state, mask, share in zip(lams, z, masks, found):
        assert share.shape == (4, 3, 3)
        torch.testing.assert_close(share.sum(0), torch.ones(3, 3, dtype=torch.float64))
        p, q = state.double().chunk(2, 1)
        for k, span in enumerate((0.0, 0.35, 1.0)):
            s = torch.linspace(T - span, T, 401, dtype=torch.float64)
            growth = (2 * lam.real.double()[None] * (s - T).view(-1, 1, 1, 1)).exp()
            energy = torch.einsum(
                "npij,spij,bpij->sbn", p**2 + q**2, growth, mask.double()
            )
            passed = torch.trapezoid(energy, dim=0) if span else energy[0]
            torch.testing.assert_close(
                share[:, k], passed / passed.sum(0), rtol=1e-5, atol=1e-7
            )
    with pytest.raises(ValueError, match="wanted T - t"):
        cumulative_effect(lams, z, masks, torch.tensor([-0.1]))


@pytest.mark.parametrize("clock", ["rho", "edm", "log", "sigma"])
def test_readings(clock):
    torch.manual_seed(0)
    net = HKD(HKDConfig(MLPConfig(state=10), clock=clock)).eval()
    net.generators[0].A.data.normal_(0, 0.1)
    net.generators[0].A.data[5] = 0  # beta of the first pair
    with torch.no_grad():
        (read,) = readings(net, 0.7)
        (lam,) = spectrum(net)
    z = torch.randn(1, 10, 1, 1)
    with torch.no_grad():
        (moved,) = net.evolve([z], net.clock.T, net.clock.eps)
    w, v = (torch.complex(*state.chunk(2, 1))[0] for state in (z, moved))
    torch.testing.assert_close(v.abs(), read.gain * w.abs(), rtol=1e-4, atol=1e-5)
    # by -beta (eps - T)
    turned = torch.polar(torch.ones_like(read.turns), 2 * math.pi * read.turns)
    torch.testing.assert_close(v / w, read.gain * turned, rtol=1e-3, atol=1e-4)
    assert read.period[0, 0, 0] == math.inf
    torch.testing.assert_close(
        read.period[1:] * lam.imag[1:].abs(), torch.full((4, 1, 1), 2 * math.pi)
    )
    pace = (net.clock.time(0.7 * 1.001) - net.clock.time(0.7 / 1.001)) / (
        2 * math.log(1.001)
    )
    torch.testing.assert_close(read.slope, read.growth * pace, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="noise level"):
        readings(net, 0.0)


def test_rate_map_is_a_weighted_mean():
    lam = (
        torch.complex(torch.tensor([1.0, 3.0]), torch.zeros(2))
        .view(2, 1, 1)
        .expand(2, 1, 2)
    )
    # p1 p2 q1 q2
    state = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[0.0, 0.0]], [[1.0, 0.0]]])[None]
    torch.testing.assert_close(rate_map(lam, state), torch.tensor([[[2.0, 3.0]]]))


def test_radial_power_of_waves():
    x = torch.arange(16)
    wave = lambda k: torch.cos(2 * math.pi * k * x / 16).expand(16, 16)
    for k in (1, 3, 7):
        power = radial_power(wave(k))
        assert power.argmax() == k - 1
        torch.testing.assert_close(power.sum(), torch.tensor(0.5))
        torch.testing.assert_close(
            mean_frequency(wave(k).T), torch.tensor(float(k)), rtol=1e-4, atol=0
        )
    mixed = wave(2) + 2 * wave(5).T
    torch.testing.assert_close(
        mean_frequency(mixed[None] + 3),
        torch.tensor([(2 + 4 * 5) / 5]),
        rtol=1e-4,
        atol=0,
    )
    noise = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert radial_power(noise).shape == (64, 3, 8)
    with pytest.raises(ValueError, match="square"):
        radial_power(torch.zeros(4, 8))


@pytest.mark.parametrize("spatial", ["local", "shared"])
def test_every_pair_is_brought_to_where_it_is_largest(spatial):
    net = model(spatial)
    lams = spectrum(net)
    z = states_of(net)
    T = net.clock.T
    eps = net.clock.eps
    with torch.no_grad():
        found = at_largest(net, z)
        sizes = [
            torch.stack([torch.hypot(*part.chunk(2, 1)) for part in parts])
            for parts in zip(*(net.evolve(z, T, t) for t in (T, 0.6, 0.3, eps)))
        ]
    for lam, part, size in zip(lams, found, sizes):
        torch.testing.assert_close(torch.hypot(*part.chunk(2, 1)), size.amax(0))
        grows = (lam.real < 0).expand(size.shape[2:])
        assert grows.any() and not grows.all()
        assert torch.equal(size.argmax(0).eq(3), grows.expand(size.shape[1:]))


def test_an_anchored_encoder_names_what_is_largest():
    torch.manual_seed(3)
    network = UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=())
    config = HKDConfig(
        network, readout="linear", pairs=6, rates=(-3.0, 3.0), anchored=True
    )
    net = HKD(config).eval()
    x = SIGMA_MAX * torch.randn(2, 3, 8, 8)
    names = []
    for part in net.generators:
        brought = part.from_anchor
        part.from_anchor = lambda z, *how, b=brought: (names.append(z), b(z, *how))[1]
    with torch.no_grad():
        found = at_largest(net, net.encode(x, net.clock.T))
    for part, name in zip(found, names, strict=True):
        torch.testing.assert_close(part, name, rtol=1e-4, atol=1e-6)


def test_rings_hold_the_mean_square():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5)) + 1
    edges = (0, 0.5, 4, 12)
    found = ring_power(x, edges)
    assert found.shape == (2, 3, 3)
    square = x.double().square().mean((-2, -1))
    torch.testing.assert_close(found.sum(-1), square)
    torch.testing.assert_close(found[..., 0], x.double().mean((-2, -1)).square())
    wave = torch.cos(2 * math.pi * 5 * torch.arange(16) / 16).expand(16, 16)
    torch.testing.assert_close(
        ring_power(wave, edges), torch.tensor([0, 0, 0.5]).double(), atol=1e-6, rtol=0
    )
    single = ring_power(x, [k + 0.5 for k in range(9)])
    torch.testing.assert_close(single, radial_power(x.double()))
