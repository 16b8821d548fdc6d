"""Every public function and every command with bad arguments.

A bad argument ends in ValueError, TypeError or OSError that says what is wrong, a
command in one line and status 2. Whatever else happens is a fault: another error, a
traceback, a call that does not return, a NaN that is accepted, or one that comes out.

`python fuzz.py --seed S --calls N` tries N of the calls there are, drawn by S, prints
the faults, and ends with status 1 if there are any. It is a program of its own,
so that nothing of pytest's (types checked by beartype, say) is between it and the user.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import math
import os
import pathlib
import random
import signal
import sys
import tempfile
import types
import typing
import warnings
from collections import Counter, abc

import numpy as np
import torch
from jaxtyping import AbstractArray

import hkd_mini
from hkd_mini.app import cli
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine.config import TrainConfig
from hkd_mini.engine.data import Images
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.make_paths import make
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.paths import PathsInMemory
from hkd_mini.hkd.spectra import band_masks, spectrum
from hkd_mini.judge.classifier import Classifier, ClassifierConfig
from hkd_mini.koopman import systems
from hkd_mini.koopman.autoencoder import KoopmanAutoencoder
from hkd_mini.koopman.dmd import dmd
from hkd_mini.koopman.stochastic import ornstein_uhlenbeck
from hkd_mini.onestep.kdm import KDM
from hkd_mini.onestep.kdm_config import KDMConfig

REFUSED = (ValueError, TypeError, OSError, ImportError)
NET = UNetConfig(resolution=8, channels=8, mult=(1, 2), blocks=1, attention=())
SECONDS = 10  # a call that takes longer does not return
# functions that act on the machine or fetch: they are tried by tests of their own
LEFT_OUT = {"fetch_cifar10", "inception_features", "imagenet_features", "guard", "main"}
LEFT_OUT |= {"fetch", "push"}


def torch_of(hint, rng):
    """A tensor that `hint` means."""
    shape = sizes(hint.dim_str, (3, 8, 8))
    kind = hint.dtype.__name__
    if kind.startswith("Int"):
        return torch.randint(0, 2, shape, generator=rng)
    if kind == "UInt8":
        return torch.randint(0, 255, shape, generator=rng).to(torch.uint8)
    if kind == "Bool":
        return torch.rand(shape, generator=rng) > 0.5
    x = torch.rand(shape, generator=rng) - 0.4
    return torch.complex(x, x) if kind == "Complex" else x


def numpy_of(hint, rng):
    """An array that `hint` means."""
    shape = sizes(hint.dim_str, (2,))
    kind = hint.dtype.__name__
    x = torch.randn(shape, generator=rng, dtype=torch.float64).numpy()
    if kind.startswith("Int"):
        return np.abs(x).astype(int)
    return x.astype(complex) if kind == "Complex" else x


def sizes(words, rest):
    """Lengths for a shape as jaxtyping writes it; `rest` stands for "..."."""
    named = {"batch": 2, "n": 2, "h": 8, "w": 8, "height": 8, "width": 8, "c": 3}
    named |= {"count": 9, "pairs": 2, "bands": 2, "d": 4, "dim": 4, "classes": 2}
    found = []
    for word in words.split():
        name = word.lstrip("#*_?").split("=")[-1]
        if word == "...":
            found += rest
        elif not word.startswith("*"):
            found.append(int(name) if name.isdigit() else named.get(name, 3))
    return tuple(found)


def world(folder):
    """What arguments are made of: by name of a parameter, or by its type."""
    for slow in ("accelerate", "torch._dynamo"):  # seconds, and no call of ours
        importlib.import_module(slow)
    torch.manual_seed(0)
    denoiser = Denoiser(NET).eval()
    model = HKD.from_teacher(denoiser)
    with torch.no_grad():
        for part in model.generators:
            part.A.normal_(generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 3, 8, 8, generator=rng)
    states = model.encode(80 * noise, model.clock.T)
    lams = spectrum(model)
    masks = band_masks(lams, 2)
    classifier = Classifier(ClassifierConfig((4, 4, 8)))
    images = Images(
        torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.zeros(8).long(), ("a",)
    )
    path = hkd_mini.diffusion.samplers.heun(
        denoiser, 80 * noise, denoiser.noise.sigmas(3)
    )
    x = np.random.default_rng(0).normal(size=(9, 2))
    fit = dmd(x, x @ np.array([[0.9, 0.1], [0.0, 0.5]]))
    for name, it in {"teacher": denoiser, "hkd": model, "features": classifier}.items():
        it.save_pretrained(folder / name)
    list(make(denoiser, (3, 8, 8), 4, folder / "paths", times=3, steps=3))
    named = {
        "model": model,
        "denoiser": denoiser,
        "teacher": denoiser,
        "student": denoiser,
        "states": states,
        "reference": states,
        "masks": masks,
        "eigenvalues": lams,
        "moved": states,
        "wish": states,
        "near": states,
        "noise": noise,
        "labels": None,
        "sigmas": path.sigmas,
        "times": torch.tensor([0.5, 1.0]),
        "t": 0.5,
        "s": 0.2,
        "u": torch.tensor([0.3, 0.6]),
        "sigma": 1.0,
        "loop.fit.batch": lambda step, share: {"x": noise[share]},
        "loop.fit.loss": lambda model, progress, x: {"loss": model(x, 1.0).mean()},
        "sigma_u": torch.tensor([0.5, 1.0]),
        "key": "alpha",
        "trajectories": PathsInMemory(path),
        "paths": PathsInMemory(path),
        "path": path,
        "images": images,
        "data": images,
        "config": TrainConfig(images=8, batch=2, precision="fp32"),
        "n": 3,
        "k": 2,
        "fit": fit,
        "system": systems.spiral(),
        "process": ornstein_uhlenbeck(),
        "seed": 0,
        "steps": 3,
        "rank": None,
        "dt": 0.5,
        "folder": str(folder / "hkd"),
        "out": str(folder / "new"),
        "name": str(folder / "hkd"),
        "method": "KD",
        "classifier": classifier,
        "dictionary": lambda x: x,
        "observable": lambda x: x[..., 0],
        "box": (-1.0, 1.0),
        "bands": 2,
        "groups": None,
        "put_back": lambda x: x,
        "device": "cpu",
        "precision": "fp32",
        "spans": torch.tensor([0.0, 0.5]),
        "known": torch.ones(8, 8),
        "region": None,
        "ratio": 0.5,
        "low": 0.2,
        "high": 0.7,
        "shape": (3, 8, 8),
        "progress": 0.5,
        "kind": HKDConfig,
        "values": {},
        "edges": (0, 1.5, 4),
        "alphas_cumprod": torch.linspace(0.99, 0.01, 9),
    }
    typed = {
        HKD: model,
        Denoiser: denoiser,
        Classifier: classifier,
        KDM: KDM(KDMConfig(MLPConfig())),
        TrainConfig: named["config"],
        UNetConfig: NET,
        HKDConfig: model.config,
        KDMConfig: KDMConfig(MLPConfig()),
        torch.Generator: rng,
        Images: images,
        np.random.Generator: np.random.default_rng(0),
        torch.nn.Module: denoiser,
        KoopmanAutoencoder: KoopmanAutoencoder(2, 4),
        ClassifierConfig: ClassifierConfig(),
        torch.device: torch.device("cpu"),
        hkd_mini.engine.data.Images: images,
    }
    return named, typed, rng


def good(name, hint, default, things):
    """An argument that does: as named, as typed, as default, as annotated."""
    named, typed, rng = things
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    for option in options:
        if inspect.isclass(option) and issubclass(option, AbstractArray):
            given = named.get(name)
            if isinstance(given, torch.Tensor | np.ndarray) and isinstance(
                given, option
            ):
                return given
            torches = issubclass(option.array_type, torch.Tensor)
            return (torch_of if torches else numpy_of)(option, rng)
        with contextlib.suppress(TypeError):
            if option in typed:
                return typed[option]
    if name in named:
        return named[name]
    if default is not inspect.Parameter.empty:
        return default
    for option in options:
        if option in (int, float, str, bool):
            return {int: 2, float: 0.5, str: "x", bool: False}[option]
        if option is torch.Tensor:
            return torch.rand(2, 3, 8, 8, generator=rng)
        if typing.get_origin(option) in (list, abc.Sequence, abc.Iterable):
            return [good("", typing.get_args(option)[0], default, things)]
        if typing.get_origin(option) is abc.Callable or option is abc.Callable:
            return lambda *given, **_: given[0]
    return None


def is_union(hint):
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def bad(hint, value):
    """Values that `hint` does not mean, or that no function can use."""
    options = typing.get_args(hint) if is_union(hint) else (hint,)
    found = [] if type(None) in options or hint is typing.Any else [None]
    for option in options:
        array = inspect.isclass(option) and issubclass(option, AbstractArray)
        if array or option in (torch.Tensor, np.ndarray):
            found += bad_arrays(value)
        elif option is int:
            found += [-1, 2.5, "x", math.nan, 1 << 80, [1]]
        elif option is float:
            found += [math.nan, math.inf, "x", 1j, [1.0], -1.0]
        elif option is str:
            found += ["nonsense", 3, ["x"], "\0"]
        elif typing.get_origin(option) in (list, abc.Sequence):
            found += [3, "x", [None], [math.nan]]
            if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
                found += [
                    value[:-1],
                    [v * math.nan for v in value],
                    [v[:, :1] for v in value],
                ]
        elif typing.get_origin(option) is abc.Callable or option is abc.Callable:
            found += [3, "x"]
        elif inspect.isclass(option) and option not in (bool, type(None), object):
            found += [3, "x", object()]
    return found


def bad_arrays(value):
    """What is no array, and arrays of another shape, type, or without a number."""
    found = ["x", [["x"]], {}, 1j]
    if not isinstance(value, torch.Tensor | np.ndarray):
        return found
    more = value[None, None, None]
    found += [
        more,
        value.astype(complex)
        if isinstance(value, np.ndarray)
        else value.to(torch.complex64),
    ]
    if value.dtype in (torch.float32, torch.float64, np.float64):
        found += [value * math.nan, value * 0 + math.inf]
    if value.ndim:
        found += [
            value[..., :0],
            value[:1][:, ...].reshape(-1)[:1],
            np.array(["x"]),
            value[:-1],
        ]
    return found


def functions():
    """(title, function, object or None) of all that is public."""
    for info in sorted(pathlib.Path(hkd_mini.__file__).parent.glob("*/*.py")):
        module = importlib.import_module(f"hkd_mini.{info.parent.name}.{info.stem}")
        if info.stem in ("border", "checks"):
            continue
        if info.parent.name == "app" and info.stem not in ("evaluation", "zoo"):
            continue
        for name, found in sorted(vars(module).items()):
            mine = getattr(found, "__module__", "") == module.__name__
            if name.startswith("_") or not mine or name in LEFT_OUT:
                continue
            if inspect.isfunction(found):
                yield f"{info.stem}.{name}", found, None
            elif inspect.isclass(found) and not issubclass(
                found, BaseException | typing.Protocol
            ):
                if not issubclass(found, tuple):
                    yield f"{info.stem}.{name}", found, None
                for method in sorted(vars(found)):
                    it = inspect.getattr_static(found, method)
                    if inspect.isfunction(it) and not method.startswith("_"):
                        yield f"{info.stem}.{name}.{method}", it, found


def calls(things):
    """Title, function, good arguments, a name and a bad value of it: all there are."""
    for title, function, owner in functions():
        target = function.__init__ if inspect.isclass(function) else function
        hints = typing.get_type_hints(inspect.unwrap(target))
        given = {}
        names = []
        for name, parameter in inspect.signature(target).parameters.items():
            if name in ("self", "cls"):
                if owner is not None:
                    given[name] = things[1].get(owner)
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            hint = hints.get(name, typing.Any)
            special = things[0].get(f"{title}.{name}")
            given[name] = special or good(name, hint, parameter.default, things)
            names.append((name, hint))
        if owner is not None and given.get("self") is None:
            continue
        for name, hint in names:
            for value in bad(hint, given[name]):
                yield title, function, given, name, value


def finite(result):
    """Whether all numbers of a result are."""
    if isinstance(result, torch.Tensor | np.ndarray):
        x = torch.as_tensor(result) if result.dtype != object else torch.zeros(1)
        return bool(x.isfinite().all())
    if isinstance(result, float | complex):
        return bool(np.isfinite(result))
    if isinstance(result, list | tuple):
        return all(map(finite, result))
    return True


def has_none(value):
    """Whether a value is no finite number, or holds one that is none."""
    with contextlib.suppress(TypeError, ValueError):
        return not finite(value)
    return False


class Hangs(BaseException):
    """A call that does not return."""


def hang(*_):
    raise Hangs


def run(function, given, name, value):
    """What a call ends in: "refused", "accepted", or a fault in words."""
    arguments = {**given, name: value}
    positional = [arguments.pop("self")] if "self" in arguments else []
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        result = function(*positional, **arguments)
        if isinstance(result, types.GeneratorType):
            result = next(result, None)
    except REFUSED as error:
        return "refused" if len(str(error)) > 8 else f"says nothing: {error!r}"
    except Hangs:
        return f"does not return in {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if has_none(value):
        return "accepted what is not finite"
    if not finite(result):
        return "gave what is not finite"
    return "accepted"


@contextlib.contextmanager
def chdir(folder):
    """The working directory for a while (contextlib's own is of Python 3.11)."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def words(folder):
    """(command, flags) with one flag wrong."""
    few = ["--images", "4", "--batch", "2", "--no-compile"]
    hkd, teacher, paths = (str(folder / n) for n in ("hkd", "teacher", "paths"))
    flags = {
        "sample": {
            "--weights": hkd,
            "--n": "2",
            "--out": "x.npy",
            "--seed": "0",
            "--steps": "2",
        },
        "evaluate": {
            "--weights": hkd,
            "--n": "3",
            "--features": "cifar",
            "--real": "3",
            "--data": str(folder),
        },
        "data": {"": "cifar10", "--root": str(folder / "nothing")},
        "features": {"--data": str(folder), "--out": "f"},
        "teacher": {
            "--preset": "toy2d",
            "--data": "spiral",
            "--out": "t",
            "--drop-labels": "0",
        },
        "trajectories": {
            "--teacher": teacher,
            "--n": "2",
            "--steps": "2",
            "--times": "2",
            "--batch": "2",
            "--seed": "0",
            "--no-class": "0",
            "--out": "p",
            "--guidance": "1",
        },
        "distill": {
            "--preset": "cifar10-tiny",
            "--teacher": teacher,
            "--trajectories": paths,
            "--out": "d",
            "--clock": "rho",
            "--pairs": "2",
            "--lr-scale-A": "1",
        },
        "onestep": {
            "--method": "KD",
            "--teacher": teacher,
            "--trajectories": paths,
            "--out": "o",
            "--perceptual": "none",
        },
    }
    train = {
        "--lr": "1e-3",
        "--clip": "1",
        "--ema-halflife": "9",
        "--precision": "fp32",
    }
    for command in ("teacher", "distill", "onestep"):
        flags[command] |= train
    values = (
        "",
        "-1",
        "nan",
        "inf",
        "x",
        "1e99",
        "/dev/null/x",
        str(folder),
        "2.5",
        "[",
    )
    for command, given in flags.items():
        for flag in given:
            for value in values:
                wrong = given | {flag: value}
                line = [command]
                for name, word in wrong.items():
                    line += [word] if name == "" else [f"{name}={word}"]
                yield line + (
                    few if command in ("teacher", "distill", "onestep") else []
                )


def command(line):
    """What a command ends in."""
    said = io.StringIO()
    signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(said),
        ):
            cli.main(line)
    except SystemExit as end:
        if end.code not in (0, 2):
            return f"status {end.code}"
        return "refused" if said.getvalue().strip() else "says nothing"
    except Hangs:
        return "does not return"
    except Exception as error:
        return f"traceback of {type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "accepted"


