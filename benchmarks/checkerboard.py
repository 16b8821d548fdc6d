"""Is it Koopman? Train HKD on the paths of a checkerboard, objective by objective, and
measure what A does.

    python benchmarks/checkerboard.py              # each row that is missing: 2 hours
    python benchmarks/checkerboard.py path+linear  # rows whose objective starts so
    python benchmarks/checkerboard.py --keep DIR   # and chapter 7's models and paths

The teacher is exact: the best denoiser of 4096 points, 36 Heun steps, every second
point of a path kept. All models see the same 20,000 paths and are measured on 2,000
others, by `hkd_mini.hkd.probe`. Errors are shares of the data's variance, the residual
is `koopman_residual`, the centred residual a share of the states' variance; "idle" is
the same with A set to 0, "clock" with one shift for all states, "guesses" from noise to
the teacher's guess at every level. Paths and models stay in runs/checkerboard, so that
a run that is stopped goes on, and measuring again is quick. One thread.
"""

import pathlib
from dataclasses import asdict, replace

import torch
from board_rows import LONG, Row, grid
from common import RUNS, device, fill, kept_board_paths, parser

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import Path
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.files import read_tensors, write_tensors
from hkd_mini.engine.weights import data_folder
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.distil import train
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import Objective
from hkd_mini.hkd.paths import PathsInMemory
from hkd_mini.hkd.probe import Answers, probe
from hkd_mini.hkd.residual import centred_gap
from hkd_mini.hkd.terms import unit_contrast

RESULTS = data_folder() / "checkerboard" / "results.json"
CACHE = RUNS / "checkerboard"
PATHS = 20_000
HELD_OUT = 2_000
BETWEEN = 400  # paths that any two times are asked of
# objective and folder; seed 0
KEPT = {"paper": "paper", "path+linear+infinitesimal": "moving", "guess": "guess"}
NETWORK = MLPConfig(width=80)
RECIPE = TrainConfig(
    images=384_000,
    batch=128,
    lr=1e-3,
    decay=0.5,
    checkpoint=10**9,
    ema_halflife=25_000,
    precision="fp32",
)


OBJECTIVE = Objective(times=3, perceptual="none")


def measure(model: HKD, held_out: Path) -> dict:
    """What the chapter's tables show, on held-out paths; data/checkerboard/README.md
    says what each number is.
    """
    variance = held_out.x[-1].var(0, correction=0).mean()
    share = lambda error: (error / variance).mean().item()
    between = min(BETWEEN, held_out.x.shape[1])
    found = probe(model, PathsInMemory(held_out), between=between)
    moving = found.with_A
    idle = found.without_A
    return {
        "end": share(moving.error_at_the_end),
        "end_mid": share(moving.error_at_the_end_from),
        "end_idle": share(idle.error_at_the_end),
        "from_noise": share(moving.error_on_the_way),
        "from_noise_idle": share(idle.error_on_the_way),
        "pairs": share(moving.error_between),
        "pairs_idle": share(idle.error_between),
        "residual": moving.mean_residual.item(),
        "centred": moving.mean_centred_residual.item(),
        "residual_idle": idle.mean_residual.item(),
        "centred_idle": idle.mean_centred_residual.item(),
        "residual_by_time": moving.residual[:, 0].tolist(),
        "residual_idle_by_time": idle.residual[:, 0].tolist(),
        "centred_by_time": moving.centred_residual[:, 0].tolist(),
        "size": found.size_of_states.item(),
        "rate": found.largest_rates.item(),
        **by_clock(model, held_out, share),
        **of_guesses(moving, idle, held_out, share),
    }


def of_guesses(moving: Answers, idle: Answers, held_out: Path, share) -> dict:
    """Errors to the teacher's guesses on the way, and what the path's end would score
    in their place; nothing for paths without guesses.
    """
    if held_out.guesses is None:
        return {}
    still = (held_out.guesses - held_out.x[-1]).square().mean()
    return {
        "guesses": share(moving.error_of_guesses),
        "guesses_idle": share(idle.error_of_guesses),
        "guesses_still": share(still),
    }


