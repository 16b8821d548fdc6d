"""The files that a browser runs, run here: the graphs compute what the package
computes, and the page's own code counts as the package does.

The graphs against torch in onnxruntime; the noise, the clocks, the ranks and the bands
of assets/live/generator.mjs in node. Skipped by name where onnx, onnxruntime or node
are missing.
"""

import gzip
import json
import pathlib
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

import hkd_mini
from hkd_mini.app import onnx_export, onnx_graphs, onnx_weights
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.schedule import CLOCK_OF, Noise
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.spectra import interval_masks, spectrum

ROOT = pathlib.Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "book" / "assets" / "live" / "generator.mjs"
# as the book's page has them, and one that half a network decodes
BUNDLED = {"hkd-cifar10": 8, "hkd-cifar10-tiny": 8, "hkd-cifar10-paper": 8}
TOLERANCE = 1e-4


def session(graph):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def feed(dt, dt_ref, **parts):
    named = {
        f"{part}{i}": tensor.numpy()
        for part, tensors in parts.items()
        for i, tensor in enumerate(tensors)
    }
    return {
        "dt": np.array([dt], np.float32),
        "dt_ref": np.array([dt_ref], np.float32),
        **named,
    }


def random_pairs(model, generator):
    """A number for each rate: for each pair, and each place where A is not shared."""
    return [torch.rand(lam.shape, generator=generator) for lam in spectrum(model)]


def moving(**config):
    """A small model with rates that no training chose."""
    torch.manual_seed(4)
    config = replace(PRESETS["cifar10-tiny"], rates=(-5.0, 5.0), **config)
    model = HKD(config).eval().requires_grad_(False)
    for generator in model.generators:
        generator.A += torch.randn_like(generator.A)
    return model


CLASSES = replace(PRESETS["cifar10-tiny"].network, labels=10, no_class=True)
ANCHORED = {"readout": "linear", "spatial": "shared", "anchored": True}
MOVING = {
    "anchored": ANCHORED,
    "anchored-classes": {**ANCHORED, "network": CLASSES},
    "network-classes": {"network": CLASSES},
}


def told(session, label=3):
    """What a graph is told, {} where it does not ask: a class, or zeros for -1."""
    known = {"told": (np.arange(10) == label).astype(np.float32)[None]}
    return known if "told" in [i.name for i in session.get_inputs()] else {}


def label(model):
    """The same class for the package."""
    return torch.tensor([3]) if model.config.network.labels else None


@pytest.fixture(
    scope="module",
    params=[*BUNDLED.items(), *((name, 16) for name in MOVING)],
    ids=lambda item: f"{item[0]}-{item[1]}-bits",
)
def exported(request):
    """(model with the stored weights, session of Lift, session of Draw)."""
    pytest.importorskip("onnx")
    name, bits = request.param
    model = moving(**MOVING[name]) if name in MOVING else hkd_mini.load(name)
    graphs = onnx_graphs.graphs(model, bits)
    return (
        onnx_weights.rounded(model, bits),
        session(graphs["lift"]),
        session(graphs["draw"]),
    )


@pytest.mark.parametrize("sigma", [80.0, 2.5, 0.05])
@torch.no_grad()
def test_the_lift_computes_what_encode_does(exported, sigma):
    model, lift, _ = exported
    noise = onnx_export.seeded_noise(5, (1, 3, 32, 32))
    x = 0.3 * noise.roll(7, -1) + sigma * noise
    given = {"x": x.numpy(), "sigma": np.array([sigma], np.float32), **told(lift)}
    found = lift.run(None, given)
    wanted = model.encode(x, model.clock.time(sigma), label(model))
    assert len(found) == len(model.state_shapes)
    for a, b in zip(found, wanted):
        assert np.abs(a - b.numpy()).max() < TOLERANCE * max(1, float(b.abs().max()))


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
@torch.no_grad()
def test_the_drawing_evolves_masks_mixes_and_decodes(exported, sigma):
    model, lift, draw = exported
    generator = torch.Generator().manual_seed(3)
    clock = model.clock
    x, y = (onnx_export.seeded_noise(seed, (1, 3, 32, 32)) for seed in (1, 2))
    states = model.encode(80 * x, clock.T)
    refs = model.encode(0.4 * y, clock.time(0.3))
    gains = random_pairs(model, generator)
    shares = random_pairs(model, generator)
    t = clock.time(sigma)
    later = clock.time(0.3)
    moved = (
        model.evolve(states, clock.T, t, gains),
        model.evolve(refs, later, t, shares),
    )
    wanted = model.decode([a + b for a, b in zip(*moved)], label(model))
    parts = {"z": states, "ref": refs, "gain": gains, "share": shares}
    given = feed(t - clock.T, t - later, **parts)
    found = draw.run(None, given | told(draw))[0]
    assert np.abs(found - wanted.numpy()).max() < TOLERANCE * max(
        1, float(wanted.abs().max())
    )


