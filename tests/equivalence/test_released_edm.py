"""EDM's checkpoints as teachers, against a DDPM++ written here as one function over
EDM's names, in float64.
"""

import hashlib
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import edm_files
import pytest
import torch
import torch.nn.functional as F

from hkd_mini.app.zoo import load
from hkd_mini.diffusion import released
from hkd_mini.diffusion.pickle_machine import Stub
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.hkd.config import PRESETS
from hkd_mini.hkd.model import HKD

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {
    "two levels": dict(),
    "three levels, with classes": dict(
        channels=32, mult=(1, 2, 1), blocks=2, attention=(8, 4), classes=5, seed=1
    ),
    "one level": dict(mult=(2,), attention=(), classes=3, seed=2),
}


def reference(net, x, sigma, classes=None):
    """D(x; sigma) of a DDPM++ under EDM's preconditioning, from the formulas: no
    module, no attribute, tensors only.
    """
    P = {
        name.removeprefix("model."): value.double()
        for name, value in net.state_dict().items()
    }
    given = net.model._init_kwargs
    half = given["model_channels"] // 2
    total = (sigma**2 + 0.25).sqrt()[:, None, None, None]

    def linear(name, v):
        return v @ P[f"{name}.weight"].T + P.get(f"{name}.bias", 0)

    def conv(name, v):
        weight = P[f"{name}.weight"]
        return F.conv2d(
            v, weight, P[f"{name}.bias"], padding=(weight.shape[-1] - 1) // 2
        )

    def norm(name, v):
        groups = v.reshape(len(v), min(32, v.shape[1] // 4), -1)
        groups = (groups - groups.mean(2, keepdim=True)) / (
            groups.var(2, correction=0, keepdim=True) + 1e-6
        ).sqrt()
        return (
            groups.reshape(v.shape) * P[f"{name}.weight"][:, None, None]
            + P[f"{name}.bias"][:, None, None]
        )

    def silu(v):
        return v * torch.sigmoid(v)

    def resize(name, v):
        if name.endswith("_down"):
            return (
                v[..., ::2, ::2]
                + v[..., 1::2, ::2]
                + v[..., ::2, 1::2]
                + v[..., 1::2, 1::2]
            ) / 4
        return (
            v.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if name.endswith("_up")
            else v
        )

    def block(name, v):
        h = conv(f"{name}.conv0", resize(name, silu(norm(f"{name}.norm0", v))))
        h = h + linear(f"{name}.affine", emb)[:, :, None, None]
        h = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", h)))
        v = resize(name, v)
        h = (
            h + (conv(f"{name}.skip", v) if f"{name}.skip.weight" in P else v)
        ) / math.sqrt(2)
        if f"{name}.qkv.weight" in P:
            qkv = conv(f"{name}.qkv", norm(f"{name}.norm2", h)).flatten(2)
            # query, key and value take turns along the channels
            q, k, v = (qkv[:, i::3] for i in range(3))
            weights = torch.softmax(
                q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), dim=2
            )
            h = (
                h + conv(f"{name}.proj", (v @ weights.transpose(1, 2)).reshape(h.shape))
            ) / math.sqrt(2)
        return h

    angles = (
        torch.log(sigma)[:, None]
        / 4
        * 10000 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    )
    emb = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    if given["label_dim"]:
        one_hot = torch.zeros(len(x), given["label_dim"], dtype=torch.float64)
        if classes is not None:
            one_hot[torch.arange(len(x)), classes] = 1
        emb = emb + linear("map_label", one_hot * math.sqrt(given["label_dim"]))
    emb = emb + linear(
        "map_augment", torch.zeros(len(x), edm_files.AUGMENT, dtype=torch.float64)
    )
    emb = silu(linear("map_layer1", silu(linear("map_layer0", emb))))
    h = x / total
    skips = []
    for name in net.model.enc:
        h = (
            conv(f"enc.{name}", h)
            if name.endswith("_conv")
            else block(f"enc.{name}", h)
        )
        skips.append(h)
    for name in net.model.dec:
        if "_aux" not in name:
            h = block(
                f"dec.{name}",
                torch.cat([h, skips.pop()], dim=1) if "_block" in name else h,
            )
    top = f"dec.{given['img_resolution']}x{given['img_resolution']}_aux"
    h = conv(f"{top}_conv", silu(norm(f"{top}_norm", h)))
    sigma = sigma[:, None, None, None]
    return 0.25 / total**2 * x + sigma * 0.5 / total * h


@pytest.fixture(params=NETWORKS, scope="module")
def pair(request, tmp_path_factory):
    """A network in EDM's form, and its file."""
    ema = edm_files.network(**NETWORKS[request.param])
    path = tmp_path_factory.mktemp("edm") / "edm-vp.pkl"
    path.write_bytes(edm_files.content(ema))
    return ema, path


def test_the_released_network_is_the_one_described(pair):
    ema, path = pair
    teacher = released.edm_teacher(path)
    classes = ema.label_dim
    assert isinstance(teacher, Denoiser) and not teacher.training
    rng = torch.Generator().manual_seed(3)
    sigma = torch.tensor([0.002, 0.05, 0.7, 5.0, 80.0], dtype=torch.float64)
    x0, noise = torch.randn(2, 5, 3, 8, 8, generator=rng, dtype=torch.float64)
    x = 0.5 * x0 + sigma[:, None, None, None] * noise
    for labels in (
        [None]
        if not classes
        else [None, torch.randint(0, classes, (5,), generator=rng)]
    ):
        wish = reference(ema, x, sigma, labels)
        with torch.no_grad():
            torch.testing.assert_close(
                teacher(x, sigma, labels), wish, rtol=1e-5, atol=1e-5
            )
            one = teacher(x[2:3].float(), 0.7, None if labels is None else labels[2:3])
        torch.testing.assert_close(one.double(), wish[2:3], rtol=1e-5, atol=1e-5)
        # and what it was told matters, so that agreement means something
        assert (reference(ema, x, sigma * 1.3, labels) - wish).abs().amax(
            (1, 2, 3)
        ).min() > 1e-4
    if classes:
        assert (reference(ema, x, sigma, labels) - reference(ema, x, sigma)).abs()[
            2:
        ].max() > 1e-2


def test_every_tensor_is_the_files_bit_for_bit(pair):
    ema, path = pair
    teacher = released.edm_teacher(path)
    dropped = ("resample_filter", "map_augment.weight")

    def known(state):
        kept = [v for k, v in state.items() if not k.endswith(dropped)]
        return sorted(
            (tuple(v.shape), hashlib.sha256(v.numpy().tobytes()).hexdigest())
            for v in kept
        )

    assert known(teacher.state_dict()) == known(ema.state_dict())


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_and_precisions(tmp_path, protocol):
    ema = edm_files.network().half()
    ema.model.enc.double()
    (tmp_path / "x.pkl").write_bytes(edm_files.content(ema, protocol))
    teacher = released.edm_teacher(tmp_path / "x.pkl")
    weight = teacher.net.embedding.map_layer0.weight
    assert weight.dtype == torch.float32 and torch.equal(
        weight, ema.model.map_layer0.weight.float()
    )


def test_a_converted_folder_is_the_same_teacher(tmp_path, pair):
    ema, path = pair
    assert released.convert(path, tmp_path / "out") == str(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "config.json",
        "origin.json",
    }
    again = load(tmp_path / "out")
    teacher = released.edm_teacher(path)
    assert again.config == teacher.config and again.config.dropout == 0.13
    assert all(
        torch.equal(v, again.state_dict()[k]) for k, v in teacher.state_dict().items()
    )
    origin = json.loads((tmp_path / "out" / "origin.json").read_text())
    assert (
        origin["file"] == "edm-vp.pkl"
        and origin["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    assert "CC BY-NC-SA 4.0" in origin["licence"]


def test_it_samples_and_starts_an_hkd(pair):
    ema, path = pair
    teacher = released.edm_teacher(path)
    x_T = 80 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = karras_sigmas(4)
    labels = torch.tensor([-1, -1]) if teacher.config.labels else None
    path = heun(teacher, x_T, sigmas, labels)
    wish = heun(
        lambda x, s, labels: reference(ema, x, torch.full((len(x),), s).double()),
        x_T.double(),
        sigmas,
    )
    torch.testing.assert_close(path.x.double(), wish.x, rtol=1e-4, atol=1e-4)
    model = HKD.from_teacher(teacher)
    assert torch.equal(
        model.encoder.blocks["8x8_conv"].weight,
        teacher.net.encoder.blocks["8x8_conv"].weight,
    )


READ = """
import sys
from pathlib import Path
from hkd_mini.diffusion import released
run = []
watched = "exec", "import", "pickle", "os", "subprocess", "compile", "ctypes", "socket"
def hear(event, args):
    if armed and event.split(".")[0] in watched:
        run.append((event, str(args[0])[:80]))
sys.addaudithook(hear)
armed = False
released.edm_teacher(sys.argv[1])  # whatever torch loads late, it has loaded now
armed = True
released.edm_teacher(sys.argv[1])
armed = False
assert not run, run
assert not {name.split(".")[0] for name in sys.modules} & {"torch_utils", "dnnlib"}
"""


def test_nothing_in_the_file_runs(tmp_path, monkeypatch):
    """The file bites whoever reads it with pickle; our reader executes, imports and
    unpickles nothing.
    """
    canary = tmp_path / "canary"
    path = tmp_path / "edm.pkl"
    monkeypatch.setattr(
        edm_files.Persistent, "source", f"open({str(canary)!r}, 'w').close()"
    )
    path.write_bytes(edm_files.content(edm_files.network()))
    with edm_files.edm_modules():
        pickle.loads(path.read_bytes())
    assert canary.exists()
    canary.unlink()
    done = subprocess.run(
        [sys.executable, "-c", READ, path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not canary.exists()


REAL = dict(
    in_channels=3, out_channels=3, augment_dim=9, model_channels=128, dropout=0.13
)
# parameters with EDM's own code, of which 9 x 128 are of the augmentation's layer
SIZES = [
    (
        "cifar10",
        dict(img_resolution=32, channel_mult=[2, 2, 2], label_dim=0),
        55_733_891,
    ),
    (
        "cifar10-cond",
        dict(img_resolution=32, channel_mult=[2, 2, 2], label_dim=10),
        55_733_891 + 128 * 11,
    ),
    (
        "ffhq64",
        dict(img_resolution=64, channel_mult=[1, 2, 2, 2], dropout=0.05),
        61_805_571,
    ),
]


@pytest.mark.parametrize(("preset", "arguments", "parameters"), SIZES)
def test_the_released_sizes_are_the_presets(preset, arguments, parameters):
    """So `distill --preset cifar10 --teacher FOLDER` takes what `teacher --from
    FILE.pkl` writes.
    """
    model = Stub("SongUNet", state={"_init_args": (), "_init_kwargs": REAL | arguments})
    config = released._config(model)
    assert config == PRESETS[preset].network and isinstance(config, UNetConfig)
    with torch.device("meta"):
        assert (
            sum(p.numel() for p in Denoiser(config).parameters())
            == parameters - 9 * 128
        )
