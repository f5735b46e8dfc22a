import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lossatlas.errors import NonFiniteError
from lossatlas.linalg.basis import ROWS
from lossatlas.linalg.extremes import converge
from lossatlas.linalg.krylov import Lanczos, krylov_bytes, quadrature
from lossatlas.rng import generator


def rotated(values, seed=0, dtype=torch.float64):
    """A symmetric matrix with given eigenvalues."""
    values = torch.as_tensor(values, dtype=torch.float64)
    drawn = generator(seed, "rotation")
    square = torch.randn(len(values), len(values), generator=drawn, dtype=torch.float64)
    q = torch.linalg.qr(square)[0]
    return (q @ torch.diag(values) @ q.T).to(dtype)


def run(matrix, seed=0):
    drawn = generator(seed, "start")
    start = torch.randn(len(matrix), generator=drawn, dtype=matrix.dtype)
    return Lanczos(lambda v: matrix @ v, start, drawn)


@st.composite
def spectra(draw):
    # Whole numbers, so that eigenvalues repeat, are zero, and clash at the cut.
    return draw(st.lists(st.integers(-5, 5), min_size=1, max_size=14))


@given(spectra(), st.integers(0, 3), st.integers(0, 3))
def test_both_ends_are_found_with_their_multiplicity(values, top, bottom):
    top, bottom = max(min(top, len(values)), 1), min(bottom, len(values))
    lanczos = run(rotated(values))
    ritz, reached = converge(lanczos, top=top, bottom=bottom, tolerance=1e-12, limit=100)
    ends = np.sort(values)
    assert reached
    np.testing.assert_allclose(ritz.values[::-1][:top], ends[::-1][:top], atol=1e-5)
    np.testing.assert_allclose(ritz.values[:bottom], ends[:bottom], atol=1e-5)


