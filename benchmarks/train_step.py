"""What a step of distillation costs beside a step of diffusion training, per evaluated
picture.

    python benchmarks/train_step.py [--quick] [--preset NAME] [--batch N]

Two runs of the training loop (`loop.Run`) take turns on this machine: EDM's loss on a
batch of pictures, and HKD's on half as many paths with two points of each, so that both
send the same number of pictures through the same network and back. Both include what
the loop does: bfloat16 where it is native, channels-last memory, compilation, the
clipped gradient, Adam and the moving average. What HKD has more is its loss and the
evolution of its states. The distance is the mean square alone; what the bundled feature
network adds is printed on a line of its own and is not in the ratio, since a teacher
has no such thing.

On a CPU a step is timed by the processor's clock on one thread, which does not run
while other programs do; on a GPU by the wall, the device's queue included. Each turn
gives one ratio of neighbours, which a machine that slows down leaves alone, and the
last line is the median of these ratios, per evaluated picture. On a GPU the rate of the
steps and the share of the chip's measured bfloat16 matrix product are printed too.
`--quick` takes two pictures, three turns, the smallest network and no compilation.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from hkd_mini.loop import Run, TrainConfig, generator
from hkd_mini.losses import Distance, hkd_loss
from hkd_mini.model import HKD, PRESETS
from hkd_mini.precision import choose
from hkd_mini.schedule import SIGMA_MAX, SIGMA_MIN, lognormal_sigmas
from hkd_mini.teacher import Denoiser, edm_loss

TIMES = 2


def plain(network, config):
    """EDM's training of a network: a run, and its batch of `config.batch` pictures."""
    rng = generator(0, 1)
    x0, noise = torch.randn(2, config.batch, *network.shape, generator=rng).mul(0.5)
    batch = {"x0": x0, "noise": noise, "sigma": lognormal_sigmas(config.batch, rng)}
    return Run(
        Denoiser(network),
        lambda model, progress, **b: {"loss": edm_loss(model, **b)},
        config,
        None,
    ), batch


def distilled(preset, config, perceptual="none"):
    """HKD's training: a run, and its batch of `config.batch // TIMES` paths with
    `TIMES` points each.
    """
    rng = generator(0, 2)
    paths = config.batch // TIMES
    distance = Distance.of(perceptual)
    if config.compile and distance.perceptual is not None:
        distance.perceptual.compile()
    end, noise = torch.randn(2, paths, *preset.network.shape, generator=rng).mul(0.5)
    sigma = (
        torch.rand(paths, TIMES, generator=rng) * (SIGMA_MAX - SIGMA_MIN) + SIGMA_MIN
    )
    x = end[:, None] + sigma[:, :, None, None, None] * noise[:, None]

    def loss(model, progress, **b):
        return hkd_loss(model, distance.to(b["x"].device), progress=progress, **b)

    return Run(HKD(preset), loss, replace(config, batch=paths), None), {
        "x": x,
        "sigma": sigma,
        "end": end,
    }


def seconds(run, batch, step):
    """How long one step takes: this process's own time on a CPU, the wall's on a
    GPU.
    """
    if run.accelerator.device.type == "cpu":
        began = time.process_time()
        run.step(step, batch)
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    run.step(step, batch)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def matmul_rate(n=8192, repeats=20):
    """Operations a second of an n x n bfloat16 product on this GPU."""
    a, b = torch.randn(2, n, n, device="cuda", dtype=torch.bfloat16)
    (a @ b).sum().item()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return repeats * 2 * n**3 / (time.perf_counter() - began)


def operations(run, batch):
    """Floating-point operations of a step's convolutions and products, both ways, for
    one evaluated picture.
    """
    few = {
        k: v[: 1 if "end" in batch else TIMES].to(run.accelerator.device)
        for k, v in batch.items()
    }
    compiled = {part: part._compiled_call_impl for part in run.model.modules()}
    for part in compiled:  # the counter sees eager calls alone
        part._compiled_call_impl = None
    with FlopCounterMode(display=False) as counter:
        run.objective(few, 0.5)["loss"].backward()
    for part, call in compiled.items():
        part._compiled_call_impl = call
    return counter.get_total_flops() / TIMES


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--preset", default="cifar10-mini")
    parser.add_argument("--batch", type=int, help="pictures evaluated a step")
    parser.add_argument("--turns", type=int)
    args = parser.parse_args(arguments)
    gpu = torch.cuda.is_available()
    name = "cifar10-tiny" if args.quick else args.preset
    batch = args.batch or (2 if args.quick else 512 if gpu else 32)
    turns = args.turns or (3 if args.quick else 31)
    if not gpu:
        torch.set_num_threads(1)
    config = TrainConfig(
        batch=batch, compile=not args.quick, images=10**9, warmup=0, lr=1e-4
    )
    preset = PRESETS[name]
    precision = choose(config.precision, "cuda" if gpu else "cpu")
    runs = {"EDM": plain(preset.network, config), "HKD": distilled(preset, config)}
    small = preset.network.shape[-1] == 32
    if small:
        runs["HKD with features"] = distilled(preset, config, "cifar")
    # warm-up: compilation, the allocator, Adam's moments
    for run, its in runs.values():
        for step in range(1 if args.quick else 3):
            run.step(step, its)
    times = {which: [] for which in runs}
    for turn in range(turns):
        for which, (run, its) in runs.items():
            times[which].append(seconds(run, its, turn + 3))
    step = {which: statistics.median(found) for which, found in times.items()}
    ratios = [hkd / edm for hkd, edm in zip(times["HKD"], times["EDM"], strict=True)]
    where = torch.cuda.get_device_name() if gpu else "CPU, 1 thread, processor time"
    size = sum(p.numel() for p in runs["EDM"][0].model.parameters()) / 1e6
    made = "compiled" if config.compile else "not compiled"
    print(
        f"{name}, {size:.1f} M parameters, {batch} pictures a step, {precision}, "
        f"{made}; {where}, torch {torch.__version__}"
    )
    for which, found in step.items():
        rate = f", {batch / found:8.0f} images/s" if gpu else ""
        print(
            f"{which:18} {1e3 * found / batch:8.3f} ms per evaluated picture{rate}   "
            f"(median of {turns} turns)"
        )
    if small:
        extra = (step["HKD with features"] - step["HKD"]) / step["EDM"]
        print(
            f"the feature network adds {extra:.2f} of an EDM step, and is kept out of "
            "the ratio"
        )
    if gpu:
        most = matmul_rate()
        print(f"bf16 matrix product: {most / 1e12:.0f} Tflop/s measured")
        for which in ("EDM", "HKD"):
            rate = operations(*runs[which]) * batch / step[which]
            print(f"{which:18} {rate / 1e12:8.1f} Tflop/s, {rate / most:.0%} of it")
    spread = statistics.quantiles(ratios, n=4)
    print(
        f"HKD over EDM, per evaluated picture: quartiles {spread[0]:.3f} to "
        f"{spread[2]:.3f} over {turns} turns"
    )
    print(f"ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
