"""An hour on pictures that are not CIFAR-10: five solids on a floor, 64 x 64 pixels.

    python benchmarks/shapes.py --out runs/shapes64

How far one step is from its teacher, and both from pictures that nobody trained on, on
a folder that is rendered first: balls, cubes, cylinders, cones and rings.

Colour, texture, size, place, turn, light and floor of each picture are drawn at random,
so that no two are alike and a copy can be told. Rays are marched along a signed
distance (Hart, 1996), shadows are soft, edges are means of 2 x 2 rays a pixel. Picture
k is a function of k alone. Then four commands are run as they are printed, and what
they made is judged by the folder's own classifier and by one that was trained on
ImageNet. What is there already is not made again. One thread: an hour and a half.
"""

import colorsys
import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
from common import device, in_words, parser, rounded, today, write
from PIL import Image

from hkd_mini import HKD
from hkd_mini.app import evaluation, machine
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine.data import to_unit
from hkd_mini.engine.folders import load_images
from hkd_mini.engine.weights import data_folder
from hkd_mini.judge import metrics
from hkd_mini.judge.classifier import Classifier, share_found
from hkd_mini.judge.features import in_batches

RESULTS = data_folder() / "shapes64.json"
PICTURES = pathlib.Path(__file__).parents[1] / "book/assets/pictures/hour.webp"
TRAINED = 5000  # pictures to train on
HELD = 500  # further ones that nobody trains on, and as many samples of each model
KEPT = 10  # of each, a row of the book's sheet
SEED = 1  # of the samples; the paths are of seed 0

KINDS = ("balls", "cubes", "cylinders", "cones", "rings")
SIDE = 64  # pixels
EYE = np.array([0.0, -3.6, 1.9], np.float32)
AIM = np.array([0.0, 0.0, 0.42], np.float32)


def box(*sides):
    """Distance to a box, from what each coordinate lies beyond its half side."""
    beyond = np.stack(sides)
    outside = np.sqrt((np.maximum(beyond, 0) ** 2).sum(0))
    return outside + np.minimum(beyond.max(0), 0)


def solid(kind, p):
    """Signed distance of points p (3, n) to a solid that stands at the origin on z = 0.

    A cone's is a bound from below, which marching may use as well.
    """
    x, y, z = p
    if kind == "balls":
        return np.sqrt(x * x + y * y + (z - 0.6) ** 2) - 0.6
    if kind == "cubes":
        return box(abs(x) - 0.43, abs(y) - 0.43, abs(z - 0.48) - 0.43) - 0.05
    radius = np.sqrt(x * x + y * y)
    if kind == "cylinders":
        return box(radius - 0.42, abs(z - 0.6) - 0.56) - 0.04
    if kind == "cones":
        return np.maximum((1.15 * radius + 0.6 * (z - 1.3)) / 1.297, -z)
    return np.sqrt((radius - 0.52) ** 2 + (z - 0.24) ** 2) - 0.24


def march(distance, start, way, steps, far):
    """How far each ray goes until it meets what `distance` measures, or `far`."""
    gone = np.full(way.shape[1], 0.02, np.float32)
    for _ in range(steps):
        gone = np.minimum(gone + distance(start + gone * way), far)
    return gone


def normals(distance, p):
    """Unit gradients of the distance at p (3, n)."""
    step = 2e-3 * np.eye(3, dtype=np.float32)[:, :, None]
    up = np.stack([distance(p + one) - distance(p - one) for one in step])
    return up / np.maximum(np.linalg.norm(up, axis=0), 1e-9)


def textured(style, p, colour, other):
    """Colours (3, n) of the solid's points p, in its own coordinates."""
    x, y, z = p
    if style == 0:
        second = np.zeros_like(x, bool)
    elif style == 1:
        second = np.floor(5 * z) % 2 == 1
    elif style == 2:
        second = np.floor(6 * np.arctan2(y, x) / np.pi) % 2 == 1
    else:
        second = (np.floor(4 * z) + np.floor(6 * np.arctan2(y, x) / np.pi)) % 2 == 1
    return np.where(second, other[:, None], colour[:, None])


def vivid(rng, saturation=(0.55, 0.95), value=(0.75, 1.0)):
    """A colour of random hue."""
    hue = rng.random()
    return np.array(
        colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value)),
        np.float32,
    )