@torch.no_grad()
def test_both_graphs_make_the_sample(exported):
    """Seed to picture, as the page does it; and A = 0 is dt = 0."""
    model, lift, draw = exported
    noise = onnx_export.seeded_noise(11, (1, 3, 32, 32))
    clock = model.clock
    given = {"x": 80 * noise.numpy(), "sigma": np.array([80], np.float32)}
    states = lift.run(None, given | told(lift))
    z = [torch.from_numpy(state) for state in states]
    ones = [torch.ones(lam.shape) for lam in spectrum(model)]
    nothing = {"ref": [torch.zeros_like(a) for a in z], "share": [0 * a for a in ones]}
    drawn = lambda dt: draw.run(
        None, feed(dt, 0, z=z, gain=ones, **nothing) | told(draw)
    )[0]
    wanted = model.sample(noise, label(model)).numpy()
    found = drawn(clock.eps - clock.T).clip(-1, 1)
    assert np.abs(found - wanted).max() < TOLERANCE
    still = model.encode(80 * noise, clock.T, label(model))
    wanted = model.decode(still, label(model)).numpy()
    assert np.abs(drawn(0) - wanted).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("label", [-1, 0, 7, 9])
@torch.no_grad()
def test_the_bundled_model_draws_the_class_that_it_is_told(label):
    """And no class for -1; the read-out is told nothing."""
    pytest.importorskip("onnx")
    model = hkd_mini.load("hkd-cifar10")
    graphs = onnx_graphs.graphs(model, 8)
    lift = session(graphs["lift"])
    draw = session(graphs["draw"])
    assert "told" in [i.name for i in lift.get_inputs()]
    assert "told" not in [i.name for i in draw.get_inputs()]
    noise = onnx_export.seeded_noise(12, (1, 3, 32, 32))
    given = {"x": 80 * noise.numpy(), "sigma": np.array([80], np.float32)}
    z = [torch.from_numpy(part) for part in lift.run(None, given | told(lift, label))]
    ones = [torch.ones(lam.shape) for lam in spectrum(model)]
    nothing = {"ref": [0 * a for a in z], "share": [0 * a for a in ones]}
    dt = model.clock.eps - model.clock.T
    found = draw.run(None, feed(dt, 0, z=z, gain=ones, **nothing))[0].clip(-1, 1)
    stored = onnx_weights.rounded(model, 8)
    wanted = stored.sample(noise, torch.tensor([label])).numpy()
    assert np.abs(found - wanted).max() < TOLERANCE
    another = stored.sample(noise, torch.tensor([(label + 2) % 10])).numpy()
    assert np.abs(found - another).mean() > 0.01


@torch.no_grad()
def test_with_a_linear_readout_the_parts_add_up(exported):
    """What is kept and what is left out, drawn apart, make the picture of all pairs;
    where half a network decodes they do not.
    """
    model, lift, draw = exported
    generator = torch.Generator().manual_seed(7)
    noise = onnx_export.seeded_noise(8, (1, 3, 32, 32))
    given = {"x": 80 * noise.numpy(), "sigma": np.array([80], np.float32)}
    z = [torch.from_numpy(state) for state in lift.run(None, given | told(lift))]
    kept = [(part > 0.5).float() for part in random_pairs(model, generator)]
    nothing = {"ref": [0 * a for a in z], "share": [0 * a for a in kept]}

    def drawn(gain):
        dt = model.clock.time(1.0) - model.clock.T
        given = feed(dt, 0, z=z, gain=gain, **nothing)
        return draw.run(None, given | told(draw))[0]

    whole = drawn([torch.ones_like(a) for a in kept])
    parts = drawn(kept) + drawn([1 - a for a in kept])
    miss = np.abs(parts - whole).max() / np.abs(whole).max()
    assert miss < 1e-5 if model.config.readout == "linear" else miss > 0.01


