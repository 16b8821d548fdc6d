"""Does one step copy? How far samples are from their nearest training pictures, beside
what copies would score.

    python benchmarks/neighbours.py --data cifar  # a minute; data/neighbours.json

1,000 one-step samples look for their nearest neighbours among all 50,000 training
pictures, as they are and mirrored. So do 1,000 test pictures, which no training saw,
and 1,000 training pictures after three treatments that a memorising model could be
forgiven: mirrored and compressed, softened to half the resolution, shifted. Distances
are Euclidean, of pixels and of the bundled classifier's features, as shares of the
distance between two training pictures at random; the ratio is that of the nearest to
the mean of the fifty nearest, which is low for a copy even where soft pictures are near
to everything. The file has quantiles and histograms, and numbers of pictures, but no
picture.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from common import device, parser, today, weights, write
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

import hkd_mini
from hkd_mini.app import evaluation
from hkd_mini.engine.cifar10 import load_cifar10
from hkd_mini.engine.data import to_uint8, to_unit
from hkd_mini.engine.precision import choose, computing
from hkd_mini.engine.weights import data_folder
from hkd_mini.judge import metrics

OUT = data_folder() / "neighbours.json"
HKD = "hkd-cifar10"
FEATURES = "features-cifar10"
N = 1000
NEAR = 50
SEED = 0
QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
# 0 to 1.2; what is beyond counts in the last bin
EDGES = [round(0.025 * k, 3) for k in range(49)]
# of sets of test pictures, for the Frechet distance of true pictures
SIZES = (1000, 2000, 5000, 10_000)


def compressed(
    x: UInt8[Tensor, "n 3 h w"], quality: int = 40
) -> UInt8[Tensor, "n 3 h w"]:
    """Each picture through JPEG once more."""
    out = []
    for picture in x.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        out.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


def softened(x: UInt8[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Half the resolution, and back."""
    return to_uint8(
        F.interpolate(
            F.avg_pool2d(to_unit(x), 2), scale_factor=2, mode="bilinear"
        ).clamp(-1, 1)
    )


def shifted(x: UInt8[Tensor, "n 3 h w"], by: int = 2) -> UInt8[Tensor, "n 3 h w"]:
    """Down and to the right, the border repeated."""
    return F.pad(x.float(), (by, 0, by, 0), mode="replicate")[..., :-by, :-by].to(
        torch.uint8
    )


def sets(data: str) -> dict[str, tuple[str, Tensor]]:
    """Name, words and pictures (N, 3, 32, 32) of all that look for neighbours."""
    seen = load_cifar10("train", data).x
    rng = torch.Generator().manual_seed(SEED)
    some = seen[torch.randperm(len(seen), generator=rng)[:N]]
    samples = evaluation.draw(hkd_mini.load(HKD), N, SEED, precision="auto")
    return {
        "samples": (f"one-step samples of {HKD}", samples),
        "test": ("test pictures", load_cifar10("test", data).x[:N]),
        "mirrored": (
            "training pictures, mirrored and compressed again",
            compressed(some.flip(-1)),
        ),
        "soft": ("training pictures, softened", softened(some)),
        "shifted": ("training pictures, shifted by two pixels", shifted(some)),
    }


def views() -> dict:
    """What distances are taken of: pictures (n, 3, 32, 32) to vectors (n, dim)."""
    classifier = hkd_mini.load(FEATURES)

    @torch.no_grad()
    def features(x):
        with computing(choose("auto"), "cpu"):
            return torch.cat(
                [classifier.embed(to_unit(part)).float() for part in x.split(500)]
            )

    return {"pixels": lambda x: to_unit(x).flatten(1), "features": features}


