"""What every other folder stands on, and knows nothing of: files, data, precision, and
the training loop.

`files` writes whole or not at all, `weights` keeps models as safetensors plus JSON
(`from_json`) and sends them to the `hub`, `data`, `cifar10`, `folders` and `points`
give pictures and points, `precision` chooses the numbers to compute in, `config` says
how long and how fast, `loop` trains whatever it is given (`run`, `stop`), `checkpoint`
keeps a run, and `border` looks at what users give (`checks`). Start with `loop.fit`:
fifty lines that train the classifier, the teacher and every student of the book.
Chapter: 10 "Training".
"""

from .cifar10 import cache_dir, fetch_cifar10, load_cifar10
from .config import Step, TrainConfig
from .data import Images, batch_indices, rng_at, to_uint8, to_unit
from .files import read_tensors, write_tensors
from .folders import load_images
from .loop import fit
from .points import POINT_SETS
from .precision import choose, computing
from .weights import Saved, data_folder

__all__ = [
    "Images",
    "POINT_SETS",
    "Saved",
    "Step",
    "TrainConfig",
    "batch_indices",
    "cache_dir",
    "choose",
    "computing",
    "data_folder",
    "fetch_cifar10",
    "fit",
    "load_cifar10",
    "load_images",
    "read_tensors",
    "rng_at",
    "to_uint8",
    "to_unit",
    "write_tensors",
]
