"""Any folder of pictures becomes one tensor: every kind of file upright, in RGB, at one
size; what is hidden passed over, what is broken named.
"""

import re

import numpy as np
import pytest
import torch
from commands import ends
from mixed_folder import BROKEN, CLASSES, mixed_folder
from PIL import Image

from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import folders
from hkd_mini.engine.folders import load_images


def paint(path, size=(4, 4), mode="RGB", colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, colour if colour is not None else 0)
    if mode == "RGB":
        image.putpixel((2, 1), (10, 20, 30))  # column 2, row 1
    image.save(path)


def test_subfolders_are_classes(tmp_path):
    paint(tmp_path / "dogs" / "b.png", colour=(1, 2, 3))
    paint(tmp_path / "cats" / "a.png")
    paint(tmp_path / "dogs" / "a.png", mode="L", colour=77)
    (tmp_path / "dogs" / "notes.txt").write_text(
        "not a picture, and not one by its name"
    )
    images = load_images(tmp_path)
    assert images.x.shape == (3, 3, 4, 4) and images.x.dtype == torch.uint8
    assert images.labels.tolist() == [0, 1, 1] and images.names == ("cats", "dogs")
    assert images.x[0, :, 1, 2].tolist() == [10, 20, 30] and images.x[0].sum() == 60
    assert (images.x[1] == 77).all() and images.x[2, :, 0, 0].tolist() == [1, 2, 3]


def test_flat_folder_is_one_class(tmp_path):
    paint(tmp_path / "flat" / "a.png")
    images = load_images(tmp_path / "flat", size=4)
    assert images.labels.tolist() == [0] and images.names == ("flat",)


def test_what_is_hidden_is_no_picture_and_no_class(tmp_path):
    """Jupyter's copies, macOS's resource forks and archives, in a flat folder and
    beside classes.
    """
    flat = tmp_path / "flat"
    for name in "abcde":
        paint(flat / f"{name}.png")
    paint(flat / ".ipynb_checkpoints" / "a-checkpoint.png")
    (flat / "._a.png").write_bytes(b"a resource fork")
    (flat / "notes").mkdir()
    images = load_images(flat)
    assert len(images.x) == 5 and images.names == ("flat",)
    tree = tmp_path / "tree"
    paint(tree / "cats" / "a.png")
    paint(tree / "dogs" / "a.png")
    paint(tree / "dogs" / ".b.png", size=(8, 8))
    (tree / ".ipynb_checkpoints").mkdir()
    paint(tree / "__MACOSX" / "cats" / "a.png")
    (tree / "._cats.png").write_bytes(b"a resource fork")
    (tree / ".DS_Store").write_bytes(b"")
    images = load_images(tree)
    assert images.labels.tolist() == [0, 1] and images.names == ("cats", "dogs")


def test_a_folder_that_could_be_read_in_two_ways_is_refused(tmp_path):
    paint(tmp_path / "cats" / "a.png")
    (tmp_path / "birds").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*birds: each subfolder is"):
        load_images(tmp_path)
    paint(tmp_path / "lost.png")
    with pytest.raises(ValueError, match=r"\(lost.png\) and folders .*cats\).*one or"):
        load_images(tmp_path)


def test_a_folder_too_high_is_refused_and_folders_within_classes_are_read(tmp_path):
    paint(tmp_path / "pets" / "cats" / "a.png")
    paint(tmp_path / "pets" / "dogs" / "young" / "a.png")
    with pytest.raises(ValueError, match=r"pets alone.*give .*pets$"):
        load_images(tmp_path)
    images = load_images(tmp_path / "pets")
    assert images.names == ("cats", "dogs") and images.labels.tolist() == [0, 1]


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    upright = np.zeros((4, 4, 3), np.uint8)
    upright[0, 1:] = 200
    # EXIF 2.32, section 4.6.4: what each number says of the stored rows and columns
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    for number, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = number
        Image.fromarray(pixels.copy()).save(tmp_path / f"{number}.png", exif=exif)
    for number, picture in zip(stored, load_images(tmp_path).x, strict=True):
        assert np.array_equal(picture.permute(1, 2, 0), upright), number


