"""What every test shares: annotated shapes are checked, and real pictures are there or
the test says why not.
"""

import importlib.util
import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# From here on, importing hkd_mini makes beartype check the shapes and types of every
# call. Users never pay for it.
install_import_hook("hkd_mini", "beartype.beartype")


@pytest.fixture(scope="session")
def cifar():
    """The folder above cifar-10-batches-bin, for `root=` of
    `hkd_mini.engine.cifar10`; the test is skipped without it.
    """
    from hkd_mini.engine import cifar10

    root = cifar10.cache_dir()
    names = [name for files in cifar10.CIFAR10_FILES.values() for name in files]
    missing = [
        name for name in names if not (root / cifar10.CIFAR10_FOLDER / name).is_file()
    ]
    if missing:
        pytest.skip(
            f"real pictures needed, and {root / cifar10.CIFAR10_FOLDER} lacks "
            f"{', '.join(missing)}: run "
            "`hkd-mini data cifar10`, or set HKD_MINI_DATA to the folder that holds "
            "cifar-10-batches-bin"
        )
    return root


@pytest.fixture(scope="session")
def small_held_out_paths():
    """Paths of `teacher-cifar10-tiny` that no training used, as claims have them."""
    path = Path(__file__).parents[1] / "benchmarks" / "common.py"
    spec = importlib.util.spec_from_file_location("benchmarks_common", path)
    common = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)
    return common.small_held_out_paths()


@pytest.fixture(scope="session", autouse=True)
def packed_elsewhere(tmp_path_factory):
    """Packed folders of pictures are no business of the user's cache."""
    os.environ["HKD_MINI_CACHE"] = str(tmp_path_factory.mktemp("packed"))


def settings():
    """What a process has only once, and a test must leave as it was."""
    import logging

    import numpy as np
    import torch

    return {
        "working directory": os.getcwd(),
        "logging.disable": logging.root.manager.disable,
        "root logger's level": logging.root.level,
        "numpy's errors": np.geterr(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": torch.is_grad_enabled(),
        "float32 products": torch.get_float32_matmul_precision(),
    }


@pytest.fixture(autouse=True)
def left_as_found():
    """A test that changes a setting of the process changes the ones after it."""
    before = settings()
    yield
    after = settings()
    assert after == before, {k: v for k, v in after.items() if v != before[k]}
