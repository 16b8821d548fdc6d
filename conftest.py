"""Settings that hold for every test and every notebook, whichever folder pytest is
pointed at.
"""

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


def pytest_configure(config):
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
