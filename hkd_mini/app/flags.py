"""Flags made from configurations: one list of fields, one help text each.

A recipe comes with a preset (`hkd.recipes`). A flag changes one field of it, and a flag
that is not given leaves the field alone. What a field means is said once, in the
docstring beneath it; `changes` reads it from there.
"""

import ast
import dataclasses
import inspect
import math
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..diffusion.guidance import Guided
from ..diffusion.schedule import Noise
from ..engine.config import TrainConfig
from ..hkd.config import HKDConfig
from ..hkd.objective import Objective
from ..judge.classifier import ClassifierConfig
from .zoo import load_teacher


def explained(configuration: type) -> dict[str, str]:
    """The docstring beneath each field of `configuration`, a dataclass, on one line, by
    the field's name.
    """
    source = textwrap.dedent(inspect.getsource(configuration))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    body = definition.body
    found = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            words = ast.literal_eval(text.value).split()
            found[ast.unparse(field.target)] = " ".join(words)
    return found


@dataclasses.dataclass(frozen=True)
class Guide:
    """How a teacher is guided: flags of the commands that sample one."""

    guidance: float = 1.0
    """Weight of guidance of a teacher: 1 for none."""
    weaker: str | None = None
    """Bundled name, folder or module:function of the weaker teacher; without, the
    teacher itself, told no class."""
    guidance_from: float = 0.0
    """Guide above this noise level,"""
    guidance_to: float = math.inf
    """and up to this one."""

    def apply(self, model: Any) -> Any:
        """`model`, a teacher, with the guidance that was asked for; itself for weight
        1.

        Raises ValueError for a one-step model, which has nothing to guide, and for a
        teacher of no classes without a weaker one.
        """
        if self.guidance == 1:
            return model
        if hasattr(model, "sample"):
            raise ValueError("--guidance is for teachers: this model takes one step")
        weaker = None if self.weaker is None else load_teacher(self.weaker)
        classes = getattr(getattr(model, "config", None), "labels", True)
        if weaker is None and not classes:
            raise ValueError(
                "--guidance without --weaker compares a class with none, and this "
                "teacher has no classes"
            )
        interval = (self.guidance_from, self.guidance_to)
        return Guided(model, self.guidance, weaker, interval)


class Changes:
    """What was asked for by flags: None in a field leaves it as it is."""

    def apply(self, configuration: Any) -> Any:
        """`configuration`, a frozen dataclass, with the changes made; its own checks
        raise.
        """
        asked = {k: v for k, v in vars(self).items() if v is not None}
        return dataclasses.replace(configuration, **asked)


def changes(configuration: type, *left_out: str) -> type[Changes]:
    """A dataclass of `Changes` with an optional flag for every field of
    `configuration`, but those `left_out`.
    """
    text = explained(configuration)
    types: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(configuration)}
    flags = [
        (name, Annotated[kind | None, tyro.conf.arg(help=text[name])], None)
        for name, kind in types.items()
        if name not in left_out
    ]
    return dataclasses.make_dataclass(
        f"{configuration.__name__}Changes", flags, bases=(Changes,), frozen=True
    )


@dataclasses.dataclass(frozen=True)
class Widths(Changes):
    """Size and widths of a preset's network, where another one is wished for."""

    resolution: int | None = None
    """Side of the pictures; attention stays at its levels. Other pictures are cropped
    to their central square and resized."""
    in_channels: int | None = None
    """Channels of one x: 3 for pictures, those of latents."""
    channels: int | None = None
    """Channels at the first level."""
    mult: tuple[int, ...] | None = None
    """Of them, a multiple for each level; each level halves the side."""
    blocks: int | None = None
    """Residual blocks a level."""
    attention: tuple[int, ...] | None = None
    """Sides, after the patch, where there is attention."""
    patch: int | None = None
    """2 folds squares of 2 x 2 pixels into channels first, 1 does not."""
    dropout: float | None = None
    """Dropout of the blocks."""
    labels: int | None = None
    """Number of classes that the network is told, 0 for none."""

    def apply(self, configuration: Any) -> Any:
        """`configuration`, a network's, with the changes made.

        Raises ValueError for one of points, which has no such widths, and what the
        network itself refuses.
        """
        asked = {k: v for k, v in vars(self).items() if v is not None}
        has = {f.name for f in dataclasses.fields(configuration)}
        if unlike := sorted(set(asked) - has):
            raise ValueError(
                f"{', '.join(unlike)}: of networks for pictures, and this preset's is "
                "for points"
            )
        if self.resolution and self.attention is None:
            deep = [configuration.resolution // r for r in configuration.attention]
            asked["attention"] = tuple(self.resolution // d for d in deep)
        return dataclasses.replace(configuration, **asked)


_HERE = tyro.conf.arg(name="")  # flags without a prefix
TrainFlags = changes(TrainConfig)
ObjectiveFlags = changes(Objective)
ModelFlags = changes(HKDConfig, "network")
LookFlags = changes(ClassifierConfig, "classes")
NoiseFlags = changes(Noise)
if TYPE_CHECKING:  # the classes are made while this runs; commands only `apply` them
    Training = Changes
    Asked = Changes
    Shape = Changes
    Look = Changes
    Levels = Changes
    Guidance = Guide
    Network = Widths
else:
    Training = Annotated[TrainFlags, _HERE]
    Asked = Annotated[ObjectiveFlags, _HERE]
    Shape = Annotated[ModelFlags, _HERE]
    Look = Annotated[LookFlags, _HERE]
    Levels = Annotated[NoiseFlags, _HERE]
    Guidance = Annotated[Guide, _HERE]
    Network = Annotated[Widths, _HERE]
AS_THE_RECIPE = TrainFlags()
AS_THE_PRESET = ObjectiveFlags()
AS_IT_IS = ModelFlags()
AS_THE_JUDGE = LookFlags()
AS_EDM = NoiseFlags()
UNGUIDED = Guide()
AS_WIDE = Widths()
