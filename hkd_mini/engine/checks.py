"""What one value is held to: a kind, numbers that are finite, a shape, a range.

Each looks at one thing and says in one sentence what it found and what was wanted:
TypeError for another kind of thing, ValueError for the rest. `check_of` makes a check
from an annotation of a signature, `border` calls them. Numbers may be given as Python
has them or numpy, and whole ones where real ones are wanted. Chapter: none.
Source: jaxtyping (shapes; one name is one length in all arguments of a call).
"""

import functools
import inspect
import math
import numbers
import operator
import os
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import AbstractArray
from torch import Tensor, nn

from .precision import log

Check = Callable[[str, Any], None]
HOLES = "what is unknown may be NaN"  # a note of an annotation, for `Annotated`
_ANYTHING = (Any, object, bool, type, tuple, abc.Iterable, abc.Iterator)
_WORDS = {
    "Float": "floats",
    "Int": "integers",
    "Int64": "64-bit integers",
    "UInt8": "bytes",
    "Bool": "truth values",
    "Complex": "complex numbers",
    "Inexact": "real or complex numbers",
    "Real": "real numbers",
    "Shaped": "numbers",
}


def holds(condition: Tensor) -> bool:
    """Whether `condition`, a tensor of one truth, holds; True inside a transform of
    torch.func, where nobody knows.
    """
    try:
        return bool(condition)
    except RuntimeError:
        return True


class ShapeError(ValueError):
    """An array of another shape or kind of numbers than its annotation says."""


def shaped(value: object) -> bool:
    """Whether `value` is an array or a tensor."""
    return isinstance(value, Tensor | np.ndarray)


def described(value: object) -> str:
    """What a refused `value` is, in a few words."""
    if isinstance(value, Tensor | np.ndarray):  # mypy follows no `shaped`
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of {str(value.dtype)} and shape {tuple(value.shape)}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def finite(name: str, value: Tensor | np.ndarray) -> None:
    """ValueError, with `name`, where `value` holds a NaN or an infinity."""
    if isinstance(value, Tensor):
        kind = value.is_floating_point() or value.is_complex()
        # a NaN or an infinity stays in a sum, which is quick; so may one too large
        good = not kind or holds(value.detach().sum().isfinite())
        good = good or holds(value.isfinite().all())
    elif isinstance(value, np.ma.MaskedArray):  # whoever takes it says what is missing
        return
    else:
        good = value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if not good:
        raise ValueError(
            f"{name} holds numbers that are not finite (NaN or infinity): find where "
            "they come from, and leave them out"
        )


def as_pictures(name: str, x: Tensor, sigma: float = 0.0) -> None:
    """Refuse or name pictures x, at noise level `sigma`, in another range than [-1, 1].

    ValueError for values as bytes have them, from 0 to far beyond; a warning for clean
    ones without a value below 0, which [0, 1] would be.
    """
    if not x.numel():
        return
    low, high = x.detach().aminmax()
    # noise is as large, but on both sides of 0
    if not holds((high <= 8 * (1 + sigma)) | (low < -high / 4)):
        raise ValueError(
            f"{name} has values from {float(low):g} to {float(high):g}: wanted "
            "pictures in [-1, 1]; of bytes 0 to 255, x / 127.5 - 1 (data.to_unit)"
        )
    if sigma < 0.1 and not holds(low < 0) and not holds(low == high):
        log.warning(
            "%s has no value below 0: pictures are in [-1, 1], of [0, 1] 2 x - 1", name
        )