@torch.no_grad()
def by_clock(model: HKD, held_out: Path, share) -> dict:
    """The same with one shift for all states in place of the evolution, a bare clock:
    for the errors the mean shift of A, for the centred residual the best there is.
    """
    T = model.clock.T
    times = model.clock.time(held_out.sigmas[:-1]).float().tolist()
    states = [model.encode(x, t)[0] for x, t in zip(held_out.x, times)]
    start = states[0]
    drift = lambda u: start + (model.evolve([start], T, u)[0] - start).mean(0)
    error = lambda u, wish: (model.decode([drift(u)]) - wish).square().mean()
    noisy = zip(times, held_out.x, held_out.sigmas)
    way = [error(t, unit_contrast(x, sigma[None])) for t, x, sigma in noisy]
    centred = [centred_gap(start + (z - start).mean(0), z) for z in states]
    return {
        "end_clock": share(error(model.clock.eps, held_out.x[-1])),
        "from_noise_clock": share(torch.stack(way)),
        "centred_clock": sum(centred).item() / (len(times) - 1),
    }


def trained(row: Row, data: Path) -> HKD:
    """The model of a row: from runs/ if it is there, else from scratch."""
    torch.manual_seed(row.seed)
    network = replace(NETWORK, state=row.dimension)
    model = HKD(
        HKDConfig(
            network,
            row.clock,
            row.encoder_time,
            koopman=row.koopman,
            readout=row.readout,
            rates=(0.0, row.rates),
        )
    ).eval()
    name = "-".join(str(value).replace(", ", "_") for value in row)
    file = CACHE / f"{name}.safetensors"
    if file.exists():
        model.load_state_dict(read_tensors(file)[0])
    elif row.iterations:
        asked = replace(
            OBJECTIVE,
            path_weight=row.path,
            guess_weight=row.guess,
            linear_weight=row.linear,
            infinitesimal_weight=row.infinitesimal,
            linear_scale=row.scale,
            detach_noisier=row.follow,
            later_only=row.later,
            lr_scale_A=row.lr_A,
        )
        recipe = replace(RECIPE, images=row.iterations * RECIPE.batch, seed=row.seed)
        for _ in train(model, PathsInMemory(data), recipe, asked):
            pass
        write_tensors(file, model.state_dict())
    return model


def keep(folder: pathlib.Path, data: Path, held_out: Path, objective: str) -> None:
    """What chapter 7 reads: the held-out paths, and the models of the long runs whose
    objective starts so.
    """
    if not objective:
        tensors = {"x": held_out.x, "sigmas": held_out.sigmas}
        remarks = {"nfe": str(held_out.nfe)}
        write_tensors(folder / "held-out.safetensors", tensors, remarks)
    for row in grid():
        long = row.iterations == LONG and row.seed == 0 and row.objective in KEPT
        if long and row.objective.startswith(objective):
            trained(row, data).save_pretrained(folder / KEPT[row.objective])


def main() -> None:
    ask = parser(__doc__)
    ask.add_argument(
        "objective", nargs="?", default="", help="only rows whose objective starts so"
    )
    ask.add_argument(
        "--keep", type=pathlib.Path, help="save the long runs' models below this folder"
    )
    options = ask.parse_args()
    torch.set_num_threads(1)
    data = kept_board_paths(PATHS, seed=1)
    held_out = kept_board_paths(HELD_OUT, seed=2)
    about = {
        "command": "python benchmarks/checkerboard.py",
        "device": device(),
        "teacher": "exact denoiser of 4096 points, 36 Heun steps, "
        f"{PATHS} paths, {HELD_OUT} held out",
        "recipe": asdict(RECIPE) | {"objective": asdict(OBJECTIVE)},
        "network": asdict(NETWORK),
    }
    fill(
        RESULTS,
        [r._asdict() for r in grid() if r.objective.startswith(options.objective)],
        lambda row: measure(trained(Row(**row), data), held_out),
        about,
        show=("end", "end_idle", "guesses", "guesses_idle", "residual", "centred"),
    )
    if options.keep:
        keep(options.keep, data, held_out, options.objective)


if __name__ == "__main__":
    main()
