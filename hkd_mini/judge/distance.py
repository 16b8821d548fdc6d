"""How far a picture is from another one: the distance that students learn from.

d(a, b) = l1 MSE(a, b) + l2 P(a, b), where P compares the features that a fixed network
sees. The paper takes LPIPS for P and lets l1 fall from 1 to 1e-3 during training, so
that first the picture is placed, then its texture. LPIPS needs a trunk trained on
ImageNet, which is a download; offline a bundled CIFAR-10 classifier looks instead, and
what it sees is called a *feature distance*, since it is not LPIPS. It is not the
classifier that judges samples: a student is not its own examiner. Chapter: 10
"Training".
Source: HKD appendix D.4; LPIPS, Zhang et al. 2018.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..engine.mend import mend_torchvision
from ..engine.weights import resolve
from .classifier import Classifier

BUNDLED = "perceptual-cifar10"  # what students learn through
JUDGE = "features-cifar10"  # what samples are judged by, "cifar" for short
SECOND = "judge-cifar10"  # another judge, which no training sees; finds classes

GREY = 2 / 255  # one grey level on [-1, 1]


def bundled(name: str) -> str:
    """The folder or bundled name that `name` stands for: "cifar", short for the judge,
    has been the students' perceptual network too.
    """
    return JUDGE if name == "cifar" else name


def annealed(
    progress: float | Float[Tensor, ""], start: float = 1.0, end: float = 1e-3
) -> float | Float[Tensor, ""]:
    """l1 at a part `progress` (0 to 1) of the run: start (end / start)^progress.
    ValueError for a `start` or `end` that is not above 0.
    Source: HKD appendix D.4.
    """
    if not (start > 0 and end > 0):
        raise ValueError(f"start = {start}, end = {end}: both above 0")
    return start * (end / start) ** progress


class Distance(nn.Module):
    """d(a, b) = l1 MSE + l2 P, one value per picture, with l1 annealed; `perceptual` is
    P or None, and l3 = `texture` the weight of the texture distance, which is added to
    it. Without either l1 stays 1.

    forward(a, b (batch, *shape) in about [-1, 1], progress) -> (d (batch,), mse
    (batch,), perceptual (batch,)).
    """

    def __init__(
        self, perceptual: nn.Module | None, l2: float = 1.0, texture: float = 0.0
    ):
        super().__init__()
        self.perceptual = perceptual
        self.l2 = l2
        self.l3 = texture
        self.texture = TextureDistance() if texture else None
        self.requires_grad_(False).eval()

    @classmethod
    def of(cls, name: str, texture: float = 0.0) -> "Distance":
        """By name: a bundled classifier's ("perceptual-cifar10"; "cifar", the judge)
        or one's folder, offline; "alex", "vgg", "squeeze" (LPIPS, a download); "none".
        """
        if name == "none":
            return cls(None, texture=texture)
        try:
            folder = resolve(bundled(name))
        except FileNotFoundError:
            return cls(lpips(name), texture=texture)
        seen = FeatureDistance(Classifier.from_folder(folder))
        return cls(seen, texture=texture)

    def forward(
        self,
        a: Float[Tensor, "batch ..."],
        b: Float[Tensor, "batch ..."],
        progress: float | Float[Tensor, ""] = 1.0,
    ) -> tuple[
        Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]
    ]:
        mse = (a.float() - b.float()).square().flatten(1).mean(1)
        p = torch.zeros_like(mse)
        if self.perceptual is None and self.texture is None:
            return mse, mse, p
        if self.perceptual is not None:
            p = p + self.perceptual(a, b).flatten().float()
        if self.texture is not None:
            p = p + self.l3 * self.texture(a, b)
        return annealed(progress) * mse + self.l2 * p, mse, p


class FeatureDistance(nn.Module):
    """P(a, b) = mean over a classifier's stages and locations of |f(a) - f(b)|^2, f
    normalised over channels.

    LPIPS's formula with all channel weights equal, on a classifier of ours.
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
        gaps = [
            (unit(fa.float()) - unit(fb.float())).square().sum(1).mean((1, 2))
            for fa, fb in pairs
        ]
        return sum(gaps[1:], gaps[0]) / len(gaps)


class TextureDistance(nn.Module):
    """How strong every small wave is in every neighbourhood, and not where its crests
    are: the part of texture that squared errors wash out, as what is uncertain is best
    left smooth.

    The waves are the 15 of a 4x4 cosine transform, in brightness and two colour
    differences; s(a) is the root of their mean square over windows of 8x8 pixels, every
    4. forward(a, b (batch, 3, h, w) in [-1, 1], h and w at least 11) -> mean of (s(a) -
    s(b))^2 / (s(a)^2 + s(b)^2), (batch,), from 0, alike, to 1. What is weaker than a
    grey level counts for little. DISTS compares means of features in this form; the
    waves and windows are ours.
    Source: Ding et al. 2020 (DISTS).
    """

    filters: Tensor

    def __init__(self):
        super().__init__()
        k = torch.arange(4)
        rows = torch.cos(math.pi * k[:, None] * (k + 0.5) / 4)
        rows = rows / rows.norm(dim=1, keepdim=True)
        bank = torch.einsum("uh,vw->uvhw", rows, rows).flatten(0, 1)[1:]
        colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
        colours = colours / colours.norm(dim=1, keepdim=True)
        filters = torch.einsum("ic,khw->ikchw", colours, bank).flatten(0, 1)
        self.register_buffer("filters", filters, persistent=False)

    def strength(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, "batch waves rows columns"]:
        """s(x), of every wave in every window."""
        waves = F.conv2d(x.float(), self.filters).float().square()
        return (F.avg_pool2d(waves, 8, 4) + GREY**2).sqrt()

    def forward(
        self, a: Float[Tensor, "batch 3 h w"], b: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, " batch"]:
        sa = self.strength(a)
        sb = self.strength(b)
        return ((sa - sb).square() / (sa.square() + sb.square())).flatten(1).mean(1)


def unit(
    f: Float[Tensor, "batch c h w"], tiny: float = 1e-8
) -> Float[Tensor, "batch c h w"]:
    """Every location's vector of f at length 1; `tiny`, above 0, keeps a vector of 0 at
    0. ValueError for another.
    """
    if not tiny > 0:
        raise ValueError(f"tiny = {tiny}: above 0")
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
            f"trunk {trunk!r}: one of alex, vgg, squeeze (LPIPS), {BUNDLED} "
            "(bundled), none, or a classifier's folder"
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
            f'offline use "{BUNDLED}"'
        ) from error