def check_of(hint: Any, default: Any = None) -> Check | None:
    """What raises TypeError or ValueError for a value that `hint` does not mean; None
    for a hint that says nothing.
    """
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        hint, *notes = typing.get_args(hint)
        if HOLES in notes:
            return functools.partial(_array, hint, looks=False)
        return check_of(hint, default)
    if origin in (typing.Union, types.UnionType):
        return _any_of([check_of(o, default) for o in typing.get_args(hint)], hint)
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return functools.partial(_array, hint)
    if hint is Tensor or hint is np.ndarray:
        return functools.partial(_of_kind, hint, finite)
    if hint is float:
        ends = isinstance(default, float) and math.isinf(default)
        return functools.partial(_number, ends)
    if hint is int:
        return _whole
    if origin in (list, abc.Sequence):
        return functools.partial(_list, check_of(typing.get_args(hint)[0]))
    if origin is abc.Callable or hint is Callable:
        return _callable
    if hint is bool:
        return _truth
    if hint is str:
        return functools.partial(_of_kind, (str, os.PathLike), None)
    kind = origin or hint
    if not inspect.isclass(kind) or kind in _ANYTHING:
        return None
    if getattr(kind, "_is_protocol", False) and not getattr(
        kind, "_is_runtime_protocol", False
    ):
        return None
    return functools.partial(_of_kind, kind, None)


def _any_of(checks: list[Check | None], hint: Any) -> Check | None:
    known = [check for check in checks if check is not None]
    if len(known) < len(checks):
        return None

    def check(name: str, value: Any) -> None:
        refused: list[Exception] = []
        for one in known:
            try:
                return one(name, value)
            except (TypeError, ValueError) as error:
                refused.append(error)
        # what has the right kind says more than what has not
        raise next((e for e in refused if isinstance(e, ValueError)), refused[0])

    return check


def _of_kind(
    kind: type | tuple[type, ...], further: Check | None, name: str, value: Any
) -> None:
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wish = " or ".join(k.__name__ for k in kinds)
        raise TypeError(f"{name} is {described(value)}: wanted a {wish}")
    if further is not None:
        further(name, value)


def _callable(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name} is {described(value)}: wanted a function")


def _truth(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_) and not (
        isinstance(value, int) and value in (0, 1)
    ):
        raise TypeError(f"{name} is {described(value)}: wanted True or False")


def _whole(name: str, value: Any) -> None:
    try:
        operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {described(value)}: wanted an integer") from None


def _number(ends: bool, name: str, value: Any) -> None:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        return finite(name, value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {described(value)}: wanted a number")
    if math.isnan(value) or (math.isinf(value) and not ends):
        raise ValueError(f"{name} = {value}: wanted a finite number")


def _list(check: Check | None, name: str, value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, abc.Sequence | nn.ModuleList):
        raise TypeError(f"{name} is {described(value)}: wanted a list")
    for i, item in enumerate(value if check else ()):
        typing.cast(Check, check)(f"{name}[{i}]", item)


def _array(hint: Any, name: str, value: Any, looks: bool = True) -> None:
    if issubclass(hint.array_type, Tensor):
        _of_kind(Tensor, None, name, value)
    else:
        try:
            value = np.asanyarray(value)
        except (ValueError, TypeError, RuntimeError) as error:
            raise TypeError(f"{name} is no array of numbers: {error}") from error
        if value.dtype.kind not in "biufc":
            raise TypeError(f"{name} is {described(value)}: wanted numbers")
    if not isinstance(value, hint) and not _fits_wider(hint, value):
        word = _WORDS.get(hint.dtype.__name__, hint.dtype.__name__)
        raise ShapeError(
            f"{name} is {described(value)}: wanted {word} of shape ({hint.dim_str})"
        )
    if looks:
        finite(name, value)


def _fits_wider(hint: Any, value: Any) -> bool:
    """Whether `hint` means an array of the shape of `value`, with whole numbers as real
    ones and real ones as complex. Not of torch, whose whole numbers stay whole.
    """
    if isinstance(value, Tensor):
        return False
    whole = value.dtype.kind in "biu"
    types = (np.float64, np.complex128)[not whole :]
    shape = tuple(value.shape)
    return any(isinstance(np.broadcast_to(d(0), shape), hint) for d in types)
