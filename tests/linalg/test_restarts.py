import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lossatlas.linalg.basis import Basis
from lossatlas.linalg.estimators import rademacher
from lossatlas.linalg.extremes import converge, least_rows
from lossatlas.linalg.krylov import Lanczos, Storage, krylov_bytes
from lossatlas.linalg.params import dot, exact_dots
from lossatlas.linalg.probes import DeflatedProbes
from lossatlas.rng import generator


def rotated(values, seed=0, dtype=torch.float64):
    drawn = generator(seed, "rotation")
    square = torch.randn(len(values), len(values), generator=drawn, dtype=torch.float64)
    q = torch.linalg.qr(square)[0]
    return (q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T).to(dtype)


def run(matrix, seed=0, **storage):
    drawn = generator(seed, "start")
    start = torch.randn(len(matrix), generator=drawn, dtype=matrix.dtype)
    return Lanczos(lambda v: matrix @ v.to(matrix), start, drawn, Storage(**storage))


def projected(lanczos):
    """T, written out from its parts."""
    t = np.diag(lanczos.alpha) + np.diag(lanczos.beta[:-1], 1) + np.diag(lanczos.beta[:-1], -1)
    kept = len(lanczos.couplings)
    if kept:
        t[kept, :kept] = t[:kept, kept] = lanczos.couplings
    return t


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("top", "bottom"), [(1, 0), (5, 0), (3, 2), (0, 1)])
def test_few_vectors_find_the_same_ends_as_all(top, bottom, dtype):
    drawn = np.random.default_rng(top)
    values = np.concatenate([[9.0, 7.0, 6.5, 4.0, -3.0, -2.5], drawn.uniform(-1, 1, 134)])
    matrix = rotated(values, dtype=dtype)
    options = {"top": top, "bottom": bottom, "tolerance": 1e-3, "limit": 400}
    few = run(matrix, rows=least_rows(top + bottom))
    ritz, reached = converge(few, **options)
    whole, _ = converge(run(matrix), **options)
    assert reached
    assert len(few.basis) <= top + bottom + 4
    assert few.before_restart is not None
    for ends in (slice(len(ritz.values) - top, None), slice(bottom)):
        nearest = np.abs(ritz.values[ends, None] - values).min(1)
        assert np.all(nearest <= ritz.bounds[ends])
    together = ritz.bounds.max() + whole.bounds.max()
    if top:
        np.testing.assert_allclose(ritz.values[-top:], whole.values[-top:], atol=together)
    if bottom:
        np.testing.assert_allclose(ritz.values[:bottom], whole.values[:bottom], atol=together)


@given(
    st.lists(st.integers(-5, 5), min_size=12, max_size=16), st.integers(0, 2), st.integers(1, 2)
)
def test_what_is_found_are_eigenvalues_also_where_runs_begin_anew(values, bottom, top):
    # Whole numbers repeat: the space is exhausted again and again between restarts.
    lanczos = run(rotated(values), rows=least_rows(top + bottom))
    ritz, reached = converge(lanczos, top=top, bottom=bottom, tolerance=1e-6, limit=300)
    size = len(ritz.values)
    places = [*range(size - top, size), *range(bottom)]
    nearest = np.abs(ritz.values[:, None] - np.array(values)).min(1)
    assert np.all(nearest[places] <= ritz.bounds[places])
    assert lanczos.products <= 300
    if reached:
        ends = np.sort(values)
        assert ritz.values[-1] == pytest.approx(ends[-1], abs=1e-4)
        assert bottom == 0 or ritz.values[0] == pytest.approx(ends[0], abs=1e-4)


