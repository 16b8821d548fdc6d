"""What every test shares: annotated shapes are checked, and real pictures are there or
the test says why not.
"""

import pytest
from jaxtyping import install_import_hook

# From here on, importing hkd_mini makes beartype check the shapes and types of every
# call. Users never pay for it.
install_import_hook("hkd_mini", "beartype.beartype")


@pytest.fixture(scope="session")
def cifar():
    """The folder above cifar-10-batches-bin, for `root=` of `hkd_mini.data`; the test
    is skipped without it.
    """
    from hkd_mini import data

    root = data.cache_dir()
    names = [name for files in data.CIFAR10_FILES.values() for name in files]
    missing = [
        name for name in names if not (root / data.CIFAR10_FOLDER / name).is_file()
    ]
    if missing:
        pytest.skip(
            f"real pictures needed, and {root / data.CIFAR10_FOLDER} lacks "
            f"{', '.join(missing)}: run "
            "`hkd-mini data cifar10`, or set HKD_MINI_DATA to the folder that holds "
            "cifar-10-batches-bin"
        )
    return root
