"""Data: the points of a space that a diffusion model learns to reach.

A data set is a tensor: `Images` holds x, uint8 (N, 3, H, W), and one label per picture;
points in the plane are (n, 2). Models see pictures in [-1, 1], and every point set has,
in closed form, mean 0 and a mean square of sigma_data^2 over its coordinates: one
preconditioning serves both. CIFAR-10 is read from the bytes of its binary version,
fetched once: the archive's MD5 is verified, the files' SHA-256 are written beside them
and verified on every load. Nothing here shuffles with a hidden state: `batch_indices`
is a function of (seed, step), and that is all that a training run must know to resume
inside an epoch.
"""

import hashlib
import math
import os
import tarfile
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor, polar, view_as_real

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
DEVIATION = 0.5  # sigma_data of EDM (Karras et al. 2022, table 1)
_FILES = CIFAR10_FILES["train"] + CIFAR10_FILES["test"]
_RECORDS = 10_000  # per file
_RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes


class Images(NamedTuple):
    """Pictures with one label each: x uint8 (N, 3, H, W) in 0..255, labels (N,), the
    names of the classes.
    """

    x: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]
    names: tuple[str, ...]


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
    there and sound. Raises OSError when the server cannot be reached, ValueError when
    the archive is not the published one.
    """
    root = Path(root).expanduser() if root else cache_dir()
    try:
        return _sound(root)
    except (FileNotFoundError, ValueError):
        import pooch  # missing or damaged: this is what fetching is for
    name = CIFAR10_URL.rsplit("/", 1)[-1]
    download = partial(_resume, root / f"{name}.part", progressbar)
    try:
        root.mkdir(parents=True, exist_ok=True)
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
    """CIFAR-10's 50,000 ("train") or 10,000 ("test") pictures, 32x32, in the order of
    its files.

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
        # the server answered, and refused the range
        if getattr(error, "response", None) is not None:
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
        files = {
            name: tar.extractfile(f"{CIFAR10_FOLDER}/{name}").read() for name in _FILES
        }
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in files.items()
    )
    for name, content in (files | {MANIFEST: sums.encode()}).items():
        (folder / f"{name}.tmp").write_bytes(content)
        os.replace(folder / f"{name}.tmp", folder / name)


def load_images(folder: str | Path, size: int | None = None) -> Images:
    """Pictures of one square size; sorted subfolders are the labels, a folder without
    any is one class.

    `size`: the side they must have (default: the first one's). FileNotFoundError for an
    empty folder; ValueError, naming the picture, for another size, no square,
    transparency, or what is no picture.
    """
    from PIL import Image

    folder = Path(folder).expanduser()
    endings = set(Image.registered_extensions())
    classes = (
        sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    ) or [folder]
    paths = [(k, p) for k, c in enumerate(classes) for p in sorted(c.glob("*"))]
    files = [(k, p) for k, p in paths if p.suffix.lower() in endings]
    if not files:
        raise FileNotFoundError(
            f"no pictures in {folder}: wanted .png, .jpg, ... or one subfolder per "
            "class"
        )
    size = len(_read_picture(files[0][1], size))
    x = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for i, (_, path) in enumerate(files):
        x[i] = torch.from_numpy(_read_picture(path, size)).permute(2, 0, 1)
    return Images(
        x, torch.tensor([k for k, _ in files]), tuple(c.name for c in classes)
    )


def _read_picture(path: Path, size: int | None) -> np.ndarray:
    """One picture as uint8 (size, size, 3); grey and palette become RGB, transparency
    is refused.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.size != (wish := (size or image.width, size or image.width)):
                raise ValueError(
                    f"{path} is {image.size}, wanted {wish}: crop and resize it first"
                )
            if image.mode not in ("RGB", "L", "P", "1") or "transparency" in image.info:
                raise ValueError(
                    f"{path} is {image.mode} or transparent, wanted RGB: convert it "
                    "first"
                )
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}): replace or remove it"
        ) from error


def to_unit(x: UInt8[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Bytes 0..255 as float32 in [-1, 1]: x / 127.5 - 1 (EDM's scaling)."""
    if x.dtype != torch.uint8:
        raise ValueError(f"to_unit got {x.dtype}, wanted torch.uint8 pixels")
    return x.float() / 127.5 - 1


