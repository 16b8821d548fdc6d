"""A folder of pictures such as people have: 300 files of every kind, some broken, some
hidden. `python tests/mixed_folder.py FOLDER` makes one.

What they show is simple, so that a small network can learn it: a disc, a ring or a
square, one class each, in a colour of its own on a dark ground.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("discs", "rings", "squares")
BROKEN = ("discs/broken.png", "rings/cut.jpg", "squares/text.webp")


def shape(kind, side, rng):
    """One picture as uint8 (side, side, 3): a shape of class `kind`, softly edged."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    at = rng.uniform(-0.12, 0.12, 2)
    size = rng.uniform(0.2, 0.3)
    x = x - at[0]
    y = y - at[1]
    radius = np.hypot(x, y)
    if kind == "discs":
        inside = size - radius
    elif kind == "rings":
        inside = 0.08 - abs(radius - size)
    else:
        inside = size * 0.9 - np.maximum(abs(x), abs(y))
    cover = np.clip(inside * side + 0.5, 0, 1)[..., None]
    colour = rng.uniform(120, 255, 3)
    ground = rng.uniform(0, 60, 3)
    return np.rint(cover * colour + (1 - cover) * ground).astype(np.uint8)


def save(pixels, stem, k):
    """The picture in the k-th way of keeping one; returns the file."""
    picture = Image.fromarray(pixels)
    deep = (np.asarray(picture.convert("L")).astype(np.uint16)) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    ways = (
        lambda: (picture, ".png", {}),
        lambda: (picture, ".jpg", {"quality": 90}),
        lambda: (picture.transpose(Image.Transpose.ROTATE_90), ".jpeg", {"exif": exif}),
        lambda: (picture.convert("L"), ".png", {}),
        lambda: (picture.quantize(32), ".png", {}),
        lambda: (picture.convert("RGBA"), ".png", {}),
        lambda: (Image.fromarray(deep), ".png", {}),
        lambda: (Image.fromarray(deep), ".tif", {}),
        lambda: (picture.convert("CMYK"), ".jpg", {"quality": 95}),
        lambda: (picture, ".webp", {"quality": 90}),
        lambda: (picture, ".TIFF", {}),
        lambda: (
            picture.quantize(32),
            ".gif",
            {"save_all": True, "append_images": [Image.new("P", picture.size)]},
        ),
        lambda: (picture, ".bmp", {}),
    )
    image, ending, how = ways[k % len(ways)]()
    file = stem.with_name(stem.name + ending)
    image.save(file, **how)
    return file


def mixed_folder(root, n=300, seed=0):
    """Write n files below `root`, three of them broken, and what is no picture at all
    beside them; returns the whole pictures' number.
    """
    root = Path(root)
    rng = np.random.default_rng(seed)
    whole = n - len(BROKEN)
    for k in range(whole):
        kind = CLASSES[k % len(CLASSES)]
        (root / kind).mkdir(parents=True, exist_ok=True)
        side = int(rng.integers(64, 97))
        pixels = shape(kind, side, rng)
        margin = ((0, int(rng.integers(0, 9))), (0, 0), (0, 0))  # not square
        pixels = np.pad(pixels, margin, mode="edge")
        save(pixels, root / kind / f"{k:03d}", k)
    (root / BROKEN[0]).write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    some = next((root / "rings").glob("*.jpg")).read_bytes()
    (root / BROKEN[1]).write_bytes(some[: len(some) // 2])
    (root / BROKEN[2]).write_text("no picture")
    for name in (
        ".DS_Store",
        "discs/._000.png",
        "notes.txt",
        "__MACOSX/discs/._000.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\x00")
    (root / ".ipynb_checkpoints").mkdir()
    (root / ".ipynb_checkpoints" / "000-checkpoint.png").write_bytes(b"\x00")
    return whole


if __name__ == "__main__":
    print(mixed_folder(sys.argv[1]))
