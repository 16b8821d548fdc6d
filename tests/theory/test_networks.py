"""Networks: the U-Net's split equals its whole, EDM's sizes and layout, options,
labels, MLP, classifier.
"""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hkd_mini.diffusion.layers import Embedding, norm
from hkd_mini.diffusion.networks import MLPConfig, Network
from hkd_mini.diffusion.unet import Decoder, Encoder, UNetBlock, UNetConfig
from hkd_mini.engine.weights import build
from hkd_mini.hkd.config import PRESETS
from hkd_mini.judge.classifier import (
    KINDS,
    Classifier,
    ClassifierConfig,
    Depthwise,
    share_found,
)

SMALL = UNetConfig(resolution=16, channels=8, mult=(1, 2), blocks=2, attention=(8,))
VARIANTS = {
    "plain": SMALL,
    "patch 2": dataclasses.replace(SMALL, patch=2, attention=(4,)),
    "adaptive scale": dataclasses.replace(SMALL, adaptive_scale=True),
    "labels": dataclasses.replace(SMALL, labels=5),
    "three levels, odd batch": dataclasses.replace(
        SMALL, mult=(1, 2, 3), blocks=1, attention=(16, 4)
    ),
    "one level, grey": dataclasses.replace(
        SMALL, resolution=6, mult=(2,), in_channels=1, attention=()
    ),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def network(config, seed=0):
    """A network whose last layers are not nearly zero, as they start: otherwise nothing
    would show in its output.
    """
    torch.manual_seed(seed)
    net = Network(config).eval()
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net


def inputs(config, batch=3):
    rng = torch.Generator().manual_seed(1)
    labels = (
        F.one_hot(torch.arange(batch) % config.labels, config.labels).float()
        if config.labels
        else None
    )
    return (
        torch.randn(batch, *config.shape, generator=rng),
        torch.linspace(-1.5, 1, batch),
        labels,
    )


@variants
@pytest.mark.parametrize("batch", [1, 3])
def test_whole_is_decoder_after_encoder(config, batch):
    net = network(config)
    x, c_noise, labels = inputs(config, batch)
    with torch.no_grad():
        emb = net.embedding(c_noise, labels)
        states = net.encoder(x, emb)
        assert [tuple(z.shape[1:]) for z in states] == config.state_shapes
        # the bottleneck's input is the last skip, as a state of its own
        assert states[-1] is states[-2]
        whole = net(x, c_noise, labels)
        assert whole.shape == x.shape and torch.equal(whole, net.decoder(states, emb))


@variants
def test_every_state_matters_to_the_decoder(config):
    net = network(config)
    x, c_noise, labels = inputs(config)
    with torch.no_grad():
        emb = net.embedding(c_noise, labels)
        states = net.encoder(x, emb)
        whole = net.decoder(states, emb)
        for i, z in enumerate(states):
            changed = [*states[:i], z + 1, *states[i + 1 :]]
            assert (net.decoder(changed, emb) - whole).abs().max() > 1e-4, (
                f"state {i} is not used"
            )


@variants
def test_samples_of_a_batch_do_not_mix_and_noise_level_matters(config):
    net = network(config)
    x, c_noise, labels = inputs(config)
    with torch.no_grad():
        whole = net(x, c_noise, labels)
        one = [
            net(
                x[i : i + 1],
                c_noise[i : i + 1],
                None if labels is None else labels[i : i + 1],
            )
            for i in range(3)
        ]
        torch.testing.assert_close(torch.cat(one), whole, rtol=1e-3, atol=1e-4)
        assert (net(x, c_noise + 0.5, labels) - whole).abs().max() > 1e-3


def meta(config):
    with torch.device("meta"):
        return Network(config)


def size(module):
    return sum(p.numel() for p in module.parameters())


def test_edm_cifar_sizes():
    """EDM's unconditional network has 55,733,891 parameters, 9 x 128 of them for
    augmentation, which is not here.
    """
    net = meta(UNetConfig())
    assert size(net.encoder) == 19_302_912 and size(net.decoder) == 36_101_123
    assert size(net.embedding) == 329_856 - 9 * 128
    assert size(net) == 55_733_891 - 9 * 128 == 55_732_739


def test_edm_other_sizes():
    assert size(meta(PRESETS["ffhq64"].network)) == 61_805_571 - 9 * 128
    # class-conditional: one linear layer more, 10 classes to 128 channels, with a bias
    assert (
        size(meta(UNetConfig(labels=10))) - size(meta(UNetConfig())) == 10 * 128 + 128
    )
    assert size(meta(PRESETS["cifar10-mini"].network)) < 8e6


def test_state_shapes_of_edm():
    cifar = (
        [(128, 32, 32)] + 4 * [(256, 32, 32)] + 5 * [(256, 16, 16)] + 5 * [(256, 8, 8)]
    )
    assert UNetConfig().state_shapes == [*cifar, (256, 8, 8)]
    assert sum(math.prod(shape) for shape in cifar) == 1_589_248
    ffhq = (
        5 * [(128, 64, 64)]
        + [(128, 32, 32)]
        + 4 * [(256, 32, 32)]
        + 5 * [(256, 16, 16)]
        + 5 * [(256, 8, 8)]
    )
    assert PRESETS["ffhq64"].network.state_shapes == [*ffhq, (256, 8, 8)]
    assert sum(math.prod(shape) for shape in ffhq) == 4_210_688
    assert PRESETS["cifar10"].network.state_shapes == UNetConfig().state_shapes


def test_names_and_attention_are_edms():
    """Blocks are called as in EDM's files, so that tensors can be mapped; attention at
    16, and in 8x8_in0.
    """
    net = meta(UNetConfig())
    names = ["conv"] + [f"block{i}" for i in range(4)]
    down = ["down"] + names[1:]
    assert list(net.encoder.blocks) == [f"32x32_{n}" for n in names] + [
        f"{r}x{r}_{n}" for r in (16, 8) for n in down
    ]
    tail = [f"block{i}" for i in range(5)]
    wish = [f"8x8_{n}" for n in ["in0", "in1", *tail]] + [
        f"{r}x{r}_{n}" for r in (16, 32) for n in ["up", *tail]
    ]
    assert list(net.decoder.blocks) == wish
    attends = {
        n
        for blocks in (net.encoder.blocks, net.decoder.blocks)
        for n, b in blocks.items()
        if getattr(b, "attention", False)
    }
    assert attends == {
        "16x16_block0",
        "16x16_block1",
        "16x16_block2",
        "16x16_block3",
        "8x8_in0",
        "16x16_block4",
    }
    shapes = {
        k: tuple(v.shape) for k, v in net.decoder.blocks["8x8_in0"].state_dict().items()
    }
    assert shapes["qkv.weight"] == (768, 256, 1, 1) and shapes["affine.weight"] == (
        256,
        512,
    )
    assert [
        tuple(net.decoder.blocks[f"32x32_block{i}"].conv0.weight.shape)[1]
        for i in range(5)
    ] == [
        512,
        512,
        512,
        512,
        384,
    ]
    # 128 to 256 channels needs one
    assert "encoder.blocks.32x32_block0.skip.weight" in net.state_dict()
    assert "encoder.blocks.32x32_block1.skip.weight" not in net.state_dict()


def block_by_hand(block, x, emb):
    """The residual block by plain formulas, written apart from the module."""
    group = lambda n, v: F.group_norm(v, n.num_groups, n.weight, n.bias, 1e-6)
    resize = {
        "": lambda v: v,
        "down": lambda v: v.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5)),
        "up": lambda v: v.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[block.resample]
    convolve = lambda layer, v: F.conv2d(
        v, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2
    )
    h = convolve(block.conv0, resize(F.silu(group(block.norm0, x))))
    told = F.linear(emb, block.affine.weight, block.affine.bias)[:, :, None, None]
    if block.adaptive:
        scale = told[:, : told.shape[1] // 2]
        shift = told[:, told.shape[1] // 2 :]
        h = group(block.norm1, h) * (1 + scale) + shift
    else:
        h = group(block.norm1, h + told)
    x = (
        convolve(block.conv1, F.silu(h))
        + (convolve(block.skip, resize(x)) if block.skip is not None else resize(x))
    ) / 2**0.5
    if not block.attention:
        return x
    b, c, height, width = x.shape
    q, k, v = (
        convolve(block.qkv, group(block.norm2, x))
        .reshape(b, c, 3, height * width)
        .unbind(2)
    )
    weights = torch.einsum("bcq,bck->bqk", q, k).div(c**0.5).softmax(-1)
    a = torch.einsum("bqk,bck->bcq", weights, v).reshape(x.shape)
    return (x + convolve(block.proj, a)) / 2**0.5


@pytest.mark.parametrize("resample", ["", "down", "up"])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("c_out, attention", [(8, True), (16, False)])
def test_block_by_hand(resample, adaptive, c_out, attention):
    torch.manual_seed(0)
    block = (
        UNetBlock(
            8,
            c_out,
            32,
            dataclasses.replace(SMALL, adaptive_scale=adaptive),
            resample,
            attention,
        )
        .double()
        .eval()
    )
    for parameter in block.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(3, 8, 4, 6, dtype=torch.float64)
    emb = torch.randn(3, 32, dtype=torch.float64)
    torch.testing.assert_close(
        block(x, emb), block_by_hand(block, x, emb), rtol=1e-10, atol=1e-10
    )


def test_embedding_by_hand():
    """Sines first, then cosines (EDM swaps them), frequencies from 1 to 1e-4; the class
    is added before the layers.
    """
    torch.manual_seed(0)
    embed = Embedding(8, labels=3)
    c_noise = torch.tensor([-1.5, 0.0, 1.1])
    embed.map_label.bias.data.normal_()
    angles = torch.tensor(
        [[c * 1e-4 ** (k / 3) for k in range(4)] for c in c_noise.tolist()]
    )
    plain = torch.cat([angles.sin(), angles.cos()], 1)

    def layers(v):
        return F.silu(embed.map_layer1(F.silu(embed.map_layer0(v))))

    labels = torch.eye(3)[[2, 0, 1]]
    weight = embed.map_label.weight
    bias = embed.map_label.bias
    torch.testing.assert_close(
        embed(c_noise, labels), layers(plain + 3**0.5 * weight.T[[2, 0, 1]] + bias)
    )
    # EDM: no label is a row of zeros
    torch.testing.assert_close(embed(c_noise), layers(plain + bias))
    assert Embedding(8)(c_noise).shape == (3, 32)


def test_labels_change_the_output():
    config = VARIANTS["labels"]
    net = network(config)
    x, c_noise, labels = inputs(config)
    with torch.no_grad():
        assert (
            net(x, c_noise, labels.flip(1)) - net(x, c_noise, labels)
        ).abs().max() > 1e-3


def test_patch_folds_pixels_and_unfolds_them():
    """At patch 2 the first layer sees 2x2 blocks: it equals a network without patches
    on folded pictures.
    """
    config = VARIANTS["patch 2"]
    folded = dataclasses.replace(config, resolution=8, in_channels=12, patch=1)
    assert config.state_shapes == folded.state_shapes
    net = network(config)
    other = network(folded)
    other.load_state_dict(net.state_dict())
    x, c_noise, _ = inputs(config)
    blocks = (
        x.unflatten(3, (8, 2))
        .unflatten(2, (8, 2))
        .permute(0, 1, 3, 5, 2, 4)
        .flatten(1, 3)
    )  # c, row, column of the 2x2
    with torch.no_grad():
        back = (
            other(blocks, c_noise)
            .unflatten(1, (3, 2, 2))
            .permute(0, 1, 4, 2, 5, 3)
            .flatten(4, 5)
            .flatten(2, 3)
        )
        torch.testing.assert_close(net(x, c_noise), back)


def test_starts_near_the_identity_of_preconditioning():
    """Fresh networks put out almost nothing (last gain 1e-5), so that a fresh denoiser
    is c_skip x.
    """
    torch.manual_seed(0)
    net = Network(SMALL)
    x, c_noise, _ = inputs(SMALL)
    assert net(x, c_noise).abs().max() < 1e-2


def test_dropout_only_in_training():
    net = network(dataclasses.replace(SMALL, dropout=0.5))
    x, c_noise, _ = inputs(SMALL)
    assert torch.equal(net(x, c_noise), net(x, c_noise))
    net.train()
    assert not torch.equal(net(x, c_noise), net(x, c_noise))


@pytest.mark.parametrize(
    "channels, groups",
    [(128, 32), (256, 32), (16, 4), (8, 2), (2, 1), (12, 3), (36, 9), (150, 30)],
)
def test_norm_groups(channels, groups):
    assert norm(channels).num_groups == groups and channels % groups == 0


def test_config_errors():
    with pytest.raises(ValueError, match="patch = 3"):
        UNetConfig(patch=3)
    with pytest.raises(ValueError, match="resolution 30 cannot be halved 2 times"):
        UNetConfig(resolution=30)
    with pytest.raises(ValueError, match="at patch 2"):
        UNetConfig(resolution=36, patch=2)


def test_config_comes_back_from_json():
    """JSON knows lists alone; the configuration is the same, and hashable, with its
    tuples back.
    """
    for config in (
        UNetConfig(mult=(1, 2), attention=(8, 4)),
        MLPConfig(dim=3),
        ClassifierConfig(widths=(8, 16)),
    ):
        back = build(type(config), json.loads(json.dumps(dataclasses.asdict(config))))
        assert back == config and hash(back) == hash(config)


@pytest.mark.parametrize("batch", [1, 3])
def test_mlp(batch):
    config = MLPConfig(dim=3, state=10, depth=2, labels=4)
    net = network(config)
    x, c_noise, labels = inputs(config, batch)
    emb = net.embedding(c_noise, labels)
    states = net.encoder(x, emb)
    assert [tuple(z.shape) for z in states] == [
        (batch, 10, 1, 1)
    ] and config.state_shapes == [(10, 1, 1)]
    whole = net(x, c_noise, labels)
    assert whole.shape == (batch, 3) and torch.equal(whole, net.decoder(states, emb))
    assert (net(x, c_noise + 1, labels) - whole).abs().max() > 1e-3
    assert (net(x, c_noise, labels.roll(1, 1)) - whole).abs().max() > 1e-3


def test_halves_can_be_built_alone():
    encoder = Encoder(SMALL)
    decoder = Decoder(SMALL)
    emb = torch.randn(1, 4 * SMALL.channels)
    assert decoder(encoder(torch.randn(1, *SMALL.shape), emb), emb).shape == (
        1,
        *SMALL.shape,
    )


@pytest.mark.parametrize("blocks", KINDS)
def test_classifier(blocks):
    torch.manual_seed(0)
    config = ClassifierConfig(widths=(8, 12, 16), classes=7, blocks=blocks)
    net = Classifier(config).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        maps = net.features(x)
        assert [tuple(m.shape) for m in maps] == [
            (3, 8, 16, 16),
            (3, 12, 8, 8),
            (3, 16, 4, 4),
        ]
        torch.testing.assert_close(net.embed(x), maps[-1].flatten(2).mean(2))
        torch.testing.assert_close(
            net(x), net.embed(x) @ net.head.weight.T + net.head.bias
        )
        assert net(x).shape == (3, 7)
        torch.testing.assert_close(
            torch.cat([net(x[i : i + 1]) for i in range(3)]),
            net(x),
            rtol=1e-4,
            atol=1e-5,
        )


def test_a_depthwise_block_by_hand():
    """Each channel by itself, then the same two matrices at every place, and a skip."""
    torch.manual_seed(1)
    block = Depthwise(4).double().eval()
    x = torch.randn(2, 4, 5, 6, dtype=torch.double)
    own = [
        F.conv2d(x[:, k : k + 1], block.spatial.weight[k : k + 1], padding=1)
        for k in range(4)
    ]
    inner = block.norm(torch.cat(own, 1)).permute(0, 2, 3, 1)
    wide = (inner @ block.expand.weight[:, :, 0, 0].T + block.expand.bias).relu()
    out = wide @ block.project.weight[:, :, 0, 0].T + block.project.bias
    torch.testing.assert_close(block(x), x + out.permute(0, 3, 1, 2))


@pytest.mark.parametrize("blocks", KINDS)
def test_only_a_plain_classifier_has_no_skips(blocks):
    """Where its last convolution of a stage gives nothing, nothing goes on."""
    torch.manual_seed(0)
    config = ClassifierConfig((4, 4, 4), 3, blocks)
    x = torch.randn(2, 3, 16, 16)
    for stage in range(3):
        net = Classifier(config).eval()
        inner = [m for m in net.stages[stage].modules() if isinstance(m, nn.Conv2d)]
        nn.init.zeros_(inner[-1].weight)
        with torch.no_grad():
            one, other = net(x)
        assert torch.equal(one, other) == (blocks == "plain")


def test_a_kind_that_there_is_not():
    with pytest.raises(ValueError, match="blocks = 'dense': one of residual, plain"):
        ClassifierConfig(blocks="dense")


def test_a_configuration_without_kind_is_residual():
    """As all were that were saved before there were kinds."""
    old = build(ClassifierConfig, {"widths": [8, 12, 16], "classes": 7})
    assert old == ClassifierConfig((8, 12, 16), 7, "residual")
    first = [k for k in Classifier(old).state_dict() if k.startswith("stages.0.0")]
    assert first[0] == "stages.0.0.0.weight"


def test_the_share_of_classes_found_is_counted():
    torch.manual_seed(0)
    net = Classifier(ClassifierConfig((4, 4, 4), 3)).eval()
    images = torch.randint(256, (7, 3, 16, 16), dtype=torch.uint8)
    named = net(images / 127.5 - 1).argmax(1)
    assert share_found(net, images, named, batch=2) == 1
    assert share_found(net, images / 127.5 - 1, named) == 1
    asked = named.clone()
    asked[:3] = (named[:3] + 1) % 3
    assert share_found(net, images, asked, batch=3) == pytest.approx(4 / 7)
    with pytest.raises(ValueError, match="^0 images, training mode False: wanted"):
        share_found(net, images[:0], named[:0])
    with pytest.raises(ValueError, match="7 images, training mode True: wanted"):
        share_found(net.train(), images, named)
