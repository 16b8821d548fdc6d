"""What editing does to pictures, in numbers: bands beside their controls, guesses on
the way, walks, inpainting, colourisation.

    python benchmarks/editing.py               # writes data/editing.json: 20 minutes
    python benchmarks/editing.py --model NAME  # of one model, the others' rows stay
    python benchmarks/editing.py --quick       # 16 pairs and pictures, no file
    python benchmarks/editing.py --lpips alex  # with LPIPS (a download), no file

Injection: pair i is a unit noise and a reference path of the model's own teacher, all
of them new. A model of classes is told one class for both, drawn with the pair, and its
teacher is guided; completions are told the picture's. The reference's state at time t,
encoded from x_t of its path, is mixed into the generated one. "total" is the mean
square of edited less unedited picture on [-1, 1]; "low" is the part of it at up to 4
cycles per picture (Fourier modes of rounded radius <= 4, the mean included: what is 4
pixels wide or wider), "low8" up to 8. The frequency-agnostic control mixes all modes,
in the same region. It is compared twice: at the same ratio, and, pair by pair, at the
ratio where its total is the band's (between two ratios of a grid, by linear
interpolation). "shuffled" is a band whose modes are dealt anew within each state: as
many from each state as the band has, without regard to their rates. Intervals are 95 %,
2000 bootstrap draws over pairs. The first 50 pairs choose, the other 200 are measured.
"guesses" are the same changes of what the states decode to on the way, level by level,
over 50 pairs; "walks" the Frechet distances of what lies halfway between two seeds.
Completion: 50 pictures choose the schedule, 200 others are measured: ends of the
teacher's paths, and CIFAR-10's test pictures where HKD_MINI_DATA has them. "perceptual"
is the bundled feature distance (not LPIPS). One thread, float32.
"""

import functools
import itertools
import json
import os
import platform
import time

import torch
from common import WEIGHT, parser, rounded, stored, today, weights, write

import hkd_mini
from hkd_mini.app import evaluation
from hkd_mini.diffusion.guidance import Guided
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import SIGMA_MAX, karras_sigmas
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.data import to_uint8, to_unit
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd import edit
from hkd_mini.hkd.spectra import band_masks, by_level, spectrum
from hkd_mini.judge import features, metrics
from hkd_mini.judge.distance import Distance

MODELS = {
    "hkd-cifar10": "teacher-cifar10",
    "hkd-cifar10-paper": "teacher-cifar10",
    "hkd-cifar10-tiny": "teacher-cifar10-tiny",
}
SEED = 14
STEPS = 18
CHOOSE = 50
MEASURE = 200
SEEN = 50  # pairs whose guesses are decoded
# noise levels near which references are encoded
KEPT = {"noise": 80.0, "middle": 0.7, "picture": 0.25}
RATIOS = (0.1, 0.2, 0.5, 0.8, 0.9)  # the paper's figure 5
RATIO = 0.8
THIRDS = ("low", "middle", "high")
REGIONS = {"lower half": edit.lower_half(), "lower left": edit.lower_left()}
GRID = torch.linspace(0, 1, 11)
KEYS = ("time", "band", "ratio")  # say which injection was chosen
CUTS = {"low": 4, "low8": 8}
SCHEDULES = {  # noise levels of the rounds
    "18 from 80 to 0.14": karras_sigmas(18, 0.14)[:-1],
    "9 from 80 to 0.3": karras_sigmas(9, 0.3)[:-1],
    "9 from 10 to 0.14": karras_sigmas(9, 0.14, 10.0)[:-1],
    "9 from 3 to 0.14": karras_sigmas(9, 0.14, 3.0)[:-1],
    "10, 1, 0.2": torch.tensor([10, 1, 0.2]).double(),
    "3": torch.tensor([3.0]).double(),
}
# colours of the teacher's pictures: with the second alone
FOR_COLOUR = ("9 from 80 to 0.3", "10, 1, 0.2", "3")


def generator(key):
    return torch.Generator().manual_seed(1000 * SEED + key)


def in_parts(function, *tensors, size=100):
    return torch.cat(
        [function(*part) for part in zip(*(t.split(size) for t in tensors))]
    )


def lines(labels, which):
    """Some of the class indices; None where there are none."""
    return None if labels is None else labels[which]


