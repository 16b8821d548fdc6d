"""Checkpoints in the format of EDM's, small, of random weights, written without EDM's
code.

What is known of the format: a plain pickle of a dictionary; each object of EDM's own
classes is a call of `torch_utils.persistence._reconstruct_persistent_obj` with the
class's source file, its name and its attributes; torch's own classes and tensors are
pickled as torch does it; configurations are `dnnlib.util.EasyDict`. The source file
here writes a canary when it is run.
"""

import contextlib
import pickle
import sys
import types

import numpy as np
import torch
from torch import nn

AUGMENT = 9  # EDM's augmentation labels


class EasyDict(dict):
    """Stands for dnnlib's while a file is written."""


def _reconstruct_persistent_obj(meta):
    """What EDM's reader does, as far as it matters: run the source that came with the
    file.
    """
    exec(meta["module_src"], {})
    return meta["class_name"]


@contextlib.contextmanager
def edm_modules():
    """torch_utils and dnnlib, there only while a file is written (or read the dangerous
    way).
    """
    modules = {
        name: types.ModuleType(name)
        for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }
    modules[
        "torch_utils.persistence"
    ]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    modules["dnnlib.util"].EasyDict = EasyDict
    homes = {
        _reconstruct_persistent_obj: "torch_utils.persistence",
        EasyDict: "dnnlib.util",
    }
    before = {thing: thing.__module__ for thing in homes}
    for thing, home in homes.items():
        thing.__module__ = home
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        for thing, home in before.items():
            thing.__module__ = home


class Persistent(nn.Module):
    """An object of one of EDM's classes: a module with attributes, pickled with a
    source file.
    """

    source = "raise SystemExit('this must never run')"

    def __init__(self, **attributes):
        super().__init__()
        self.__dict__.update(attributes, _init_args=(), _init_kwargs=dict(attributes))

    def __reduce_ex__(self, protocol):
        meta = dict(
            type="class",
            version=6,
            module_src=Persistent.source,
            class_name=type(self).__name__,
            state=dict(self.__dict__),
        )
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (
            meta,
        )


def made(name, **attributes):
    return type(name, (Persistent,), {})(**attributes)


def conv(c_in, c_out, kernel, resample=""):
    layer = made(
        "Conv2d",
        in_channels=c_in,
        out_channels=c_out,
        up=resample == "up",
        down=resample == "down",
    )
    layer.weight = nn.Parameter(
        torch.randn(c_out, c_in, kernel, kernel) / (c_in * kernel**2) ** 0.5
    )
    layer.bias = nn.Parameter(0.1 * torch.randn(c_out))
    layer.register_buffer(
        "resample_filter", torch.full((1, 1, 2, 2), 0.25) if resample else None
    )
    return layer


def linear(c_in, c_out, bias=True):
    layer = made(
        "Linear", in_features=c_in, out_features=c_out, init_weight=np.sqrt(0.2)
    )
    layer.weight = nn.Parameter(torch.randn(c_out, c_in) / c_in**0.5)
    layer.bias = nn.Parameter(0.1 * torch.randn(c_out)) if bias else None
    return layer


def norm(channels):
    layer = made("GroupNorm", num_groups=min(32, channels // 4), eps=1e-6)
    layer.weight, layer.bias = (
        nn.Parameter(a + 0.1 * torch.randn(channels)) for a in (1, 0)
    )
    return layer


def block(c_in, c_out, emb, resample="", attention=False):
    unit = made(
        "UNetBlock",
        in_channels=c_in,
        out_channels=c_out,
        num_heads=int(attention),
        skip_scale=np.sqrt(0.5),
    )
    unit.norm0 = norm(c_in)
    unit.conv0 = conv(c_in, c_out, 3, resample)
    unit.affine = linear(emb, c_out)
    unit.norm1 = norm(c_out)
    unit.conv1 = conv(c_out, c_out, 3)
    unit.skip = conv(c_in, c_out, 1, resample) if c_in != c_out or resample else None
    if attention:
        unit.norm2 = norm(c_out)
        unit.qkv = conv(c_out, 3 * c_out, 1)
        unit.proj = conv(c_out, c_out, 1)
    return unit


def network(
    resolution=8,
    channels=16,
    mult=(1, 2),
    blocks=1,
    attention=(4,),
    classes=0,
    dropout=0.13,
    seed=0,
):
    """An EDMPrecond around a DDPM++ SongUNet."""
    torch.manual_seed(seed)
    emb = 4 * channels
    sizes = [(resolution >> i, channels * m) for i, m in enumerate(mult)]
    net = made(
        "SongUNet",
        img_resolution=resolution,
        in_channels=3,
        out_channels=3,
        label_dim=classes,
        augment_dim=AUGMENT,
        model_channels=channels,
        channel_mult=list(mult),
        channel_mult_emb=4,
        num_blocks=blocks,
        attn_resolutions=list(attention),
        dropout=dropout,
        label_dropout=0,
        embedding_type="positional",
        channel_mult_noise=1,
        encoder_type="standard",
        decoder_type="standard",
        resample_filter=[1, 1],
    )
    net.map_noise = made(
        "PositionalEmbedding", num_channels=channels, max_positions=10000, endpoint=True
    )
    net.map_label = linear(classes, channels) if classes else None
    net.map_augment = linear(AUGMENT, channels, bias=False)
    net.map_layer0 = linear(channels, emb)
    net.map_layer1 = linear(emb, emb)
    net.enc = nn.ModuleDict()
    net.dec = nn.ModuleDict()
    skips = []
    c = 3
    for level, (res, width) in enumerate(sizes):
        if level:
            net.enc[f"{res}x{res}_down"] = block(c, c, emb, "down")
        else:
            net.enc[f"{res}x{res}_conv"] = conv(3, channels, 3)
            c = channels
        skips.append(c)
        for i in range(blocks):
            net.enc[f"{res}x{res}_block{i}"] = block(
                c, width, emb, attention=res in attention
            )
            c = width
            skips.append(c)
    for level, (res, width) in reversed(list(enumerate(sizes))):
        if level == len(sizes) - 1:
            net.dec[f"{res}x{res}_in0"] = block(c, c, emb, attention=True)
            net.dec[f"{res}x{res}_in1"] = block(c, c, emb)
        else:
            net.dec[f"{res}x{res}_up"] = block(c, c, emb, "up")
        for i in range(blocks + 1):
            attend = i == blocks and res in attention
            net.dec[f"{res}x{res}_block{i}"] = block(
                c + skips.pop(), width, emb, attention=attend
            )
            c = width
    net.dec[f"{resolution}x{resolution}_aux_norm"] = norm(c)
    net.dec[f"{resolution}x{resolution}_aux_conv"] = conv(c, 3, 3)
    whole = made(
        "EDMPrecond",
        img_resolution=resolution,
        img_channels=3,
        label_dim=classes,
        use_fp16=False,
        sigma_min=0,
        sigma_max=float("inf"),
        sigma_data=0.5,
    )
    whole.model = net
    return whole.eval().requires_grad_(False)


def content(ema, protocol=4):
    """The file's bytes: the network, and what else EDM keeps beside it."""
    with edm_modules():
        settings = EasyDict(
            class_name="training.dataset.ImageFolderDataset",
            resolution=ema.img_resolution,
            xflip=False,
        )
        loss = made("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5)
        return pickle.dumps(
            dict(ema=ema, loss_fn=loss, augment_pipe=None, dataset_kwargs=settings),
            protocol,
        )
