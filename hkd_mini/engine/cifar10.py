"""CIFAR-10, read from the bytes of its binary version.

The archive is fetched once and its MD5 is verified; the files' SHA-256 are written
beside them and verified on every load. A broken download goes on where it stopped.
Where the files are is one choice: a folder given by name, $HKD_MINI_DATA, or the user's
cache.
Source: Krizhevsky 2009.
"""

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .data import Images
from .files import try_folder
from .precision import log

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
# of the archive, as its authors publish it
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_FOLDER = "cifar-10-batches-bin"
MANIFEST = "SHA256SUMS"  # the list is readable by `sha256sum -c`
CIFAR10_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

CIFAR10_FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}

_FILES = CIFAR10_FILES["train"] + CIFAR10_FILES["test"]
_ROOM = 4e8  # bytes of the archive and of what is in it
_RECORDS = 10_000  # per file
_RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes


def cache_dir() -> Path:
    """Folder that holds downloaded data: $HKD_MINI_DATA if set, else the user's cache
    folder.
    """
    import pooch

    return Path(
        os.environ.get("HKD_MINI_DATA") or pooch.os_cache("hkd-mini")
    ).expanduser()


def fetch_cifar10(root: str | Path | None = None, progressbar: bool = True) -> Path:
    """Fetch, verify and unpack CIFAR-10 (170 MB) below `root`; return the folder of its
    .bin files.

    A re-run resumes where the last one stopped, and does nothing when the files are
    there and sound; a second process waits for the first. `progressbar` shows one.
    Raises OSError when the server cannot be reached or there is no room, ValueError
    when the archive is not the published one.
    """
    root = Path(root).expanduser() if root else cache_dir()
    with contextlib.suppress(FileNotFoundError, ValueError):
        return _sound(root)
    try_folder(root, _ROOM)  # missing or damaged: this is what fetching is for
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        return _fetch(root, progressbar)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One process at a time in `root`; what another one has begun is waited for."""
    from filelock import FileLock, Timeout

    lock = FileLock(root / f".{CIFAR10_FOLDER}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: another process is fetching there; waiting for it", root)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(root: Path, progressbar: bool) -> Path:
    import pooch

    with contextlib.suppress(FileNotFoundError, ValueError):
        return _sound(root)  # by the one that was waited for
    name = CIFAR10_URL.rsplit("/", 1)[-1]
    download = partial(_resume, root / f"{name}.part", progressbar)
    try:
        archive = pooch.retrieve(
            CIFAR10_URL, f"md5:{CIFAR10_MD5}", name, root, downloader=download
        )
    except OSError as error:
        raise OSError(
            f"could not fetch {CIFAR10_URL} ({error}): run `hkd-mini data cifar10 "
            f"--root {root}` "
            f"again to resume, or put the unpacked {CIFAR10_FOLDER} there yourself"
        ) from error
    _unpack(Path(archive), root / CIFAR10_FOLDER)
    return _sound(root)


def load_cifar10(
    split: str = "train", root: str | Path | None = None, verify: bool = True
) -> Images:
    """CIFAR-10's 50,000 (`split` "train") or 10,000 ("test") pictures, 32x32, in the
    order of its files.

    `root` holds cifar-10-batches-bin, or is it; default `cache_dir()`. With `verify`,
    the files must have the SHA-256 that `fetch_cifar10` wrote, where it did.
    FileNotFoundError, ValueError name file and cure.
    """
    if split not in CIFAR10_FILES:
        raise ValueError(f"split is {split!r}, wanted one of {sorted(CIFAR10_FILES)}")
    folder = _cifar10_folder(Path(root).expanduser() if root else cache_dir())
    verify = verify and (folder / MANIFEST).exists()
    sums = (
        {s[66:]: s[:64] for s in (folder / MANIFEST).read_text().splitlines()}
        if verify
        else {}
    )
    records = torch.cat(
        [_read_batch(folder / name, sums) for name in CIFAR10_FILES[split]]
    )
    x = records[:, 1:].reshape(-1, 3, 32, 32).contiguous()
    return Images(x, records[:, 0].long(), CIFAR10_NAMES)


def _sound(root: Path) -> Path:
    for split in CIFAR10_FILES:
        load_cifar10(split, root)
    return _cifar10_folder(root)


def _cifar10_folder(root: Path) -> Path:
    """`root`/cifar-10-batches-bin, or `root` itself when that is the folder of the .bin
    files.
    """
    for folder in (root / CIFAR10_FOLDER, root):
        if any((folder / name).exists() for name in _FILES):
            return folder
    raise FileNotFoundError(
        f"no CIFAR-10 in {root}: run `hkd-mini data cifar10 --root {root}`, or set "
        f"HKD_MINI_DATA to the folder that holds {CIFAR10_FOLDER}"
    )


def _read_batch(path: Path, sums: dict[str, str]) -> Tensor:
    """One file as uint8 (10000, 3073), after every check that its bytes allow."""
    folder = path.parent
    cure = (
        "run `hkd-mini data cifar10 --root "
        f"{folder.parent if folder.name == CIFAR10_FOLDER else folder}`"
    )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {cure}")
    raw = bytearray(path.read_bytes())
    wish = _RECORD * _RECORDS
    if len(raw) != wish:
        raise ValueError(
            f"{path} is {'truncated' if len(raw) < wish else 'too long'}: {len(raw)} "
            f"bytes, wanted {wish}; {cure}"
        )
    records = torch.frombuffer(raw, dtype=torch.uint8).reshape(_RECORDS, _RECORD)
    if (label := int(records[:, 0].max())) > 9:
        raise ValueError(
            f"{path} is altered: it has a label {label}, wanted 0..9; {cure}"
        )
    if sums and hashlib.sha256(raw).hexdigest() != sums.get(path.name):
        raise ValueError(
            f"{path} is altered: its SHA-256 is not the one in {MANIFEST}; {cure}"
        )
    return records


def _resume(part: Path, progressbar: bool, url: str, output_file: str, owner) -> None:
    """A pooch downloader that keeps in `part` what a broken download brought, and asks
    for the rest only.
    """
    import pooch

    done = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        with open(part, "ab") as file:
            pooch.HTTPDownloader(progressbar=progressbar, headers=headers)(
                url, file, owner
            )
    except OSError as error:
        # 416: the server has no such range, so these are not its bytes
        if getattr(getattr(error, "response", None), "status_code", None) == 416:
            part.unlink()
        raise
    # a server that ignores ranges fails the MD5; the next run starts afresh
    os.replace(part, output_file)


def _unpack(archive: Path, folder: Path) -> None:
    """Copy the six .bin files out: asked for by name, written under names of ours, each
    atomically.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        if missing := {f"{CIFAR10_FOLDER}/{name}" for name in _FILES} - set(
            tar.getnames()
        ):
            raise ValueError(
                f"{archive} lacks {sorted(missing)}: wanted CIFAR-10's binary version"
            )
        files = {}
        for name in _FILES:
            file = tar.extractfile(f"{CIFAR10_FOLDER}/{name}")
            if file is None:
                raise ValueError(f"{archive}: its {name} is a folder, wanted a file")
            files[name] = file.read()
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in files.items()
    )
    for name, content in (files | {MANIFEST: sums.encode()}).items():
        (folder / f"{name}.tmp").write_bytes(content)
        os.replace(folder / f"{name}.tmp", folder / name)
