"""What a step of distillation costs beside a step of diffusion training, per evaluated
picture.

    python benchmarks/train_step.py [--quick] [--preset NAME] [--batch N]

Two runs of the training loop (`run.Run`) take turns on this machine: EDM's loss on a
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

import statistics
import time

import torch
from common import parser, seconds
from training import distilled, operations, plain, product_rate

from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.precision import choose
from hkd_mini.hkd.config import PRESETS


def step_seconds(run, batch, step):
    """How long one step takes: this process's own time on a CPU, the wall's on a
    GPU.
    """
    if run.accelerator.device.type != "cpu":
        return seconds(lambda: run.step(step, batch), "cuda")
    began = time.process_time()
    run.step(step, batch)
    return time.process_time() - began


def main(arguments=None):
    ask = parser(__doc__)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--preset", default="cifar10-mini")
    ask.add_argument("--batch", type=int, help="pictures evaluated a step")
    ask.add_argument("--turns", type=int)
    args = ask.parse_args(arguments)
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
            times[which].append(step_seconds(run, its, turn + 3))
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
        most = product_rate("cuda", 8192)
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
