"""The same answers on every machine: the book's notebooks with other processors'
kernels.

    python .ci/portable.py                # every level, and a table at the end
    python .ci/portable.py --elsewhere    # one that this machine does not use by itself
    python .ci/portable.py --level avx2 --jobs 1 --seed 7

PyTorch, oneDNN, MKL, OpenBLAS and numpy choose their kernels by what the processor can,
and can be told to pretend that it can less. What a notebook prints must not depend on
it, nor on the number of threads, nor on the order in which notebooks are run. Each
level is `pytest --nbval` on all of them; the last line counts them. Exit status 1 when
one failed.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Level(NamedTuple):
    """A processor to pretend, in the environment variables that libraries listen to;
    the threads of each library; whether the notebooks are shuffled.
    """

    environment: dict[str, str]
    threads: int
    shuffled: bool
    what: str


PLAIN = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OPENBLAS_CORETYPE": "Nehalem",
}
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
LEVELS = {
    "plain": Level(PLAIN, 1, False, "the plainest kernels, 1 thread"),
    "avx2": Level(AVX2, 1, False, "AVX2, 1 thread"),
    "own": Level({}, 1, True, "what this machine has, 1 thread, shuffled"),
    "threads": Level({}, 2, False, "what this machine has, 2 threads"),
}


def elsewhere() -> str:
    """A level whose kernels this machine would not choose."""
    import torch

    return "plain" if torch.backends.cpu.get_cpu_capability() == "AVX2" else "avx2"


def run(level: Level, jobs: str, seed: int, more: list[str]) -> tuple[str, float, bool]:
    """What pytest's last line counts, the seconds that it took, and whether all
    passed.
    """
    notebooks = sorted(
        str(p.relative_to(ROOT)) for p in (ROOT / "book").glob("*.ipynb")
    )
    order = {"HKD_MINI_ORDER": "as given"} if level.shuffled else {}
    if level.shuffled:
        random.Random(seed).shuffle(notebooks)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", *notebooks, *more]
    if jobs == "auto" and level.threads > 1:  # more threads than cores wait for another
        jobs = str(max(1, (os.cpu_count() or 1) // level.threads))
    command += ["-n", jobs, "--dist", "loadfile", "--no-loadscope-reorder"]
    threads = {"OMP_NUM_THREADS": str(level.threads)}
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | level.environment | threads | order,
        stdout=subprocess.PIPE,
        text=True,
    )
    print(done.stdout, flush=True)
    counts = re.findall(r"\d+ (?:passed|failed|error|skipped)\w*", done.stdout)
    return ", ".join(counts[-4:]), time.monotonic() - began, done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", choices=LEVELS, action="append", help="default: all")
    parser.add_argument("--elsewhere", action="store_true")
    parser.add_argument("--jobs", default="auto", help="notebooks at once")
    parser.add_argument("--seed", type=int, default=0, help="of the order, if shuffled")
    options, more = parser.parse_known_args()
    names = options.level or ([elsewhere()] if options.elsewhere else list(LEVELS))
    rows = []
    for name in names:
        level = LEVELS[name]
        print(f"== {name}: {level.what}", level.environment or "", flush=True)
        rows.append((name, level.what, *run(level, options.jobs, options.seed, more)))
    print(f"{'level':9}{'what':45}{'notebook cells':28}{'seconds':>8}")
    for name, what, counts, seconds, _ in rows:
        print(f"{name:9}{what:45}{counts:28}{seconds:8.0f}")
    failed = [row for row in rows if not row[4]]
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