def nearest(
    query: UInt8[Tensor, "n 3 h w"], base: Float[Tensor, "m dim"], view
) -> tuple[Float[Tensor, "n near"], Int[Tensor, "n near"]]:
    """Distances and numbers of the NEAR nearest rows of `base`, whichever way round the
    query is held.

    Candidates are found in bfloat16, which a CPU multiplies ten times faster, and
    measured in float32.
    """
    centre = base[:1000].mean(0)
    both = torch.stack([view(query), view(query.flip(-1))]) - centre  # (2, n, dim)
    best = torch.full((len(query), NEAR), torch.inf)
    index = torch.zeros(len(query), NEAR, dtype=torch.long)
    for start in range(0, len(base), 5000):
        part = base[start : start + 5000] - centre
        product = (
            (both.flatten(0, 1).bfloat16() @ part.bfloat16().T)
            .float()
            .unflatten(0, both.shape[:2])
        )
        away = (
            both.square().sum(-1, keepdim=True) + part.square().sum(1) - 2 * product
        ).amin(0)
        numbers = torch.arange(start, start + len(part)).expand_as(away)
        best, kept = torch.cat([best, away], 1).topk(NEAR, largest=False)
        index = torch.cat([index, numbers], 1).gather(1, kept)
    some = zip(both.split(50, dim=1), index.split(50), strict=True)
    exact = torch.cat(
        [(a[:, :, None] - (base[i] - centre)).norm(dim=-1).amin(0) for a, i in some]
    )
    order = exact.argsort(1)
    return exact.gather(1, order), index.gather(1, order)


def typical(base: Float[Tensor, "m dim"]) -> float:
    """Root mean square distance of two rows drawn at random."""
    rng = torch.Generator().manual_seed(SEED)
    one, other = (
        base[torch.randperm(len(base), generator=rng)[:10_000]] for _ in range(2)
    )
    return float((one - other).square().sum(1).mean().sqrt())


def summary(values: Float[Tensor, " n"]) -> dict[str, list]:
    """Quantiles, and counts between EDGES."""
    found = torch.quantile(
        values.double(), torch.tensor(QUANTILES, dtype=torch.float64)
    )
    counts = torch.histogram(
        values.clamp(max=EDGES[-1] - 1e-6), torch.tensor(EDGES)
    ).hist
    return {
        "quantiles": [round(v, 4) for v in found.tolist()],
        "counts": counts.int().tolist(),
    }


def looked_up(
    named: dict[str, tuple[str, Tensor]], images: Tensor
) -> tuple[dict, list]:
    """For every set the summaries of its distances; and the samples that are nearest to
    a training picture.
    """
    found = {name: {"what": words, "n": len(x)} for name, (words, x) in named.items()}
    closest = {}
    everything = torch.cat([x for _, x in named.values()])
    for what, view in views().items():
        base = view(images)
        best, index = nearest(everything, base, view)
        unit = typical(base)
        ratio = best[:, 0] / best.mean(1)
        for k, name in enumerate(named):
            mine = slice(k * N, (k + 1) * N)
            found[name][what] = summary(best[mine, 0] / unit)
            found[name][f"{what}, ratio"] = summary(ratio[mine])
        low = ratio[:N].argsort()[:8].tolist()  # the first set is the samples
        closest[what] = [
            {
                "sample": i,
                "training": index[i, 0].item(),
                "ratio": round(ratio[i].item(), 4),
            }
            for i in low
        ]
        print(
            what,
            {name: found[name][f"{what}, ratio"]["quantiles"][4] for name in named},
            flush=True,
        )
    return found, closest


def frechet_of_true(data: str, images: Tensor) -> dict[str, float]:
    """Frechet distance of the first n test pictures to all training pictures: what a
    perfect sampler would get.
    """
    features = views()["features"]
    true = load_cifar10("test", data).x
    of_all = metrics.statistics([features(images)])
    of_true = features(true)
    return {
        str(n): round(
            metrics.frechet_distance(metrics.statistics([of_true[:n]]), of_all), 3
        )
        for n in SIZES
    }


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument("--data", required=True, help="folder with CIFAR-10")
    data = ask.parse_args().data
    torch.set_num_threads(1)
    images = load_cifar10("train", data).x
    found, closest = looked_up(sets(data), images)
    about = {
        "command": "python benchmarks/neighbours.py --data cifar",
        "seed": SEED,
        "device": device(),
        "date": today(),
        "weights": weights(HKD, FEATURES),
        "training": len(images),
        "near": NEAR,
        "probabilities": QUANTILES,
        "edges": EDGES,
    }
    floor = frechet_of_true(data, images)
    line = {
        **about,
        "sets": found,
        "closest": closest,
        "frechet_of_test_pictures": floor,
    }
    write(OUT, line)
    print("wrote", OUT)


if __name__ == "__main__":
    main()
