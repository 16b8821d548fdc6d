"""What a model is, in a screen of text: its card, its shapes, its rates, and whether
its generator is needed.

The last is measured here, on a few noises: how far the pictures move when A is set to
0. A model whose pictures stay has an idle generator, whatever its spectrum looks like.
Chapters: 9 "The architecture", 10 "Training", 19 "Your own pictures".
"""

import copy
import json
import re
from typing import Any

import torch
from torch import nn

from ..diffusion.schedule import noise_of
from ..engine.data import unit_noise
from ..engine.weights import resolve
from ..hkd.model import HKD
from ..hkd.spectra import spectrum
from ..koopman.generator import KoopmanGenerator
from .zoo import is_diffusers, is_function, load, load_teacher

NEEDED = 0.05  # share of the samples' variance that A must move on the way to be needed


def lines_about(name: str, n: int = 8) -> list[str]:
    """Lines about the model `name`, a bundled one, a folder, or a teacher by
    module:function; `n` noises say what A does.

    Raises as `zoo.load`.
    """
    foreign = is_function(name) or is_diffusers(name)
    model: nn.Module = load_teacher(name) if foreign else load(name)
    count = sum(p.numel() for p in model.parameters())
    lines = [f"{name}: {type(model).__name__}, {count / 1e6:.2f} million parameters"]
    config: Any = getattr(model, "config", None)
    network = getattr(config, "network", config)
    if shape := getattr(network, "shape", None):
        classes = getattr(network, "labels", 0)
        lines.append(f"x: {tuple(shape)}, {classes or 'no'} classes")
        noise = noise_of(model)
        lines.append(
            f"noise: {noise.sigma_max:g} to {noise.sigma_min:g}, data's deviation "
            f"{noise.sigma_data:g}"
        )
    if isinstance(model, HKD):
        lines += _states(model) + [_generator(model, n)]
    if not foreign:
        lines += _made(name)
    return lines


def moved_by_generator(model: HKD, n: int = 8, seed: int = 0, times: int = 9) -> float:
    """How far A = 0, in the encoder too, moves what the states of n noises decode to:
    mean squared difference over the samples' variance, the largest of `times` times
    evenly from the noise to the picture. It is 0 where A is idle.

    The picture alone does not tell: anchored pairs that are named at the picture draw
    it with any A, and it is the guesses on the way that they need A for.
    """
    network = model.config.network
    noise = unit_noise(n, network.shape, seed)
    labels = torch.arange(n) % network.labels if network.labels else None
    still = copy.deepcopy(model)
    for part in still.modules():
        if isinstance(part, KoopmanGenerator):
            nn.init.zeros_(part.A)
    way = torch.linspace(model.clock.T, model.clock.eps, times)
    with torch.no_grad():
        whole = model.trajectory(noise, way, labels)
        gap = (whole - still.trajectory(noise, way, labels)).square()
    return float(gap.flatten(1).mean(1).max() / whole[-1].var(0).mean())


def _states(model: HKD) -> list[str]:
    rates = torch.cat([level.flatten() for level in spectrum(model)])
    shapes = ", ".join("x".join(map(str, shape)) for shape in model.state_shapes)
    growth = rates.real
    turn = rates.imag.abs().max()
    return [
        f"states: {shapes}",
        f"clock: {model.config.clock}, from {model.clock.T:.3g} (noise) to "
        f"{model.clock.eps:.3g} (picture)",
        f"rates: growth {growth.min():.3g} to {growth.max():.3g}, turning up to "
        f"{turn:.3g}",
    ]


def _generator(model: HKD, n: int) -> str:
    if not model.config.koopman:
        return "A: fixed at 0"
    share = moved_by_generator(model, n)
    verdict = "needed" if share > NEEDED else "idle"
    return (
        f"A: {verdict}; at A = 0 what it decodes from noise to picture moves by up to "
        f"{share:.2g} of its samples' variance"
    )


def _made(name: str) -> list[str]:
    """The model's card, and what its training wrote down."""
    folder = resolve(name)
    lines = []
    training = folder / "training.json"
    if training.is_file():
        said = json.loads(training.read_text(encoding="utf-8"))
        kept = {k: said[k] for k in ("data", "teacher", "seconds") if k in said}
        lines.append(f"trained: {json.dumps(kept)}")
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        lines += ["", re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S).strip()]
    return lines