def some(of, count, rng):
    """`count` of a list, in its order; all for 0."""
    if count >= len(of):
        return of
    return [of[i] for i in sorted(rng.sample(range(len(of)), count))]


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--calls", type=int, default=1000)
    parse.add_argument("--commands", type=int, default=60)
    parse.add_argument("--only", default="", help="titles that hold this")
    parse.add_argument("--accepted", action="store_true", help="show these too")
    asked = parse.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, hang)
    rng = random.Random(asked.seed)
    counts = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as name, chdir(name):
        folder = pathlib.Path(name)
        things = world(folder)
        everything = [c for c in calls(things) if asked.only in c[0]]
        for title, function, given, argument, value in some(
            everything, asked.calls, rng
        ):
            with contextlib.redirect_stdout(io.StringIO()):
                end = run(function, given, argument, value)
            counts[end if end in ("refused", "accepted") else "fault"] += 1
            if (
                end == "accepted"
                and asked.accepted
                or end not in ("refused", "accepted")
            ):
                shown = hkd_mini.engine.checks.described(value)
                faults.append(f"{title}({argument} = {shown}): {end}")
        for i, line in enumerate(some(list(words(folder)), asked.commands, rng)):
            # what one command has written, the next shall not find
            own = folder / f"command-{i}"
            own.mkdir()
            with chdir(own):
                end = command(line)
            counts[
                f"commands {end if end in ('refused', 'accepted') else 'fault'}"
            ] += 1
            if end not in ("refused", "accepted"):
                faults.append(f"hkd-mini {' '.join(line)}: {end}")
    print(*faults, sep="\n")
    print(len(everything), "calls there are;", dict(counts))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
