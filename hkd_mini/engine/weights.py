"""Weights on disk: a folder with model.safetensors, config.json and nothing that can
run.

Tensors come from safetensors, the configuration from JSON. Models that inherit `Saved`
also speak to the Hugging Face hub: `from_pretrained`, `save_pretrained`, `push_to_hub`.
A bundled name such as "hkd-cifar10" stands for a folder in data/, "hf://user/name" for
a repository of the hub. What we bundle is listed in data/MANIFEST.json with its
SHA-256.
Source: huggingface_hub documentation.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
import typing
from collections.abc import Sequence

import torch
from huggingface_hub import EvalResult, ModelCard, ModelHubMixin
from torch import nn

from . import hub
from .checks import finite
from .files import read_tensors, write_atomic, write_tensors
from .from_json import build, read_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MANIFEST = "MANIFEST.json"
KEPT = (WEIGHTS, CONFIG, hub.CARD)  # of a model, on the hub
# what a network that cannot be built raises
_WRONG = (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError)


def data_folder() -> pathlib.Path:
    """The bundled data: inside an installed wheel, else data/ beside the package in a
    checkout.
    """
    here = pathlib.Path(__file__).resolve().parents[1]
    return here / "_data" if (here / "_data").is_dir() else here.parent / "data"


def resolve(name: str | os.PathLike) -> pathlib.Path:
    """The folder behind a path, a bundled name, or "hf://user/name@revision" of the
    hub. Raises FileNotFoundError that lists the bundled names, ValueError for altered
    ones and for an empty name, and what `hub.fetch` raises.
    """
    if str(name) == "":
        raise ValueError("name = '': wanted a bundled name or a folder")
    if str(name).startswith(hub.HUB):
        return hub.fetch(str(name), KEPT)
    if (pathlib.Path(name) / CONFIG).is_file():
        return pathlib.Path(name)
    if (data_folder() / str(name) / CONFIG).is_file():
        return verify(data_folder() / str(name))
    bundled = sorted(p.parent.name for p in data_folder().glob(f"*/{CONFIG}"))
    raise FileNotFoundError(
        f"{name}: no folder with {CONFIG} there, and bundled are only: "
        f"{', '.join(bundled) or 'none'}; of the hub are {hub.HUB}user/name"
    )


def verify(folder: str | os.PathLike) -> pathlib.Path:
    """`folder` inside the bundled data, once its files have the SHA-256 of
    data/MANIFEST.json, {"folder/file": digest, ...}.

    Raises ValueError that names a file which differs or is missing. Files that are not
    listed pass, as does all without a manifest.
    """
    root = data_folder()
    folder = pathlib.Path(folder)
    listed = read_json(root / MANIFEST) if (root / MANIFEST).is_file() else {}
    if not all(isinstance(digest, str) for digest in listed.values()):
        raise ValueError(
            f"{root / MANIFEST}: no list of SHA-256; install hkd-mini again"
        )
    for name, digest in listed.items():
        path = root / name
        if folder == path or folder in path.parents:
            if (
                not path.is_file()
                or hashlib.sha256(path.read_bytes()).hexdigest() != digest
            ):
                raise ValueError(
                    f"{path}: missing or altered, its SHA-256 is not the one in "
                    f"{MANIFEST}; install hkd-mini again"
                )
    return folder


def read_config(folder: str | os.PathLike) -> dict:
    """config.json of a folder, {"model": kind, "config": {...}}. Raises ValueError when
    it is anything else.
    """
    path = pathlib.Path(folder) / CONFIG
    saved = read_json(path)
    if not isinstance(saved.get("config"), dict):
        raise ValueError(f'{path}: wanted {{"model": kind, "config": {{...}}}}')
    return saved


def _small(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight in `dtype`, or as it is where that could not hold it. ValueError for one
    that is not finite.
    """
    finite(name, value)
    if not value.is_floating_point():
        return value
    small = value.to(dtype)
    return small if small.isfinite().all() else value


