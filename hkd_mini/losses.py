"""How far a decoded picture is from the end of its path, and the loss that HKD
minimises.

d(a, b) = l1 MSE(a, b) + l2 P(a, b), where P compares the features that a fixed network
sees. The paper takes LPIPS for P and lets l1 fall from 1 to 1e-3 during training, so
that first the picture is placed, then its texture. LPIPS needs a trunk trained on
ImageNet, which is a download; offline the bundled CIFAR-10 classifier looks instead,
and what it sees is called a *feature distance*, since it is not LPIPS. The loss is a
mean over T and s - 1 other times of the path. Three terms that the paper does not have
make A do the work; they are off unless they get a weight. Chapters: 7 "One step on a
checkerboard", 10 "Training".
Source: HKD eq 6 and appendix D.4; LPIPS, Zhang et al. 2018.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .classifier import Classifier
from .schedule import SIGMA_DATA
from .teacher import expand
from .weights import CONFIG, resolve

FEATURES = "features-cifar10"


def annealed(progress: float, start: float = 1.0, end: float = 1e-3) -> float:
    """l1 at a part `progress` (0 to 1) of the run: start (end / start)^progress.
    Source: HKD appendix D.4.
    """
    return start * (end / start) ** progress


class Distance(nn.Module):
    """d(a, b) = l1 MSE + l2 P, one value per picture, with l1 annealed; `perceptual` is
    P or None (then l1 stays 1).

    forward(a, b (batch, *shape) in about [-1, 1], progress) -> (d (batch,), mse
    (batch,), perceptual (batch,)).
    """

    def __init__(self, perceptual: nn.Module | None, l2: float = 1.0):
        super().__init__()
        self.perceptual = perceptual
        self.l2 = l2
        self.requires_grad_(False).eval()

    @classmethod
    def of(cls, name: str) -> "Distance":
        """By name: "cifar" (bundled, offline), a classifier's folder, "alex", "vgg",
        "squeeze" (LPIPS, a download), "none".
        """
        if name == "none":
            return cls(None)
        folder = resolve(FEATURES) if name == "cifar" else pathlib.Path(name)
        return cls(
            FeatureDistance(Classifier.from_folder(folder))
            if (folder / CONFIG).is_file()
            else lpips(name)
        )

    def forward(
        self,
        a: Float[Tensor, "batch ..."],
        b: Float[Tensor, "batch ..."],
        progress: float = 1.0,
    ) -> tuple[
        Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]
    ]:
        mse = (a.float() - b.float()).square().flatten(1).mean(1)
        if self.perceptual is None:
            return mse, mse, torch.zeros_like(mse)
        p = self.perceptual(a, b).flatten().float()
        return annealed(progress) * mse + self.l2 * p, mse, p


class FeatureDistance(nn.Module):
    """P(a, b) = mean over a classifier's stages and locations of |f(a) - f(b)|^2, f
    normalised over channels.

    LPIPS's formula with all channel weights equal, on the bundled classifier.
    Source: Zhang et al. 2018, eq 1.
    """

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier.requires_grad_(False).eval()

    def forward(
        self, a: Float[Tensor, "batch 3 h w"], b: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, " batch"]:
        with torch.no_grad():
            seen = self.classifier.features(b)
        pairs = zip(self.classifier.features(a), seen, strict=True)
        return sum(
            (unit(fa.float()) - unit(fb.float())).square().sum(1).mean((1, 2))
            for fa, fb in pairs
        ) / len(seen)


def unit(
    f: Float[Tensor, "batch c h w"], tiny: float = 1e-8
) -> Float[Tensor, "batch c h w"]:
    """Every location's feature vector at length 1."""
    return f * (f.square().sum(1, keepdim=True) + tiny).rsqrt()