def one(file, size=None):
    (picture,) = load_images(file.parent, size).x
    return picture.permute(1, 2, 0).numpy()


def test_every_kind_of_pixel_becomes_eight_bits_of_rgb(tmp_path):
    """16 bit is scaled and not cut, what is transparent shows white, an animation is
    its first frame.
    """
    ramp = np.linspace(0, 65535, 16).round().astype(np.uint16).reshape(4, 4)
    exif = Image.Exif()
    exif[0x0112] = 3
    for ending in (".png", ".tif"):
        file = tmp_path / ending[1:] / f"a{ending}"
        file.parent.mkdir()
        Image.fromarray(ramp).save(file)
        assert (one(file) == np.round(ramp / 257)[..., None]).all(), ending
        Image.fromarray(ramp).save(file, exif=exif)
        assert (one(file) == np.round(ramp / 257)[::-1, ::-1, None]).all(), ending
    glass = np.zeros((4, 4, 4), np.uint8)
    glass[:2] = (200, 0, 0, 255)
    glass[2:] = (200, 0, 0, 51)  # a fifth red, the rest what is behind
    (tmp_path / "glass").mkdir()
    Image.fromarray(glass).save(tmp_path / "glass" / "a.png")
    seen = one(tmp_path / "glass" / "a.png")
    assert (seen[:2] == (200, 0, 0)).all() and (seen[2:] == (244, 204, 204)).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    (tmp_path / "palette").mkdir()
    palette.save(tmp_path / "palette" / "a.png")
    assert (one(tmp_path / "palette" / "a.png") == (9, 8, 7)).all()
    palette.save(tmp_path / "palette" / "a.png", transparency=1)
    assert (one(tmp_path / "palette" / "a.png") == 255).all()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for ending in (".gif", ".webp"):
        file = tmp_path / f"film{ending[1:]}" / f"a{ending}"
        file.parent.mkdir()
        how = {"lossless": True} if ending == ".webp" else {}
        frames[0].save(file, save_all=True, append_images=frames[1:], **how)
        assert (one(file) == (255, 0, 0)).all(), ending
    (tmp_path / "press").mkdir()
    press = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    press.save(tmp_path / "press" / "a.tif")
    assert (one(tmp_path / "press" / "a.tif") == (0, 255, 255)).all()
    (tmp_path / "floats").mkdir()
    Image.new("F", (4, 4), 0.5).save(tmp_path / "floats" / "a.tif")
    with pytest.raises(ValueError, match="32 bits a pixel without a scale"):
        load_images(tmp_path / "floats")


def test_any_size_is_cropped_to_the_centre_and_resized_without_aliases(tmp_path):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = np.indices((64, 64)).sum(0)[..., None] % 2 * 255  # a chessboard
    wide[:, :32] = (255, 0, 0)
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "a.png")
    small = one(tmp_path / "a" / "a.png", 16)
    assert small.shape == (16, 16, 3)
    # the middle alone, and grey: taking every fourth pixel would be black or white
    assert (abs(small[2:-2, 2:-2].astype(int) - 127) <= 2).all()
    large = one(tmp_path / "a" / "a.png", 128)
    assert large.shape == (128, 128, 3)
    for wrong in (0, -4):
        with pytest.raises(ValueError, match="size = .* at least 1"):
            load_images(tmp_path / "a", wrong)


def test_without_a_size_they_have_one(tmp_path):
    paint(tmp_path / "c" / "a.png")
    paint(tmp_path / "c" / "b.png", size=(8, 8))
    with pytest.raises(ValueError, match=r"b.png is 8 x 8, wanted 4 x 4.*--resolution"):
        load_images(tmp_path)
    paint(tmp_path / "c" / "a.png", size=(8, 6))
    with pytest.raises(ValueError, match=r"a.png is 8 x 6, wanted 6 x 6"):
        load_images(tmp_path)


