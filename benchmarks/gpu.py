"""What a GPU has to do as the processor does, and how fast it does it.

    python benchmarks/gpu.py                        # on a CUDA device
    python benchmarks/gpu.py --device cpu --small   # the rehearsal: no GPU, a minute

First the checks, each against the processor in float32: gradients of a training step,
compilation, bfloat16, a run that is stopped and resumed with dropout's random numbers
in its checkpoint, and sampling; then the tests marked `gpu`. Then the measures:
pictures a second in training the teacher and HKD, evaluations a second in sampling, and
the share that training takes of the device's own rate of matrix products. What is
slower than the time that is left is skipped, and said. The last line is one JSON
object; the exit status is 1 when a check failed.
"""

import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from common import parser, seconds, today
from training import distilled, operations, plain, product_rate

import hkd_mini
from hkd_mini.app.evaluation import draw
from hkd_mini.diffusion.teacher import Denoiser, edm_loss
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import rng_at
from hkd_mini.engine.loop import fit
from hkd_mini.engine.precision import choose, computing
from hkd_mini.engine.run import compile_parts
from hkd_mini.hkd.config import PRESETS, HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.objective import hkd_loss
from hkd_mini.judge.distance import Distance

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 480
SMALL = UNetConfig(
    channels=32,
    mult=(1, 2),
    blocks=1,
    attention=(8,),
    patch=2,
    dropout=0.1,
    adaptive_scale=True,
)


def student() -> HKD:
    """A small HKD whose generators move, the same on every machine."""
    torch.manual_seed(0)
    model = HKD(HKDConfig(SMALL))
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.05)
    return model.eval()  # without dropout: both devices have their own random numbers


def gradients(model: HKD, device: str, precision: str) -> tuple[float, torch.Tensor]:
    """HKD's loss on four paths, and all gradients in one vector, on the processor."""
    rng = rng_at(0, 1)
    end = 0.5 * torch.randn(4, *SMALL.shape, generator=rng)
    sigma = torch.tensor([[80.0, 1.0]]).repeat(4, 1)
    noise = torch.randn(4, 2, *SMALL.shape, generator=rng)
    x = end[:, None] + sigma[:, :, None, None, None] * noise
    model = copy.deepcopy(model).to(device)
    there = [part.to(device) for part in (x, sigma, end)]
    with computing(precision, device):
        loss = hkd_loss(model, Distance.of("none"), *there, progress=0.5)["loss"]
    loss.backward()
    found = [
        part.grad.flatten() for part in model.parameters() if part.grad is not None
    ]
    return loss.item(), torch.cat(found).cpu()


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| over |b|."""
    return float((a.float() - b.float()).norm() / b.float().norm())


def check_training_step(device: str) -> float:
    """Relative error of the gradients in float32; 1e-3 at most."""
    model = student()
    loss, there = gradients(model, device, "fp32")
    wish, here = gradients(model, "cpu", "fp32")
    assert abs(loss / wish - 1) < 1e-4, (loss, wish)
    assert apart(there, here) < 1e-3, apart(there, here)
    return apart(there, here)


def check_bf16(device: str) -> float:
    """Relative error of the gradients in bfloat16: rounding, and no more."""
    model = student()
    loss, there = gradients(model, device, "bf16")
    wish, here = gradients(model, "cpu", "fp32")
    assert there.isfinite().all() and abs(loss / wish - 1) < 0.05, (loss, wish)
    assert 0 < apart(there, here) < 0.2, apart(there, here)
    return apart(there, here)


def check_compiled(device: str) -> float:
    """Relative error of compiled sampling against the same without."""
    model = student().to(device)
    noise = torch.randn(3, *SMALL.shape, generator=rng_at(0, 2)).to(device)
    with computing("fp32", device):
        wish = model.sample(noise)
        compile_parts(model)
        found = model.sample(noise)
    assert apart(found.cpu(), wish.cpu()) < 1e-3, apart(found.cpu(), wish.cpu())
    return apart(found.cpu(), wish.cpu())


def check_resumed(device: str) -> float:
    """Relative difference of weights: ten steps, and four and six with a stop between.
    Dropout draws from the device's random numbers, so they must be in the checkpoint.
    """
    config = TrainConfig(
        images=40, batch=4, warmup=0, checkpoint=4, precision="fp32", seed=5
    )

    def batch(step: int, share: slice) -> dict[str, torch.Tensor]:
        rng = rng_at(config.seed, step)
        x0 = 0.5 * torch.randn(4, *SMALL.shape, generator=rng)
        noise = torch.randn(4, *SMALL.shape, generator=rng)
        return {"x0": x0, "noise": noise, "sigma": torch.full((4,), 0.7)}

    def loss(model, progress, **given):
        return {"loss": edm_loss(model, **given)}

    def trained(out: str, stop: int | None = None, resume: bool = False):
        torch.manual_seed(0)
        model = Denoiser(SMALL)
        torch.manual_seed(0 if not resume else 99)  # a new process's numbers are others
        for step in fit(model, batch, loss, config, out, resume):
            if step.step == stop:
                break
        return torch.cat([part.detach().flatten() for part in model.parameters()]).cpu()

    with tempfile.TemporaryDirectory() as folder:
        whole = trained(f"{folder}/whole")
        trained(f"{folder}/stopped", stop=4)
        resumed = trained(f"{folder}/stopped", resume=True)
    assert apart(resumed, whole) < 1e-4, apart(resumed, whole)
    return apart(resumed, whole)


def check_sampling(device: str) -> float:
    """Greatest difference of a picture's number from 0 to 255, one step and a path."""
    worst = 0
    for name in ("hkd-cifar10", "teacher-cifar10-tiny"):
        here = draw(hkd_mini.load(name), 4, 0, steps=8, precision="fp32")
        there = draw(hkd_mini.load(name).to(device), 4, 0, steps=8, precision="fp32")
        worst = max(worst, int((here.int() - there.int()).abs().max()))
    assert worst <= 1, worst
    return worst