@typing.runtime_checkable
class _Kept(typing.Protocol):
    """What `Saved` is mixed into: a module with its configuration."""

    config: typing.Any

    def state_dict(self) -> dict[str, torch.Tensor]: ...


class Saved(ModelHubMixin):
    """Saving and loading for a module made from one frozen dataclass, its `config` (the
    class's `config_types`).
    """

    config_types: typing.ClassVar[tuple] = ()

    def _save_pretrained(
        self: _Kept,
        save_directory: pathlib.Path,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        tensors = {k: _small(k, v, dtype) for k, v in self.state_dict().items()}
        write_tensors(save_directory / WEIGHTS, tensors)
        config = {
            "model": type(self).__name__,
            "config": dataclasses.asdict(self.config),
        }
        write_atomic(
            save_directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode()
        )

    def generate_model_card(
        self, name: str = "", results: Sequence[EvalResult] = ()
    ) -> ModelCard:
        """A card for a model whose owner wrote none, as the repository `name` of the
        hub; `results` go into its metadata.
        """
        count = sum(p.numel() for p in typing.cast(nn.Module, self).parameters())
        return hub.model_card(name, type(self).__name__, count, results)

    def push_to_hub(  # type: ignore[override]  # saved before the hub is asked
        self,
        repo_id: str,
        *,
        card: str | None = None,
        results: Sequence[EvalResult] = (),
        dtype: torch.dtype = torch.float16,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Send weights, as `dtype`, config.json and card to the repository `repo_id`,
        "user/name", of the Hugging Face hub; gives the address of the commit.

        `card` is the text of README.md, where None one with the `results`. The others,
        and the errors, are those of `hub.push`; ValueError for weights that are not
        finite.
        """
        hub.check_writer(repo_id, token)
        text = card or str(self.generate_model_card(repo_id, results))
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place)
            Saved._save_pretrained(typing.cast(_Kept, self), folder, dtype)
            write_atomic(folder / hub.CARD, text.encode())
            return hub.push(folder, repo_id, private, token, branch)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # names are ours, not the hub's
        cls, name: str | os.PathLike, *, map_location: str = "cpu", **options
    ):
        """From the folder `name`, a bundled name, or "user/name" of the Hugging Face
        hub, onto the device `map_location`; `options`: revision, token, cache_dir, ...
        of `hub.fetch`.

        Not the mixin's own way, which would fill in the configuration by guessing.
        Raises as `from_folder` and `hub.fetch`.
        """
        folder = pathlib.Path(name)
        if not folder.is_dir():
            bundled = (data_folder() / str(name) / CONFIG).is_file()
            folder = resolve(name) if bundled else hub.fetch(str(name), KEPT, **options)
        return cls.from_folder(folder).to(map_location)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike):
        """Build from config.json and fill from model.safetensors; in evaluation mode,
        float32.

        Raises ValueError when the folder holds another model, or tensors that do not
        fit the configuration.
        """
        saved = read_config(folder)
        if saved.get("model") != cls.__name__:
            raise ValueError(
                f"{folder}: holds a {saved.get('model')}, wanted a {cls.__name__}"
            )
        kind = next(
            (
                k
                for k in cls.config_types
                if set(saved["config"]) <= {f.name for f in dataclasses.fields(k)}
            ),
            cls.config_types[0],
        )
        path = pathlib.Path(folder) / WEIGHTS
        try:
            config = build(kind, saved["config"])
            # without memory first: a damaged width may ask for more than there is
            with torch.device("meta"):
                shapes = typing.cast(nn.Module, cls(config))
        except _WRONG as error:
            raise ValueError(f"{pathlib.Path(folder) / CONFIG}: {error}") from error
        tensors = read_tensors(path)[0]
        for name, value in tensors.items():
            finite(f"{path}: {name}", value)
        tensors = {
            k: v.float() if v.is_floating_point() else v for k, v in tensors.items()
        }
        try:
            shapes.load_state_dict(tensors, assign=True)
            model = typing.cast(nn.Module, cls(config))
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{path}: does not fit {CONFIG} beside it ({str(error)[:300]})"
            ) from error
        return model.eval()
