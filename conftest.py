"""Settings that hold for every test and every notebook, whichever folder pytest is
pointed at.
"""

import contextlib
import os
from pathlib import Path

COMPARED = Path(__file__).parent / "book" / "assets" / "compared.cfg"

# A backend named in the environment would turn the kernels' inline figures into
# nothing.
os.environ.pop("MPLBACKEND", None)

# The chapters' times are for two cores, and more threads than that only trip over one
# another in small models.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
# numpy's matrices here are smaller still: a second thread that waits for its turn makes
# an eigenproblem of 112 x 112 take 1.6 s instead of 3 ms on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# What takes longest comes first: begun last, it would keep one core busy alone.
LONGEST = (
    "10-training.ipynb",
    "test_pages.py",
    "test_onestep.py",
    "14-editing.ipynb",
    "test_accessibility.py",
    "16-kdm.ipynb",
    "test_lab.py",
    "test_generator.py",
    "test_benchmarks.py",
    "test_code_width.py",
    "test_claims.py",
    "test_pipeline.py",
    "test_gpu.py",
    "test_two_processes.py",
    "test_stochastic.py",
    "05-learning-the-lift.ipynb",
)


def pytest_collection_modifyitems(items):
    if os.environ.get("HKD_MINI_ORDER") == "as given":  # .ci/portable.py shuffles
        return
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_xdist_auto_num_workers(config):
    # One more than cores: browsers and kernels keep those who drive them waiting.
    return min(os.cpu_count() or 1, 8) + 1


def patiently(start, tries=3):
    """Start a kernel once more when it dies at birth: of two that look for free ports
    at the same moment, both may take the same ones.
    """

    def started(*args, **kwargs):
        for _ in range(tries - 1):
            with contextlib.suppress(RuntimeError):
                return start(*args, **kwargs)
        return start(*args, **kwargs)

    return started


def pytest_configure(config):
    with contextlib.suppress(ImportError):
        import nbval.kernel

        nbval.kernel.start_new_kernel = patiently(nbval.kernel.start_new_kernel)
    # Bytes of pictures and packed tables are not compared. Here and not among the
    # options in pyproject.toml, since there a path would be looked for in the working
    # directory.
    if getattr(config.option, "nbval_sanitize_with", "without nbval") is None:
        config.option.nbval_sanitize_with = str(COMPARED)


def pytest_itemcollected(item):
    # nbval waits five seconds for the outputs after a cell has ended, whatever the
    # cell's own limit: too short beside a busy machine.
    if hasattr(item, "output_timeout"):
        item.output_timeout = 60