CHECKS = {
    "gradients": check_training_step,
    "bf16": check_bf16,
    "compiled": check_compiled,
    "resumed": check_resumed,
    "sampling": check_sampling,
}


def marked_tests() -> str:
    """The tests that want a GPU: what pytest's last line says."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]


def seconds_a_step(run, given: dict, device: str) -> float:
    """The median of eight steps, after three that do not count."""
    took = [seconds(lambda s=s: run.step(s, given), device) for s in range(11)]
    return sorted(took[3:])[4]


def training(preset: str, batch: int, device: str, config: TrainConfig, most: float):
    """Images a second of both kinds of training, and their share of `most`."""
    wish = PRESETS[preset]
    rows = {}
    for name, (run, given) in {
        "teacher": plain(wish.network, config),
        "HKD": distilled(wish, config),
    }.items():
        rate = batch / seconds_a_step(run, given, device)
        share = operations(run, given) * rate / most
        rows[name] = {"images_per_second": round(rate, 1), "share": round(share, 3)}
    return rows


def sampling(preset: str, batch: int, device: str, precision: str, compiled: bool):
    """Network evaluations a second of an HKD's one step."""
    model = HKD(PRESETS[preset]).eval().to(device, memory_format=torch.channels_last)
    if compiled:
        compile_parts(model)
    noise = torch.randn(batch, *model.config.network.shape, device=device)
    with computing(precision, device):
        model.sample(noise)
        took = [seconds(lambda: model.sample(noise), device) for _ in range(5)]
    return round(batch / sorted(took)[2], 1)


def main(arguments=None) -> None:
    ask = parser(__doc__)
    ask.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    ask.add_argument("--small", action="store_true", help="the smallest of all")
    ask.add_argument("--seconds", type=float, default=SECONDS, help="time to keep to")
    ask.add_argument("--out", help="file for the JSON object, too")
    args = ask.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here: rehearse with --device cpu --small")
    began = time.monotonic()
    precision = choose("auto", args.device)
    gpu = args.device == "cuda"
    found = {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "torch": torch.__version__,
        "date": today(),
        "precision": precision,
        "checks": {},
    }
    for name, check in CHECKS.items():
        try:
            found["checks"][name] = {"passed": True, "off": check(args.device)}
        except Exception as error:  # whatever it is, the other checks have their say
            told = f"{type(error).__name__}: {error}"[:300]
            found["checks"][name] = {"passed": False, "error": told}
        print(f"{name:12}", found["checks"][name], flush=True)
    if gpu:
        found["marked"] = marked_tests()
        print("marked gpu:", found["marked"], flush=True)

    found["products"] = product_rate(
        args.device, 512 if args.small else 8192, precision, repeats=10
    )
    print(f"matrix products: {found['products'] / 1e12:.2f} Tflop/s", flush=True)
    sizes = {"cifar10-tiny": 4} if args.small else {"cifar10-mini": 512, "cifar10": 256}
    found["training"] = {}
    found["sampling"] = {}
    for preset, batch in sizes.items():
        if time.monotonic() - began > args.seconds * 0.7:
            print(f"{preset}: skipped, the time is up", flush=True)
            continue
        config = TrainConfig(
            batch=batch, compile=not args.small, images=10**9, warmup=0
        )
        rows = training(preset, batch, args.device, config, found["products"])
        found["training"][preset] = rows
        rate = sampling(preset, batch, args.device, precision, not args.small)
        found["sampling"][preset] = {"evaluations_per_second": rate}
        print(preset, rows, found["sampling"][preset], flush=True)
    found["seconds"] = round(time.monotonic() - began, 1)
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    failed = [name for name, row in found["checks"].items() if not row["passed"]]
    sys.exit(bool(failed) or "failed" in found.get("marked", ""))


if __name__ == "__main__":
    if "cpu" in sys.argv:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    main()