@given(st.integers(0, 9), st.integers(1, 3))
def test_after_restarts_t_is_still_the_matrix_in_the_basis(seed, times):
    matrix = rotated(np.linspace(-1, 2, 40), seed)
    lanczos = run(matrix, seed, rows=9)
    for _ in range(times):
        lanczos.extend(9 - lanczos.steps)
        lanczos.restart([8, 7, 6, 0])
        lanczos.extend(2)
    q = torch.stack([lanczos.basis[k] for k in range(lanczos.steps)])
    want = torch.from_numpy(projected(lanczos))
    assert_close(q @ q.T, torch.eye(len(q), dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(q @ matrix @ q.T, want, atol=1e-11, rtol=0)
    assert lanczos.products == 9 + 5 * (times - 1) + 2
    # Residuals are those of exact products.
    ritz = lanczos.ritz()
    vectors = lanczos.basis.combine(ritz.vectors)
    images = vectors @ matrix - vectors * torch.from_numpy(ritz.values)[:, None]
    np.testing.assert_allclose(ritz.residuals, images.norm(dim=1), atol=1e-10)


@given(st.integers(0, 6), st.integers(0, 6))
def test_probes_see_what_lies_outside_a_space_that_was_restarted(after, seed):
    matrix = rotated(np.linspace(-1, 3, 24), seed)
    lanczos = run(matrix, seed, rows=8)
    lanczos.extend(8)
    lanczos.restart([7, 6, 0])
    lanczos.extend(1 + min(after, 4))
    probes = DeflatedProbes(lanczos.apply, lanczos, seed)
    probes.draw(3)
    z = torch.stack([rademacher(24, probes.seed_of(k), matrix) for k in range(3)])

    def outside(steps):
        q = torch.stack([lanczos.basis[k] for k in range(steps)])
        return torch.eye(24, dtype=torch.float64) - q.T @ q

    p = outside(lanczos.steps)
    want = torch.einsum("ij,jk,ik->i", z, p @ matrix @ p, z)
    np.testing.assert_allclose(probes.remainders(), want, atol=1e-10)
    inner, outer = probes.squares()
    p = outside(lanczos.steps - 1)
    assert np.all(inner >= (z @ p @ matrix @ p).square().sum(1).numpy() - 1e-9)
    assert np.all(outer >= (z @ p @ matrix).square().sum(1).numpy() - 1e-9)


@pytest.mark.parametrize("size", [50, 3 * 2**20])
def test_a_basis_that_is_rounded_works_as_its_rows_do(size):
    drawn = generator(0, "rows")
    rows = torch.randn(3, size, generator=drawn)
    rows = torch.linalg.qr(rows.T)[0].T.contiguous()
    basis = Basis(rows[0], dtype=torch.bfloat16, max_rows=4)
    for row in rows[1:]:
        basis.append(row)
    kept = torch.stack([basis[k].float() for k in range(3)])
    exact = kept.double()
    assert all(panel.dtype == torch.bfloat16 for panel in basis.panels())
    vector = torch.randn(size, generator=drawn)
    np.testing.assert_allclose(basis.coefficients(vector), exact @ vector.double(), atol=1e-3)
    assert basis.dot(1, vector) == pytest.approx(float(exact[1] @ vector.double()), abs=1e-3)
    assert basis.square(2) == pytest.approx(float(exact[2] @ exact[2]), rel=1e-5)
    moved = vector.clone()
    basis.add_to(moved, 1, 2.0)
    assert_close(moved, vector + 2 * kept[1])
    left, length, _ = basis.orthogonalised(vector.clone())
    assert length == pytest.approx(float(left.norm()), rel=1e-5)
    assert float((kept @ left).abs().max()) < 1e-3 * length
    turn = np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0]
    want = torch.from_numpy(turn.T).float() @ kept
    assert_close(basis.combine(turn), want, atol=1e-5, rtol=1e-4)
    basis.rotate(turn)
    assert_close(torch.stack([basis[k].float() for k in range(3)]), want, atol=1e-3, rtol=8e-3)


def test_the_memory_of_a_basis_is_that_of_its_rows():
    for rows in (5, 15, 16, 40):
        lanczos = run(rotated(np.linspace(0, 1, 60)), rows=rows)
        converge(lanczos, top=1, bottom=0, tolerance=1e-9, limit=60)
        held = sum(panel.nbytes for panel in lanczos.basis._panels)
        said = krylov_bytes(60, rows, torch.float64, Storage(rows=rows))
        assert held == said - 2 * 60 * 8 == (rows + 1) * 60 * 8
    # Long vectors are allocated one by one.
    assert krylov_bytes(10**9, 4, torch.float32) == (5 + 2) * 4 * 10**9


def test_inner_products_are_those_of_float64_in_one_piece():
    drawn = generator(0, "long")
    a, b = (torch.randn(2**20 + 7, generator=drawn) for _ in range(2))
    want = float(a.double() @ b.double()), float(a.double() @ a.double())
    assert exact_dots(a, b, a) == pytest.approx(want, rel=1e-12)
    assert dot({"a": a, "b": b}, {"a": b, "b": a}) == pytest.approx(2 * want[0], rel=1e-12)
    small = torch.randn(30, generator=drawn)
    assert dot({"x": small}, {"x": small}) == float(small.double() @ small.double())
    assert dot({}, {}) == 0.0
