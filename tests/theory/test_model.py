"""HKD: with A = 0 it is its teacher's network at the decoder's fixed time; evolution,
ablations, saving, presets.
"""

import dataclasses
import json

import pytest
import torch

import hkd_mini
from hkd_mini import HKD, PRESETS, HKDConfig
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.schedule import CLOCKS, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.judge.classifier import Classifier, ClassifierConfig

UNET = UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=(4,))
NETWORKS = {
    "unet": UNET,
    "patch, adaptive": dataclasses.replace(UNET, patch=2, adaptive_scale=True),
    "classes": dataclasses.replace(UNET, labels=4),
    "mlp": MLPConfig(channels=8, width=24, depth=2, state=6),
}
networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
clocks = pytest.mark.parametrize("clock", CLOCKS)
both = pytest.mark.parametrize("batch", [1, 3])


def teacher(network, seed=0):
    torch.manual_seed(seed)
    denoiser = Denoiser(network).eval()
    for parameter in denoiser.parameters():  # fresh networks put out nearly nothing
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return denoiser


def student(network=UNET, seed=0, rates=0.0, **options):
    model = HKD.from_teacher(
        teacher(network, seed), HKDConfig(network, **options)
    ).eval()
    for generator in model.generators:
        if generator.A.requires_grad:
            generator.A.data.copy_(rates * torch.randn_like(generator.A))
    return model


def unit_noise(network, batch=3, seed=5):
    return torch.randn(
        batch, *network.shape, generator=torch.Generator().manual_seed(seed)
    )


def classes(network, batch=3):
    return torch.arange(batch) % network.labels if network.labels else None


@networks
@clocks
@both
@torch.no_grad()
def test_without_rates_it_is_the_teachers_network_with_the_decoder_told_sigma_min(
    network, clock, batch
):
    model = student(network, clock=clock)
    denoiser = teacher(network)
    labels = classes(network, batch)
    onehot = (
        None
        if labels is None
        else torch.nn.functional.one_hot(labels, network.labels).float()
    )
    for sigma in (SIGMA_MAX, 1.3, SIGMA_MIN):
        x = sigma * unit_noise(network, batch)
        t = model.clock.time(sigma)
        told = [
            denoiser.net.embedding(torch.full((batch,), s).log() / 4, onehot)
            for s in (sigma, SIGMA_MIN)
        ]
        F = denoiser.net.decoder(
            denoiser.net.encoder(x / (sigma**2 + SIGMA_DATA**2) ** 0.5, told[0]),
            told[1],
        )
        ours = model.decode(
            model.evolve(model.encode(x, t, labels), t, model.clock.eps), labels
        )
        # the edm clock in float32 tells sigma_min only to half a percent
        torch.testing.assert_close(
            ours, SIGMA_DATA * F, rtol=1e-3, atol=1e-3 if clock == "edm" else 1e-5
        )


@networks
@torch.no_grad()
def test_at_the_end_of_the_path_it_is_the_teachers_own_guess(network):
    """At t = eps both halves are told sigma_min, so output = s (D - c_skip x) / c_out:
    the teacher without its skip.
    """
    model = student(network)
    denoiser = teacher(network)
    labels = classes(network)
    x = 0.5 * unit_noise(network)
    total = SIGMA_MIN**2 + SIGMA_DATA**2
    D = denoiser(x.double(), SIGMA_MIN, labels)
    wish = (
        (D - SIGMA_DATA**2 / total * x)
        / (SIGMA_MIN * SIGMA_DATA / total**0.5)
        * SIGMA_DATA
    )
    torch.testing.assert_close(
        model.decode(model.encode(x, model.clock.eps, labels), labels).double(),
        wish,
        rtol=1e-4,
        atol=1e-4,
    )


@torch.no_grad()
def test_at_noise_it_is_nearly_the_teachers_guess_if_the_decoder_ignores_its_time():
    denoiser = teacher(UNET)
    for block in denoiser.net.decoder.blocks.values():
        block.affine.weight.zero_()
    model = HKD.from_teacher(denoiser).eval()
    x = SIGMA_MAX * unit_noise(UNET)
    torch.testing.assert_close(
        model.decode(model.encode(x, model.clock.T)),
        denoiser(x, SIGMA_MAX),
        rtol=1e-3,
        atol=1e-2,
    )


