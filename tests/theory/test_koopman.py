"""The generator: closed form against torch.matrix_exp, group laws, spectrum, sign,
masks, precision, errors.
"""

import copy
import inspect

import pytest
import torch

from hkd_mini.koopman.generator import KoopmanGenerator, apply_mask

SHAPES = [(6, 3, 5), (2, 1, 1), (10, 2, 2)]


def make(d=6, h=3, w=5, spatial="local", seed=0, dtype=torch.float64):
    """A generator with rates of both signs, no two alike."""
    generator = KoopmanGenerator(d, h, w, spatial).to(dtype)
    rng = torch.Generator().manual_seed(seed)
    generator.A.data.copy_(
        1.5 * torch.randn(generator.A.shape, generator=rng, dtype=torch.float64)
    )
    return generator


def states(generator, batch=3, h=None, w=None, dtype=torch.float64, seed=1):
    d, gh, gw = generator.A.shape
    return torch.randn(
        batch,
        d,
        h or gh,
        w or gw,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    ).to(dtype)


def by_matrix_exp(generator, z, dt):
    """The same move with no knowledge of blocks: a dense exponential at each location,
    for each sample.
    """
    dense = generator.dense().detach().expand(*z.shape[2:], -1, -1)
    dts = torch.as_tensor(dt, dtype=z.dtype).expand(len(z))
    return torch.stack(
        [
            torch.einsum("hwij,jhw->ihw", torch.matrix_exp(dense * t), one)
            for one, t in zip(z, dts)
        ]
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dt", [0.7, -1.0, 0.0, "per sample"])
def test_closed_form_is_matrix_exp(shape, batch, dt):
    generator = make(*shape)
    z = states(generator, batch)
    dt = (
        torch.linspace(-1, 0.8, batch, dtype=torch.float64)
        if dt == "per sample"
        else dt
    )
    wish = by_matrix_exp(generator, z, dt)
    with torch.no_grad():
        torch.testing.assert_close(generator(z, dt), wish, rtol=1e-12, atol=1e-12)
    # the branch with gradients
    torch.testing.assert_close(generator(z, dt).detach(), wish, rtol=1e-12, atol=1e-12)


def test_solves_the_differential_equation():
    generator = make()
    t = 0.4
    h = 1e-5
    z = states(generator)
    slope = (generator(z, t + h) - generator(z, t - h)) / (2 * h)
    torch.testing.assert_close(
        slope,
        torch.einsum("hwij,bjhw->bihw", generator.dense(), generator(z, t)),
        rtol=1e-7,
        atol=1e-7,
    )


def test_group_semigroup_inverse_and_order():
    generator = make()
    z = states(generator)
    a = 0.8
    b = torch.tensor([-0.3, 0.5, 1.1], dtype=torch.float64)
    torch.testing.assert_close(
        generator(generator(z, a), b), generator(z, a + b), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        generator(generator(z, b), a),
        generator(generator(z, a), b),
        rtol=1e-12,
        atol=1e-12,
    )
    torch.testing.assert_close(
        generator(generator(z, b), -b), z, rtol=1e-12, atol=1e-12
    )
    assert not torch.allclose(generator(z, a), z)


def test_linear_in_the_state():
    generator = make()
    x = states(generator)
    y = states(generator, seed=2)
    torch.testing.assert_close(
        generator(2 * x - 3 * y, 0.6), 2 * generator(x, 0.6) - 3 * generator(y, 0.6)
    )


def test_sign_convention():
    """w = p + i q is multiplied by exp((alpha - i beta) dt): the paper's block [[alpha,
    beta], [-beta, alpha]].
    """
    generator = make()
    z = states(generator)
    dt = 0.9
    p, q = z.chunk(2, dim=1)
    rate = torch.complex(generator.alpha, -generator.beta)
    moved = torch.cat(
        [
            part
            for part in torch.view_as_real(
                torch.complex(p, q) * (rate * dt).exp()
            ).unbind(-1)
        ],
        dim=1,
    )
    torch.testing.assert_close(generator(z, dt), moved, rtol=1e-13, atol=1e-13)
    # beta = pi/2 for one unit of time: p' = q, q' = -p
    quarter = KoopmanGenerator(2).double()
    quarter.A.data[1] = torch.pi / 2
    z = torch.tensor([1.0, 2.0], dtype=torch.float64).view(1, 2, 1, 1)
    torch.testing.assert_close(
        quarter(z, 1.0).flatten().detach(),
        torch.tensor([2.0, -1.0], dtype=torch.float64),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eigenvalues_are_those_of_the_dense_matrix(shape):
    generator = make(*shape)
    ours = generator.eigenvalues()
    assert ours.shape == (shape[0] // 2, *shape[1:]) and not ours.requires_grad
    both = torch.cat([ours, ours.conj()]).flatten(1).T  # (locations, d)
    dense = torch.linalg.eigvals(generator.dense().detach()).flatten(0, 1)
    for mine, theirs in zip(both, dense):
        gap = (mine[:, None] - theirs).abs()
        assert gap.min(0).values.max() < 1e-12 and gap.min(1).values.max() < 1e-12


def test_two_real_rates_need_two_blocks():
    """Both eigenvalues of a block have one real part, so diag(-1, -2) fits no block; it
    fits the p halves of two.
    """
    one = make(d=2, h=1, w=1).eigenvalues().flatten()
    both = torch.linalg.eigvals(make(d=2, h=1, w=1).dense()[0, 0].detach())
    assert len(one) == 1 and torch.allclose(both.real, one.real)
    two = make(d=4, h=1, w=1)
    with torch.no_grad():
        two.A[:, 0, 0] = torch.tensor([-1.0, -2.0, 0.0, 0.0])
    z = torch.tensor([[3.0, 5.0, 0.0, 0.0]], dtype=torch.float64)[..., None, None]
    wish = z.flatten() * torch.tensor([-0.7, -1.4, 0.0, 0.0]).double().exp()
    torch.testing.assert_close(two(z, 0.7).detach().flatten(), wish)


def test_eigenvalues_of_a_float32_generator_are_complex64():
    assert make(dtype=torch.float32).eigenvalues().dtype == torch.complex64


def test_dense_layout():
    generator = make(4, 1, 1)
    a = generator.alpha.flatten().tolist()
    b = generator.beta.flatten().tolist()
    wish = [
        [a[0], 0, b[0], 0],
        [0, a[1], 0, b[1]],
        [-b[0], 0, a[0], 0],
        [0, -b[1], 0, a[1]],
    ]
    assert generator.dense()[0, 0].tolist() == wish


def test_shared_is_local_with_equal_rates():
    shared = make(6, 3, 5, "shared")
    local = make(6, 3, 5)
    assert shared.A.shape == (6, 1, 1) and local.A.shape == (6, 3, 5)
    local.A.data.copy_(shared.A.data.expand(6, 3, 5))
    z = states(local)
    dt = torch.tensor([0.1, -0.4, 2.0], dtype=torch.float64)
    assert torch.equal(shared(z, dt), local(z, dt))
    wide = states(shared, h=7, w=2)  # one set of blocks moves any size
    torch.testing.assert_close(
        shared(wide, 0.5).detach(),
        by_matrix_exp(shared, wide, 0.5),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16]
)
def test_zero_is_the_exact_identity(dtype):
    z = states(make(), dtype=dtype)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            moved = KoopmanGenerator(6, 3, 5).to(dtype)(
                z, torch.tensor([1.0, -80.0, 0.3])
            )
            assert moved.dtype == dtype and torch.equal(moved, z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    half = make(dtype=dtype)
    z = states(half, dtype=dtype)
    exact = copy.deepcopy(half).double()(z.double(), -0.7)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            moved = half(z, -0.7)
            assert moved.dtype == dtype
            assert torch.equal(moved, make_float32(half)(z.float(), -0.7).to(dtype))
            assert (
                (moved.double() - exact).abs()
                <= torch.finfo(dtype).eps * exact.abs() + 1e-5
            ).all()


def make_float32(generator):
    return copy.deepcopy(generator).float()


def test_half_states_by_float32_rates_as_under_autocast():
    generator = make(dtype=torch.float32)
    z = states(make(), dtype=torch.bfloat16)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(generator(z, 0.3), generator(z.float(), 0.3).bfloat16())


def test_gradients():
    generator = make(4, 2, 1)
    z = states(generator, 3).requires_grad_()
    dt = torch.tensor([0.3, -0.9, 1.2], dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 2, 1, dtype=torch.float64)

    def moved(A, z, dt):
        return torch.func.functional_call(generator, {"A": A}, (z, dt, mask))

    assert torch.autograd.gradcheck(moved, (generator.A, z, dt))


def test_out_takes_the_result_without_gradients():
    generator = make()
    z = states(generator)
    mask = torch.rand(3, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        out = torch.full_like(z, torch.nan)
        assert generator(z, 0.6, mask, out=out) is out and torch.equal(
            out, generator(z, 0.6, mask)
        )
        half = torch.empty(z.shape, dtype=torch.bfloat16)
        assert torch.equal(
            generator(z.bfloat16(), 0.6, out=half), generator(z.bfloat16(), 0.6)
        )
        with pytest.raises(ValueError, match="out is z itself"):
            generator(z, 0.6, out=z)


def test_channels_last_states_move_alike():
    generator = make()
    z = states(generator)
    with torch.no_grad():
        moved = generator(z.to(memory_format=torch.channels_last), 0.6)
        assert torch.equal(moved, generator(z, 0.6))


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_commute_and_partition(kind):
    generator = make()
    z = states(generator)
    dt = torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64)
    part = torch.rand(
        3, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    part = part < 0.5 if kind == "bool" else part
    rest = ~part if kind == "bool" else 1 - part
    moved = generator(z, dt)
    torch.testing.assert_close(
        apply_mask(moved, part), generator(apply_mask(z, part), dt)
    )
    torch.testing.assert_close(apply_mask(moved, part), generator(z, dt, part))
    torch.testing.assert_close(apply_mask(moved, part) + apply_mask(moved, rest), moved)
    assert not torch.allclose(apply_mask(moved, part), moved)


def test_mask_weighs_both_members_of_a_pair_and_broadcasts():
    z = torch.arange(1.0, 9.0).view(1, 4, 1, 2)
    kept = apply_mask(z, torch.tensor([1.0, 0.0]).view(2, 1, 1))
    assert kept.flatten().tolist() == [1, 2, 0, 0, 5, 6, 0, 0]
    assert apply_mask(z, torch.tensor([[[True, False]]])).flatten().tolist() == [
        1,
        0,
        3,
        0,
        5,
        0,
        7,
        0,
    ]


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 3, 2), (2, 2), (1, 2, 1, 2)])
def test_mask_of_another_shape(shape):
    # as users run it: without the tests' check of annotations
    unchecked = inspect.unwrap(apply_mask)
    with pytest.raises(ValueError, match=r"wanted \(pairs, h, w\) = \(2, 1, 2\)"):
        unchecked(torch.ones(1, 4, 1, 2), torch.ones(shape))


def test_errors():
    for d in (3, 0, -2):
        with pytest.raises(ValueError, match=f"d = {d}"):
            KoopmanGenerator(d, 2, 2)
    with pytest.raises(ValueError, match="'dense': one of"):
        KoopmanGenerator(4, 2, 2, "dense")
    local = KoopmanGenerator(4, 2, 3)
    shared = KoopmanGenerator(4, 2, 3, "shared")
    for generator, shape in [
        (local, (1, 6, 2, 3)),
        (local, (1, 4, 3, 2)),
        (shared, (1, 6, 2, 3)),
    ]:
        with pytest.raises(
            ValueError, match=r"states of shape .* this generator moves \(batch, 4, "
        ):
            generator(torch.zeros(shape), 0.1)
