"""Pictures of yours: any folder of images becomes a tensor of one square size.

Subfolders are classes; a folder whose pictures lie in itself has one. Whatever the
pictures are (grey, palette, 16 bit, transparent, CMYK, turned, animated), they come out
upright, in RGB, 8 bit, cropped to their central square and resized by an antialiased
filter. What is hidden is passed over, what is broken is named. Reading is slow, so the
result is packed once into a file whose name is a digest of what was read. Chapter: 19
"Your own pictures".
Source: Pillow documentation (modes, EXIF orientation, Lanczos resampling).
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from .cifar10 import cache_dir
from .data import Images
from .files import read_tensors, write_tensors
from .precision import log

# Pillow's names of formats. None of them starts another program, as EPS does.
KINDS = "AVIF BMP DDS GIF ICO JPEG JPEG2000 PCX PNG PPM QOI SGI TGA TIFF WEBP".split()
WHITE = (255, 255, 255)  # what is seen through a transparent pixel
READING = 1  # of how pictures are read: part of the key of what is packed
NAMED = 5  # broken pictures that an error lists


def load_images(
    folder: str | Path,
    size: int | None = None,
    skip_broken: bool = False,
    cache: str | Path | None = None,
) -> Images:
    """The pictures in `folder`, sorted, as RGB bytes; sorted subfolders are the labels,
    a folder whose pictures lie in itself is one class.

    `size`: the side to crop (centre) and resize (Lanczos) to; without it they must be
    square and of one size. Transparency is laid on white, of an animation the first
    frame is taken, colour profiles are not applied. What is hidden (.*) or macOS's
    (__MACOSX) is passed over. `skip_broken` leaves out what cannot be read. `cache`: a
    folder that keeps the packed result, under a digest of the files' names and bytes.
    FileNotFoundError for an empty folder; ValueError for a class without pictures, for
    pictures both beside and in subfolders, and, naming them, for broken ones.
    """
    folder = Path(folder).expanduser()
    if size is not None and size < 1:
        raise ValueError(f"size = {size}: a side of at least 1 pixel")
    classes = _classes(folder)
    files = [(k, p) for k, (_, pictures) in enumerate(classes) for p in pictures]
    names = tuple(c.name for c, _ in classes)
    packed = None
    if cache is not None:
        packed = Path(cache) / f"{_key(folder, files, size, skip_broken)}.safetensors"
        if packed.is_file():
            return _unpacked(packed)
    images = _read(files, names, size, skip_broken)
    if packed is not None:
        _pack(packed, images)
    return images


def packed_folder() -> Path:
    """Where packed pictures are kept: $HKD_MINI_CACHE, else `packed` beside CIFAR-10 in
    the user's cache folder.
    """
    named = os.environ.get("HKD_MINI_CACHE")
    return Path(named).expanduser() if named else cache_dir() / "packed"


def _read(
    files: list[tuple[int, Path]],
    names: tuple[str, ...],
    size: int | None,
    skip_broken: bool,
) -> Images:
    """All pictures read, by several threads: Pillow works without Python's lock."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda file: _attempt(file[1], size), files))
    broken = [f"{p} ({f})" for (_, p), f in zip(files, found) if isinstance(f, str)]
    whole = [(k, p, *f) for (k, p), f in zip(files, found) if not isinstance(f, str)]
    if broken:
        said = f"{len(broken)} of {len(files)} pictures cannot be read: "
        said += ", ".join(broken[:NAMED]) + (", ..." if broken[NAMED:] else "")
        if not skip_broken or not whole:
            raise ValueError(f"{said}; replace or remove them, or --skip-broken")
        log.info("%s; skipped", said)
    there = {k for k, *_ in whole}
    if lost := [name for k, name in enumerate(names) if k not in there]:
        raise ValueError(f"no whole picture in the class {', '.join(lost)}: remove it")
    if size is not None and (small := sum(side < size for *_, side in whole)):
        log.info("%d of %d pictures are smaller, enlarged", small, len(whole))
    _one_size([(p, picture) for _, p, picture, _ in whole])
    x = torch.from_numpy(np.stack([picture for _, _, picture, _ in whole]))
    labels = torch.tensor([k for k, *_ in whole])
    return Images(x.permute(0, 3, 1, 2).contiguous(), labels, names)


def _one_size(pictures: list[tuple[Path, np.ndarray]]) -> None:
    side = min(pictures[0][1].shape[:2])
    for path, picture in pictures:
        if picture.shape != (side, side, 3):
            raise ValueError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]}, wanted {side} x "
                f"{side}: say the size to crop and resize to (size={side}, "
                f"--resolution {side})"
            )