def to_uint8(x: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Pictures in [-1, 1] as bytes: 127.5 x + 128, clipped to 0..255, truncated; undoes
    `to_unit` exactly.
    """
    return (x.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def batch_indices(n: int, batch: int, seed: int, step: int) -> Int64[Tensor, " batch"]:
    """Indices in 0..n-1 of global batch `step` = 0, 1, ...: a stretch of one endless
    shuffled list.

    The list is one permutation of range(n) per epoch, drawn from (seed, epoch); batches
    run across epochs.
    """
    if n < 1 or batch < 1 or seed < 0 or step < 0:
        raise ValueError(
            f"got {n=}, {batch=}, {seed=}, {step=}; wanted n, batch >= 1 and seed, "
            "step >= 0"
        )
    start = step * batch
    end = (step + 1) * batch
    epochs = range(start // n, (end - 1) // n + 1)
    return torch.cat(
        [_permutation(n, seed, e)[max(start - e * n, 0) : end - e * n] for e in epochs]
    )


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))


def checkerboard(n: int, generator: Generator) -> Float[Tensor, "n 2"]:
    """Uniform on the cells with even i + j of a 4x4 board [-a, a]^2; a = sqrt(3)
    DEVIATION.
    """
    i = torch.randint(4, (n,), generator=generator)
    row = torch.randint(2, (n,), generator=generator)
    corner = torch.stack([i, 2 * row + i % 2], dim=1)
    return (
        ((corner + torch.rand(n, 2, generator=generator)) / 2 - 1)
        * math.sqrt(3)
        * DEVIATION
    )


def two_moons(
    n: int, generator: Generator, noise: float = 0.05
) -> Float[Tensor, "n 2"]:
    """(cos a, sin a) and its mirror (1 - cos a, 1/2 - sin a), 0 < a < pi, and noise;
    centred and scaled.
    """
    arc = polar(torch.ones(n), math.pi * torch.rand(n, generator=generator)) - (
        0.5 + 0.25j
    )
    x = view_as_real(arc * (1 - 2 * torch.randint(2, (n,), generator=generator)))
    spread = (3 / 4 + 9 / 16 - 1 / math.pi) / 2 + noise**2  # mean of the two variances
    return (
        (x + noise * torch.randn(n, 2, generator=generator))
        * DEVIATION
        / math.sqrt(spread)
    )


def pinwheel(
    n: int, generator: Generator, arms: int = 5, twist: float = 0.25
) -> Float[Tensor, "n 2"]:
    """Gaussian about (1, 0), deviations .3 and .1, turned by its arm's angle + twist
    exp(x); scaled.
    """
    x = 1 + 0.3 * torch.randn(n, generator=generator)
    y = 0.1 * torch.randn(n, generator=generator)
    turn = (
        2 * math.pi / arms * torch.randint(arms, (n,), generator=generator)
        + twist * x.exp()
    )
    spread = (1 + 0.3**2 + 0.1**2) / 2  # a rotation keeps |x|^2
    return (
        view_as_real(torch.complex(x, y) * polar(torch.ones(n), turn))
        * DEVIATION
        / math.sqrt(spread)
    )


def spiral(
    n: int, generator: Generator, turns: float = 1.5, noise: float = 0.02
) -> Float[Tensor, "n 2"]:
    """Radius r at angle 2 pi turns r, r^2 uniform in [0, 1], its mirror through 0, and
    noise; scaled.
    """
    r = torch.rand(n, generator=generator).sqrt()
    arm = torch.randint(2, (n,), generator=generator)
    x = view_as_real(polar(r, math.pi * (2 * turns * r + arm)))
    return (
        (x + noise * torch.randn(n, 2, generator=generator))
        * DEVIATION
        / math.sqrt(1 / 4 + noise**2)
    )


def gaussian_mixture(
    n: int,
    generator: Generator,
    means: Float[Tensor, "k 2"] | None = None,
    deviation: float = 0.05,
) -> Float[Tensor, "n 2"]:
    """Equal Gaussians about `means` as they are; default: 8 on the circle that makes
    the whole DEVIATION.
    """
    if means is None:
        # radius^2 / 2 + deviation^2 = DEVIATION^2
        radius = math.sqrt(2 * (DEVIATION**2 - deviation**2))
        means = view_as_real(
            polar(torch.full((8,), radius), torch.arange(8) * math.pi / 4)
        )
    centres = means[torch.randint(len(means), (n,), generator=generator)]
    return centres + deviation * torch.randn(n, 2, generator=generator)


POINT_SETS = {
    f.__name__: f for f in (checkerboard, two_moons, pinwheel, spiral, gaussian_mixture)
}