def told(labels, size=100):
    """The class indices by hundreds, as `Tensor.split` parts pictures; None for ever
    where there are none.
    """
    return itertools.repeat(None) if labels is None else labels.split(size)


def interval(values):
    """Mean of one number a picture, and the middle 95 % of 2000 means of resampled
    pictures.
    """
    picks = torch.randint(
        len(values), (2000, len(values)), generator=torch.Generator().manual_seed(0)
    )
    ends = (
        values.double()[picks].mean(1).quantile(torch.tensor([0.025, 0.975]).double())
    )
    return [float(values.double().mean()), *ends.tolist()]


def change(after, before):
    """Mean square of a change, whole and up to each cut: (1 + cuts, batch)."""
    d = after - before
    n = d.shape[-1]
    axis = torch.fft.fftfreq(n, 1 / n)
    ring = torch.hypot(axis[:, None], axis).round()
    power = torch.fft.fft2(d).abs().square().mean(1) / n**4
    return torch.stack(
        [power.sum((1, 2))]
        + [(power * (ring <= cut)).sum((1, 2)) for cut in CUTS.values()]
    )


def at_equal_change(control, total):
    """The control at the ratio where its total is `total`, pair by pair: (3, pairs) and
    the ratios (pairs,).

    control (grid, 3, pairs), its first row 0. Where even ratio 1 changes less, ratio 1
    is taken.
    """
    rising = control[:, 0].cummax(0).values
    j = (rising < total).sum(0).clamp(1, len(rising) - 1)
    pick = lambda rows: control.gather(0, rows.expand(1, 3, -1))[0]
    below = pick(j - 1)
    above = pick(j)
    f = ((total - below[0]) / (above[0] - below[0]).clamp(min=1e-12)).clamp(0, 1)
    return below + f * (above - below), GRID[j - 1] + f * (GRID[j] - GRID[j - 1])


def dealt(masks):
    """Masks with as many modes in each state, dealt anew: what is left of a band
    without its rates.
    """
    rng = generator(7)
    return [
        m.flatten()[torch.randperm(m.numel(), generator=rng)].view_as(m) for m in masks
    ]


def selections(model):
    """{(kind, name): masks}: thirds by rate, jointly ranked in each resolution, and
    what each of them becomes when dealt anew; single states.
    """
    eigenvalues = spectrum(model)
    levels = by_level(model)
    found = {}
    everything = torch.ones(1, 1, 1, dtype=torch.bool)
    for key in ("alpha", "abs"):
        bands = band_masks(eigenvalues, 3, key, levels.values())
        for i, name in enumerate(THIRDS):
            found[key, name] = [m[i] for m in bands]
            if key == "alpha":
                found["shuffled", name] = dealt(found[key, name])
    for state in range(len(eigenvalues)):
        found["state", str(state)] = [
            everything if i == state else None for i in range(len(eigenvalues))
        ]
    return found


def asked(masks_of, time, region):
    """What is mixed at one place of encoding, in one region: ((kind, band), ratio)."""
    for kind, band in masks_of:
        everything = time == "middle" and not region
        if kind == "alpha" and everything:
            yield from (((kind, band), ratio) for ratio in RATIOS)
        elif kind == "alpha" or everything or kind == "shuffled" and not region:
            yield (kind, band), RATIO


def beside(c, control, ratio, held):
    """A mix's change `c` (3, pairs) beside the `control`'s (grid, 3, pairs): a row's
    numbers over `held`, and low frequencies over the control's where it is chosen.
    """
    equal, ratios = at_equal_change(control, c[0])
    same = control[round(ratio * 10)]
    row = {
        **dict(zip(("total", *CUTS), c[:, held].mean(1).tolist())),
        "control_ratio": float(ratios[held].mean()),
        "beyond": int((c[0] > control[-1, 0])[held].sum()),
        "less": {
            "same ratio": interval((same[1] - c[1])[held]),
            "same change": interval((equal[1] - c[1])[held]),
        },
    }
    for i, cut in enumerate(CUTS, 1):
        row[f"{cut}_of_control"] = {
            "same ratio": float(same[i, held].mean()),
            "same change": float(equal[i, held].mean()),
        }
    first = slice(0, held.start)
    return row, float(c[1, first].mean() / equal[1, first].mean())