def _attempt(path: Path, size: int | None) -> tuple[np.ndarray, int] | str:
    """One picture, or why there is none. Pillow's readers raise whatever their parsers
    do, from SyntaxError to struct.error.
    """
    try:
        return _picture(path, size)
    except Exception as error:
        return " ".join(str(error).replace(str(path), "the file").split())[:120]


def _picture(path: Path, size: int | None) -> tuple[np.ndarray, int]:
    """One picture as uint8 (size, size, 3), upright, or (height, width, 3) without
    `size`; and the shorter side that it had.
    """
    from PIL import Image, ImageOps

    known = [kind for kind in KINDS if kind in Image.OPEN]  # a build may lack some
    with Image.open(path, formats=known) as image:
        upright = ImageOps.exif_transpose(_eight_bits(image))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        paper = Image.new("RGBA", upright.size, WHITE)
        upright = Image.alpha_composite(paper, upright)
    upright = upright.convert("RGB")
    side = min(upright.size)
    if size is not None:
        lanczos = Image.Resampling.LANCZOS
        upright = ImageOps.fit(upright, (size, size), lanczos, centering=(0.5, 0.5))
    return np.array(upright), side


def _eight_bits(image):
    """A picture of 16 bits a pixel as one of 8; others as they are."""
    from PIL import Image

    deep = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
    if image.mode in ("I", "F") and not deep:
        raise ValueError("32 bits a pixel without a scale: save it with 8 or 16")
    if not deep:
        return image
    values = np.asarray(image).astype(np.float64) / 257  # 65535 becomes 255
    turned = image.getexif().get(0x0112)  # loading a TIFF has turned it already
    small = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if turned is not None:
        small.getexif()[0x0112] = turned
    return small


def _classes(folder: Path) -> list[tuple[Path, list[Path]]]:
    """Each class's folder and its pictures; errors as in `load_images`."""
    subfolders = [p for p in _seen(folder) if p.is_dir()]
    flat = _pictures(_seen(folder))
    deep = [(p, _pictures(_below(p))) for p in subfolders]
    full = [str(p) for p, pictures in deep if pictures]
    if not flat and not full:
        raise FileNotFoundError(
            f"no pictures in {folder}: wanted .png, .jpg, ... or one subfolder per "
            f"class{_passed_over(folder)}"
        )
    if flat and full:
        raise ValueError(
            f"{folder} holds pictures ({flat[0].name}) and folders of them "
            f"({', '.join(full)}): wanted one or the other"
        )
    if flat:
        return [(folder, flat)]
    if empty := [str(p) for p, pictures in deep if not pictures]:
        raise ValueError(
            f"no pictures in {', '.join(empty)}: each subfolder is a class; remove it, "
            "or fill it"
        )
    if len(deep) == 1 and all(p.parent != deep[0][0] for p in deep[0][1]):
        raise ValueError(
            f"{folder} holds {deep[0][0].name} alone, and that has folders of "
            f"pictures: give {deep[0][0]}"
        )
    return deep


def _seen(folder: Path) -> list[Path]:
    """What is in `folder`, sorted, but for hidden files (.DS_Store, .ipynb_checkpoints,
    ._x, which macOS adds to x) and __MACOSX, which its archives bring along.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in paths if not p.name.startswith((".", "__MACOSX"))]


def _below(folder: Path) -> list[Path]:
    """Every file that is seen in `folder` and in folders within."""
    found: list[Path] = []
    for path in _seen(folder):
        found += _below(path) if path.is_dir() else [path]
    return found


def _pictures(paths: Iterable[Path]) -> list[Path]:
    from PIL import Image

    known = Image.registered_extensions()
    endings = {ending for ending, kind in known.items() if kind in KINDS}
    return [p for p in paths if p.suffix.lower() in endings and p.is_file()]


def _passed_over(folder: Path) -> str:
    """Which other files there are, since a phone's .heic is no format of Pillow's."""
    endings = Counter(p.suffix for p in _below(folder) if p.suffix)
    there = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(NAMED))
    return f" ({there} passed over: convert them)" if there else ""


def _key(
    folder: Path, files: list[tuple[int, Path]], size: int | None, skip: bool
) -> str:
    """A digest of names, bytes, size and the way of reading."""
    digest = hashlib.sha256(json.dumps([READING, size, skip, folder.name]).encode())
    for label, path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        digest.update(json.dumps([label, name, content]).encode())
    return digest.hexdigest()[:32]


def _pack(path: Path, images: Images) -> None:
    tensors = {"x": images.x, "labels": images.labels}
    try:
        write_tensors(path, tensors, {"names": json.dumps(images.names)})
    except OSError as error:  # a full or read-only disk costs time, nothing else
        log.info("%s: not packed (%s)", path, error)


def _unpacked(path: Path) -> Images:
    tensors, header = read_tensors(path)
    return Images(tensors["x"], tensors["labels"], tuple(json.loads(header["names"])))