def lpips(trunk: str) -> nn.Module:
    """LPIPS by its authors' package: trunk "alex", "vgg" or "squeeze"; (a, b) in [-1,
    1] -> (batch, 1, 1, 1).

    Raises ValueError for another trunk, ImportError without the package,
    ConnectionError when the trunk's ImageNet weights are not in torch's cache and
    cannot be downloaded.
    """
    if trunk not in ("alex", "vgg", "squeeze"):
        raise ValueError(
            f"trunk {trunk!r}: one of alex, vgg, squeeze (LPIPS), cifar (bundled), "
            "none, or a classifier's folder"
        )
    mend_torchvision()
    import urllib.error

    try:
        import lpips as package
    except ImportError as error:
        raise ImportError(
            'LPIPS needs its package: pip install "hkd-mini[train]"'
        ) from error
    try:
        return package.LPIPS(net=trunk, verbose=False).requires_grad_(False)
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(
            f"the ImageNet weights of {trunk} could not be downloaded ({error}); "
            'offline use "cifar"'
        ) from error


def mend_torchvision() -> None:
    """Let PyPI's torchvision import beside a CPU build of torch.

    Its compiled operators do not load there, and the import dies on two schemas that
    nobody declared; declaring them is enough, since LPIPS never calls them. Does
    nothing where they exist.
    """
    import importlib.util

    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # kept: a collected library takes its schemas along
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define(
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
        mend_torchvision.library = library


class Weights(NamedTuple):
    """What the terms beside the paper's weigh in `hkd_loss`; at 0, the paper's case, a
    term is not computed. `follow` as in `linearity`.
    """

    path: float = 0.0
    linear: float = 0.0
    infinitesimal: float = 0.0
    follow: bool = True


def unit_contrast(
    x: Float[Tensor, "batch ..."], sigma: Float[Tensor, "#batch"]
) -> Float[Tensor, "batch ..."]:
    """sigma_data x / sqrt(sigma_data^2 + sigma^2): x at level sigma with the deviation
    of a picture, x itself at 0.

    What path decoding asks for: noise at sigma_max is 160 times a picture, and no
    squared error would see the picture.
    """
    level = expand(sigma, x)
    return SIGMA_DATA * x / (SIGMA_DATA**2 + level**2).sqrt()


def path_decoding(
    model: nn.Module,
    states: list[Tensor],
    t: Float[Tensor, "#batch"],
    x_u: Float[Tensor, "batch ..."],
    sigma_u: Float[Tensor, "#batch"],
    labels: Tensor | None = None,
) -> Float[Tensor, " batch"]:
    """Mean square of decode(e^{A (u - t)} encode(x_t)) less x_u at unit contrast,
    another point x_u of the same path.

    The decoder is told the last noise level whatever u is, so the states have to move,
    and only A can move them: with A = 0 the same picture would have to be every point
    of the path. A square at constant weight, without the features of `Distance`: those
    of noise mean nothing. Ours; not in the paper. Chapter 7.
    """
    image = model.decode(model.evolve(states, t, model.clock.time(sigma_u)), labels)
    return (image - unit_contrast(x_u.float(), sigma_u)).square().flatten(1).mean(1)


def linearity(
    model: nn.Module,
    states: list[Tensor],
    t: Tensor,
    wish: list[Tensor],
    u: Tensor,
    follow: bool = True,
) -> Float[Tensor, " batch"]:
    """|e^{A (u - t)} z_t - z_u|^2 / |z_u|^2, a mean over operators: do encoded states
    lie on one linear path?

    states = encode(x_t), wish = encode(x_u). With `follow` each pair is taken from the
    picture towards the noise and the noisier state is a fixed target: the encoder near
    the picture follows, and the lift of the noise, which has to be steep where paths
    part, is left to the decoder's needs. Without, both ends give way, and the lift of
    the noise goes soft. The size below the line is detached in any case, so that
    growing it does not pay. An encoder that is constant along paths satisfies this with
    A = 0.
    Source: HKD section 3.2, in words; the rest is ours. Chapter 7.
    """
    if follow:
        pairs = [_towards_noise(z, y, u > t) for z, y in zip(states, wish, strict=True)]
        states = [z for z, _ in pairs]
        wish = [y.detach() for _, y in pairs]
        t, u = torch.minimum(t, u), torch.maximum(t, u)
    return _gap(model.evolve(states, t, u), wish)


def infinitesimal(
    model: nn.Module,
    states: list[Tensor],
    t: Tensor,
    near: list[Tensor],
    u: Tensor,
    follow: bool = True,
) -> Float[Tensor, " batch"]:
    """|(e^{A (t - u)} z_u - z_t) / (t - u)|^2 / |z_t|^2 for a neighbour u of t: is d/dt
    encode(x_t) = A z_t?

    As u approaches t the quotient becomes dz/dt - A z, the Lie derivative of the
    observables along the flow less what A says of it. It is 0 for exactly linear states
    however far the neighbour is, and needs nothing of the teacher but the stored path.
    `follow` as in `linearity`.
    Source: generator consistency, Turan et al. 2025, where the derivative is an exact
    Jacobian-vector product. Chapter 7.
    """
    return linearity(model, near, u, states, t, follow) / (t - u) ** 2


def _towards_noise(z: Tensor, y: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The pair with its noisier state second; `up` (batch,) says that it is so
    already.
    """
    up = expand(up, z).bool()
    return torch.where(up, z, y), torch.where(up, y, z)


def _gap(states: list[Tensor], wish: list[Tensor]) -> Float[Tensor, " batch"]:
    gaps = [
        _squared(y - z) / _squared(z.detach())
        for y, z in zip(states, wish, strict=True)
    ]
    return sum(gaps) / len(gaps)


def _squared(z: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    return z.float().square().flatten(1).sum(1)


def hkd_loss(
    model: nn.Module,
    distance: Callable,
    x: Float[Tensor, "batch s ..."],
    sigma: Float[Tensor, "batch s"],
    end: Float[Tensor, "batch ..."],
    progress: float = 1.0,
    labels: Tensor | None = None,
    weights: Weights = Weights(),  # noqa: B008, a tuple
    **further: Tensor,
) -> dict[str, Tensor]:
    """Trajectory consistency and reconstruction in one mean: d(decode(e^{A (eps - t)}
    encode(x_t)), x_eps) over s times.

    x[:, k] is the path at level sigma[:, k], with k = 0 at T (reconstruction) and the
    rest anywhere (consistency); `end` is the path's end. Times are folded into the
    batch. `weights` adds terms that are not the paper's; path decoding and linearity
    want x_u, sigma_u (batch, s), any other point of the path for each x, the
    infinitesimal one x_near, sigma_near, a neighbour. Returns scalars: loss, mse,
    perceptual, mse_T, and one for each added term.
    Source: HKD eq 6, algorithm 1.
    """
    s = x.shape[1]
    t = model.clock.time(sigma.flatten())
    repeat = lambda v: None if v is None else v.repeat_interleave(s, dim=0)
    states = model.encode(x.flatten(0, 1), t, repeat(labels))
    image = model.decode(model.evolve(states, t, model.clock.eps), repeat(labels))
    d, mse, p = distance(image, repeat(end), progress)
    terms = {
        "loss": d.mean(),
        "mse": mse.mean(),
        "perceptual": p.mean(),
        "mse_T": mse.view(-1, s)[:, 0].mean(),
    }
    there = lambda name: (
        further[f"x_{name}"].flatten(0, 1),
        further[f"sigma_{name}"].flatten(),
    )
    added = {}
    if weights.path:
        added["path"] = path_decoding(model, states, t, *there("u"), repeat(labels))
    for name, term, place in (
        ("linear", linearity, "u"),
        ("infinitesimal", infinitesimal, "near"),
    ):
        if getattr(weights, name):
            x_u = there(place)[0]
            u = model.clock.time(there(place)[1])
            added[name] = term(
                model,
                states,
                t,
                model.encode(x_u, u, repeat(labels)),
                u,
                weights.follow,
            )
    added = {name: term.mean() for name, term in added.items()}
    terms["loss"] = sum(
        (getattr(weights, name) * term for name, term in added.items()), terms["loss"]
    )
    return terms | added