def test_what_is_written_is_what_a_page_reads(tmp_path):
    pytest.importorskip("onnx")
    model = hkd_mini.load("hkd-cifar10-tiny")
    sizes = onnx_export.export(model, tmp_path / "a", "m", bits=8)
    assert (
        sizes == {path.name: path.stat().st_size for path in (tmp_path / "a").iterdir()}
        and len(sizes) == 4
    )
    onnx_export.export(model, tmp_path / "b", "m", bits=8)
    for name in sizes:  # the same bytes at every build, or no cache would believe them
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()
    about = json.loads((tmp_path / "a" / "m.json").read_text())
    assert about["classes"] == 0 and not about["no_class"]
    assert (
        about["clock"] == "rho"
        and [tuple(shape) for shape in about["states"]] == model.state_shapes
        and about["rates"] == [[48, 1, 1], [48, 1, 1]]
    )
    rates = np.frombuffer(
        gzip.decompress((tmp_path / "a" / "m-rates.bin.gz").read_bytes()), "<f4"
    )
    at = 0
    for lam in spectrum(model):
        n = lam.numel()
        assert np.array_equal(rates[at : at + n], lam.real.numpy().ravel())
        assert np.array_equal(rates[at + n : at + 2 * n], lam.imag.numpy().ravel())
        at += 2 * n
    assert at == len(rates)


@torch.no_grad()
def test_a_byte_is_within_half_a_scale_and_half_floats_are_exact_for_what_is_bundled():
    model = hkd_mini.load("hkd-cifar10-tiny")
    bytes_, halves = (
        dict(onnx_weights.rounded(model, bits).named_parameters()) for bits in (8, 16)
    )
    rounded = 0
    for name, weight in model.named_parameters():
        assert torch.equal(halves[name], weight)
        if onnx_weights.is_rounded(name, weight):
            rounded += weight.numel()
            step = weight.flatten(1).abs().amax(1) / 127
            assert (
                (bytes_[name] - weight).flatten(1).abs().amax(1) <= 0.5001 * step
            ).all()
        else:
            assert torch.equal(bytes_[name], weight)
    rates = sum(generator.A.numel() for generator in model.generators)
    assert rounded > 0.97 * (
        sum(weight.numel() for weight in model.parameters()) - rates
    )


def test_what_cannot_be_exported_is_refused():
    with pytest.raises(ValueError, match="bits = 4: 8 .* or 16"):
        onnx_weights.rounded(HKD(PRESETS["cifar10-tiny"]), 4)
    with pytest.raises(ValueError, match="need a U-Net"):
        onnx_graphs.graphs(HKD(HKDConfig(MLPConfig())))
    network = UNetConfig(channels=16, mult=(1,), blocks=1, attention=())
    with pytest.raises(ValueError, match="need the skips"):
        onnx_graphs.graphs(HKD(HKDConfig(network, hierarchy="bottleneck-only")))
    with pytest.raises(ValueError, match="seed = -1"):
        onnx_export.seeded_noise(-1, (3,))


def test_the_seeded_noise_is_noise():
    noise = onnx_export.seeded_noise(0, (200, 500))
    assert (
        abs(noise.mean()) < 0.01
        and abs(noise.std() - 1) < 0.01
        and noise.dtype == torch.float32
    )
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.01
    assert abs((noise.abs() < 1).float().mean() - 0.6827) < 0.005
    assert not torch.equal(
        onnx_export.seeded_noise(1, (7,)), onnx_export.seeded_noise(2, (7,))
    )
    assert torch.equal(
        onnx_export.seeded_noise(1, (7,)), onnx_export.seeded_noise(1, (8,))[:7]
    )


def in_node(program, **data):
    """What a program that imports the page's module says, as JSON."""
    if shutil.which("node") is None:
        pytest.skip("node was not found")
    script = (
        f"import * as page from {json.dumps(GENERATOR.as_uri())};\nconst data = "
        f"{json.dumps(data)};\n{program}"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-"],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", [0, 11, 4294967295])
def test_the_page_draws_the_same_noise(seed):
    found = in_node(
        "console.log(JSON.stringify([...page.noise(data.seed)]))", seed=seed
    )
    assert (
        np.abs(np.array(found) - onnx_export.seeded_noise(seed, (3072,)).numpy()).max()
        < 1e-6
    )


