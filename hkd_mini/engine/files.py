"""Files that are whole or absent: atomic writes, and safetensors that carry their own
SHA-256.

Writing is atomic (a temporary file, then a rename), so a killed process leaves the old
file or the new one. safetensors notices a cut file, not a flipped bit, so what we write
carries its own SHA-256 in the header, and reading checks it. A file that is anything
else is refused by name: a pickle executes code when it is read, so none is ever read
here.
Source: safetensors documentation.
"""

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open

SEAL = "sha256"  # the header's key
UNSEALED = b"0" * 64  # what stands in its place while the file is hashed
# safetensors' names of what we keep
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


def try_folder(folder: str | os.PathLike, size: float | int = 0) -> None:
    """Try whether `folder`, there or yet to be made, can take `size` bytes, before
    they are computed. Leaves nothing behind.

    Raises OSError that names what stands in the way: a file in its place, a place that
    cannot be written, or a disk with less room.
    """
    path = pathlib.Path(folder).absolute()
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not there.is_dir():
        raise NotADirectoryError(
            f"{there} is no folder: wanted one for {folder}; use another name, or "
            "remove it"
        )
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"{there}: nothing can be written there ({error.strerror}); use another "
            "folder"
        ) from error
    free = shutil.disk_usage(there).free
    if size > free:
        raise OSError(
            f"{folder}: {size / 1e9:.3g} GB are needed, and {free / 1e9:.3g} GB are "
            "free there; use another disk, or make room"
        )


def try_file(file: str | os.PathLike, size: float | int = 0) -> None:
    """`try_folder` for the folder of a `file` of `size` bytes. Raises OSError for a
    folder of that name too, or a file that may not be written.
    """
    path = pathlib.Path(file)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: wanted the name of a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is there and may not be written over")
    try_folder(path.parent, size)


def write_atomic(
    path: str | os.PathLike,
    content: bytes | Callable[[BinaryIO], None],
    before: str | os.PathLike | None = None,
    durable: bool = True,
) -> None:
    """Write the file `path` so that a reader, or a crash, meets the old content or the
    new, never a half. The old file is kept as `before`, if that is given.

    `content` is bytes, or writes them into the file that it is given. Without `durable`
    only a crash of the process is thought of, not of the machine: it is not waited for
    the disk.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if before is not None and path.exists():
            os.replace(path, before)  # a crash here leaves the old file, as `before`
        os.replace(part, path)
    except BaseException:  # a full disk, say: leave no half behind
        part.unlink(missing_ok=True)
        raise


def read_tensors(
    path: str | os.PathLike,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of the safetensors file `path`, and its metadata.

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
    """Raise ValueError if `path`, a whole safetensors file, is not what was written:
    the SHA-256 in its header must be its own.

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


def write_tensors(
    path: str | os.PathLike,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str] | None = None,
    before: str | os.PathLike | None = None,
    durable: bool = True,
) -> None:
    """Write tensors as one safetensors file `path`, atomically, with `metadata` and the
    file's SHA-256 in the header; `before` and `durable` as in `write_atomic`.

    Equal tensors and remarks are equal bytes. Nothing is copied: the file is hashed as
    it is written, and the digest put in its place last. Raises ValueError for numbers
    that the format has no name for.
    """
    parts = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    if strange := [k for k, v in parts.items() if v.dtype not in _NAMES]:
        raise ValueError(
            f"{strange[0]} is of {parts[strange[0]].dtype}: not to be kept"
        )
    # wide numbers first, so that each starts at a multiple of its size
    order = sorted(parts, key=lambda k: (-parts[k].element_size(), k))
    remarks = sorted({**(metadata or {}), SEAL: UNSEALED.decode()}.items())
    header: dict[str, dict] = {"__metadata__": dict(remarks)}
    end = 0
    for name in order:
        x = parts[name]
        begin = end
        end += x.nbytes
        described = {"dtype": _NAMES[x.dtype], "shape": list(x.shape)}
        header[name] = described | {"data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text

    def write(file: BinaryIO) -> None:
        digest = hashlib.sha256(head)
        file.write(head)
        for name in order:
            content = parts[name].reshape(-1).view(torch.uint8).numpy().data
            digest.update(content)
            file.write(content)
        file.seek(head.index(UNSEALED))
        file.write(digest.hexdigest().encode())

    write_atomic(path, write, before, durable)