def test_sizes_that_cannot_be_halved_name_the_nearest():
    for side, near in ((50, "48 and 52"), (2, "4$"), (62, "60 and 64")):
        with pytest.raises(ValueError, match=f"resolution {side} .* can: .*{near}"):
            UNetConfig(side, mult=(1, 2), patch=2)


def test_broken_pictures_are_named_or_skipped(tmp_path, caplog):
    caplog.set_level("INFO", logger="hkd_mini")
    whole = mixed_folder(tmp_path / "mine", 60)
    with pytest.raises(ValueError, match="3 of 60 pictures cannot be read") as refusal:
        load_images(tmp_path / "mine", 16)
    assert all(str(tmp_path / "mine" / name) in str(refusal.value) for name in BROKEN)
    assert str(refusal.value).endswith("replace or remove them, or --skip-broken")
    images = load_images(tmp_path / "mine", 16, skip_broken=True)
    assert images.x.shape == (whole, 3, 16, 16) and images.names == CLASSES
    assert "3 of 60 pictures cannot be read" in caplog.text and "skipped" in caplog.text
    counts = images.labels.bincount().tolist()
    assert counts == [19, 19, 19]
    # dark grounds and bright shapes, whatever way each was kept
    corner = images.x[:, :, :2, :2].float().mean((1, 2, 3))
    assert corner.max() < 75 < images.x.amax((1, 2, 3)).min()
    for file in (tmp_path / "mine" / "rings").iterdir():
        if file.name != "cut.jpg":
            file.unlink()
    with pytest.raises(ValueError, match="no whole picture in the class rings"):
        load_images(tmp_path / "mine", 16, skip_broken=True)


def test_what_is_read_once_is_packed_under_its_content(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    packed = tmp_path / "packed"
    paint(mine / "cats" / "a.png", colour=(5, 5, 5))
    paint(mine / "dogs" / "a.png", colour=(9, 9, 9))
    first = load_images(mine, 8, cache=packed)
    assert len(list(packed.glob("*.safetensors"))) == 1
    reading = folders._picture
    monkeypatch.setattr(folders, "_picture", lambda *_: 1 / 0)
    again = load_images(mine, 8, cache=packed)
    assert torch.equal(again.x, first.x) and again.names == first.names
    assert torch.equal(again.labels, first.labels)
    monkeypatch.setattr(folders, "_picture", reading)
    paint(mine / "dogs" / "a.png", colour=(200, 9, 9))  # the same name, other bytes
    assert not torch.equal(load_images(mine, 8, cache=packed).x, first.x)
    (mine / "dogs").rename(mine / "ants")  # the same bytes, another class
    assert load_images(mine, 8, cache=packed).names == ("ants", "cats")
    load_images(mine, 4, cache=packed)
    assert len(list(packed.glob("*.safetensors"))) == 4
    (tmp_path / "file").write_text("no folder: nothing can be packed here")
    assert len(load_images(mine, 8, cache=tmp_path / "file").x) == 2


def test_empty_and_missing_folders_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "away"):
        with pytest.raises(
            FileNotFoundError, match=re.escape(f"no pictures in {path}: wanted .png")
        ):
            load_images(path)
    (tmp_path / "IMG_1.heic").write_bytes(b"a phone's")
    with pytest.raises(FileNotFoundError, match=r"1 .heic passed over: convert"):
        load_images(tmp_path)


def test_features_want_classes_and_a_size_that_halves(capsys, tmp_path):
    paint(tmp_path / "flat" / "a.png", size=(16, 16))
    words = ["features", "--data", tmp_path / "flat", "--out", tmp_path / "f"]
    status, _, err = ends(capsys, *words)
    assert status == 2 and "one class" in err and "imagenet" in err
    status, _, err = ends(capsys, *words, "--resolution", 30)
    assert status == 2 and "a multiple of 8, like 32" in err
    assert not (tmp_path / "f").exists()