def changes(model, own, other, plain, labels, masks, ratio, region=None):
    """`change` of the pictures `plain` by one mix, its states in parts."""
    mixes = (edit.inject(a, b, masks, ratio, region) for a, b in zip(own, other))
    drawn = [model.decode(z, part) for z, part in zip(mixes, told(labels))]
    return change(torch.cat(drawn), plain)


def injection(model, noise, path, levels, labels):
    """Rows of every selection, reference time, region and ratio; the claim, chosen on
    other pairs.
    """
    T = model.clock.T
    eps = model.clock.eps
    held = slice(min(CHOOSE, len(noise) // 3), None)
    encoded = lambda x, t: [
        model.evolve(model.encode(some, t, part), t, eps)
        for some, part in zip(x.split(100), told(labels))
    ]
    own = encoded(SIGMA_MAX * noise, T)
    plain = torch.cat([model.decode(z, part) for z, part in zip(own, told(labels))])
    masks_of = selections(model)
    rows = []
    curves = []
    choice = []
    for name, place in itertools.product(KEPT, (None, *REGIONS)):
        if place and name != "middle":
            continue
        k = kept(levels, name)
        t = float(model.clock.time(float(levels[k])))
        some = (model, own, encoded(path[k], t), plain, labels)
        where = REGIONS.get(place)
        mixed = [changes(*some, None, r, where) for r in GRID[1:].tolist()]
        control = torch.stack([change(plain, plain), *mixed])
        for r, c in zip(GRID.tolist(), control):
            sums = dict(zip(("total", *CUTS), c[:, held].mean(1).tolist()))
            curves.append({"time": name, "region": place, "ratio": round(r, 1), **sums})
        for (kind, band), r in asked(masks_of, name, place):
            c = changes(*some, masks_of[kind, band], r, where)
            row, first = beside(c, control, r, held)
            about = {"time": name, "sigma": float(levels[k]), "region": place}
            rows.append({**about, "kind": kind, "band": band, "ratio": r, **row})
            if kind == "alpha" and r == RATIO and not place:
                choice.append((first, name, band))
        print(f"  injection, reference at {name}, {place or 'everywhere'}", flush=True)
    best = min(choice)
    return {
        "pairs": len(noise) - held.start,
        "rows": rows,
        "control": curves,
        "chosen": {"time": best[1], "band": best[2], "ratio": RATIO, "on": held.start},
    }


def kept(levels, name):
    """The point of a path that is nearest to KEPT[name]."""
    return int((levels[:-1] / KEPT[name]).log().abs().argmin())


def guesses(model, noise, path, levels, labels):
    """How much what the states decode to changes on the way, by level: thirds, the same
    dealt anew, all modes; the reference encoded in the middle.
    """
    T = model.clock.T
    k = kept(levels, "middle")
    t = float(model.clock.time(float(levels[k])))
    own = model.encode(SIGMA_MAX * noise, T, labels)
    other = model.encode(path[k], t, labels)
    bands = selections(model)
    wish = {key: bands[key] for key in bands if key[0] in ("alpha", "shuffled")}
    rows = []
    for sigma in levels[:-1:2].tolist():
        u = float(model.clock.time(sigma))
        mine = model.evolve(own, T, u)
        its = model.evolve(other, t, u)
        before = model.decode(mine, labels)
        for (kind, band), masks in (wish | {("agnostic", "all"): None}).items():
            after = model.decode(edit.inject(mine, its, masks, RATIO), labels)
            values = dict(zip(("total", *CUTS), change(after, before).mean(1).tolist()))
            rows.append({"sigma": sigma, "kind": kind, "band": band, **values})
    print("  guesses on the way", flush=True)
    return rows


def far(pictures):
    """Frechet distance of `pictures` to CIFAR-10's, bundled features."""
    extract = evaluation.extractor("cifar")
    reference = metrics.load_statistics(data_folder() / evaluation.REFERENCE)
    found = features.in_batches(to_uint8(pictures), extract)
    return metrics.frechet_distance(metrics.statistics(found), reference)


def walks(model, noise, n, labels):
    """Frechet distances of n pictures at one end of a walk and halfway, by its way; of
    one class both, the first's.
    """
    a = noise[:n]
    b = noise[-n:]
    of_a = lines(labels, slice(0, n))
    half = torch.tensor([0.5])
    jump = lambda x: torch.cat(
        [model.sample(some, part) for some, part in zip(x.split(100), told(of_a))]
    )
    between = [
        edit.interpolate(model, x, y, half, part)[0]
        for x, y, part in zip(a.split(100), b.split(100), told(of_a))
    ]
    ends = jump(a), jump(b)
    found = {
        "ends": far(ends[0]),
        "states": far(torch.cat(between).clamp(-1, 1)),
        "cross-fade": far((ends[0] + ends[1]) / 2),
        "noise, circle": far(jump((a + b) / 2**0.5)),
    }
    print("  walks", flush=True)
    return {"n": n, "frechet": found}


def compared(fill, plain, true, distance):
    """A completion beside the plain one: perceptual distance, squared error, how often
    it is nearer, Frechet.
    """
    a, b = (
        in_parts(lambda x, y: distance(x, y).flatten(), to_unit(to_uint8(x)), true)
        for x in (fill, plain)
    )
    return {
        "perceptual": float(a.mean()),
        "perceptual_plain": float(b.mean()),
        "less": interval(b - a),
        "nearer": float((a < b).double().mean()),
        "mse": float((fill - true).square().mean()),
        "mse_plain": float((plain - true).square().mean()),
        "frechet": far(fill),
        "frechet_plain": far(plain),
        "frechet_true": far(true),
        "n": len(true),
    }


def rounds(restore, images, schedule, key, labels):
    """`restore(images, noise, levels, labels)` by hundreds, its noise a function of the
    key.
    """
    levels = SCHEDULES[schedule]
    rng = generator(100 + key)
    found = []
    for x, part in zip(images.split(100), told(labels)):
        noise = torch.randn(len(levels), *x.shape, generator=rng)
        found.append(restore(x, noise, levels, part))
    return torch.cat(found)


def regions():
    centre = torch.ones(32, 32)
    centre[8:24, 8:24] = 0
    return {"centre": centre, "lower half": 1 - edit.lower_half()}


def filled(images, known):
    """The missing part at the mean colour of the known one."""
    mean = (images * known).sum((2, 3), keepdim=True) / known.sum()
    return torch.where(known > 0, images, mean)


def inpainting(model, sets, distance):
    tried = []
    rows = []
    for name in SCHEDULES:
        values = []
        for (images, labels), _ in sets.values():
            x = rounds(
                lambda x, *how: edit.inpaint(model, x, regions()["centre"], *how),
                images,
                name,
                1,
                labels,
            )
            values.append(in_parts(lambda a, b: distance(a, b).flatten(), x, images))
        tried.append({"schedule": name, "perceptual": float(torch.cat(values).mean())})
    best = min(tried, key=lambda row: row["perceptual"])["schedule"]
    for which, (_, (images, labels)) in sets.items():
        for region, known in regions().items():
            x = rounds(
                lambda x, *how, known=known: edit.inpaint(model, x, known, *how),
                images,
                best,
                2,
                labels,
            )
            plain = filled(images, known)
            off = ((to_unit(to_uint8(x)) - images).abs() * known).max() * 127.5
            rows.append(
                {
                    "pictures": which,
                    "region": region,
                    "known_off": float(off),
                    "schedule": best,
                    **compared(x, plain, images, distance),
                }
            )
        print(f"  inpainting, {which}", flush=True)
    return {
        "tried": tried,
        "on": sum(len(some) for (some, _), _ in sets.values()),
        "rows": rows,
    }


def colourfulness(x):
    """Root mean square of what a picture has beside its brightness."""
    return float((x - edit.luminance(x)[:, None]).square().mean().sqrt())


def colourisation(model, sets, distance):
    rows = []
    for which, (_, (images, labels)) in sets.items():
        luma = edit.luminance(images)
        for name in FOR_COLOUR if which == list(sets)[-1] else FOR_COLOUR[1:2]:
            x = rounds(
                lambda x, *how: edit.colourise(model, edit.luminance(x), *how),
                images,
                name,
                3,
                labels,
            )
            rows.append(
                {
                    "pictures": which,
                    "schedule": name,
                    "luma_off": float((edit.luminance(x) - luma).abs().max() * 127.5),
                    "luma_off_8_bit": float(
                        (edit.luminance(to_unit(to_uint8(x))) - luma).abs().max()
                        * 127.5
                    ),
                    "colourfulness": colourfulness(x),
                    "colourfulness_true": colourfulness(images),
                    **compared(x, luma[:, None].expand_as(images), images, distance),
                }
            )
        print(f"  colourisation, {which}", flush=True)
    return rows


@functools.cache
def pairs(name, n):
    """Unit noises (n, ...), whole paths of a teacher (K, n, ...), guided where it knows
    classes, and the classes of both.
    """
    teacher = hkd_mini.load(name)
    noise, start = (torch.randn(n, 3, 32, 32, generator=generator(k)) for k in (1, 2))
    labels = None
    if classes := teacher.config.labels:
        teacher = Guided(teacher, WEIGHT)
        labels = torch.randint(classes, (n,), generator=generator(3))
    parts = [
        heun(teacher, SIGMA_MAX * some, teacher.noise.sigmas(STEPS), part).x
        for some, part in zip(start.split(100), told(labels))
    ]
    print(f"{name}: {n} reference paths", flush=True)
    return noise, torch.cat(parts, 1), labels


@torch.no_grad()
def measure(name, choose, count, distance):
    model = hkd_mini.load(name)
    began = time.time()
    n = choose + count
    levels = model.noise.sigmas(STEPS)
    noise, path, labels = pairs(MODELS[name], n)
    print(name, flush=True)
    few = slice(0, choose // 2)
    held = slice(choose, choose + MEASURE)
    # what a picture is when somebody hands it to you
    ends = to_unit(to_uint8(path[-1]))
    sets = {"teacher": [(ends[part], lines(labels, part)) for part in (few, held)]}
    if os.environ.get("HKD_MINI_DATA"):
        test = load_cifar10("test", os.environ["HKD_MINI_DATA"])
        true = None if labels is None else test.labels[:n]
        x = to_unit(test.x[:n])
        sets["test"] = [(x[part], lines(true, part)) for part in (few, held)]
    last = slice(len(noise) - SEEN if len(noise) > SEEN else 0, None)
    seen = (noise[last], path[:, last], levels, lines(labels, last))
    found = {
        "injection": injection(model, noise, path, levels, labels),
        "guesses": guesses(model, *seen),
        "walks": walks(model, noise, count, labels),
        "inpainting": inpainting(model, sets, distance),
        "colourisation": colourisation(model, sets, distance),
    }
    about = {"date": today(), "minutes": (time.time() - began) / 60}
    return {**about, "weights": weights(name, MODELS[name]), **found}


def summary(name, injection, inpainting, colourisation, **_):
    chosen = injection["chosen"]
    (row,) = (
        r
        for r in injection["rows"]
        if r["kind"] == "alpha"
        and not r["region"]
        and all(r[k] == chosen[k] for k in KEYS)
    )
    shares = {
        way: round(row["low"] / value, 3)
        for way, value in row["low_of_control"].items()
    }
    print(
        name,
        {k: chosen[k] for k in KEYS},
        "low frequencies' change over the control's:",
        shares,
    )
    for r in inpainting["rows"] + colourisation:
        what = {"off": r.get("known_off", r.get("luma_off")), "nearer": r["nearer"]}
        pairs = [
            f"{r[k]:.3f} for {r[k + '_plain']:.3f}"
            for k in ("perceptual", "mse", "frechet")
        ]
        print(
            " ", r["pictures"], r.get("region", "colours"), r["schedule"], what, *pairs
        )


def main(arguments=None):
    ask = parser(__doc__)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--model", choices=tuple(MODELS), nargs="+", default=MODELS)
    ask.add_argument("--lpips", choices=("alex", "vgg", "squeeze"))
    options = ask.parse_args(arguments)
    torch.set_num_threads(1)
    distance = Distance.of(options.lpips or "cifar").perceptual
    choose, count = (8, 16) if options.quick else (CHOOSE, MEASURE)
    found = {name: measure(name, choose, count, distance) for name in options.model}
    about = {
        "made": "benchmarks/editing.py",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "seed": SEED,
        "perceptual": options.lpips or "features-cifar10 (feature distance)",
        "low": "up to 4 cycles per picture",
        "test pictures": "CIFAR-10, as published",
    }
    file = data_folder() / "editing.json"
    every = stored(file).get("models", {}) | found
    every = {name: every[name] for name in MODELS if name in every}
    if options.quick or options.lpips:
        text = json.dumps(rounded(found))
        print(text if options.lpips else f"{len(text)} bytes of results")
    else:
        write(file, rounded({"about": about, "models": every}), indent=None)
    for name, result in found.items():
        summary(name, **result)


if __name__ == "__main__":
    main()
