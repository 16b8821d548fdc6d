"""A teacher of yours: any function that guesses the clean picture.

All that distillation asks of a teacher is D(x; sigma), and the noise levels between
which it means something. `Own` makes a denoiser of a plain function, of two arguments
or three, and says what samplers must know: the shape of one x, the levels, the number
of classes, and, where x is a latent, how it becomes a picture. Chapter: 19 "Your own
pictures".
Source: EDM eq 1 (what a denoiser is).
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .schedule import EDM, Noise


class About(NamedTuple):
    """What a sampler must know of a denoiser that has no configuration of ours: the
    `shape` of one x, the number of classes `labels`, and whether x is a picture within
    [-1, 1] (`bounded`) or a latent.
    """

    shape: tuple[int, ...]
    labels: int = 0
    bounded: bool = True


class Own(nn.Module):
    """The denoiser D(x; sigma) that a `function` (x, sigma) or (x, sigma, labels) is.

    function: takes x (batch, *shape) at level sigma, a tensor of no dimension, and
    labels (batch,) or None; returns the guess in x's shape. `noise`, `shape`, `labels`
    (a number of classes) and `decode` (latents (n, *shape) to pictures (n, 3, h, w) in
    [-1, 1]) default to the function's attributes of these names. With `decode` x is a
    latent, which has no bounds.
    forward(x (batch, *shape), sigma a number or (batch,), labels (batch,) or None) ->
    x's shape and dtype. Raises TypeError for what cannot be called, ValueError for a
    guess of another shape.
    """

    def __init__(
        self,
        function: Callable,
        noise: Noise | None = None,
        shape: tuple[int, ...] | None = None,
        labels: int | None = None,
        decode: Callable | None = None,
    ):
        super().__init__()
        if not callable(function):
            raise TypeError(f"{function!r}: wanted a function (x, sigma) -> guess")
        self.function = function
        self.told = _takes_labels(function)
        self.noise: Noise = getattr(function, "noise", EDM) if noise is None else noise
        self.decode = decode or getattr(function, "decode", None)
        given = shape or getattr(function, "shape", None)
        classes = getattr(function, "labels", 0) if labels is None else labels
        self.config = given and About(tuple(given), classes, self.decode is None)

    def forward(
        self,
        x: Float[Tensor, "batch ..."],
        sigma: float | Float[Tensor, "#batch"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).flatten()
        if len(levels := level.unique()) == 1:
            return self._at(x, levels[0], labels)
        guess = torch.empty_like(x)  # a plain function knows one level at a time
        for one in levels:
            rows = level == one
            some = None if labels is None else labels[rows]
            guess[rows] = self._at(x[rows], one, some)
        return guess

    def _at(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        guess = self.function(x, sigma, *([labels] if self.told else []))
        if not isinstance(guess, Tensor) or guess.shape != x.shape:
            what = tuple(getattr(guess, "shape", ())) or type(guess).__name__
            raise ValueError(
                f"the teacher gave {what} for x of {tuple(x.shape)}: wanted the guess "
                "of the clean x, in its shape"
            )
        return guess.to(x.dtype)


def _takes_labels(function: Callable) -> bool:
    """Whether `function` has a place for a third argument."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # written in C: nothing says
        return True
    try:
        signature.bind(0, 0, 0)
    except TypeError:
        return False
    return True
