"""How much one step saves: a guided teacher's 70 evaluations beside HKD's one.

    python benchmarks/one_step.py [--quick]

The same 64 noises become pictures twice on this machine, in this run: by the bundled
teacher with Heun's method on 18 levels, guided as where HKD learned from it (2 * 18 - 1
network evaluations, each with a class and without), and by the bundled HKD (encode,
evolve in closed form, decode). Both run in the precision that
`hkd-mini sample` takes here, without compilation, after a warm-up that does not count;
they take turns, so that a machine that slows down slows both, and medians are compared.
Where the weights are not bundled, networks of the same shape with random weights take
their place, and the output says so: speed does not ask what the weights are. The last
line is the ratio of the two medians. `--quick` takes 2 noises and one turn.
"""

import statistics
import sys

import torch
from common import WEIGHT, seconds

from hkd_mini.app.zoo import load
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine.precision import choose, computing
from hkd_mini.hkd.config import PRESETS
from hkd_mini.hkd.model import HKD

STEPS = 18
PRESET = "cifar10-mini"


def model(name, kind, config, device):
    """The bundled model, or one of its shape with random weights; and a word on
    which.
    """
    try:
        return load(name).to(device), f"bundled {name}"
    except FileNotFoundError:
        return kind(config).eval().to(
            device
        ), f"{PRESET}'s {kind.__name__}, random weights: {name} is not bundled"


def main(arguments=None):
    quick = "--quick" in (sys.argv[1:] if arguments is None else arguments)
    batch, turns = (2, 1) if quick else (64, 3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher, which = model("teacher-cifar10", Denoiser, PRESETS[PRESET].network, device)
    student, other = model("hkd-cifar10", HKD, PRESETS[PRESET], device)
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, *student.config.network.shape, generator=rng).to(device)
    labels = torch.arange(batch, device=device) % teacher.config.labels
    guided = Guided(teacher, WEIGHT)
    sigmas = guided.noise.sigmas(STEPS)
    calls = {
        "teacher": lambda: heun(guided, sigmas[0] * noise, sigmas, labels),
        "student": lambda: student.sample(noise, labels),
    }
    precision = choose("auto", device)
    with computing(precision, device):
        path = calls["teacher"]()
        image = calls["student"]()  # warm-up
        assert path.nfe == 2 * STEPS - 1 and path.x[-1].shape == image.shape
        times = {name: [] for name in calls}
        for _ in range(turns):
            for name, repeats in (("teacher", 1), ("student", 1 if quick else 5)):
                times[name] += [seconds(calls[name], device) for _ in range(repeats)]
    slow, fast = (statistics.median(times[name]) for name in calls)
    where = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        f"{batch} pictures of {tuple(image.shape[1:])}, {precision}, {where}, torch "
        f"{torch.__version__}"
    )
    print(
        f"teacher, {path.nfe} evaluations, guided  {slow:9.3f} s   ({which}; median of "
        f"{len(times['teacher'])})"
    )
    print(
        f"HKD, one step, 1 evaluation     {fast:9.3f} s   ({other}; median of "
        f"{len(times['student'])})"
    )
    print(f"ratio {slow / fast:.1f}")


if __name__ == "__main__":
    main()
