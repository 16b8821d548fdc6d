"""Editing: identities to the bit, mixes that commute with the evolution, regions, what
is known comes back.
"""

import copy
from dataclasses import replace

import pytest
import torch

from hkd_mini.diffusion.schedule import SIGMA_MAX, karras_sigmas
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd import edit
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.spectra import band_masks, spectrum

NETWORK = UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=())
KINDS = {
    "network": {},
    "linear": {
        "readout": "linear",
        "pairs": 6,
        "spatial": "shared",
        "anchored": True,
        "rates": (-2.0, 2.0),
    },
}


@pytest.fixture(scope="module", params=["rho", "log"])
def model(request):
    torch.manual_seed(0)
    model = HKD(HKDConfig(NETWORK, clock=request.param)).eval()
    for generator in model.generators:
        generator.A.data.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module", params=KINDS)
def either(request):
    """One model with each read-out: local generators and shared ones."""
    torch.manual_seed(0)
    model = HKD(HKDConfig(NETWORK, **KINDS[request.param])).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    for generator in model.generators:
        generator.A.data.add_(0.3 * torch.randn_like(generator.A))
    return model


def pictures(n, seed=1):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(*shape, seed=2):
    return torch.randn(*shape, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def both(model, t, n=3):
    return model.encode(SIGMA_MAX * noise(n), t), model.encode(
        SIGMA_MAX * noise(n, seed=5), t
    )


def middle(model):
    return (model.clock.T + model.clock.eps) / 2


def test_no_mixing_is_the_identity_and_full_mixing_the_reference(model):
    a, b = both(model, model.clock.T)
    assert all(torch.equal(z, w) for z, w in zip(edit.inject(a, b, ratio=0.0), a))
    assert all(torch.equal(z, w) for z, w in zip(edit.inject(a, b, ratio=1.0), b))
    nowhere = torch.zeros(8, 8)
    assert all(
        torch.equal(z, w)
        for z, w in zip(edit.inject(a, b, ratio=1.0, region=nowhere), a)
    )
    same = edit.inject(a, a, ratio=0.3)
    assert all(torch.equal(z, w) for z, w in zip(same, a))
    x = edit.edited(model, noise(3), pictures(3), middle(model), ratio=0.0)
    plain = model.evolve(
        model.evolve(a, model.clock.T, middle(model)), middle(model), model.clock.eps
    )
    with torch.no_grad():
        assert torch.equal(x, model.decode(plain))


def test_only_the_band_and_the_region_change(model):
    a, b = both(model, model.clock.T)
    bands = band_masks(spectrum(model), 3)
    one = [m[1] for m in bands]
    for z, mixed, other, mask in zip(
        a, edit.inject(a, b, one, 0.4, edit.lower_half(8)), b, one
    ):
        h = z.shape[2]
        inside = mask.repeat(2, 1, 1) & (torch.arange(h) >= h // 2)[:, None]
        assert torch.equal(mixed[:, ~inside], z[:, ~inside])
        torch.testing.assert_close(mixed[:, inside], (0.6 * z + 0.4 * other)[:, inside])
    whole = edit.inject(a, b, None, 0.4)
    in_turn = a
    # bands are disjoint: one after another is all at once, the frequency-agnostic mix
    for band in range(3):
        in_turn = edit.inject(in_turn, b, [m[band] for m in bands], 0.4)
    assert all(torch.equal(z, w) for z, w in zip(whole, in_turn))
    alone = edit.inject(a, b, [None] * (len(a) - 1) + [one[-1]], 1.0)
    assert all(torch.equal(z, w) for z, w in zip(alone[:-1], a)) and not torch.equal(
        alone[-1], a[-1]
    )


def test_a_mix_commutes_with_the_evolution(model):
    T = model.clock.T
    t = middle(model)
    eps = model.clock.eps
    a, b = both(model, T)
    band = [m[0] for m in band_masks(spectrum(model), 3)]
    with torch.no_grad():
        before = model.evolve(edit.inject(a, b, band, 0.7, edit.lower_left(8)), T, t)
        after = edit.inject(
            model.evolve(a, T, t), model.evolve(b, T, t), band, 0.7, edit.lower_left(8)
        )
        for z, w in zip(before, after):
            torch.testing.assert_close(z, w, rtol=1e-4, atol=1e-5)
        # so the time of an edit matters through the encoding of the reference alone
        late = model.decode(
            edit.inject(model.evolve(a, T, eps), model.evolve(b, T, eps), band, 0.7)
        )
        early = model.decode(model.evolve(edit.inject(a, b, band, 0.7), T, eps))
    torch.testing.assert_close(late, early, rtol=1e-3, atol=1e-4)


def commutes(model, change):
    """Whether a change of states may be made at T as well as at eps."""
    T = model.clock.T
    eps = model.clock.eps
    states, _ = both(model, T)
    with torch.no_grad():
        early = model.evolve([change(z) for z in states], T, eps)
        late = [change(z) for z in model.evolve(states, T, eps)]
    return all(torch.allclose(z, w, rtol=1e-3, atol=1e-5) for z, w in zip(early, late))


def test_what_commutes_with_shared_generators_and_what_does_not(either):
    halves = lambda z: z.chunk(2, dim=1)
    shared = either.config.spatial == "shared"
    blur = lambda z: torch.nn.functional.avg_pool2d(z, 3, 1, 1)
    shift = lambda z: z.roll((1, 1), (2, 3))
    turn = lambda z: torch.cat([halves(z)[1], -halves(z)[0]], 1)
    only_p = lambda z: torch.cat([2 * halves(z)[0], halves(z)[1]], 1)
    exchange = lambda z: torch.cat([part.roll(1, 1) for part in halves(z)], 1)
    assert commutes(either, turn)
    assert commutes(either, blur) == commutes(either, shift) == shared
    assert not commutes(either, only_p) and not commutes(either, exchange)


def test_without_a_frequency_p_may_be_scaled_alone(either):
    model = copy.deepcopy(either)
    for generator in model.generators:
        generator.beta.data.zero_()
    only_p = lambda z: torch.cat([2 * z.chunk(2, 1)[0], z.chunk(2, 1)[1]], 1)
    assert commutes(model, only_p)


@torch.no_grad()
def test_with_a_linear_readout_edits_add_one_picture_times_the_ratio(either):
    a, b = both(either, either.clock.eps)
    bands = band_masks(spectrum(either), 3)
    plain = either.decode(a)
    mix = lambda k, r: either.decode(edit.inject(a, b, [m[k] for m in bands], r))
    straight = plain + 0.3 * (mix(1, 1.0) - plain)
    parts = sum(mix(k, 0.6) - plain for k in range(3))
    whole = either.decode(edit.inject(a, b, None, 0.6)) - plain
    faded = 0.6 * (either.decode(b) - plain)
    exact = either.config.readout == "linear"
    for found, wish in (
        (mix(1, 0.3), straight),
        (parts, whole),
        (whole, faded),
    ):
        assert torch.allclose(found, wish, atol=1e-5) == exact


@torch.no_grad()
def test_an_edit_shows_in_the_guess(either):
    T = either.clock.T
    t = middle(either)
    reference = edit.noised(either, pictures(2), noise(2, seed=7), t)
    start = either.encode(SIGMA_MAX * noise(2), T)
    for u in (T, t, either.clock.eps):
        guess = edit.edited(either, noise(2), reference, t, ratio=0.0, u=u)
        plain = either.decode(either.evolve(start, T, u))
        torch.testing.assert_close(guess, plain, rtol=1e-3, atol=1e-4)
        changed = edit.edited(either, noise(2), reference, t, ratio=1.0, u=u)
        wish = either.decode(either.evolve(either.encode(reference, t), t, u))
        torch.testing.assert_close(changed, wish, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(changed, plain, atol=1e-3)
    ends = [edit.edited(either, noise(2), reference, t, u=u) for u in (None, u)]
    assert torch.equal(*ends)


def test_one_reference_for_many(model):
    x = edit.edited(model, noise(3), pictures(1), middle(model), ratio=0.5)
    each = edit.edited(
        model, noise(3), pictures(1).expand(3, -1, -1, -1), middle(model), ratio=0.5
    )
    assert x.shape == (3, 3, 8, 8)
    torch.testing.assert_close(x, each)


def test_noised_is_on_the_path(model):
    x0 = pictures(2)
    n = noise(2)
    t = middle(model)
    assert torch.equal(
        edit.noised(model, x0, n, t), x0 + float(model.clock.sigma(t)) * n
    )


def test_interpolation_ends_at_both_seeds(model):
    a = noise(2)
    b = noise(2, seed=6)
    between = edit.interpolate(model, a, b, torch.tensor([0.0, 0.5, 1.0]))
    assert between.shape == (3, 2, 3, 8, 8)
    for x, n in zip(between[::2], (a, b)):
        torch.testing.assert_close(x.clamp(-1, 1), model.sample(n))


def test_classes_are_told_to_every_edit():
    """Samples and walks are those of the class; completions and colours depend on
    it.
    """
    torch.manual_seed(0)
    network = replace(NETWORK, labels=3, no_class=True)
    model = HKD(HKDConfig(network, **KINDS["linear"])).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    one = torch.tensor([1, 1])
    two = torch.tensor([2, 2])
    a = noise(2)
    ends = edit.interpolate(model, a, noise(2, seed=6), torch.tensor([0.0, 1.0]), one)
    torch.testing.assert_close(ends[0].clamp(-1, 1), model.sample(a, one))
    unchanged = edit.edited(model, a, pictures(2), middle(model), ratio=0.0, labels=one)
    torch.testing.assert_close(unchanged.clamp(-1, 1), model.sample(a, one))
    x = pictures(2)
    how = noise(4, 2), karras_sigmas(4)[:-1]
    for call in (
        lambda labels: edit.edited(model, a, x, middle(model), labels=labels),
        lambda labels: edit.inpaint(model, x, torch.zeros(8, 8), *how, labels),
        lambda labels: edit.colourise(model, edit.luminance(x), *how, labels),
    ):
        assert torch.equal(call(one), call(one))
        assert not torch.allclose(call(one), call(two), atol=1e-3)
        untold = torch.tensor([-1, -1])
        torch.testing.assert_close(call(None), call(untold))


def test_regions():
    assert (
        edit.lower_left(4).sum() == 10
        and edit.lower_left(4)[3, 0] == 1
        and edit.lower_left(4)[0, 3] == 0
    )
    assert edit.lower_half(5).sum(1).tolist() == [0, 0, 5, 5, 5]
    quarter = torch.zeros(8, 8)
    quarter[:3, :4] = 1
    assert edit.at_resolution(quarter, 2, 2).tolist() == [[0.75, 0.0], [0.0, 0.0]]
    assert torch.equal(edit.at_resolution(quarter > 0, 8, 8), quarter)


def test_what_does_not_fit(model):
    a, b = both(model, model.clock.T)
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="ratio"):
            edit.inject(a, b, ratio=ratio)
    with pytest.raises(ValueError, match="mask of shape"):
        edit.inject(a, b, [torch.ones(3, 8, 8, dtype=torch.bool)] * len(a))
    with pytest.raises(ValueError):
        edit.inject(a, b, [torch.ones(1, 1, 1, dtype=torch.bool)])
    for region, match in ((torch.ones(6, 6), "multiples"),):
        with pytest.raises(ValueError, match=match):
            edit.at_resolution(region, 4, 4)
    levels = karras_sigmas(4)[:-1]
    for bad in (levels.flip(0), torch.tensor([100.0, 1.0]), torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match="falling"):
            edit.inpaint(model, pictures(1), torch.ones(8, 8), noise(len(bad), 1), bad)
    with pytest.raises(ValueError, match="3 noises"):
        edit.inpaint(model, pictures(1), torch.ones(8, 8), noise(3, 1), levels)


@pytest.mark.parametrize("batch", [1, 3])
def test_inpainting_keeps_what_is_known_and_reads_nothing_else(model, batch):
    known = torch.ones(8, 8, dtype=torch.bool)
    known[2:6, 2:6] = False
    image = pictures(batch)
    sigmas = karras_sigmas(4)[:-1]
    filled = edit.inpaint(model, image, known, noise(4, batch), sigmas)
    assert torch.equal(filled[..., known], image[..., known])
    assert filled.shape == image.shape and filled.abs().max() <= 1
    other = torch.where(known, image, torch.full_like(image, 0.9))
    assert torch.equal(
        edit.inpaint(model, other, known, noise(4, batch), sigmas), filled
    )
    holed = torch.where(known, image, torch.full_like(image, float("nan")))
    assert torch.equal(
        edit.inpaint(model, holed, known, noise(4, batch), sigmas), filled
    )


def test_colours_keep_the_brightness(model):
    luma = edit.luminance(pictures(3))
    coloured = edit.colourise(model, luma, noise(4, 3), karras_sigmas(4)[:-1])
    torch.testing.assert_close(edit.luminance(coloured), luma, rtol=0, atol=1e-5)
    assert coloured.abs().max() <= 1 + 1e-5
    vivid = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    moved = edit.with_luminance(vivid, torch.tensor([[[0.9]]]))
    torch.testing.assert_close(edit.luminance(moved), torch.tensor([[[0.9]]]))
    assert moved.abs().max() <= 1 + 1e-6 and moved[0, 0] > moved[0, 1]
    x = pictures(2)
    torch.testing.assert_close(edit.with_luminance(x, edit.luminance(x)), x)
    assert torch.allclose(torch.tensor(edit.LUMA).sum(), torch.tensor(1.0))
