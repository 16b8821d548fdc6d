"""Mode by mode: does a rate say how fine the mode draws, and does a model decide what
its teacher decides, when it does?

    python benchmarks/modes.py          # eight minutes; writes data/modes.json
    python benchmarks/modes.py --quick  # the bundled model alone, few samples, no file

The bundled hkd-cifar10-tiny, and models of `python benchmarks/ablations.py asked`,
which has to run first and leaves them in runs/: four objectives, three seeds. For every
pair of channels of every state: how much it grows on the way from noise to picture
(minus its growth rate, a mean over places, times the way), and what it draws, the
picture less the picture without it, over 100 samples: mean square, and mean spatial
frequency in cycles a picture. A linear read-out is asked where the pair is largest, at
the noise or at the picture, and answers exactly; half a U-Net is asked at the picture.
Reported for each resolution: Spearman's rank correlation of growth and frequency over
pairs that draw at least a thousandth of the strongest's power, its bootstrap interval
over pairs, and the share of 10,000 shuffles that correlate as much; the same within
each state, and of pairs that grow. Beside it `share_decided` of the teacher's guesses
on 256 held-out paths, and of what a model's evolved states decode to at the same
levels; and for every ring of frequencies the growth of the one exponential that decides
it most nearly so, with its bootstrap interval over paths. One thread.
"""

import json

import numpy as np
import torch
from common import (
    RUNS,
    device,
    parser,
    rounded,
    small_held_out_paths,
    teacher_paths,
    today,
    weights,
    write,
)
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

import hkd_mini
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.bands import mean_frequency, ring_power, share_decided
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.paths import Paths
from hkd_mini.hkd.spectra import at_largest, by_level, spectrum

OUT = data_folder() / "modes.json"
CACHE = RUNS / "ablations"
TEACHER = "teacher-cifar10-tiny"
BUNDLED = "hkd-cifar10-tiny"
ANCHORED = "guesses, linear, read-out, anchored"
NAMES = ("paper", "guesses", "guesses, linear, read-out", ANCHORED)
SEEDS = range(3)
SAMPLES = 100
HELD_OUT = 256
DRAWS = 10_000
AGAIN = 200  # bootstrap draws of paths
SEED = 13
WEAK = 1e-3  # of the strongest pair's power: below it a frequency is of rounding
FEW = 6  # pairs, below which a rank correlation is not worth its name
RINGS = (0, *(k + 0.5 for k in range(1, 16)))  # the mean to 1 cycle, then one each
GROWTHS = np.linspace(0, 20, 2001)


@torch.no_grad()
def drawn(
    model: HKD, states: list[Tensor], whole: Tensor, level: int, pair: int
) -> Tensor:
    """What a pair draws: the `whole` picture less the picture without it."""
    half = states[level].shape[1] // 2
    both = [pair, pair + half]
    if model.config.readout == "linear":  # the same, without rounding of the rest
        alone = [torch.zeros_like(z) for z in states]
        alone[level][:, both] = states[level][:, both]
        return model.decode(alone)
    less = list(states)
    less[level] = states[level].clone()
    less[level][:, both] = 0
    return whole - model.decode(less)


