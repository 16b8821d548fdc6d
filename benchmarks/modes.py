"""Mode by mode: does a rate say how fine the mode draws, and does a model decide what
its teacher decides, when it does?

    python benchmarks/modes.py   # five minutes; writes data/modes.json

The models are those of `python benchmarks/ablations.py asked`, which has to run first
and leaves them in runs/: three objectives, three seeds. For every pair of channels of
every state: its growth rate times the way from noise to picture (a mean over places),
and what it draws, the picture less the picture without it, over 200 samples: mean
square and mean spatial frequency in cycles a picture. With a linear read-out that is
what the pair draws, exactly. Reported for each resolution: Spearman's rank correlation
of rate and frequency over pairs that draw at least a thousandth of the strongest's
power, its bootstrap interval over pairs, and the share of 10,000 shuffled rates that
correlate as much. Beside it `share_decided` of the teacher's guesses on 256 held-out
paths, and of what each model's evolved states decode to at the same levels. One thread.
"""

import numpy as np
import torch
from common import RUNS, device, parser, rounded, teacher_paths, today, weights, write
from scipy.stats import spearmanr
from torch import Tensor

from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.bands import mean_frequency, share_decided
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.spectra import by_level, spectrum

OUT = data_folder() / "modes.json"
CACHE = RUNS / "ablations"
TEACHER = "teacher-cifar10-tiny"
NAMES = ("paper", "guesses", "guesses, linear, read-out, anchored")
SEEDS = range(3)
SAMPLES = 200
HELD_OUT = 256
DRAWS = 10_000
WEAK = 1e-3  # of the strongest pair's power: below it a frequency is of rounding


@torch.no_grad()
def drawn(model: HKD, states: list[Tensor], level: int, pair: int) -> Tensor:
    """What a pair draws: the picture less the picture without it."""
    less = [z.clone() for z in states]
    half = less[level].shape[1] // 2
    less[level][:, [pair, pair + half]] = 0
    return model.decode(states) - model.decode(less)


@torch.no_grad()
def pairs_of(model: HKD) -> list[dict]:
    """Every pair of every state: which, its rate, its power and its frequency."""
    rng = torch.Generator().manual_seed(13)
    noise = torch.randn(SAMPLES, *model.config.network.shape, generator=rng)
    T = model.clock.T
    eps = model.clock.eps
    start = model.encode(model.noise.sigma_max * noise, T)
    states = model.evolve(start, T, eps)
    found = []
    for level, lam in enumerate(spectrum(model)):
        for pair, rate in enumerate(lam.real.flatten(1).mean(1).tolist()):
            change = drawn(model, states, level, pair)
            power = change.square().mean().item()
            frequency = mean_frequency(change).nanmean().item()
            line = {"state": level, "rate": rate * (T - eps)}
            found.append({**line, "power": power, "frequency": frequency})
    return found


def verdict(pairs: list[dict]) -> dict:
    """Rank correlation of rate and frequency, its interval over pairs, and how many
    shuffles do as well.
    """
    most = max(pair["power"] for pair in pairs)
    strong = [pair for pair in pairs if pair["power"] >= WEAK * most]
    rate = np.array([pair["rate"] for pair in strong])
    frequency = np.array([pair["frequency"] for pair in strong])
    rho = spearmanr(rate, frequency).statistic
    rng = np.random.default_rng(13)
    again = rng.integers(len(strong), size=(DRAWS, len(strong)))
    rhos = [spearmanr(rate[i], frequency[i]).statistic for i in again[:1000]]
    low, high = np.nanquantile(rhos, (0.025, 0.975))
    shuffled = [
        spearmanr(rng.permutation(rate), frequency).statistic for _ in range(1000)
    ]
    chance = np.mean(np.abs(shuffled) >= abs(rho) - 1e-9)
    return {"rho": rho, "low": low, "high": high, "chance": chance, "n": len(strong)}


@torch.no_grad()
def decided(model: HKD, x_T: Tensor, sigmas: Tensor) -> list[list[float]]:
    """`share_decided` of what evolved states decode to, of the model's own pictures."""
    times = model.clock.time(sigmas.float())
    noise = x_T / model.noise.sigma_max
    film = model.trajectory(noise, times)
    end = model.trajectory(noise, torch.tensor([model.clock.eps]))[0]
    return share_decided(film, end).tolist()


def main() -> None:
    parser(__doc__).parse_args()
    torch.set_num_threads(1)
    paths = teacher_paths(CACHE, TEACHER, HELD_OUT, seed=2, times=10)
    n = len(paths)
    k = len(paths.sigmas) - 1
    found = paths.gather(torch.arange(n), torch.arange(k).expand(n, k))
    guesses = found["guess"].transpose(0, 1)
    rows = []
    for name in NAMES:
        for seed in SEEDS:
            folder = CACHE / "models" / f"asked, {name}, {seed}"
            if not (folder / "config.json").is_file():
                raise SystemExit(f"{folder}: run benchmarks/ablations.py asked first")
            model = HKD.from_pretrained(folder)
            pairs = pairs_of(model)
            levels = {
                f"{h}x{w}": verdict([p for p in pairs if p["state"] in members])
                for (h, w), members in by_level(model).items()
            }
            share = decided(model, found["x"][:, 0], paths.sigmas[:-1])
            row = {"name": name, "seed": seed, "levels": levels, "decided": share}
            rows.append(row | ({"pairs": pairs} if seed == 0 else {}))
            print(name, seed, rounded(levels), flush=True)
    about = {
        "command": "python benchmarks/modes.py",
        "samples": SAMPLES,
        "device": device(),
        "date": today(),
        "weights": weights(TEACHER),
        "sigmas": paths.sigmas[:-1].tolist(),
        "decided": share_decided(guesses, found["end"]).tolist(),
    }
    write(OUT, rounded({**about, "rows": rows}), indent=None)
    print("wrote", OUT)


if __name__ == "__main__":
    main()