@pytest.mark.parametrize("lowest", [0.002, 0.14])
def test_the_page_reads_the_same_clocks(lowest):
    sigmas = [lowest, 0.2, 1.0, 80.0]
    program = """const there = (c) => data.sigmas.map(c.time);
    const back = (c) => data.sigmas.map((s) => c.sigma(c.time(s)));
    const both = Object.entries(page.CLOCKS).map(([name, between]) => {
      const c = between(data.sigmas[0], 80);
      return [name, there(c), back(c)];
    });
    console.log(JSON.stringify(both))"""
    for name, times, back in in_node(program, sigmas=sigmas):
        clock = CLOCK_OF[name](Noise(sigma_min=lowest))
        assert np.allclose(times, [clock.time(s) for s in sigmas], atol=1e-12)
        assert np.allclose(back, sigmas)


@pytest.mark.parametrize("spatial", ["local", "shared"])
def test_the_page_reads_the_rates(tmp_path, spatial):
    """One for each pair and place, or one for each pair."""
    pytest.importorskip("onnx")
    model = HKD(replace(PRESETS["cifar10-tiny"], spatial=spatial)).eval()
    generator = torch.Generator().manual_seed(6)
    for part in model.generators:
        part.A.data.normal_(0, 1, generator=generator)
    onnx_export.export(model, tmp_path, "m")
    about = json.loads((tmp_path / "m.json").read_text())
    packed = gzip.decompress((tmp_path / "m-rates.bin.gz").read_bytes())
    program = """const { buffer } = Uint8Array.from(data.bytes);
    const found = page.readRates(buffer, data.about);
    const each = ({ alpha, beta, side }) => [[...alpha], [...beta], side];
    console.log(JSON.stringify(found.map(each)))"""
    found = in_node(program, bytes=list(packed), about=about)
    levels = spectrum(model)
    assert len(found) == len(levels)
    for (alpha, beta, side), lam, shape in zip(found, levels, model.state_shapes):
        assert alpha == lam.real.flatten().tolist() and side == shape[1]
        assert beta == lam.imag.flatten().tolist()


def test_the_page_draws_the_same_classes():
    """All ten of them, about equally often, and one that the noise does not tell."""
    seeds = [*range(200), 4294967295]
    program = (
        "console.log(JSON.stringify(data.seeds.map((s) => page.seededClass(s, 10))))"
    )
    found = in_node(program, seeds=seeds)
    assert found == [onnx_export.seeded_class(seed, 10) for seed in seeds]
    counts = np.bincount([onnx_export.seeded_class(s, 10) for s in range(5000)])
    assert len(counts) == 10 and counts.min() > 400 and counts.max() < 600
    following = onnx_export.seeded_uniform(5, onnx_export.NUMBERS + 1)
    assert onnx_export.seeded_class(5, 10) == int(10 * following[-1])


@pytest.mark.parametrize("key", ["alpha", "abs", "beta"])
def test_the_page_ranks_as_the_package_does(key):
    """The states of a resolution together; ties, too: rates are rounded here, so that
    many are equal.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = (8, 5, 5), (3, 5, 5), (6, 2, 2), (4, 5, 5)
    lams = [
        torch.complex(
            *((torch.randn(s, generator=generator) * 4).round() / 4 for _ in range(2))
        )
        for s in shapes
    ]
    intervals = [
        (0, 0),
        (25, 0),
        (0, 50),
        (15, 35),
        (5, 90),
        (60, 40),
        (100, 0),
        (40, 70),
    ]
    program = """const found = page.ranks(data.states, data.key);
    const within = (low, high) => (rank) => [...page.band(rank, { low, high })];
    const kept = ([low, high]) => found.map(within(low, high));
    console.log(JSON.stringify(data.intervals.map(kept)))"""
    states = [
        {
            "alpha": lam.real.flatten().tolist(),
            "beta": lam.imag.flatten().tolist(),
            "side": lam.shape[1],
        }
        for lam in lams
    ]
    found = in_node(program, states=states, key=key, intervals=intervals)
    for (low, high), kept in zip(intervals, found):
        if low + high <= 100:
            masks = interval_masks(
                lams, low / 100, (100 - high) / 100, key, [[0, 1, 3], [2]]
            )
            assert kept == [mask.int().flatten().tolist() for mask in masks]
        else:
            assert not any(map(any, kept))


def test_the_page_weighs_a_band():
    program = """const band = { gain: 2 };
    const weighed = (rest) => page.weights([1, 0], band, { rest, mix: 0.25 });
    const parts = [0, 1].map(weighed);
    console.log(JSON.stringify(parts.map(({ gain, share }) => [...gain, ...share])))"""
    assert in_node(program) == [[1.5, 0, 0.5, 0], [1.5, 1, 0.5, 0]]
