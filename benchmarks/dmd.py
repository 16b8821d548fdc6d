"""What `hkd_mini.koopman.dmd` costs beside PyDMD's plain DMD: the same eigenvalues,
time and peak memory.

    python benchmarks/dmd.py [--rank 20] [--repeats 7]

Two shapes: 512 snapshots of 4,096 numbers, and 128 snapshots of 65,536. The snapshots
are a path of ten damped rotations seen through random sensors, with noise of one part
in a thousand, so that the matrix has full rank and the fit must cut it. Both fits get
the same numbers in the layout that they ask for (rows here, columns there), the same
rank, one thread. Ours returns the left eigenvectors too, without which a non-normal
operator cannot forecast; PyDMD's fit adds the amplitudes of its modes. Times are
medians of fits taken in turns, in seconds of this thread's own; memory is the peak of a
fresh process over what it held before the fit. The line `ratio R` is ours over PyDMD's
time, the worse of the two shapes.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from importlib.metadata import version

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # numpy looks at them when it is imported

import numpy as np  # noqa: E402

SHAPES = ((512, 4096), (128, 65536))  # snapshots, numbers in each


def snapshots(count: int, n: int, pairs: int = 10, noise: float = 1e-3) -> np.ndarray:
    """A path of `pairs` damped rotations through n sensors, with noise: (count, n)."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(-0.01, 0.0, pairs) + 1j * np.linspace(0.1, 2.5, pairs)
    waves = np.exp(np.arange(count)[:, None] * rates)
    modes = (rng.normal(size=(pairs, n)) + 1j * rng.normal(size=(pairs, n))) / np.sqrt(
        pairs
    )
    return (waves @ modes).real + noise * rng.normal(size=(count, n))


def fits(count: int, n: int, rank: int) -> dict:
    """Name -> a function that fits and returns eigenvalues."""
    rows = snapshots(count, n)
    columns = np.ascontiguousarray(rows.T)

    def ours():
        from hkd_mini.koopman.dmd import dmd

        return dmd(rows, rank=rank).eigenvalues

    def theirs():
        import pydmd

        return pydmd.DMD(svd_rank=rank).fit(columns).eigs

    return {"ours": ours, "PyDMD": theirs}


def peak_bytes(count: int, n: int, rank: int, name: str) -> float:
    """How far a fit raises the peak memory of a fresh process, which has both packages
    loaded and has fitted once.

    NaN where there is no /proc to read it from.
    """
    if not os.path.exists("/proc/self/statm"):
        return float("nan")
    command = [
        sys.executable,
        __file__,
        "--rank",
        str(rank),
        "--peak",
        name,
        str(count),
        str(n),
    ]
    return int(
        subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
    )


def report_peak(rank: int, name: str, count: int, n: int) -> None:
    import resource

    small = fits(60, 100, rank)
    for fit in small.values():  # what only the first call allocates is not the method's
        fit()
    fit = fits(count, n, rank)[name]
    filled = np.empty(0)
    # making the data has raised it by now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = (
        int(open("/proc/self/statm").read().split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        // 1024
    )
    if before > held:  # raise what is held to the peak, so that the fit's own shows
        filled = np.ones((before - held) * 128)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit()
    print(
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        + 0 * filled.size
    )


def compare(count: int, n: int, rank: int, repeats: int) -> dict:
    """Median seconds and peak bytes of both, and how far their eigenvalues are
    apart.
    """
    both = fits(count, n, rank)
    seconds = {"ours": [], "PyDMD": []}
    found = {name: np.sort_complex(fit()) for name, fit in both.items()}
    for _ in range(repeats):
        for name, fit in both.items():
            began = time.thread_time()
            fit()
            seconds[name].append(time.thread_time() - began)
    gap = max(abs(found["PyDMD"] - value).min() for value in found["ours"])
    assert len(found["ours"]) == len(found["PyDMD"]) == rank and gap < 1e-10, (
        f"eigenvalues differ by {gap:.1e}"
    )
    return {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "bytes": {name: peak_bytes(count, n, rank, name) for name in both},
        "gap": gap,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--peak", nargs=3, metavar=("NAME", "COUNT", "N"), help=argparse.SUPPRESS
    )
    options = parser.parse_args(arguments)
    if options.peak:
        name, count, n = options.peak
        report_peak(options.rank, name, int(count), int(n))
        return
    print(
        f"rank {options.rank}, one thread, numpy {np.__version__}, PyDMD "
        f"{version('pydmd')}"
    )
    times = []
    memory = []
    for count, n in SHAPES:
        row = compare(count, n, options.rank, options.repeats)
        times.append(row["seconds"]["ours"] / row["seconds"]["PyDMD"])
        memory.append(row["bytes"]["ours"] / row["bytes"]["PyDMD"])
        print(f"{count} snapshots of {n}: eigenvalues agree to {row['gap']:.0e}")
        for name in ("ours", "PyDMD"):
            print(
                f"  {name:<6} {row['seconds'][name]:8.3f} s   peak memory "
                f"{row['bytes'][name] / 2**20:8.1f} MiB"
            )
    print(f"memory ratio {max(memory):.2f}")
    print(json.dumps({"time": times, "memory": memory}))
    print(f"ratio {max(times):.2f}")


if __name__ == "__main__":
    # PyDMD warns that the data are ill-conditioned, which is the point of a rank. Not
    # in `main`: who imports it keeps its warnings.
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    main()