def rays():
    """Unit directions (3, n) from the eye through 2 x 2 points of every pixel."""
    ahead = (AIM - EYE) / np.linalg.norm(AIM - EYE)
    right = np.cross(ahead, [0, 0, 1])
    right /= np.linalg.norm(right)
    above = np.cross(right, ahead)
    grid = (np.arange(2 * SIDE) + 0.5) / SIDE - 1
    down, across = np.meshgrid(grid, grid, indexing="ij")
    way = ahead[:, None] + 0.27 * (
        across.ravel() * right[:, None] - down.ravel() * above[:, None]
    )
    return (way / np.linalg.norm(way, axis=0)).astype(np.float32)


def picture(k, way):
    """The k-th picture, uint8 (64, 64, 3); its class is k % 5."""
    rng = np.random.default_rng(k)
    kind = KINDS[k % len(KINDS)]
    size = np.float32(rng.uniform(0.8, 1.1))
    shift = np.array([*rng.uniform(-0.3, 0.3, 2), 0], np.float32)[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    cos = np.float32(np.cos(turn))
    sin = np.float32(np.sin(turn))
    colour = vivid(rng)
    style = int(rng.integers(4))
    other = np.clip(colour * 0.35 + (rng.random() < 0.5) * 0.6, 0, 1)
    ground = vivid(rng, (0.1, 0.45), (0.55, 0.95))
    azimuth = rng.uniform(-2.6, -0.5)
    height = rng.uniform(0.7, 1.1)
    light = np.array([np.cos(azimuth), np.sin(azimuth), height], np.float32)
    light = (light / np.linalg.norm(light))[:, None]

    def own(p):
        """Points of the room in the solid's coordinates."""
        x, y, z = (p - shift) / size
        return np.stack([cos * x + sin * y, cos * y - sin * x, z])

    def distance(p):
        return size * solid(kind, own(p))

    eye = EYE[:, None]
    far = np.float32(9.0)
    floor = np.where(way[2] < -1e-3, -eye[2] / np.minimum(way[2], -1e-3), far)
    floor = np.minimum(floor, far)
    gone = march(distance, eye, way, 40, floor)
    at = eye + gone * way
    hit = distance(at) < 0.01
    up = normals(distance, at)
    up[:, ~hit] = np.array([[0], [0], [1]])
    base = np.where(hit, textured(style, own(at), colour, other), ground[:, None])
    # a soft shadow: how narrowly the way to the light misses the solid
    start = at + 0.02 * up
    gone = np.full(way.shape[1], 0.02, np.float32)
    open_ = np.ones(way.shape[1])
    for _ in range(24):
        d = distance(start + gone * light)
        open_ = np.minimum(open_, np.clip(9 * d / gone, 0, 1))
        gone = gone + np.clip(d, 0.02, 0.3)
    near = np.clip(distance(at + 0.25 * up) / 0.25, 0.25, 1) ** 0.5
    lit = np.clip((up * light).sum(0), 0, 1) * open_
    shade = base * (0.38 * near + 0.72 * lit)
    half = light - way
    half /= np.linalg.norm(half, axis=0)
    shade += hit * open_ * 0.35 * np.clip((up * half).sum(0), 0, 1) ** 30
    haze = np.clip((np.hypot(*at[:2]) - 1.5) / 6, 0, 1)
    shade += (0.35 + 0.5 * ground[:, None] - shade) * haze
    image = np.clip(shade, 0, 1).reshape(3, SIDE, 2, SIDE, 2).mean((2, 4))
    return np.rint(255 * image.transpose(1, 2, 0) ** (1 / 1.6)).astype(np.uint8)


# --- the run


def rendered(folder: pathlib.Path, first: int, last: int) -> pathlib.Path:
    """The folder, with pictures `first` to `last` - 1 in it."""
    way = rays()
    for k in range(first, last):
        file = folder / KINDS[k % len(KINDS)] / f"{k:05d}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(k, way)).save(file)
    return folder


def commands(place: str) -> dict[str, str]:
    """What each command makes below `place`, and its arguments."""
    data, features, teacher, paths, student = (
        f"{place}/{name}"
        for name in ("pictures", "features", "teacher", "paths", "student")
    )
    lines = {
        features: f"features --data {data} --resolution 64 --widths 24 48 96 "
        "--images 40000",
        teacher: "teacher --preset images64-mini --channels 32 --blocks 1 --labels 5 "
        f"--drop-labels 0.1 --data {data} --images 160000 --batch 32 --lr 1.5e-3 "
        "--muon 0.03 --compile True",
        paths: f"trajectories --teacher {teacher} --n 1500 --compile",
        student: f"distill --teacher {teacher} --trajectories {paths} "
        f"--perceptual {features} --images 24000 --compile True",
    }
    return {out: f"{line} --out {out}" for out, line in lines.items()}


def typed(arguments: str) -> None:
    """Run the command as it would be typed."""
    print("hkd-mini", arguments, flush=True)
    subprocess.run([sys.executable, "-m", "hkd_mini", *arguments.split()], check=True)


def minutes(place: str) -> dict[str, float]:
    """What the training of each model took, by its log."""
    logs = {k: pathlib.Path(place, k, "log.jsonl") for k in ("teacher", "student")}
    last = {
        k: file.read_text(encoding="utf-8").splitlines()[-1] for k, file in logs.items()
    }
    return {k: json.loads(line)["seconds"] / 60 for k, line in last.items()}


def nearest(x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Root mean square difference of each picture to the nearest of `others`, as it is
    or mirrored.
    """
    both = torch.cat([to_unit(others), to_unit(others).flip(-1)]).flatten(1)
    x = to_unit(x).flatten(1)
    return torch.cdist(x, both).amin(1) / x.shape[1] ** 0.5


def judged(place: str) -> tuple[dict, np.ndarray]:
    """Numbers of the run below `place`, and the sheet that the book shows."""
    classifier = Classifier.from_folder(f"{place}/features")
    labels = torch.arange(HELD) % len(KINDS)
    seen = load_images(f"{place}/pictures")
    unseen = load_images(f"{place}/held-out")
    # in the order in which they were rendered: one of each class in turn
    turn = torch.arange(HELD).view(len(KINDS), -1).T.flatten()
    made = {"held out": unseen.x[turn]}
    for name, kind in (("teacher", Denoiser), ("student", HKD)):
        model = kind.from_folder(f"{place}/{name}")
        model = machine.on_device(model, compile=name == "teacher")
        made[name] = evaluation.draw(model, HELD, SEED, labels=labels, precision="auto")
    looks = {
        judge: evaluation.extractor(features)
        for judge, features in (("own", f"{place}/features"), ("imagenet", "imagenet"))
    }
    real = {k: metrics.statistics(in_batches(seen.x, f)) for k, f in looks.items()}
    rows = {
        name: {
            f"frechet_{k}": metrics.frechet_distance(
                metrics.statistics(in_batches(x, look)), real[k]
            )
            for k, look in looks.items()
        }
        | {
            "class_found": share_found(classifier, x, labels),
            "nearest": float(near.median()),
            "nearest_of_all": float(near.min()),
        }
        for name, x in made.items()
        for near in [nearest(x, seen.x)]
    }
    shown = torch.cat([x[:KEPT] for x in made.values()])
    return rows, evaluation.sheet(shown, KEPT, gap=4)


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("--out", default="runs/shapes64", help="folder for all of it")
    place = ask.parse_args().out
    rendered(pathlib.Path(place) / "pictures", 0, TRAINED)
    rendered(pathlib.Path(place) / "held-out", TRAINED, TRAINED + HELD)
    lines = commands(place)
    for out, line in lines.items():
        if not pathlib.Path(out).exists():
            typed(line)
    rows, shown = judged(place)
    about = {
        "what": in_words(__doc__),
        "commands": [f"hkd-mini {line}" for line in commands("mine").values()],
        "pictures": TRAINED,
        "n": HELD,
        "seed": SEED,
        "device": device(),
        "minutes": rounded(minutes(place)),
        "date": today(),
        "rows": rounded(rows),
    }
    write(RESULTS, about)
    Image.fromarray(shown).save(PICTURES, quality=95, method=6)
    for name, row in rows.items():
        print(name, *(f"{k} {v:.3g}" for k, v in row.items()))


if __name__ == "__main__":
    main()
