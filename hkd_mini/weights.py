"""Weights on disk: a folder with model.safetensors, config.json and nothing that can
run.

A pickle executes code when it is read, so none is ever read here (`pickles` reads
others' without running them): tensors come from safetensors, the configuration from
JSON, and a file that is anything else is refused by name. Writing is atomic (a
temporary file, then a rename), so a killed process leaves the old file or the new one.
safetensors notices a cut file, not a flipped bit, so what we write carries its own
SHA-256 in the header, and what we bundle is listed in data/MANIFEST.json; reading
checks both. Models that inherit `Saved` also speak to the Hugging Face hub:
`from_pretrained`, `save_pretrained`, `push_to_hub`. A bundled name such as
"hkd-cifar10" stands for a folder in data/.
Source: safetensors and huggingface_hub documentation; design rule "weights are
safetensors plus config.json, ever".
"""

import dataclasses
import hashlib
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

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MANIFEST = "MANIFEST.json"
SEAL = "sha256"  # the header's key
UNSEALED = b"0" * 64  # what stands in its place while the file is hashed


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new,
    never a half.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # a full disk, say: leave no half behind
        part.unlink(missing_ok=True)
        raise


def data_folder() -> pathlib.Path:
    """The bundled data: inside an installed wheel, else data/ beside the package in a
    checkout.
    """
    here = pathlib.Path(__file__).resolve().parent
    return here / "_data" if (here / "_data").is_dir() else here.parent / "data"


def resolve(name: str | os.PathLike) -> pathlib.Path:
    """The folder behind a path or a bundled name. Raises FileNotFoundError that lists
    the bundled names, ValueError for altered ones.
    """
    if (pathlib.Path(name) / CONFIG).is_file():
        return pathlib.Path(name)
    if (data_folder() / str(name) / CONFIG).is_file():
        return verify(data_folder() / str(name))
    bundled = sorted(p.parent.name for p in data_folder().glob(f"*/{CONFIG}"))
    raise FileNotFoundError(
        f"{name}: no folder with {CONFIG} there, and bundled are only: "
        f"{', '.join(bundled) or 'none'}"
    )


def verify(folder: str | os.PathLike) -> pathlib.Path:
    """`folder` inside the bundled data, once its files have the SHA-256 of
    data/MANIFEST.json, {"folder/file": digest, ...}.

    Raises ValueError that names a file which differs or is missing. Files that are not
    listed pass, as does all without a manifest.
    """
    root = data_folder()
    folder = pathlib.Path(folder)
    listed = (
        json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        if (root / MANIFEST).is_file()
        else {}
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


def read_tensors(
    path: str | os.PathLike,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata.

    Raises FileNotFoundError for a missing file, ValueError for a truncated, altered or
    foreign one (a pickle, say).
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            check(path)
            return {
                key: file.get_tensor(key) for key in file.keys()
            }, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); fetch or make it again. "
            "Pickles are refused"
        ) from error


def check(path: str | os.PathLike) -> None:
    """Raise ValueError if a whole safetensors file is not what was written: the SHA-256
    in its header must be its own.

    Reads the file once, in pieces. A file without a digest, another program's, passes.
    """
    with open(path, "rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        seal = json.loads(header).get("__metadata__", {}).get(SEAL)
        if seal is None:
            return
        digest = hashlib.sha256(length + header.replace(seal.encode(), UNSEALED, 1))
        while piece := file.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != seal:
        raise ValueError(
            f"{path}: altered since it was written (its SHA-256 is not the one in its "
            "header); fetch or make it again"
        )


def sealed(content: bytes) -> bytes:
    """A safetensors file with its own SHA-256 in the header, taken with zeros in that
    place; remarks in a fixed order.

    So equal tensors and remarks are equal bytes; safetensors alone writes remarks in an
    order that changes from run to run.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(
        sorted({**header.get("__metadata__", {}), SEAL: UNSEALED.decode()}.items())
    )
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    length = len(text).to_bytes(8, "little")
    tensors = memoryview(content)[8 + size :]
    digest = hashlib.sha256(length + text)
    digest.update(tensors)
    return b"".join(
        [length, text.replace(UNSEALED, digest.hexdigest().encode(), 1), tensors]
    )


def write_tensors(
    path: str | os.PathLike,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write tensors as one safetensors file, atomically, with its SHA-256 in the
    header.
    """
    write_atomic(
        path,
        sealed(
            serialize(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata
            )
        ),
    )


def read_config(folder: str | os.PathLike) -> dict:
    """config.json of a folder, {"model": kind, "config": {...}}. Raises ValueError when
    it is anything else.
    """
    path = pathlib.Path(folder) / CONFIG
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise ValueError(f'{path}: wanted {{"model": kind, "config": {{...}}}}')
    return saved


def build(kind, values: dict):
    """A configuration dataclass from JSON's dicts; a field typed as one or several
    dataclasses is built in its turn.

    Raises ValueError that names a field the class does not have.
    """
    hints = typing.get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(
            f"{kind.__name__} has no {', '.join(sorted(unknown))}; it has "
            f"{', '.join(hints)}"
        )
    return kind(
        **{name: _build_field(hints[name], value) for name, value in values.items()}
    )


def _build_field(hint, value):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in filter(dataclasses.is_dataclass, options):
        if isinstance(value, dict) and set(value) <= {
            f.name for f in dataclasses.fields(option)
        }:
            return build(option, value)
    return tuple(value) if isinstance(value, list) else value  # JSON has lists only


class Saved(ModelHubMixin):
    """Saving and loading for a module made from one frozen dataclass, its `config` (the
    class's `config_types`).
    """

    config_types: typing.ClassVar[tuple] = ()

    def _save_pretrained(
        self: nn.Module,
        save_directory: pathlib.Path,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        tensors = {
            k: v.to(dtype) if v.is_floating_point() else v
            for k, v in self.state_dict().items()
        }
        write_tensors(save_directory / WEIGHTS, tensors)
        config = {
            "model": type(self).__name__,
            "config": dataclasses.asdict(self.config),
        }
        write_atomic(
            save_directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode()
        )

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, *, map_location: str = "cpu", **hub
    ):
        """From a folder, or from a repository of the Hugging Face hub; `hub`: revision,
        cache_dir, token, ... of hf_hub_download.

        Not the mixin's own way, which would fill in the configuration by guessing.
        Raises as `from_folder`.
        """
        folder = pathlib.Path(name)
        if not folder.is_dir():
            paths = [
                hf_hub_download(str(name), file, **hub) for file in (WEIGHTS, CONFIG)
            ]
            folder = pathlib.Path(paths[0]).parent
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
        try:
            model = cls(build(kind, saved["config"]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{pathlib.Path(folder) / CONFIG}: {error}") from error
        tensors = read_tensors(pathlib.Path(folder) / WEIGHTS)[0]
        path = pathlib.Path(folder) / WEIGHTS
        try:
            model.load_state_dict(
                {
                    k: v.float() if v.is_floating_point() else v
                    for k, v in tensors.items()
                }
            )
        except RuntimeError as error:
            raise ValueError(
                f"{path}: does not fit {CONFIG} beside it ({str(error)[:300]})"
            ) from error
        return model.eval()