@torch.no_grad()
def asked_at(model: HKD, noise: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
    """The states that are asked what their pairs draw: with a linear read-out each pair
    where it is largest, else all at the picture.
    """
    clock = model.clock
    start = model.encode(model.noise.sigma_max * noise, clock.T)
    if model.config.readout == "linear":
        return at_largest(model, start)
    return model.evolve(start, clock.T, clock.eps)


@torch.no_grad()
def pairs_of(model: HKD, n: int) -> list[dict]:
    """Every pair of every state: which, how much it grows on the way to the picture,
    its power and its frequency.
    """
    rng = torch.Generator().manual_seed(SEED)
    states = asked_at(model, torch.randn(n, *model.config.network.shape, generator=rng))
    whole = model.decode(states)
    way = model.clock.T - model.clock.eps
    found = []
    for level, lam in enumerate(spectrum(model)):
        for pair, rate in enumerate(lam.real.flatten(1).mean(1).tolist()):
            change = drawn(model, states, whole, level, pair)
            power = change.square().mean().item()
            frequency = mean_frequency(change).nanmean().item()
            line = {"state": level, "growth": -rate * way}
            found.append({**line, "power": power, "frequency": frequency})
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of a with the same row of b."""
    a = rankdata(a, axis=-1)
    b = rankdata(b, axis=-1)
    a = a - a.mean(-1, keepdims=True)
    b = b - b.mean(-1, keepdims=True)
    return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def verdict(growth: np.ndarray, frequency: np.ndarray) -> dict | None:
    """Rank correlation, its interval over pairs, and how many shuffles do as well; None
    for a handful of pairs.
    """
    n = len(growth)
    if n < FEW:
        return None
    rho = spearman(growth, frequency)
    rng = np.random.default_rng(SEED)
    some = rng.integers(n, size=(DRAWS, n))
    low, high = np.nanquantile(spearman(growth[some], frequency[some]), (0.025, 0.975))
    shuffled = rng.permuted(np.tile(growth, (DRAWS, 1)), axis=1)
    others = spearman(shuffled, np.tile(frequency, (DRAWS, 1)))
    chance = (np.abs(others) >= abs(rho) - 1e-9).mean()
    found = {"rho": rho, "low": low, "high": high, "chance": chance}
    return {k: float(v) for k, v in found.items()} | {"n": n}


def verdicts(pairs: list[dict]) -> dict:
    """`verdict` of one resolution: of all pairs that draw something, of ranks within
    each state, of the pairs that grow towards the picture.
    """
    most = max(pair["power"] for pair in pairs)
    strong = [pair for pair in pairs if pair["power"] >= WEAK * most]
    columns = ("state", "growth", "frequency")
    state, growth, frequency = (np.array([p[k] for p in strong]) for k in columns)
    found = {"all": verdict(growth, frequency)}
    grows = growth > 0
    found["growing"] = verdict(growth[grows], frequency[grows])
    if len(set(state)) > 1:
        inside = np.empty((2, len(strong)))
        for one in set(state):
            some = state == one
            ranks = rankdata([growth[some], frequency[some]], axis=1)
            inside[:, some] = (ranks - 0.5) / some.sum()
        found["within"] = verdict(*inside)
    return found


@torch.no_grad()
def film(model: HKD, x_T: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """What states evolved from noise decode to at each level, and at the picture."""
    times = model.clock.time(sigmas.float())
    noise = x_T / model.noise.sigma_max
    end = model.trajectory(noise, torch.tensor([model.clock.eps]))[0]
    return model.trajectory(noise, times), end


def growths(share: np.ndarray, way_left: np.ndarray) -> np.ndarray:
    """For shares decided (..., levels, rings) the growth r of the one exponential that
    is nearest: what grows as a = e^{-r u}, u of the way before the picture, has decided
    1 - (1 - a)^2 there.
    """
    course = 1 - (1 - np.exp(-GROWTHS[:, None] * way_left)) ** 2  # (rates, levels)
    share = np.moveaxis(share, -2, -1)[..., None, :]
    return GROWTHS[((course - share) ** 2).sum(-1).argmin(-1)]


def rings_of(guesses: Tensor, ends: Tensor, way_left: np.ndarray, again: int) -> dict:
    """The growth of every ring, and its bootstrap interval over paths."""
    missed = torch.stack([ring_power(g - ends, RINGS).sum(1) for g in guesses]).numpy()
    spread = ring_power(ends - ends.mean(0), RINGS).sum(1).numpy()
    share = lambda i: 1 - missed[:, i].sum(1) / spread[i].sum(0)
    rng = np.random.default_rng(SEED)
    n = len(spread)
    draws = [share(rng.integers(n, size=n)) for _ in range(again)]
    low, high = np.quantile(growths(np.stack(draws), way_left), (0.025, 0.975), axis=0)
    found = {"growth": growths(share(slice(None)), way_left), "low": low, "high": high}
    return {k: v.tolist() for k, v in found.items()}


def measured(model: HKD, held_out: Paths, samples: int, again: int) -> dict:
    """Everything about one model."""
    pairs = pairs_of(model, samples)
    levels = {
        f"{h}x{w}": verdicts([p for p in pairs if p["state"] in members])
        for (h, w), members in by_level(model).items()
    }
    sigmas = held_out.sigmas[:-1]
    n = len(held_out)
    noise = held_out.gather(torch.arange(n), torch.zeros(n, 1).long())["x"]
    states, end = film(model, noise[:, 0].float(), sigmas)
    rings = rings_of(states, end, way_left(model, sigmas), again)
    decided = share_decided(states, end).tolist()
    return {"levels": levels, "decided": decided, "rings": rings, "pairs": pairs}


def way_left(model: HKD, sigmas: Tensor) -> np.ndarray:
    """How much of the way lies between each level and the picture, in [0, 1]."""
    clock = model.clock
    return ((clock.time(sigmas) - clock.eps) / (clock.T - clock.eps)).double().numpy()


def of_the_teacher(held_out: Paths, model: HKD) -> dict:
    """The same of the guesses that the paths store."""
    n = len(held_out)
    k = len(held_out.sigmas) - 1
    found = held_out.gather(torch.arange(n), torch.arange(k).expand(n, k))
    guesses = found["guess"].transpose(0, 1).float()
    ends = found["end"].float()
    rings = rings_of(guesses, ends, way_left(model, held_out.sigmas[:-1]), AGAIN)
    return {"decided": share_decided(guesses, ends).tolist(), "rings": rings}


def models():
    """The bundled model, then those of the ablations that are there, of each at least
    the first: name, seed, model.
    """
    yield "bundled", 0, hkd_mini.load(BUNDLED)
    for name in NAMES:
        for seed in SEEDS:
            folder = CACHE / "models" / f"asked, {name}, {seed}"
            if (folder / "config.json").is_file():
                yield name, seed, HKD.from_pretrained(folder)
            elif not seed:
                raise SystemExit(f"{folder}: run benchmarks/ablations.py asked first")


def main(argv: list[str] | None = None) -> None:
    ask = parser(__doc__)
    ask.add_argument(
        "--quick", action="store_true", help="the bundled model alone, nothing written"
    )
    torch.set_num_threads(1)
    if ask.parse_args(argv).quick:
        found = measured(hkd_mini.load(BUNDLED), small_held_out_paths(), 8, 2)
        print(json.dumps(rounded({k: found[k] for k in ("levels", "rings")})))
        return
    paths = teacher_paths(CACHE, TEACHER, HELD_OUT, seed=2, times=10)
    rows = []
    for name, seed, model in models():
        found = measured(model, paths, SAMPLES, AGAIN)
        pairs = found.pop("pairs")
        row = {"name": name, "seed": seed, **found}
        rows.append(row | ({"pairs": pairs} if seed == 0 else {}))
        print(name, seed, json.dumps(rounded(found["levels"])), flush=True)
    about = {
        "command": "python benchmarks/modes.py",
        "samples": SAMPLES,
        "paths": HELD_OUT,
        "device": device(),
        "date": today(),
        "weights": weights(TEACHER, BUNDLED),
        "sigmas": paths.sigmas[:-1].tolist(),
        "edges": list(RINGS),
        "teacher": of_the_teacher(paths, hkd_mini.load(BUNDLED)),
    }
    write(OUT, rounded({**about, "rows": rows}), indent=None)
    print("wrote", OUT)


if __name__ == "__main__":
    main()
