"""Training at any scale: A's own rate, compiled dynamics, the paper's networks, labels,
the teacher's paths in bf16.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hkd_mini
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import karras_sigmas
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.run import Run
from hkd_mini.hkd import distil
from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.make_paths import kept_levels, make, noise_for
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective, hkd_loss
from hkd_mini.hkd.paths import Trajectories
from hkd_mini.hkd.recipes import RECIPES
from hkd_mini.judge.distance import Distance

ROOT = Path(__file__).resolve().parents[2]
TOY = MLPConfig(channels=8, width=16, depth=1, state=6)
SMALL = UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(8,), patch=2)
ONE = TrainConfig(images=4, batch=4, lr=1e-3, warmup=0, precision="fp32")
PLAIN = Objective(perceptual="none")


class Noise:
    """Paths that no teacher made, as `train` reads them: random pictures, the noise
    added in a straight line.
    """

    def __init__(self, shape, n=4, labels=0):
        rng = torch.Generator().manual_seed(0)
        self.sigmas = karras_sigmas(6)
        self.labels = torch.arange(n) % labels if labels else None
        end, noise = torch.randn(2, n, 1, *shape, generator=rng).mul(0.5)
        self.x = end + self.sigmas.float().view(-1, *[1] * len(shape)) * noise

    def __len__(self):
        return len(self.x)

    def gather(self, index, at):
        batch = {
            "x": self.x[index[:, None], at],
            "sigma": self.sigmas[at].float(),
            "end": self.x[index, -1],
        }
        return batch if self.labels is None else batch | {"labels": self.labels[index]}


def step(config=ONE, lr_scale_A=1.0, **options):
    """A toy HKD, and how far each of its parameters moved in the run's first step."""
    torch.manual_seed(0)
    model = HKD(HKDConfig(TOY, **options))
    run = Run(
        model,
        lambda model, progress, **b: hkd_loss(model, Distance(None), **b),
        config,
        groups=distil.groups(model, lr_scale_A),
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    run.step(0, Noise((2,)).gather(torch.arange(4), torch.tensor([[0, 2]] * 4)))
    return run, {
        name: value.detach() - before[name] for name, value in model.named_parameters()
    }


def test_A_moves_at_its_own_rate():
    """Adam's first step is the learning rate whatever the gradient, so rates show in it
    as they are.
    """
    moved = {rate: step(lr_scale_A=rate)[1] for rate in (0.0, 1.0, 10.0)}
    A = "generators.0.A"
    assert not moved[0.0][A].any(), "a rate of 0 freezes A"
    torch.testing.assert_close(
        moved[1.0][A].abs(), torch.full_like(moved[1.0][A], ONE.lr), rtol=1e-2, atol=0
    )
    torch.testing.assert_close(moved[10.0][A], 10 * moved[1.0][A])
    for name, value in moved[1.0].items():
        if name != A:
            assert (
                value.any()
                and torch.equal(value, moved[10.0][name])
                and torch.equal(value, moved[0.0][name])
            ), name


def test_the_schedule_moves_both_rates():
    config = replace(ONE, images=40, warmup=16)
    run, _ = step(config, lr_scale_A=5.0)
    assert [group["lr"] for group in run.adam.param_groups] == [
        config.lr_at(0),
        5 * config.lr_at(0),
    ]


def test_every_trained_weight_is_in_one_group():
    for options, A in (
        (dict(), 5),
        (dict(hierarchy="bottleneck"), 1),
        (dict(koopman=False), 0),
    ):
        model = HKD(HKDConfig(SMALL, **options))
        groups = distil.groups(model, 3.0)
        assert [group["scale"] for group in groups] == [1.0, 3.0][: 1 + bool(A)], (
            "no empty group"
        )
        assert sum(len(group["params"]) for group in groups[1:]) == A
        found = [id(p) for group in groups for p in group["params"]]
        assert sorted(found) == sorted(
            id(p) for p in model.parameters() if p.requires_grad
        )
    assert len(distil.groups(torch.nn.Linear(2, 1), 3.0)) == 1, (
        "a model without dynamics"
    )


def test_a_frozen_A_trains_the_rest():
    run, moved = step(lr_scale_A=10.0, koopman=False)
    assert len(run.adam.param_groups) == 1 and not moved.pop("generators.0.A").any()
    assert all(value.any() for value in moved.values())


def test_a_negative_rate_is_refused():
    with pytest.raises(ValueError, match="lr_scale_A = -1.0: at least 0"):
        replace(PLAIN, lr_scale_A=-1.0)


COMPILED = """
import torch
from torch._dynamo import explain
from hkd_mini.koopman.generator import KoopmanGenerator
from hkd_mini.hkd.model import HKD, HKDConfig
from hkd_mini.diffusion.networks import UNetConfig
torch.set_num_threads(1)
generator = KoopmanGenerator(6, 5, 3)
torch.nn.init.normal_(generator.A)
z = torch.randn(3, 6, 5, 3, generator=torch.Generator().manual_seed(0))
whole = torch.compile(generator, fullgraph=True, backend="aot_eager")
for dt in (-0.3, torch.tensor([0.1, 0.5, -1.0]), torch.tensor([0.2])):
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            print(explain(generator)(z, dt).graph_break_count)
            torch.testing.assert_close(whole(z, dt), generator(z, dt))
network = UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(8,), patch=2)
model = HKD(HKDConfig(network))
states = [torch.randn(3, *shape) for shape in model.state_shapes]
for t in (1.0, torch.tensor([0.1, 0.5, 1.0])):
    print(explain(model.evolve)(states, t, 0.0).graph_break_count)
"""


def test_the_evolution_compiles_in_one_piece():
    """In a process of its own: the checks of shapes and types that tests run under are
    not for a compiler.
    """
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["0"] * 8, "graph breaks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions", "operators", "points"),
    [("cifar10", 55.7, 16, 2), ("cifar10-cond", 55.7, 16, 1), ("ffhq64", 61.8, 21, 1)],
)
def test_the_papers_networks_take_a_step(name, millions, operators, points):
    torch.manual_seed(0)
    model = HKD(PRESETS[name])
    network = PRESETS[name].network
    weights = sum(
        p.numel()
        for part in (model.embedding, model.encoder, model.decoder)
        for p in part.parameters()
    )
    assert abs(weights / 1e6 - millions) < 0.06, "EDM's figure"
    assert len(model.generators) == operators
    recipe = replace(RECIPES[name].distill, images=1, batch=1)
    asked = replace(PLAIN, times=points)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    seen = list(train(model, Noise(network.shape, 1, network.labels), recipe, asked))
    assert [s.step for s in seen] == [1] and seen[0].grad_norm > 0
    moved = {
        key: not torch.equal(value, before[key])
        for key, value in model.named_parameters()
    }
    assert all(moved[f"generators.{i}.A"] for i in range(operators))
    assert sum(moved.values()) > 0.8 * len(moved), (
        "all but where a fresh network's gradient is below Adam's 1e-8"
    )
    assert not network.labels or moved["embedding.map_label.weight"]


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_labels_are_heard_in_both_halves(half):
    """The one map of labels hears from each half: with the other half told the labels
    of nobody, its gradient stays.
    """
    torch.manual_seed(0)
    model = HKD(HKDConfig(replace(SMALL, labels=10)))
    for p in model.decoder.out_conv.parameters():
        # at its start the output is 1e-5 of what it will be
        torch.nn.init.normal_(p, std=0.1)
    for block in (*model.encoder.blocks.values(), *model.decoder.blocks.values()):
        if hasattr(block, "conv1"):
            torch.nn.init.normal_(block.conv1.weight, std=0.1)
    other = {"encoder": "decode", "decoder": "encode"}[half]
    call = getattr(model, other)
    setattr(model, other, lambda *given: call(*given[:-1], None))
    batch = Noise((3, 32, 32), labels=10).gather(
        torch.arange(4), torch.tensor([[0, 3]] * 4)
    )
    hkd_loss(model, Distance(None), **batch)["loss"].backward()
    gradient = model.embedding.map_label.weight.grad.norm(dim=0)
    assert (gradient[:4] > 1e-4).all() and not gradient[4:].any(), (
        "the classes of this batch and no others"
    )


