"""A configuration from JSON: the one that was written, or a sentence that says what is
wrong with which field.

JSON knows no types, and a file that was cut, altered or written by hand may hold
anything. So each field is held to its annotation before the class is built, whose own
checks see to the ranges. Chapter: 9 "The architecture".
"""

import dataclasses
import json
import pathlib
import types
import typing


def read_json(path: pathlib.Path) -> dict:
    """The JSON object in a file, or a ValueError with its name."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not text, or too deep
        raise ValueError(
            f"{path}: not JSON ({error}); cut or altered, fetch or make it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: JSON, but no object {{...}}; fetch or make it again")
    return found


def build(kind: type, values: dict):
    """A configuration, the dataclass `kind`, from JSON's dict `values`; a field typed
    as one or several dataclasses is built in its turn.

    Raises ValueError that names a field the class does not have, or a value that the
    field does not take.
    """
    hints = typing.get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(
            f"{kind.__name__} has no {', '.join(sorted(unknown))}; it has "
            f"{', '.join(hints)}"
        )
    return kind(**{n: _build_field(n, hints[n], value) for n, value in values.items()})


def _build_field(name, hint, value):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    classes = [o for o in options if isinstance(o, type)]
    classes = [o for o in classes if dataclasses.is_dataclass(o)]
    if classes and isinstance(value, dict):
        # the one that knows most of the fields says which it does not know
        known = lambda o: len(set(value) & {f.name for f in dataclasses.fields(o)})
        return build(max(classes, key=known), value)
    value = tuple(value) if isinstance(value, list) else value  # JSON has lists only
    if not _fits(hint, value):
        wish = getattr(hint, "__name__", str(hint))
        raise ValueError(f"{name} = {value!r}: wanted {wish}")
    return value


def _fits(hint, value) -> bool:
    """Whether JSON's `value` is one of a configuration's `hint`: plain numbers, words,
    truths, and tuples of them.
    """
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if inner[-1] is Ellipsis:
            return all(_fits(inner[0], v) for v in value)
        return len(inner) == len(value) and all(map(_fits, inner, value))
    if hint in (bool, str):
        return isinstance(value, hint)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (hint is float and isinstance(value, float))
