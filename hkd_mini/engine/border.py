"""The public border: what a user gives is looked at once, where it comes in.

Signatures say already what they want: a kind, a shape, a dtype. `guard` holds every
call from outside to that, and refuses numbers that are not finite, in one sentence that
names the function, the argument, what it is and what was wanted. What a function of the
package calls in its turn is not looked at again, so a training step, a sampler's
evaluations, compiled and traced code pay nothing; a call pays one look at each number
that it is given.

How one value is held to one annotation stands in `checks`. Chapter: none.
"""

import contextlib
import functools
import inspect
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import jaxtyped

from . import checks
from .checks import Check, ShapeError, check_of, described, shaped


class _Here(threading.local):
    inside = False


_here = _Here()
Plan = list[tuple[int, str, Check]]
# what torch, numpy and Python raise of sizes and shapes that passed the border
FROM_BELOW = (RuntimeError, IndexError, OverflowError, ZeroDivisionError, KeyError)


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """While this lasts, calls come from the package itself: nothing is looked at."""
    before = _here.inside
    _here.inside = True
    try:
        yield
    finally:
        _here.inside = before


def guard(package: str) -> None:
    """Hold calls of the public functions of `package`, whose modules are loaded, to
    their annotations.

    They are replaced in the modules that define them and in the packages that pass them
    on. A module that has imported one of another keeps it as it was.
    """
    loaded = [m for n, m in sys.modules.items() if (n + ".").startswith(package + ".")]
    modules = [m for m in loaded if m.__name__ not in (__name__, checks.__name__)]
    replaced: dict[int, Callable] = {}
    for module in modules:
        for name, found in list(vars(module).items()):
            if name.startswith("_") or getattr(found, "__module__", "") != (
                module.__name__
            ):
                continue
            if inspect.isfunction(found):
                replaced[id(found)] = _guarded(found, name)
                setattr(module, name, replaced[id(found)])
            elif inspect.isclass(found):
                _guard_class(found)
    for module in modules:
        for name, found in list(vars(module).items()):
            if hasattr(module, "__path__") and id(found) in replaced:
                setattr(module, name, replaced[id(found)])


def _guard_class(kind: type) -> None:
    if getattr(kind, "_is_protocol", False) or issubclass(kind, BaseException):
        return
    for name, found in list(vars(kind).items()):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        title = kind.__name__ + ("" if name.startswith("_") else f".{name}")
        if isinstance(found, classmethod):
            setattr(kind, name, classmethod(_guarded(found.__func__, title)))
        elif inspect.isfunction(found):
            setattr(kind, name, _guarded(found, title))


def _guarded(function: Callable, title: str) -> Callable:
    plan: Plan | None = None

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal plan
        if torch.compiler.is_compiling() or _here.inside or torch.jit.is_tracing():
            return function(*args, **kwargs)
        if plan is None:
            plan = _plan(function)
        with inside():
            given = _looked_at(title, plan, args, kwargs)
            try:
                result = function(*args, **kwargs)
            except FROM_BELOW as error:
                if type(error).__name__ in (function.__doc__ or ""):  # announced there
                    raise
                words = ", ".join(f"{k} = {described(v)}" for k, v in given.items())
                raise ValueError(f"{title}: {error}; given {words}") from error
        return _stepwise(result) if isinstance(result, types.GeneratorType) else result

    return call


def _looked_at(title: str, plan: Plan, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments that have a check, by name, once each has passed it."""
    given: dict[str, Any] = {}
    with jaxtyped("context"):
        for place, name, check in plan:
            if place < len(args):
                given[name] = args[place]
            elif name in kwargs:
                given[name] = kwargs[name]
            else:
                continue
            try:
                check(f"{title}: {name}", given[name])
            except ShapeError as error:
                shapes = [
                    f"{k} {tuple(v.shape)}" for k, v in given.items() if shaped(v)
                ]
                beside = f", with {', '.join(shapes[:-1])}" if shapes[1:] else ""
                raise ValueError(f"{error}{beside}") from None
    return given


def _stepwise(steps: types.GeneratorType) -> Iterator:
    """The generator `steps`, which is inside while it computes."""
    try:
        while True:
            with inside():
                try:
                    item = next(steps)
                except StopIteration as end:
                    return end.value
            yield item
    finally:
        steps.close()


def _plan(function: Callable) -> Plan:
    """Place, name and check of each argument that has one."""
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    plan = []
    for place, given in enumerate(inspect.signature(function).parameters.values()):
        plain = given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD)
        if given.name in hints and plain:
            at = place if given.kind != given.KEYWORD_ONLY else 10**6
            check = check_of(hints[given.name], given.default)
            plan += [] if check is None else [(at, given.name, check)]
    return plan
