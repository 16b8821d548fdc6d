"""Spectrum: eigenvalues as matrices have them, bands that partition, sort keys, intervals, levels, gains."""

import pytest
import torch

import hkd_mini
from hkd_mini.model import HKD, PRESETS, HKDConfig
from hkd_mini.networks import MLPConfig, UNetConfig
from hkd_mini.spectrum import band_masks, by_level, gains, interval_masks, rate, spectrum

keys = pytest.mark.parametrize("key", ["alpha", "abs", "beta"])


def model(spatial="local", rates=1.0):
    torch.manual_seed(0)
    net = HKD(
        HKDConfig(UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=()), spatial=spatial)
    ).eval()
    for generator in net.generators:
        generator.A.data.normal_(0, rates) if rates else None
    return net


def test_eigenvalues_are_those_of_the_generators():
    net = model()
    assert hkd_mini.spectrum is spectrum
    assert [tuple(lam.shape) for lam in spectrum(net)] == [(d // 2, h, w) for d, h, w in net.state_shapes]
    for lam, generator in zip(spectrum(net), net.generators):
        d = generator.A.shape[0]
        theirs = torch.linalg.eigvals(generator.dense().detach().double()).flatten(0, 1)
        mine = torch.cat([lam, lam.conj()]).flatten(1).T.to(theirs)
        assert mine.shape == theirs.shape == (lam[0].numel(), d)
        assert (mine[:, :, None] - theirs[:, None, :]).abs().amin(1).max() < 1e-6
        assert not lam.requires_grad and lam.dtype == torch.complex64


def test_shared_and_points():
    assert all(lam.shape[1:] == (1, 1) for lam in spectrum(model("shared")))
    assert [tuple(lam.shape) for lam in spectrum(HKD(HKDConfig(MLPConfig(state=10))))] == [(5, 1, 1)]


def test_gains_are_how_lengths_change():
    net = model()
    z = [torch.randn(3, *shape) for shape in net.state_shapes]
    with torch.no_grad():
        moved = net.evolve(z, 0.9, 0.2)
    length = lambda v: torch.hypot(*v.chunk(2, dim=1))
    for before, after, gain in zip(z, moved, gains(net, 0.9, 0.2)):
        torch.testing.assert_close(length(after), gain * length(before), rtol=1e-4, atol=1e-5)


def test_by_level():
    net = model()
    assert net.state_shapes == [(8, 8, 8), (8, 8, 8), (8, 4, 4), (16, 4, 4), (16, 4, 4)]
    assert by_level(net) == {(8, 8): [0, 1], (4, 4): [2, 3, 4]} and list(by_level(net)) == [(8, 8), (4, 4)]
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
    for lam, masks in zip(spectrum(model()), band_masks(spectrum(model()), bands, key), strict=True):
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
    assert all((m.sum((1, 2, 3)) > 0).all() for m in band_masks(spectrum(model(rates=0)), 4))


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
    for quarter, bands in zip(interval_masks(lams, 0.25, 0.5, key), band_masks(lams, 4, key)):
        assert torch.equal(quarter, bands[1])


def test_errors():
    with pytest.raises(ValueError, match="bands = 0"):
        band_masks(spectrum(model()), 0)
    for low, high in [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1)]:
        with pytest.raises(ValueError, match=f"quantiles from {low} to {high}"):
            interval_masks(spectrum(model()), low, high)