def test_conditional_training_needs_no_more_than_labels_on_the_paths():
    torch.manual_seed(0)
    model = HKD(HKDConfig(replace(SMALL, labels=10)))
    before = model.embedding.map_label.weight.detach().clone()
    config = TrainConfig(
        images=16,
        batch=4,
        lr=1e-3,
        warmup=0,
        precision="fp32",
    )
    asked = replace(PLAIN, times=2)
    known = Noise((3, 32, 32), labels=10)
    losses = [s.loss for s in train(model, known, config, asked)]
    assert len(losses) == 4 and losses[-1] < losses[0]
    moved = (model.embedding.map_label.weight - before).abs().amax(0)
    assert (moved[:4] > 0).all() and not moved[4:].any()


STEPS = 9


def test_paths_in_bf16_keep_their_state_in_float32(tmp_path):
    """The network may round, the sum may not: a bfloat16 near 80 is off by up to 1/4,
    half a picture's deviation.
    """
    teacher = hkd_mini.load("teacher-cifar10-tiny")
    kinds = set()
    sigmas = karras_sigmas(STEPS)
    x_T = (noise_for(0, 0, 4, (3, 32, 32)) * sigmas[0]).half().float()

    def watched(x, sigma, labels=None):
        guess = teacher(x, sigma, labels)
        kinds.update({x.dtype, guess.dtype})
        return guess

    exact = heun(teacher, x_T, sigmas).x
    with torch.autocast("cpu", torch.bfloat16):
        fast = heun(watched, x_T, sigmas).x
    assert kinds == {torch.float32} == {fast.dtype}
    assert (fast[1] != fast[1].bfloat16()).float().mean() > 0.9, (
        "digits that bfloat16 does not have"
    )
    off = (fast[-1] - exact[-1]).square().mean().sqrt()
    assert 0 < off < 0.02, (
        "pictures in [-1, 1], rounded in the network alone: 1% of their range at most"
    )
    list(
        make(teacher, (3, 32, 32), 4, tmp_path, times=4, steps=STEPS, precision="bf16")
    )
    assert torch.equal(
        Trajectories(tmp_path).paths(range(4)),
        fast[kept_levels(STEPS, 4)].half().float(),
    )
