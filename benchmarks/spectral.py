"""Does a mode's rate say whether it draws something coarse or something fine? Bands
against spatial frequencies.

    python benchmarks/spectral.py          # twenty minutes; writes data/spectrum.json
    python benchmarks/spectral.py hkd-cifar10  # that model anew, the other kept
    python benchmarks/spectral.py --quick  # eight samples of one model, no file

For two bundled HKDs, of the paper's objective and of guess decoding with a linear
read-out, and each resolution of their states, the modes are cut into eight bands of
equal size by rank of a rate, jointly over the states of that resolution. Of 500
samples, their classes drawn with them, each band is taken out, everything else left
whole, and the change of the picture is weighed by spatial frequency. The linear
read-out is asked with each mode where it is largest, at the noise or at the picture,
since a band that fades is nothing at the picture. Per sample: the rank correlation of
the eight mean rates with the eight mean frequencies. Reported: its mean, a bootstrap
interval over samples, and the share of all 40,320 orders of the same eight bands that
correlate as much. The interval says how sure the mean is for these bands and these
weights; only the share says whether the order of the rates has anything to do with it.
Controls: bands in storage order (what "sorting" equal rates gives), and bands drawn at
random from modes or from whole channels.
"""

import itertools
import json

import numpy as np
import torch
from common import device, parser, rounded, stored, today, weights, write
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

import hkd_mini
from hkd_mini.diffusion.schedule import SIGMA_MAX
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.bands import radial_power
from hkd_mini.hkd.spectra import at_largest, band_masks, by_level, rate, spectrum
from hkd_mini.koopman.generator import apply_mask

OUT = data_folder() / "spectrum.json"
MODELS = ("hkd-cifar10-paper", "hkd-cifar10")
N = 500
BANDS = 8
SEED = 13
DRAWS = 10_000
NULLS = 10
OF_NULL = 50
BATCH = 100

Masks = list[Bool[Tensor, "bands pairs h w"]]


def bands_by(model: hkd_mini.HKD, way: str, rng: torch.Generator) -> Masks:
    """The eight bands in one of several ways, lowest first: masks for every state."""
    lams = spectrum(model)
    groups = list(by_level(model).values())
    if way == "within":  # each state ranked by itself
        return band_masks(lams, BANDS)
    if way == "storage":  # equal rates, that is A = 0
        return band_masks([torch.zeros_like(lam) for lam in lams], BANDS, groups=groups)
    if way == "modes":
        drawn = [torch.rand(lam.shape, generator=rng) for lam in lams]
        return band_masks([torch.complex(u, u) for u in drawn], BANDS, groups=groups)
    # a whole channel has one rank, hardly changed between its locations
    if way == "channels":
        drawn = [
            torch.rand(len(v), 1, 1, generator=rng)
            + 1e-6 * torch.rand(v.shape, generator=rng)
            for v in lams
        ]
        return band_masks([torch.complex(u, u) for u in drawn], BANDS, groups=groups)
    return band_masks(lams, BANDS, way, groups)


