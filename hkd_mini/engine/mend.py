"""torchvision beside a CPU build of torch.

PyPI's torchvision for Linux is compiled against CUDA. Beside a torch without it, its
compiled operators do not load, and `import torchvision` dies on two schemas that nobody
declared ("operator torchvision::nms does not exist"). The true cure is the torchvision
that fits: both from PyPI, or both from PyTorch's CPU index (`make install TORCH=cpu`).
Where that is out of reach, declaring the two schemas is enough for all that is not
compiled: models, transforms, `utils.save_image`.
Source: torchvision documentation (`torchvision.ops.nms`).
"""

import importlib.util

import torch

# kept: a collected library takes its schemas along
_DECLARED: list[torch.library.Library] = []


def mend_torchvision() -> None:
    """Let PyPI's torchvision import beside a CPU build of torch; call it before `import
    torchvision`.

    Does nothing where the operators are there, or no torchvision. Its compiled
    operators (`nms`, `roi_align`, ...) stay without a body, and say so when called.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define(
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
        _DECLARED.append(library)
