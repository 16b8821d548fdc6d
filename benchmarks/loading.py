"""How long a training step waits for its batch, with two processes.

    python benchmarks/loading.py [--batch 512] [--steps 20] [--device-ms 60]

Two processes train on 20,000 pictures of random bytes, as a teacher is trained: drawn,
mirrored, scaled, with noise. In place of a network stands a pause of `--device-ms`,
like a GPU's work, which leaves the processor free. Three ways to get a batch:

    whole      every process draws the global batch and keeps its share
    share      every process draws its own share
    prefetch   the same, while the step before is at work

Printed are milliseconds a step beyond the pause, the median of all but the first five
steps, the slower process. The last line, `ratio R`, is that of prefetch over whole. One
thread a process. The losses of the three are equal to the last digit, or the script
fails.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from hkd_mini.diffusion.schedule import lognormal_sigmas
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import batch_indices, mirrored, rng_at, to_unit
from hkd_mini.engine.loop import fit

WAYS = ("whole", "share", "prefetch")
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0"
)


def drawn(pictures: Tensor, config: TrainConfig, step: int, share: slice) -> dict:
    """The rows `share` of a teacher's batch."""
    rng = rng_at(config.seed, step)
    index = batch_indices(len(pictures), config.batch, config.seed, step)
    flip = torch.rand(len(index), generator=rng) < 0.5
    sigma = lognormal_sigmas(len(index), rng)
    noise = torch.randn(len(index), 3, 32, 32, generator=rng)[share]
    x0 = mirrored(to_unit(pictures[index[share]]), flip[share])
    return {"x": x0 + sigma[share, None, None, None] * noise}


def waits(way: str, batch: int, steps: int, pause: float) -> tuple[float, list[float]]:
    """Milliseconds a step beyond the pause in this process, and the losses."""
    rng = torch.Generator().manual_seed(0)
    size = (20_000, 3, 32, 32)
    pictures = torch.randint(256, size, generator=rng, dtype=torch.uint8)
    config = TrainConfig(
        images=batch * steps, batch=batch, precision="fp32", checkpoint=10**9
    )

    def draw(step: int, share: slice) -> dict[str, Tensor]:
        if way != "whole":
            return drawn(pictures, config, step, share)
        whole = drawn(pictures, config, step, slice(None))
        return {name: rows[share] for name, rows in whole.items()}

    def loss(model: nn.Module, x: Tensor, progress: float) -> dict[str, Tensor]:
        time.sleep(pause)
        return {"loss": model(x.mean((2, 3))).square().mean()}

    torch.manual_seed(0)
    ends = []
    losses = []
    run = fit(nn.Linear(3, 1), draw, loss, config, prefetch=way == "prefetch")
    for step in run:
        ends.append(time.perf_counter())
        losses.append(step.loss)
    gaps = [b - a for a, b in zip(ends[5:], ends[6:], strict=False)]
    return 1000 * (statistics.median(gaps) - pause), losses


def work(folder: str, batch: int, steps: int, pause: float) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    found = {way: waits(way, batch, steps, pause) for way in WAYS}
    path = Path(folder) / f"{os.environ.get('RANK', '0')}.json"
    path.write_text(json.dumps(found), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device-ms", type=float, default=60.0)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        work(options.folder, options.batch, options.steps, options.device_ms / 1000)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *LAUNCH.split(), __file__, "--folder", folder]
        for name in ("batch", "steps", "device_ms"):
            flag = f"--{name.replace('_', '-')}"
            command += [flag, str(getattr(options, name))]
        hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=os.environ | hidden)
        files = sorted(Path(folder).glob("*.json"))
        found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    assert len(found) == 2, f"{len(found)} processes"
    losses = [ranks[way][1] for ranks in found for way in WAYS]
    assert all(values == losses[0] for values in losses), "the batches differ"
    slower = {way: max(ranks[way][0] for ranks in found) for way in WAYS}
    print(f"two processes, batch {options.batch}, {options.device_ms:g} ms of device")
    for way, wait in slower.items():
        print(f"  {way:<9} {wait:7.1f} ms a step beyond it")
    print(f"ratio {slower['prefetch'] / slower['whole']:.2f}")


if __name__ == "__main__":
    main()