def power_of(change: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch bins"]:
    """Power by spatial frequency, the three colours added: first the mean's, then 1 to
    16 cycles per picture.
    """
    return torch.cat(
        [
            change.mean((2, 3)).square().sum(1, keepdim=True),
            radial_power(change).sum(1),
        ],
        1,
    )


@torch.no_grad()
def powers(
    model: hkd_mini.HKD,
    states: list[Tensor],
    labels: Tensor,
    masks: Masks,
    members: list[int],
    alone: bool = False,
) -> Float[Tensor, "bands n bins"]:
    """Radial power of what each band of the states in `members` draws, told `labels`.

    Left out: the picture less the picture without the band, all other states whole.
    Alone: the picture of nothing but the band, less the picture of nothing.
    """
    found = []
    for told, *part in zip(*(z.split(BATCH) for z in (labels, *states))):
        whole = model.decode(part, told)
        nothing = model.decode([torch.zeros_like(z) for z in part], told)
        per_band = []
        for b in range(len(masks[0])):
            if alone:
                kept = [
                    apply_mask(z, masks[i][b]) if i in members else 0 * z
                    for i, z in enumerate(part)
                ]
                change = model.decode(kept, told) - nothing
            else:
                left = [
                    apply_mask(z, ~masks[i][b]) if i in members else z
                    for i, z in enumerate(part)
                ]
                change = whole - model.decode(left, told)
            per_band.append(power_of(change))
        found.append(torch.stack(per_band))
    return torch.cat(found, 1)


def correlations(
    rates: Float[np.ndarray, "bands"], frequency: Float[np.ndarray, "n bands"]
) -> np.ndarray:
    """Spearman's rank correlation of the bands' rates and frequencies, one for every
    sample.
    """
    a = rankdata(rates)
    b = rankdata(frequency, axis=1)
    a = a - a.mean()
    b = b - b.mean(1, keepdims=True)
    return b @ a / np.sqrt((a**2).sum() * (b**2).sum(1))


def verdict(rates: np.ndarray, frequency: np.ndarray) -> dict:
    """Mean correlation, bootstrap interval over samples, and the share of all orders of
    the bands that do as well.
    """
    rho = correlations(rates, frequency)
    rng = np.random.default_rng(SEED)
    means = rho[rng.integers(len(rho), size=(DRAWS, len(rho)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    b = rankdata(frequency, axis=1)
    b = (
        (b - b.mean(1, keepdims=True))
        / np.sqrt(((b - b.mean(1, keepdims=True)) ** 2).sum(1, keepdims=True))
    ).mean(0)
    orders = np.array(list(itertools.permutations(np.arange(BANDS) - (BANDS - 1) / 2)))
    others = orders @ b / np.sqrt((orders[0] ** 2).sum())
    chance = (np.abs(others) >= abs(rho.mean()) - 1e-9).mean()
    return {"rho": rho.mean(), "low": low, "high": high, "chance": chance}


def mean_frequency(power: Float[Tensor, "bands n bins"]) -> np.ndarray:
    """(n, bands), cycles per picture, weighed with power; the mean colour has no
    frequency and is left aside.
    """
    waves = power[..., 1:]
    return (
        ((waves * torch.arange(1, waves.shape[-1] + 1)).sum(-1) / waves.sum(-1))
        .T.double()
        .numpy()
    )


def means(lams: list[Tensor], masks: Masks, members: list[int], key: str) -> np.ndarray:
    """Mean rate of every band over the states in `members`."""
    return np.array(
        [
            torch.cat([rate(lams[i], key)[masks[i][b]] for i in members])
            .double()
            .mean()
            .item()
            for b in range(BANDS)
        ]
    )


def drawn_by(
    model,
    states: list[Tensor],
    labels: Tensor,
    masks: Masks,
    members: list[int],
    alone: bool = False,
) -> dict:
    """What each band draws: mean frequency, mean square of the change, power by
    frequency, and every sample alone.
    """
    power = powers(model, states, labels, masks, members, alone)
    frequency = mean_frequency(power)
    return {
        "frequency": frequency.mean(0).tolist(),
        "effect": power.sum(-1).mean(1).div(3).tolist(),
        "power": power.mean(1).tolist(),
        "of samples": frequency,
    }


def compositions(masks: Masks, members: list[int]) -> list[list[float]]:
    """For every band the shares of its modes that lie in each of the states."""
    counts = torch.stack([masks[i].flatten(1).sum(1) for i in members], 1).double()
    return (counts / counts.sum(1, keepdim=True)).tolist()


def level_of(
    model,
    states: list[Tensor],
    labels: Tensor,
    members: list[int],
    nulls: int,
    rng: torch.Generator,
) -> dict:
    """One resolution: bands in five ways, and random ones."""
    lams = spectrum(model)
    found = {}
    ways = {
        "alpha": "alpha",
        "alone": "alpha",
        "abs": "abs",
        "within": "within",
        "storage": "storage",
    }
    for name, way in ways.items():
        masks = bands_by(model, way, rng)
        rates = means(lams, masks, members, "abs" if way == "abs" else "alpha")
        drawn = drawn_by(model, states, labels, masks, members, name == "alone")
        order = np.arange(BANDS) if way == "storage" else rates
        line = {
            **verdict(order, drawn.pop("of samples")),
            "rates": rates.tolist(),
            **drawn,
        }
        found[name] = {**line, "states": compositions(masks, members)}
        print(
            f"  {name}",
            {k: round(float(v), 3) for k, v in list(line.items())[:4]},
            flush=True,
        )
    few = [z[:OF_NULL] for z in states]
    for way in ("modes", "channels"):
        again = [
            powers(model, few, labels[:OF_NULL], bands_by(model, way, rng), members)
            for _ in range(nulls)
        ]
        rhos = [
            correlations(np.arange(BANDS), mean_frequency(power)).mean()
            for power in again
        ]
        found[f"random {way}"] = sorted(rhos)
        print(f"  random {way}", np.round(sorted(rhos), 2), flush=True)
    return found


@torch.no_grad()
def measured(model: hkd_mini.HKD, n: int, nulls: int) -> dict:
    """Everything about one model, level by level; and what each whole state draws."""
    rng = torch.Generator().manual_seed(SEED)
    T = model.clock.T
    eps = model.clock.eps
    noise = torch.randn(n, 3, 32, 32, generator=rng)
    linear = model.config.readout == "linear"
    asked = lambda z: at_largest(model, z) if linear else model.evolve(z, T, eps)
    labels = torch.randint(model.config.network.labels, (n,), generator=rng)
    told = zip(noise.split(BATCH), labels.split(BATCH))
    parts = [asked(model.encode(SIGMA_MAX * x, T, some)) for x, some in told]
    states = [torch.cat(z) for z in zip(*parts)]
    found = {}
    for (h, w), members in by_level(model).items():
        print(f"{h}x{w}")
        found[f"{h}x{w}"] = level_of(model, states, labels, members, nulls, rng)
    n_states = len(states)
    each = [
        torch.zeros(n_states, *lam.shape, dtype=torch.bool) for lam in spectrum(model)
    ]
    for i, mask in enumerate(each):
        mask[i] = True
    drawn = drawn_by(model, states, labels, each, list(range(n_states)))
    drawn.pop("of samples")
    return {"levels": found, "each state": drawn}


def main(argv: list[str] | None = None) -> None:
    ask = parser(__doc__)
    ask.add_argument("names", nargs="*", help="models to measure anew, both if none")
    ask.add_argument(
        "--quick",
        action="store_true",
        help="eight samples of one model, nothing written",
    )
    options = ask.parse_args(argv)
    torch.set_num_threads(1)
    if options.quick:
        print(json.dumps(rounded(measured(hkd_mini.load(MODELS[1]), 8, 1)))[:400])
        return
    about = {
        "command": "python benchmarks/spectral.py",
        "seed": SEED,
        "samples": N,
        "bands": BANDS,
        "of_null": OF_NULL,
        "device": device(),
        "date": today(),
        "weights": weights(*MODELS),
    }
    before = stored(OUT)
    models = {}
    for name in reversed(MODELS):
        file = f"{name}/model.safetensors"
        same = before.get("weights", {}).get(file) == about["weights"][file]
        kept = same and options.names and name not in options.names
        models[name] = (
            before["models"][name] if kept else measured(hkd_mini.load(name), N, NULLS)
        )
    write(OUT, rounded({**about, "models": models}), indent=None)
    print("wrote", OUT)


if __name__ == "__main__":
    main()