def test_from_teacher_wants_the_same_network():
    with pytest.raises(ValueError, match="the configuration wants"):
        HKD.from_teacher(teacher(UNET), HKDConfig(NETWORKS["mlp"]))
    model = HKD.from_teacher(teacher(UNET))
    assert model.config == HKDConfig(UNET) and all(
        (g.A == 0).all() for g in model.generators
    )
    ours = model.state_dict()
    theirs = teacher(UNET).net.state_dict()
    assert set(ours) - set(theirs) == {
        f"generators.{i}.A" for i in range(len(model.generators))
    }
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@networks
@pytest.mark.parametrize("spatial", ["local", "shared"])
def test_states_and_generators_fit(network, spatial):
    model = student(network, spatial=spatial)
    states = model.encode(unit_noise(network), 0.5, classes(network))
    assert [tuple(z.shape[1:]) for z in states] == model.state_shapes and len(
        model.generators
    ) == len(states)
    for g, (d, h, w) in zip(model.generators, model.state_shapes):
        assert g.A.shape == ((d, h, w) if spatial == "local" else (d, 1, 1))


@clocks
@both
@torch.no_grad()
def test_evolve_in_any_order_and_back(clock, batch):
    model = student(rates=0.2, clock=clock)
    T = model.clock.T
    eps = model.clock.eps
    a = eps + 0.7 * (T - eps)
    b = torch.linspace(eps, T, batch)
    scale = 1.0 if clock == "rho" else 1 / (T - eps)
    for generator in model.generators:
        generator.A.mul_(scale)
    z = model.encode(SIGMA_MAX * unit_noise(UNET, batch), T)
    for path in ([T, a, eps], [T, eps, a, eps], [T, b, a, eps]):
        moved = z
        for t, s in zip(path, path[1:]):
            moved = model.evolve(moved, t, s)
        for one, direct, start in zip(moved, model.evolve(z, T, eps), z):
            torch.testing.assert_close(one, direct, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(one, start, atol=1e-3)


@torch.no_grad()
def test_evolve_is_the_exponential_of_a_times_s_minus_t():
    """The direction of time: from t to s states move by exp(A (s - t)), one t and s per
    sample or one for all.
    """
    model = student(rates=0.5)
    t = torch.tensor([0.9, 0.2, 0.4])
    s = 0.3
    z = model.encode(unit_noise(UNET), t)
    for g, before, after in zip(model.generators, z, model.evolve(z, t, s)):
        for i in range(3):
            wish = torch.einsum(
                "hwij,jhw->ihw", torch.matrix_exp(g.dense() * (s - t[i])), before[i]
            )
            torch.testing.assert_close(after[i], wish, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_masks_weigh_the_evolved_pairs():
    model = student(rates=0.5)
    z = model.encode(unit_noise(UNET), 0.5)
    part = [torch.rand(d // 2, h, w) < 0.5 for d, h, w in model.state_shapes]
    kept = model.evolve(z, 1.0, 0.2, part)
    rest = model.evolve(z, 1.0, 0.2, [~m for m in part])
    for k, r, whole in zip(kept, rest, model.evolve(z, 1.0, 0.2)):
        torch.testing.assert_close(k + r, whole)
        assert not torch.allclose(k, whole)


@networks
@torch.no_grad()
def test_trajectory_ends_with_the_sample(network):
    model = student(network, rates=0.3)
    noise = unit_noise(network)
    labels = classes(network)
    path = model.trajectory(noise, torch.tensor([1.0, 0.4, model.clock.eps]), labels)
    sample = model.sample(noise, labels)
    assert path.shape == (3, *noise.shape) and sample.shape == noise.shape
    end = path[-1].clamp(-1, 1) if noise.ndim == 4 else path[-1]
    torch.testing.assert_close(end, sample, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(path[0], path[-1], atol=1e-3)
    x_T = SIGMA_MAX * noise  # the same by hand
    by_hand = model.decode(
        model.evolve(model.encode(x_T, 1.0, labels), 1.0, model.clock.eps), labels
    )
    torch.testing.assert_close(path[-1], by_hand, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch_and_needs_no_gradient():
    model = student(rates=0.3)
    noise = unit_noise(UNET)
    whole = model.sample(noise)
    assert not whole.requires_grad and whole.min() >= -1 and whole.max() <= 1
    torch.testing.assert_close(
        torch.cat([model.sample(one[None]) for one in noise]),
        whole,
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.equal(model.sample(noise), whole)


@networks
@torch.no_grad()
def test_encoder_time(network):
    x = unit_noise(network)
    labels = classes(network)
    times = torch.tensor([0.1, 0.5, 0.9])
    told = student(network)
    blind = student(network, encoder_time="none")
    assert all(
        torch.equal(a, b)
        for a, b in zip(blind.encode(x, 0.1, labels), blind.encode(x, times, labels))
    )
    assert (
        told.encode(x, 0.1, labels)[-1] - told.encode(x, 0.9, labels)[-1]
    ).abs().max() > 1e-3
    for i, t in enumerate(times.tolist()):  # one time per sample, as one at a time
        alone = told.encode(
            x[i : i + 1], t, None if labels is None else labels[i : i + 1]
        )
        for z, one in zip(told.encode(x, times, labels), alone):
            torch.testing.assert_close(z[i : i + 1], one, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_blind_encoder_scales_by_what_it_sees():
    """Noise of any level reaches the network with about unit size, without anybody
    telling the level.
    """
    model = student(encoder_time="none")
    seen = []
    model.encoder.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    for level in (1.0, 80.0):
        model.encode(level * unit_noise(UNET, 1), 0.5)
    assert all(0.7 < float(x.square().mean()) < 1.01 for x in seen)


def grads(model):
    x = unit_noise(model.config.network)
    states = model.evolve(model.encode(x, 0.9), 0.9, 0.1)
    model.decode(states).square().sum().backward()
    return [
        g.A.grad is not None and bool((g.A.grad != 0).any()) for g in model.generators
    ]


def test_hierarchy_full_moves_every_state():
    assert all(grads(student()))


@torch.no_grad()
def test_hierarchy_bottleneck_passes_skips_as_encoded():
    model = student(hierarchy="bottleneck", rates=1.0)
    states = model.encode(unit_noise(UNET), 0.9)
    moved = model.evolve(states, 0.9, 0.1)
    assert all(
        torch.equal(a, b) for a, b in zip(moved[:-1], states[:-1])
    ) and not torch.allclose(moved[-1], states[-1])
    with torch.enable_grad():
        assert grads(model) == [False] * (len(states) - 1) + [True]
    changed = [moved[0] + 1, *moved[1:]]  # the skips still reach the decoder
    assert not torch.allclose(model.decode(changed), model.decode(moved))


@torch.no_grad()
def test_hierarchy_bottleneck_only_drops_the_skips():
    model = student(hierarchy="bottleneck-only", rates=1.0)
    states = model.evolve(model.encode(unit_noise(UNET), 0.9), 0.9, 0.1)
    noise = [torch.randn_like(z) for z in states[:-1]]
    assert torch.equal(model.decode([*noise, states[-1]]), model.decode(states))
    assert not torch.allclose(
        model.decode([*states[:-1], states[-1] + 1]), model.decode(states)
    )


def test_without_koopman_the_rates_stay_zero():
    model = student(koopman=False)
    assert not any(grads(model)) and not any(
        g.A.requires_grad for g in model.generators
    )
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], 0.1
    )
    before = model.encoder.blocks["8x8_conv"].weight.clone()
    optimizer.step()
    assert all((g.A == 0).all() for g in model.generators)
    assert not torch.equal(before, model.encoder.blocks["8x8_conv"].weight)


@torch.no_grad()
def test_labels_are_seen_by_both_halves():
    network = NETWORKS["classes"]
    model = student(network)
    noise = unit_noise(network)
    a = torch.tensor([0, 1, 2])
    b = torch.tensor([3, 1, 2])
    one = model.encode(noise, 0.5, a)
    two = model.encode(noise, 0.5, b)
    assert not torch.allclose(one[-1][0], two[-1][0], atol=1e-3)
    torch.testing.assert_close(one[-1][1:], two[-1][1:])
    assert not torch.allclose(
        model.decode(one, a)[0], model.decode(one, b)[0], atol=1e-3
    )


def test_input_errors():
    model = student()
    with pytest.raises(
        ValueError,
        match=r"x_t of shape \(2, 3, 16, 16\): this model takes \(batch, 3, 8, 8\)",
    ):
        model.encode(torch.zeros(2, 3, 16, 16), 0.5)
    with pytest.raises(ValueError, match="no classes"):
        model.sample(torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"knows 0 to 3"):
        student(NETWORKS["classes"]).sample(torch.zeros(1, 3, 8, 8), torch.tensor([4]))
    with pytest.raises(ValueError, match="noise level 0.0: need one above 0"):
        student(clock="sigma").encode(torch.zeros(2, 3, 8, 8), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError):
        model.evolve(model.encode(torch.zeros(1, 3, 8, 8), 0.5)[:-1], 1.0, 0.0)
    for name in ("clock", "encoder_time", "spatial", "hierarchy"):
        with pytest.raises(ValueError, match=f"{name} = 'other': one of"):
            HKDConfig(**{name: "other"})


@pytest.mark.parametrize(
    "network",
    [NETWORKS["patch, adaptive"], NETWORKS["classes"], NETWORKS["mlp"]],
    ids=["unet", "classes", "mlp"],
)
@torch.no_grad()
def test_saved_in_half_precision_and_loaded(network, tmp_path):
    options = dict(
        clock="edm", encoder_time="none", spatial="shared", hierarchy="bottleneck"
    )
    model = student(network, rates=0.05, **options)
    noise = unit_noise(network)
    labels = classes(network)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model"] == "HKD"
    for back in (
        HKD.from_pretrained(tmp_path),
        HKD.from_folder(tmp_path),
        hkd_mini.load(tmp_path),
    ):
        assert back.config == model.config and not back.training
        assert [g.A.requires_grad for g in back.generators] == [
            g.A.requires_grad for g in model.generators
        ]
        for name, value in model.state_dict().items():
            assert back.state_dict()[name].dtype == torch.float32
            assert torch.equal(back.state_dict()[name], value.half().float())
        torch.testing.assert_close(
            back.sample(noise, labels),
            model.sample(noise, labels),
            rtol=0.05,
            atol=0.05,
        )


@torch.no_grad()
def test_every_kind_of_model_comes_back(tmp_path):
    for model in (
        teacher(UNET),
        Classifier(ClassifierConfig(widths=(8, 8, 8), classes=3)).eval(),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        back = hkd_mini.load(str(folder))
        assert (
            type(back) is type(model)
            and back.config == model.config
            and not back.training
        )
        with pytest.raises(ValueError, match="wanted a HKD"):
            HKD.from_folder(folder)


def test_load_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder with config.json there"):
        hkd_mini.load(tmp_path / "nothing")
    student().save_pretrained(tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())

    def offer(change, match, error=ValueError):
        config = json.loads(json.dumps(good))
        change(config)
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(error, match=match):
            hkd_mini.load(tmp_path)

    offer(
        lambda c: c.update(model="Pickle"),
        "holds a 'Pickle', wanted one of HKD, Denoiser, Student, KDM, Classifier",
    )
    offer(lambda c: c["config"].update(colour=3), "HKDConfig has no colour")
    offer(
        lambda c: c["config"]["network"].update(channels=16), "does not fit config.json"
    )
    offer(lambda c: c["config"].update(clock="sundial"), "clock = 'sundial'")
    (tmp_path / "model.safetensors").unlink()
    offer(lambda c: None, "no such file", FileNotFoundError)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    """Every preset builds (the large ones without memory), and its states are those
    that its network announces.
    """
    config = PRESETS[name]
    with torch.device("meta"):
        model = HKD(config)
        labels = torch.zeros(2, dtype=torch.long) if config.network.labels else None
        emb = model.embedding(
            torch.zeros(2),
            None if labels is None else torch.zeros(2, config.network.labels),
        )
        states = model.encoder(torch.zeros(2, *config.network.shape), emb)
    assert [tuple(z.shape[1:]) for z in states] == model.state_shapes
    rates = sum(g.A.numel() for g in model.generators)
    rest = sum(p.numel() for p in model.parameters())
    # the paper's scale: 1.61 million rates on 55.7 million weights
    if name == "cifar10":
        assert rates == 1_589_248 + 16_384 and rest - rates == 55_732_739
    if name == "cifar10-mini":
        assert rest < 8e6


@torch.no_grad()
def test_the_bundled_size_runs():
    model = HKD(PRESETS["cifar10-mini"]).eval()
    assert model.sample(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert HKD(PRESETS["toy2d"]).eval().sample(torch.randn(5, 2)).shape == (5, 2)