@given(spectra(), st.integers(1, 20))
def test_basis_is_orthonormal_and_t_is_the_matrix_in_it(values, steps):
    matrix = rotated(values)
    lanczos = run(matrix)
    lanczos.extend(steps)
    q = torch.stack([lanczos.basis[i] for i in range(lanczos.steps)])
    beta = torch.tensor(lanczos.beta[:-1], dtype=torch.float64)
    t = torch.diag(torch.tensor(lanczos.alpha, dtype=torch.float64))
    t = t + torch.diag(beta, 1) + torch.diag(beta, -1)
    assert lanczos.steps == min(steps, len(values))
    assert_close(q @ q.T, torch.eye(len(q), dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(q @ matrix @ q.T, t, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [5, 12, 30])
def test_every_bound_holds(dtype, steps):
    values = np.concatenate([[9.0, 7.0, 6.5, 4.0, -3.0], np.linspace(-1, 1, 115)])
    lanczos = run(rotated(values, dtype=dtype))
    lanczos.extend(steps)
    ritz = lanczos.ritz()
    ends = np.sort(values)
    for place in (-1, -2, -3, 0):
        assert abs(ritz.values[place] - ends[place]) <= ritz.bounds[place] or steps == 5
    nearest = np.abs(ritz.values[:, None] - values).min(1)
    slack = 1e-5 if dtype == torch.float32 else 1e-12
    assert np.all(nearest <= ritz.residuals + slack)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_bounds_hold_where_eigenvalues_crowd_at_zero(decay, tolerance):
    # There a space of a few steps sees one value in place of several.
    for seed in range(12):
        scatter = 0.7 + 0.6 * np.random.default_rng(seed).random(12)
        values = np.sort(4 * np.exp(-decay * np.arange(12)) * scatter)
        lanczos = run(torch.diag(torch.tensor(values)), seed)
        ritz, _ = converge(lanczos, top=4, bottom=2, tolerance=tolerance, limit=50)
        error = np.abs(ritz.values[:, None] - values).min(1)
        for ends in (slice(None, 2), slice(-4, None)):
            assert (error[ends] <= ritz.bounds[ends]).all()


CROWDED = {
    "one cluster": lambda r, n: np.append(
        3 + 1e-6 * r.normal(size=n // 2), r.normal(size=n // 2)
    ),
    "two clusters": lambda r, n: (
        np.repeat([1, -1], n // 2) + 1e-3 * r.normal(size=2 * (n // 2))
    ),
    "many scales": lambda r, n: np.exp(6 * r.random(n)),
    "tiny beside large": lambda r, n: np.append([50.0, 30.0], 1e-4 * r.normal(size=n)),
    "random": lambda r, n: r.normal(size=n),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CROWDED)
def test_every_bound_of_every_value_holds_converged_or_not(kind, dtype):
    # A bound made sharper by gaps between Ritz values fails here: pairs hide in such gaps.
    for seed in range(20):
        drawn = np.random.default_rng(seed)
        matrix = rotated(CROWDED[kind](drawn, int(drawn.integers(8, 80))), seed, dtype)
        values = np.linalg.eigvalsh(matrix.double().numpy())
        stopped = run(matrix, seed)
        stopped.extend(int(drawn.integers(2, 16)))
        converged, _ = converge(run(matrix, seed), top=5, bottom=2, tolerance=1e-3, limit=300)
        for ritz in (stopped.ritz(), converged):
            assert (np.abs(ritz.values[:, None] - values).min(1) <= ritz.bounds).all()


def test_noisy_products_are_not_taken_again_and_again():
    # Their bound can't reach the tolerance; what falls with further products is the residual.
    matrix, drawn = rotated(np.arange(40.0)), generator(3)

    def apply(vector):
        return matrix @ vector + 1e-2 * torch.randn(40, generator=drawn, dtype=torch.float64)

    lanczos = Lanczos(apply, torch.ones(40, dtype=torch.float64), generator(4))
    ritz, reached = converge(lanczos, top=1, bottom=0, tolerance=1e-4, limit=39)
    assert not reached
    assert lanczos.steps < 39
    assert ritz.bounds[-1] - ritz.residuals[-1] > 1e-4 * ritz.values[-1]


def test_quadrature_needs_no_orthogonality():
    # Float32 and outliers: nodes come as copies, and averages stay right all the same.
    values = np.concatenate([[50.0, 30.0, 20.0], np.linspace(-1, 1, 397)])
    matrix = rotated(values, dtype=torch.float32)
    full = run(matrix)
    full.extend(80)
    ritz = full.ritz()
    nodes, weights = quadrature(lambda v: matrix @ v, full.basis[0], 80)
    assert math.isclose(weights.sum(), 1.0, rel_tol=1e-6)
    assert (np.abs(nodes - 50) < 1e-3).sum() > 1
    for low, high in ((-2, -0.5), (-0.5, 0), (0, 0.5), (0.5, 2), (10, 25), (25, 40), (40, 60)):
        shares = [
            w[(x > low) & (x <= high)].sum()
            for x, w in ((nodes, weights), (ritz.values, ritz.weights))
        ]
        assert abs(shares[0] - shares[1]) < 0.02


def test_quadrature_beside_guards_is_that_of_the_rest():
    values = np.concatenate([[50.0, 30.0], np.linspace(-1, 1, 38)])
    matrix = rotated(values)
    lanczos = run(matrix)
    ritz, _ = converge(lanczos, top=2, bottom=0, tolerance=1e-8, limit=40)
    lanczos.basis.rotate(ritz.vectors[:, ::-1][:, :2])
    assert len(lanczos.basis) == 2
    start = torch.randn(40, generator=generator(1), dtype=torch.float64)
    nodes, weights = quadrature(lambda v: matrix @ v, start, 60, lanczos.basis)
    assert np.abs(nodes).max() <= 1 + 1e-6
    assert math.isclose(weights.sum(), 1.0, rel_tol=1e-9)
    stopped, _ = quadrature(lambda v: 0 * v, start, 5)
    assert np.array_equal(stopped, [0.0])
    with pytest.raises(NonFiniteError, match="random probe"):
        quadrature(lambda v: v / 0, start, 5)


@given(st.integers(1, 40), st.integers(0, 3))
def test_a_rotation_in_place_is_the_combination(steps, seed):
    lanczos = run(rotated(np.arange(45.0)), seed)
    lanczos.extend(steps)
    drawn = np.random.default_rng(seed).normal(size=(steps, min(steps, 20)))
    turn = np.linalg.qr(drawn)[0]
    want = lanczos.basis.combine(turn)
    lanczos.basis.rotate(turn)
    got = torch.stack([lanczos.basis[i] for i in range(len(lanczos.basis))])
    assert_close(got, want, atol=1e-12, rtol=0)


def test_weights_are_those_of_gauss_quadrature():
    matrix = rotated(np.linspace(-1, 2, 40))
    lanczos = run(matrix)
    start = lanczos.basis[0].clone()
    lanczos.extend(6)
    ritz = lanczos.ritz()
    power = start
    for degree in range(2 * 6):
        want = float(start @ power)
        assert np.isclose(ritz.weights @ ritz.values**degree, want, rtol=1e-10, atol=1e-12)
        power = matrix @ power


def test_combined_vectors_are_eigenvectors():
    matrix = rotated(np.arange(30.0) ** 2)
    lanczos = run(matrix)
    ritz, _ = converge(lanczos, top=2, bottom=0, tolerance=1e-10, limit=30)
    rows = lanczos.basis.combine(ritz.vectors[:, ::-1][:, :2])
    assert_close(
        matrix @ rows.T, rows.T * torch.tensor([841.0, 784.0]).double(), atol=1e-2, rtol=0
    )
    assert_close(rows @ rows.T, torch.eye(2, dtype=torch.float64), atol=1e-10, rtol=0)


def test_a_limit_that_does_not_suffice_is_said():
    lanczos = run(rotated(np.linspace(0, 1, 60)))
    ritz, reached = converge(lanczos, top=3, bottom=0, tolerance=1e-6, limit=8)
    assert not reached
    assert lanczos.steps == 8
    assert ritz.bounds[-1] > 1e-6


def test_the_same_seed_gives_the_same_bits():
    matrix = rotated([3, 3, 1, 1, 0, 0, 0])
    first, second = run(matrix, seed=4), run(matrix, seed=4)
    first.extend(7)
    second.extend(3)
    second.extend(4)
    assert first.alpha == second.alpha
    assert torch.equal(first.basis[6], second.basis[6])


def test_products_that_are_not_finite_are_named():
    lanczos = Lanczos(lambda v: v * float("nan"), torch.ones(3), generator(0))
    with pytest.raises(NonFiniteError, match="product 1 "):
        lanczos.extend()


def test_memory_is_one_basis_and_two_vectors():
    assert krylov_bytes(1000, 2 * ROWS - 1, torch.float32) == (2 * ROWS + 2) * 1000 * 4
    assert krylov_bytes(3, 100, torch.float64) == (4 + 2) * 3 * 8
    lanczos = run(rotated(np.arange(50.0)))
    lanczos.extend(ROWS - 1)
    held = sum(panel.untyped_storage().nbytes() for panel in lanczos.basis.panels())
    assert held + 2 * 50 * 8 == krylov_bytes(50, ROWS - 1, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("values", "top", "bottom", "products"),
    [
        ([0.0] * 200, 10, 2, 12),
        ([2.0] * 200, 10, 2, 12),
        ([5.0] + [0.0] * 199, 1, 1, 3),
        ([5.0] * 3 + [0.0] * 197, 4, 0, 8),
        ([5.0, 4.0, 4.0, -1.0] + [0.0] * 196, 10, 2, 20),
    ],
)
def test_few_different_eigenvalues_take_few_products(values, top, bottom, products, dtype):
    # Every run is exhausted at once: what has been seen says what can still hide.
    lanczos = run(rotated(values, dtype=dtype))
    ritz, reached = converge(lanczos, top=top, bottom=bottom, tolerance=1e-3, limit=150)
    ends, slack = np.sort(values), 1e-4 if dtype == torch.float32 else 1e-10
    assert reached
    assert lanczos.steps <= products
    np.testing.assert_allclose(ritz.values[::-1][:top], ends[::-1][:top], atol=slack)
    np.testing.assert_allclose(ritz.values[:bottom], ends[:bottom], atol=slack)
