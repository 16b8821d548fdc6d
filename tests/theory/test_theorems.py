"""Chapter 12's statements, on examples of their own: blocks for dense generators,
logarithms, Jordan blocks, decoders that cannot separate states, the error of a lift,
pieces of ReLU networks, steepness, and spectra that no loss sees.

Nothing is shared with the notebook: matrices, batches and systems are others, and the
constructions are written anew.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm, logm
from scipy.special import ndtr, ndtri
from scipy.stats import ortho_group

from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD
from hkd_mini.hkd.probe import koopman_residual
from hkd_mini.koopman.generator import KoopmanGenerator


def non_normal(rates, seed=0, shear=3.0):
    """A real matrix with the given rates (complex ones stand for their pair) and skewed
    eigenvectors.
    """
    parts = [
        np.array([[r.real, r.imag], [-r.imag, r.real]])
        if r.imag
        else np.array([[r.real]])
        for r in rates
    ]
    size = sum(len(part) for part in parts)
    D = np.zeros((size, size))
    at = 0
    for part in parts:
        D[at : at + len(part), at : at + len(part)] = part
        at += len(part)
    rng = np.random.default_rng(seed)
    S = ortho_group.rvs(size, random_state=rng) @ (
        np.eye(size) + shear * np.triu(rng.standard_normal((size, size)), 1) / size
    )
    return S @ D @ np.linalg.inv(S)


def as_blocks(A, log=False):
    """U, V and a KoopmanGenerator: one block for each complex pair and each real rate,
    from left eigenvectors of A.
    """
    rates, left = np.linalg.eig(A.T)
    keep = rates.imag > -1e-9
    rates = rates[keep]
    rows = left[:, keep].T
    U = np.concatenate([rows.real, -rows.imag])
    # another way than the chapter's: the left inverse with the range of U
    V = np.linalg.pinv(U)
    if log:
        rates = np.log(rates + 0j)
    generator = KoopmanGenerator(2 * len(rates)).double().requires_grad_(False)
    generator.A[:, 0, 0] = torch.tensor(np.concatenate([rates.real, rates.imag]))
    return U, V, generator


def move(generator, z, t):
    """Rows of z, moved by the package."""
    return generator(torch.tensor(z)[..., None, None], t)[..., 0, 0].numpy()


RATES = [
    [-0.3 + 2j, 0.4 + 0.5j, -1.0 + 0j],
    [-1.0 + 0j, -0.5 + 0j, 0.2 + 0j],
    [0.1 + 3j, -0.2 + 1j],
    [0.7 + 0j],
]


@pytest.mark.parametrize("rates", RATES, ids=lambda rates: f"{len(rates)} rates")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_dense_generator_becomes_blocks(rates, batch):
    A = non_normal(np.array(rates))
    m = len(A)
    r = sum(rate.imag != 0 for rate in rates)
    U, V, generator = as_blocks(A)
    assert U.shape == (2 * (m - r), m) and V.shape == (m, 2 * (m - r))
    z = np.random.default_rng(1).standard_normal((batch, m))
    for t in (0.4, -0.9, 2.5):
        assert np.allclose(
            move(generator, z @ U.T, t) @ V.T, z @ expm(A * t).T, rtol=1e-9, atol=1e-9
        )


def test_two_equal_real_rates_share_a_block_and_two_different_ones_cannot():
    U = np.eye(2)
    generator = KoopmanGenerator(2).double().requires_grad_(False)
    generator.A[0] = -0.8
    z = np.random.default_rng(0).standard_normal((3, 2))
    assert np.allclose(move(generator, z @ U.T, 1.3), z * math.exp(-0.8 * 1.3))
    # the functions that one block has, against those that are asked for: two each
    t = np.linspace(0, 2, 50)
    for alpha, beta in itertools.product([-2.0, -1.5, -1.0], [0.0, 0.4, 2.0]):
        block = np.exp(alpha * t) * np.stack([np.cos(beta * t), np.sin(beta * t)])
        wish = np.stack([np.exp(-t), np.exp(-2 * t)])
        left_over = wish.T - block.T @ np.linalg.lstsq(block.T, wish.T, rcond=None)[0]
        # some wish is outside the span of the block
        assert np.linalg.norm(left_over) > 1e-2


def test_the_growth_of_a_non_normal_generator_is_in_the_layers():
    for shear in (1.0, 5.0, 20.0):
        A = non_normal(np.array([-1.0 + 0j, -2.0 + 0j, -0.5 + 1j]), shear=shear, seed=4)
        U, V, generator = as_blocks(A)
        alpha = float(generator.alpha.max())
        for t in np.linspace(0, 6, 61):
            assert np.isclose(
                np.linalg.norm(expm(generator.dense()[0, 0].numpy() * t), 2),
                math.exp(alpha * t),
                rtol=1e-9,
            )
            price = np.linalg.norm(V, 2) * np.linalg.norm(U, 2)
            assert np.linalg.norm(expm(A * t), 2) <= price * math.exp(alpha * t) * (
                1 + 1e-9
            )


def test_one_step_needs_a_logarithm():
    near = 1 + 0.05 * np.exp(1j * np.linspace(0, 6, 7))
    relative = abs(np.exp(near - 1) / near - 1)
    assert np.allclose(relative, 0.05**2 / 2, rtol=0.05)  # first order at 1
    K = non_normal(np.array([-0.7 + 0j, 0.3 + 0.6j, 0.9 + 0j]), seed=2)
    assert np.linalg.det(K) < 0 and abs(logm(K).imag).max() > 1  # no real logarithm ...
    U, V, generator = as_blocks(K, log=True)  # ... and blocks have one
    z = np.random.default_rng(0).standard_normal((5, len(K)))
    for n in (1, 2, 5):
        assert np.allclose(
            move(generator, z @ U.T, float(n)) @ V.T, z @ np.linalg.matrix_power(K, n).T
        )
    assert not np.allclose(expm(K - np.eye(len(K))), K, rtol=0.1)


def test_real_logarithms_where_culver_allows_them():
    half_turn = np.pi * np.array([[0.0, 1.0], [-1.0, 0.0]])
    for S in (np.eye(2), np.array([[1.0, 4.0], [0.0, 2.0]])):
        assert np.allclose(expm(S @ half_turn @ np.linalg.inv(S)), -np.eye(2))
    # the determinant does not forbid it, but Culver does
    assert np.linalg.det(np.diag([-1.0, -2.0])) > 0
    assert abs(logm(np.diag([-1.0, -2.0])).imag).max() > 1


@pytest.mark.parametrize("omega", [1e-1, 1e-2, 1e-3])
def test_a_jordan_block_is_only_approached(omega):
    rho = -0.4
    t = 1.7
    exact = expm(t * np.array([[rho, 1.0], [0.0, rho]]))
    generator = KoopmanGenerator(2).double().requires_grad_(False)
    generator.A[:, 0, 0] = torch.tensor([rho, omega])
    U = np.diag([1, 1 / omega])
    V = np.diag([1, omega])
    near = V @ move(generator, U.T, t).T  # columns are images of the axes
    assert np.isclose(near[0, 1] / exact[0, 1], 1 - (omega * t) ** 2 / 6, rtol=1e-4)
    assert np.isclose(np.linalg.cond(U), 1 / omega)
    # an error across the state, relative to its length, comes out 1 / omega times
    # larger
    share = 1e-3
    state = U @ np.array([1.0, 1.0])
    wrong = (
        V
        @ move(
            generator,
            (state + share * np.linalg.norm(state) * np.array([1.0, 0.0]))[None],
            t,
        )[0]
    )
    off = np.linalg.norm(wrong - V @ move(generator, state[None], t)[0])
    assert 0.5 < off / (share / omega * math.exp(rho * t)) < 2


def test_a_shift_of_a_row_is_in_blocks_over_the_row_only():
    shift = np.roll(np.eye(7), 2, axis=1)
    U, V, generator = as_blocks(shift, log=True)
    assert np.allclose(V @ move(generator, U.T, 1.0).T, shift)
    # what leaves every pixel at its place has nothing of it
    assert np.all(np.diag(shift) == 0)


def small_hkd(state=6, seed=0):
    torch.manual_seed(seed)
    model = (
        HKD(HKDConfig(MLPConfig(width=24, depth=2, state=state)))
        .eval()
        .requires_grad_(False)
    )
    model.generators[0].A[:] = 0.5 * torch.randn(model.generators[0].A.shape)
    return model


def test_blocks_replace_a_dense_generator_between_the_linear_layers_of_a_network():
    model = small_hkd(state=4)
    A = non_normal(np.array([-0.3 + 0j, 0.2 + 0j, 0.1 + 0.8j]), seed=3)
    U, V, generator = as_blocks(A)
    wide = (
        HKD(HKDConfig(MLPConfig(width=24, depth=2, state=len(U))))
        .eval()
        .requires_grad_(False)
    )
    weights = {
        key: value
        for key, value in model.state_dict().items()
        if not key.startswith("generators")
    }
    for key in ("encoder.last.weight", "encoder.last.bias"):
        weights[key] = torch.tensor(U).float() @ weights[key]
    weights["decoder.first.weight"] = (
        weights["decoder.first.weight"] @ torch.tensor(V).float()
    )
    wide.load_state_dict({**weights, "generators.0.A": generator.A.float()})
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    for t, u in ((1.0, 0.0), (0.3, 0.9)):
        z = model.encode(x, t)[0].flatten(1)
        by_dense = model.decode(
            [(z @ torch.tensor(expm(A * (u - t)).T).float())[..., None, None]]
        )
        torch.testing.assert_close(
            wide.decode(wide.evolve(wide.encode(x, t), t, u)),
            by_dense,
            rtol=1e-4,
            atol=1e-5,
        )


def test_image_and_latent_errors_bound_each_other():
    rng = np.random.default_rng(0)
    H = rng.standard_normal((5, 3))  # more picture than state: it separates
    singular = np.linalg.svd(H, compute_uv=False)
    low = singular[-1] - 0.2
    high = singular[0] + 0.2
    # 0.2 sin has the constant 0.2
    decode = lambda z: z @ H.T + 0.2 * np.sin(z @ np.eye(3, 5))
    assert low > 0
    z, star, target = rng.standard_normal((3, 101, 3))
    target = decode(star) + 0.1 * rng.standard_normal((101, 5))
    e0 = np.linalg.norm(decode(star) - target, axis=1)
    latent = np.linalg.norm(z - star, axis=1)
    image = np.linalg.norm(decode(z) - target, axis=1)
    assert np.all(low * latent - e0 <= image + 1e-12) and np.all(
        image <= high * latent + e0 + 1e-12
    )
    assert np.all(latent**2 <= 2 / low**2 * (image**2 + e0**2) + 1e-12)


@pytest.mark.parametrize("radius", [0.1, 2.0])
def test_opposite_states_share_a_picture(radius):
    """Borsuk and Ulam with n = 1: on any circle, a number that depends on the state has
    equal values at two ends.
    """
    model = small_hkd()
    first = lambda z: (
        model.decode([torch.tensor(z, dtype=torch.float32).reshape(-1, 6, 1, 1)])[:, 0]
        .double()
        .numpy()
    )
    plane = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 2)))[0]
    angle = np.linspace(0, np.pi, 4001)
    v = radius * np.stack([np.cos(angle), np.sin(angle)], 1) @ plane.T
    odd = first(v + 0.3) - first(0.3 - v)
    # it changes its sign on the way
    assert np.isclose(odd[0], -odd[-1], atol=1e-6) and abs(odd).max() > 1e-4 * radius
    assert abs(odd).min() < 1e-2 * abs(odd).max()


def test_a_decoder_with_more_state_than_picture_is_blind_to_first_order():
    decoder = small_hkd(state=10).decoder.double()
    f = lambda z: decoder(
        [z.reshape(1, 10, 1, 1)], torch.zeros(1, 128, dtype=torch.float64)
    )[0]
    z = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    J = torch.func.jacrev(f)(z)
    kernel = torch.linalg.svd(J)[2][2:]
    assert (
        J.shape == (2, 10)
        and kernel.shape == (8, 10)
        and torch.linalg.matrix_rank(J) == 2
    )
    change = [float((f(z + h * kernel[0]) - f(z)).norm()) for h in (1e-1, 1e-2)]
    # with the square of the step, not with the step
    assert change[1] < 0.05 * change[0]


def log_norm(A):
    return np.linalg.eigvalsh((A + A.T) / 2).max()


def test_logarithmic_norm():
    A = non_normal(np.array([-1.0 + 0j, -2.0 + 0.5j, -3.0 + 0j]), shear=8.0)
    h = 1e-7  # its definition: the slope of |I + hA| at 0
    assert np.isclose(
        (np.linalg.norm(np.eye(4) + h * A, 2) - 1) / h, log_norm(A), rtol=1e-4
    )
    assert log_norm(A) > np.linalg.eigvals(A).real.max()
    generator = KoopmanGenerator(6).double().requires_grad_(False)
    generator.A[:, 0, 0] = torch.tensor([-0.3, 0.2, -1.0, 2.0, 0.0, 5.0])
    dense = generator.dense()[0, 0].numpy()
    # max alpha; backwards - min alpha
    assert np.isclose(log_norm(dense), 0.2) and np.isclose(log_norm(-dense), 1.0)


@pytest.mark.parametrize("direction", [1, -1])
def test_the_error_of_a_lift_is_bounded_by_its_defect(direction):
    """x' = -sin x by five powers of x, forwards and backwards in time: a defect that is
    not in closed form.
    """
    m = 5
    T = 1.5
    path = solve_ivp(
        lambda t, x: -direction * np.sin(x),
        (0, T),
        [0.9],
        rtol=1e-11,
        atol=1e-12,
        dense_output=True,
    ).sol
    if direction == -1:
        assert path(T)[0] > 2  # it runs away from 0
    powers = lambda x: x ** np.arange(1, m + 1)
    # -k x^k + k x^(k + 2) / 6
    A = np.diag(-np.arange(1.0, m + 1)) + np.diag(np.arange(1.0, m - 1) / 6, 2)
    A = direction * A
    lie = lambda x: np.arange(1, m + 1) * x ** np.arange(m) * (-direction * np.sin(x))
    t = np.linspace(0, T, 301)
    defect = max(np.linalg.norm(lie(path(u)) - A @ powers(path(u))) for u in t)
    mu = log_norm(A)
    off = np.array([0.01, 0, 0, -0.02, 0])
    for u in t[1:]:
        error = np.linalg.norm(
            expm(A * u) @ (powers(path(0.0)) + off) - powers(path(u))
        )
        allowed = (
            math.exp(mu * u) * np.linalg.norm(off) + defect * math.expm1(mu * u) / mu
        )
        assert error <= allowed * (1 + 1e-6)


def test_the_bound_is_an_equality_for_one_rate():
    alpha = 0.7
    zeta = 0.3
    t = 1.9
    # defect zeta
    truth = solve_ivp(
        lambda t, x: alpha * x + zeta, (0, t), [0.5], rtol=1e-11, atol=1e-12
    ).y[0, -1]
    error = abs(0.5 * math.exp(alpha * t) - truth)
    assert np.isclose(error, zeta * math.expm1(alpha * t) / alpha, rtol=1e-8)


def test_rates_alone_do_not_bound_the_error():
    A = np.array([[-0.5, 30.0], [0.0, -0.6]])
    zeta = np.array([0.0, 1.0])
    t = 2.0
    error = np.linalg.norm(np.linalg.solve(A, (expm(A * t) - np.eye(2)) @ zeta))
    assert error > 10 * -math.expm1(-0.5 * t) / 0.5 and error <= math.expm1(
        log_norm(A) * t
    ) / log_norm(A)


def test_single_steps_add_up():
    """The discrete form: the error at the end is at most the sum of the defects of
    steps, each carried on by blocks.
    """
    model = small_hkd()
    times = [1.0, 0.8, 0.55, 0.3, 0.1]
    x = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    z = [model.encode(point, t)[0] for point, t in zip(x, times)]
    norm = lambda z: z.flatten(1).norm(dim=1)
    error = norm(model.evolve([z[0]], 1.0, 0.1)[0] - z[-1])
    slowest = float(model.generators[0].alpha.min())
    allowed = sum(
        norm(model.evolve([z[k]], times[k], times[k + 1])[0] - z[k + 1])
        * math.exp(-slowest * (times[k + 1] - 0.1))
        for k in range(4)
    )
    assert (error <= allowed * (1 + 1e-6)).all()


def test_the_printed_exponent_grows_with_the_quality_of_the_lift():
    printed = [32 ** (-r / 3) for r in (-1, -2, -4)]
    # as r falls, the printed term grows
    assert printed == sorted(printed) and printed[0] > 1
    assert all(32 ** (r / 3) < 1 for r in (-1, -2, -4))


@pytest.mark.parametrize("L", [1, 2, 5, 9])
def test_folding_doubles_the_pieces(L):
    """2 L ReLU activations make 2^L pieces: found on a grid that has every kink, at
    multiples of 2^-L.
    """
    y = x = np.linspace(0, 1, 2 ** (L + 3) + 1)
    for _ in range(L):
        y = 2 * np.maximum(y, 0) - 4 * np.maximum(y - 0.5, 0)
    slopes = np.diff(y) / np.diff(x)
    assert 1 + np.sum(np.diff(slopes) != 0) == 2**L and np.allclose(abs(slopes), 2**L)


def test_one_hidden_layer_has_one_piece_more_than_activations_at_most():
    rng = np.random.default_rng(0)
    W, b, c = rng.standard_normal((3, 17))
    kinks = np.sort(-b / W)
    # one point in each piece
    at = np.concatenate([[kinks[0] - 1], (kinks[1:] + kinks[:-1]) / 2, [kinks[-1] + 1]])
    slopes = ((W[:, None] * at + b[:, None] > 0) * (W * c)[:, None]).sum(0)
    assert len(np.unique(slopes.round(9))) == 18


def test_a_cloud_is_torn_only_by_steepness():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((41, 2))
    ends = np.sign(x[:, :1]) * [1.0, 0.0]  # left and right: two points, 2 apart
    for slope in (0.5, 2.0, 8.0):
        made = np.clip(slope * x, -1, 1) * [1.0, 0.0]
        error = np.linalg.norm(made - ends, axis=1)
        pairs = [(i, j) for i in range(41) for j in range(i)]
        assert all(
            error[i] + error[j]
            >= np.linalg.norm(ends[i] - ends[j])
            - slope * np.linalg.norm(x[i] - x[j])
            - 1e-12
            for i, j in pairs
        )
        order = rng.permutation(40).reshape(-1, 2)  # disjoint pairs
        least = sum(
            max(
                0,
                np.linalg.norm(ends[i] - ends[j]) - slope * np.linalg.norm(x[i] - x[j]),
            )
            ** 2
            for i, j in order
        )
        assert np.mean(error**2) >= least / (2 * 41)


def test_strays_of_a_clipped_line_meet_the_isoperimetric_bound():
    for a, slope in ((1.0, 2.0), (0.3, 5.0)):
        p = ndtr(-a / (2 * slope))
        bound = ndtr(ndtri(p) + 2 * a / (2 * slope)) - p
        assert np.isclose(bound, 2 * ndtr(a / (2 * slope)) - 1)
        steeper = 2 * ndtr(a / (2 * 3 * slope)) - 1
        assert steeper < bound


def test_the_generator_stretches_all_states_alike():
    generator = small_hkd().generators[0]
    z = torch.randn(2, 101, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    before = (z[0] - z[1]).flatten(1).norm(dim=1)
    after = (generator(z[0], -1.0) - generator(z[1], -1.0)).flatten(1)
    ratio = after.norm(dim=1) / before
    low = (-generator.alpha).exp().min()
    high = (-generator.alpha).exp().max()
    assert (ratio <= high * (1 + 1e-5)).all() and (ratio >= low * (1 - 1e-5)).all()


class Rewritten:
    """The same model with a generator of one's choice: E'(x, t) = e^{-B (eps - t)} e^{A
    (eps - t)} E(x, t).
    """

    def __init__(self, model, B):
        self.model = model
        self.B = B
        self.eps = model.clock.eps

    def encode(self, x, t, labels=None):
        return [
            self.B(
                self.model.evolve(self.model.encode(x, t), t, self.eps)[0], t - self.eps
            )
        ]

    def evolve(self, states, t, s):
        return [self.B(states[0], s - t)]

    def decode(self, states):
        return self.model.decode(states)


def test_any_spectrum_makes_the_same_pictures_at_the_end():
    model = small_hkd()
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    B = KoopmanGenerator(6).requires_grad_(False)
    B.A[:, 0, 0] = torch.tensor([2.0, -1.0, 0.5, 4.0, 0.0, 9.0])
    other = Rewritten(model, B)
    for t in (1.0, 0.6, 0.05):
        ours = other.decode(other.evolve(other.encode(x, t), t, 0.0))
        torch.testing.assert_close(
            ours,
            model.decode(model.evolve(model.encode(x, t), t, 0.0)),
            rtol=1e-4,
            atol=1e-5,
        )
    half_way = other.decode(other.evolve(other.encode(x, 1.0), 1.0, 0.5))
    assert not torch.allclose(
        half_way, model.decode(model.evolve(model.encode(x, 1.0), 1.0, 0.5)), rtol=0.05
    )


def test_new_frequencies_leave_the_residual_and_new_growth_does_not():
    model = small_hkd()
    times = torch.tensor([1.0, 0.7, 0.2])
    path = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))
    before = koopman_residual(model, path, times)
    B = KoopmanGenerator(6).requires_grad_(False)
    B.A[:] = model.generators[0].A
    B.A[3:, 0, 0] = torch.tensor([7.0, -3.0, 0.4])
    torch.testing.assert_close(
        koopman_residual(Rewritten(model, B), path, times), before, rtol=1e-4, atol=1e-5
    )
    B.A[:3, 0, 0] = torch.tensor([3.0, -3.0, 1.0])
    assert not torch.allclose(
        koopman_residual(Rewritten(model, B), path, times), before, rtol=1e-2
    )
