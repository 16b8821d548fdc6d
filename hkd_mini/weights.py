"""Weights on disk: a folder with model.safetensors, config.json and nothing that can run.

A pickle executes code when it is read, so none is ever read here: tensors come from safetensors, the configuration from
JSON, and a file that is anything else is refused by name. Writing is atomic (a temporary file, then a rename), so a
killed process leaves the old file or the new one. Models that inherit `Saved` also speak to the Hugging Face hub:
`from_pretrained`, `save_pretrained`, `push_to_hub`. A bundled name such as "hkd-cifar10" stands for a folder in data/.
Source: safetensors and huggingface_hub documentation; design rule "weights are safetensors plus config.json, ever".
"""
import dataclasses
import json
import os
import pathlib
import types
import typing

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import nn

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a half."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def data_folder() -> pathlib.Path:
    """The bundled data: inside an installed wheel, else data/ beside the package in a checkout."""
    here = pathlib.Path(__file__).resolve().parent
    return here / "_data" if (here / "_data").is_dir() else here.parent / "data"


def resolve(name: str | os.PathLike) -> pathlib.Path:
    """The folder behind a bundled name or a path. Raises FileNotFoundError that lists the bundled names."""
    for folder in (pathlib.Path(name), data_folder() / str(name)):
        if (folder / CONFIG).is_file():
            return folder
    bundled = sorted(p.parent.name for p in data_folder().glob(f"*/{CONFIG}"))
    raise FileNotFoundError(f"{name}: no folder with {CONFIG} there, and bundled are only: {', '.join(bundled) or 'none'}")


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata.

    Raises FileNotFoundError for a missing file, ValueError for a truncated, altered or foreign one (a pickle, say).
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); fetch or make it again. Pickles are refused") from error


def write_tensors(path: str | os.PathLike, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, atomically."""
    write_atomic(path, serialize({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def read_config(folder: str | os.PathLike) -> dict:
    """config.json of a folder. Raises ValueError when it is not JSON."""
    path = pathlib.Path(folder) / CONFIG
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


def build(kind, values: dict):
    """A configuration dataclass from JSON's dicts; a field typed as one or several dataclasses is built in its turn.

    Raises ValueError that names a field the class does not have.
    """
    hints = typing.get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}; it has {', '.join(hints)}")
    return kind(**{name: _build_field(hints[name], value) for name, value in values.items()})


def _build_field(hint, value):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in filter(dataclasses.is_dataclass, options):
        if isinstance(value, dict) and set(value) <= {f.name for f in dataclasses.fields(option)}:
            return build(option, value)
    return value


class Saved(ModelHubMixin):
    """Saving and loading for a module made from one frozen dataclass, its `config` (the class's `config_types`)."""

    config_types: typing.ClassVar[tuple] = ()

    def _save_pretrained(self: nn.Module, save_directory: pathlib.Path, dtype: torch.dtype = torch.float16) -> None:
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.state_dict().items()}
        write_tensors(save_directory / WEIGHTS, tensors)
        config = {"model": type(self).__name__, "config": dataclasses.asdict(self.config)}
        write_atomic(save_directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", **hub):
        folder = pathlib.Path(model_id)
        if not folder.is_dir():
            keep = {k: hub[k] for k in ("revision", "cache_dir", "force_download", "local_files_only", "token") if k in hub}
            folder = pathlib.Path([hf_hub_download(model_id, name, **keep) for name in (WEIGHTS, CONFIG)][0]).parent
        return cls.from_folder(folder).to(map_location)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike):
        """Build from config.json and fill from model.safetensors; in evaluation mode, float32.

        Raises ValueError when the folder holds another model, or tensors that do not fit the configuration.
        """
        saved = read_config(folder)
        if saved.get("model") != cls.__name__:
            raise ValueError(f"{folder}: holds a {saved.get('model')}, wanted a {cls.__name__}")
        kind = next((k for k in cls.config_types if set(saved["config"]) <= {f.name for f in dataclasses.fields(k)}), cls.config_types[0])
        model = cls(build(kind, saved["config"]))
        tensors, path = read_tensors(pathlib.Path(folder) / WEIGHTS)[0], pathlib.Path(folder) / WEIGHTS
        try:
            model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        except RuntimeError as error:
            raise ValueError(f"{path}: does not fit {CONFIG} beside it ({str(error)[:300]})") from error
        return model.eval()
