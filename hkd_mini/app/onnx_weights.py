"""Weights in fewer bits, for a page: half floats, or bytes with one scale per output
channel.

A session turns them into numbers once, when it loads. Rates, norms, biases and small
tensors stay as they are. Chapter: 15 "A generator in your page".
"""

import copy
import math

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from ..hkd.model import HKD

SMALL = 1024  # tensors of fewer numbers are not worth a scale per channel


def is_rounded(name: str, weight: Tensor | np.ndarray) -> bool:
    """Whether the tensor of that name is stored in fewer bits: the weight of a
    convolution or a linear layer, unless it has fewer than SMALL numbers.
    """
    return (
        name.endswith(".weight")
        and weight.ndim >= 2
        and math.prod(weight.shape) >= SMALL
    )


def to_bytes(
    weight: Float[np.ndarray, "out ..."],
) -> tuple[Int8[np.ndarray, "out ..."], Float[np.ndarray, " out"]]:
    """A layer's weight as bytes and one scale per output channel: w ~ scale * byte,
    scale = max |w| / 127.
    """
    peak = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(peak > 0, peak / 127, 1).astype(np.float32)
    return np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(
        np.int8
    ), scale


def rounded(model: HKD, bits: int = 8) -> HKD:
    """A copy of the model with the weights that the files hold, of 8 or 16 bits, as
    numbers again.

    The graphs compute this model; how far it is from the one that was given is a
    measurement (chapter 15). Raises ValueError for other numbers of bits.
    """
    if bits not in (8, 16):
        raise ValueError(
            f"bits = {bits}: 8 (a byte and a scale per channel) or 16 (half floats)"
        )
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if is_rounded(name, weight):
            stored, scale = to_bytes(weight.numpy())
            bytes_ = torch.from_numpy(
                stored * scale.reshape(-1, *[1] * (weight.ndim - 1))
            )
            weight.copy_(bytes_ if bits == 8 else weight.half())
    return model
