"""The smallest parts of the networks: layers initialised as EDM's are, and the
embedding of the noise level.

Chapter: 9 "The architecture".
Source: EDM appendix F.1.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def conv(c_in: int, c_out: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps the size, c_in to c_out channels, `kernel` wide and
    high; Xavier-uniform weights times `gain`, bias zero.
    Source: EDM appendix F.1.
    """
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    assert layer.bias is not None  # a convolution has one unless told otherwise
    nn.init.zeros_(layer.bias)
    return layer


def linear(c_in: int, c_out: int) -> nn.Linear:
    """A linear layer, c_in to c_out, with Xavier-uniform weights and zero bias."""
    layer = nn.Linear(c_in, c_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def norm(channels: int) -> nn.GroupNorm:
    """Group norm over at most 32 groups of at least 4 channels (fewer where the
    channels do not divide).
    """
    groups = next(
        g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0
    )
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Embedding(nn.Module):
    """What a block is told: the noise level c_noise as sines and cosines, plus the
    class, through two layers.

    forward(c_noise (batch,), labels one-hot (batch, classes) or None) -> (batch, 4 *
    channels).
    """

    freqs: Tensor

    def __init__(self, channels: int, labels: int = 0):
        super().__init__()
        self.register_buffer(
            "freqs", 1e-4 ** torch.linspace(0, 1, channels // 2), persistent=False
        )
        self.map_label = linear(labels, channels) if labels else None
        self.map_layer0 = linear(channels, 4 * channels)
        self.map_layer1 = linear(4 * channels, 4 * channels)

    def forward(
        self, c_noise: Float[Tensor, "batch"], labels: Tensor | None = None
    ) -> Float[Tensor, "batch emb"]:
        angle = c_noise.float()[:, None] * self.freqs
        emb = torch.cat([angle.sin(), angle.cos()], dim=1)
        if labels is not None and labels.shape[0] != c_noise.shape[0]:
            raise ValueError(
                f"{labels.shape[0]} labels for {c_noise.shape[0]} x: one for each"
            )
        if self.map_label is not None:  # without labels EDM gives zeros: the bias alone
            labels = (
                emb.new_zeros(1, self.map_label.in_features)
                if labels is None
                else labels.float()
            )
            emb = emb + self.map_label(labels * math.sqrt(labels.shape[1]))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


def can_be_halved(resolution: int, times: int, patch: int) -> None:
    """ValueError for a `resolution` that `patch` and `times` halvings do not divide; it
    names the nearest that they do.
    """
    step = patch << times
    if resolution % step or resolution < step:
        below = max(resolution, 0) // step * step
        near = sorted({max(below, step), below + step})
        raise ValueError(
            f"resolution {resolution} cannot be halved {times} times at patch {patch}: "
            f"the nearest that can: {' and '.join(map(str, near))}"
        )
