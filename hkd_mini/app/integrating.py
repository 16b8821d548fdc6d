"""The command that follows a teacher: trajectories.

A teacher is whatever guesses the clean picture: one of ours by name or folder, one of
diffusers', a function of yours. Its paths from noise to picture are made once, in
shards, by one process or several. Chapters: 10 "Training", 19 "Your own pictures".
Source: HKD algorithm 1, line 1.
"""

from ..diffusion.own import Own
from ..engine.precision import checked
from ..hkd.make_paths import make
from .flags import AS_EDM, UNGUIDED, Guidance, Levels
from .machine import device, on_device, processes
from .zoo import load_teacher


def trajectories(
    teacher: str,
    n: int,
    out: str,
    times: int = 7,
    steps: int = 18,
    batch: int = 128,
    seed: int = 0,
    guesses: bool = True,
    no_class: float = 0.0,
    shape: tuple[int, ...] | None = None,
    precision: str = "auto",
    compile: bool = False,
    resume: bool = False,
    levels: Levels = AS_EDM,
    guide: Guidance = UNGUIDED,
) -> None:
    """Integrate the teacher's paths from noise to picture with Heun's method, and keep
    them.

    Example: hkd-mini trajectories --teacher runs/teacher --n 2000 --out runs/paths

    Args:
        teacher: bundled name or folder, a folder of diffusers', or module:function, a
            denoiser of yours (x, sigma) or (x, sigma, labels) -> guess of the clean x.
            Its noise levels are its attribute `noise`, or the flags below.
        n: number of paths.
        out: folder for the shards.
        times: points kept of each path, both ends included.
        steps: Heun steps (2 steps - 1 evaluations).
        batch: paths integrated at once.
        seed: seed of the noise.
        guesses: keep the teacher's guess at every kept point too, for --guess-weight:
            twice the disk, no further evaluation.
        no_class: share of the paths that are told no class, so that a student learns
            to go without; of a teacher that knows both.
        shape: shape of one x, for module:function without an attribute shape.
        precision: auto (bf16 where the device computes it natively, else fp32), bf16,
            tf32 or fp32, of the network; the path itself is summed in float32. Resumed,
            auto is what the run began with.
        compile: compile the network first (a minute, then up to 1.7 times faster).
        resume: keep the whole shards in --out and make the missing ones.
    """
    from tqdm import tqdm

    checked(precision)
    # before anything moves: it gives each process its GPU
    state = processes()
    found = load_teacher(teacher)
    if levels != AS_EDM and not isinstance(found, Own):
        raise ValueError(
            f"{teacher}: its noise levels are its own, no flags change them"
        )
    if isinstance(found, Own):
        found.noise = levels.apply(found.noise)
    denoiser = on_device(guide.apply(found), compile)
    config = getattr(denoiser, "config", None)
    if config is not None:
        shape = config.shape
    if shape is None:
        raise ValueError(f"{teacher}: a function; say --shape, that of one x")
    making = make(
        denoiser,
        shape,
        n,
        out,
        times=times,
        steps=steps,
        seed=seed,
        batch=batch,
        labels=getattr(config, "labels", 0),
        resume=resume,
        device=device(),
        precision=precision,
        guesses=guesses,
        no_class=no_class,
        share=(state.process_index, state.num_processes),
    )
    state.wait_for_everyone()  # all have seen the folder as it was
    with tqdm(
        total=n // state.num_processes, unit="path", disable=not state.is_main_process
    ) as bar:
        for done in making:
            bar.update(done - bar.n)
    if state.is_main_process:
        print(out)
