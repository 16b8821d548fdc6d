"""What the default precision costs beside the faster of fp32 and bf16.

    python benchmarks/precision.py [--quick] [--teacher NAME] [--paths N]

`hkd-mini trajectories` makes the same paths three times on this machine, in this run,
in one process: with its defaults, with `--precision fp32` and with `--precision bf16`.
The three take turns, so that a machine that slows down slows all, and the shortest turn
of each counts. The last line is the default's time over that of the faster of the other
two: about 1 wherever `precision.choose` knows the machine. `--quick` takes 2 paths of 3
steps, one turn, and the small teacher.
"""

import contextlib
import io
import pathlib
import platform
import tempfile
import time

import torch
from common import parser

from hkd_mini.app import cli, machine
from hkd_mini.engine.precision import choose

WISHES = ("default", "fp32", "bf16")


def seconds(wish: str, teacher: str, paths: int, steps: int) -> float:
    """How long the command takes, files and all."""
    flags = [] if wish == "default" else ["--precision", wish]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "trajectories",
            "--teacher",
            teacher,
            "--out",
            str(pathlib.Path(folder, "paths")),
        ]
        command += ["--n", str(paths), "--steps", str(steps), *flags]
        began = time.perf_counter()
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            cli.main(command)
        return time.perf_counter() - began


def main(arguments=None):
    ask = parser(__doc__)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument(
        "--teacher", default="teacher-cifar10-tiny", help="bundled name or folder"
    )
    ask.add_argument("--paths", type=int, default=64)
    args = ask.parse_args(arguments)
    turns, paths, steps = (1, 2, 3) if args.quick else (3, args.paths, 18)
    for wish in WISHES:  # warm-up: imports, oneDNN's kernels
        seconds(wish, args.teacher, 2, 2)
    times = {wish: [] for wish in WISHES}
    for _ in range(turns):
        for wish in WISHES:
            times[wish].append(seconds(wish, args.teacher, paths, steps))
    device = machine.device()
    where = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} "
        "threads"
        if device == "cpu"
        else ""
    )
    where = where or torch.cuda.get_device_name()
    print(
        f"{args.teacher}, {paths} paths of {2 * steps - 1} evaluations; {where}; "
        f"torch {torch.__version__}"
    )
    least = {wish: min(found) for wish, found in times.items()}
    for wish, found in least.items():
        rate = paths * (2 * steps - 1) / found
        print(
            f"{wish:8} {found:8.2f} s   {rate:8.1f} evaluations/s"
            + (f"   = {choose()}" * (wish == "default"))
        )
    print(f"ratio {least['default'] / min(least['fp32'], least['bf16']):.2f}")


if __name__ == "__main__":
    main()
