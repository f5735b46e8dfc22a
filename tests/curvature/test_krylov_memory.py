import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import hessian, krylov_memory, spectrum, spectrum_memory
from lossatlas.curvature.krylov_memory import KrylovRequest
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.linalg.krylov import krylov_bytes
from reference import curvature_dense as dense
from reference.curvature_cases import cases

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    batch = (torch.randn(40, 8), torch.randint(0, 4, (40,)))
    return la.Objective(model, la.supervised(F.cross_entropy), [batch])


@pytest.fixture(scope="module")
def truth(objective):
    return np.linalg.eigvalsh(dense.hessian(objective))


@pytest.mark.parametrize("basis", ["auto", "device", "host", "half"])
def test_bounds_hold_however_the_basis_is_kept(objective, truth, basis):
    found = spectrum(objective, top=3, bottom=1, density=False, rows=7, basis=basis, limit=200)
    values = np.concatenate([found.top, found.bottom])
    assert np.all(np.abs(values[:, None] - truth).min(1) <= found.bounds)
    # Rounded rows leave residuals of a share of the largest eigenvalue, which bounds tell.
    assert found.reached is (basis != "half")
    assert found.bounds.max() <= (0.02 if basis == "half" else 1e-3) * truth[-1]
    assert np.all(np.abs(found.top - truth[::-1][:3]) < 2e-3 * truth[-1])
    assert found.products <= 200 + 4
    assert found.memory == spectrum_memory(objective, 200, top=3, bottom=1, rows=7, basis=basis)


def test_bounds_of_a_rounded_basis_are_those_of_exact_products(objective):
    found = spectrum(
        objective, top=2, bottom=0, density=False, rows=6, basis="half", vectors=True
    )
    matrix = hessian(objective)
    for value, bound, vector in zip(found.top, found.top_bounds, found.vectors, strict=True):
        flat = matrix.flatten(vector).double()
        flat /= flat.norm()
        residual = matrix.flat(flat.float()).double() - value * flat
        assert float(residual.norm()) <= bound * (1 + 1e-4)
        assert bound <= 1.1 * float(residual.norm()) + 1e-4 * abs(value)


def test_the_density_of_a_run_that_was_restarted_has_the_moments_of_the_spectrum(objective):
    truth = np.linalg.eigvalsh(dense.hessian(objective))
    found = spectrum(objective, top=3, bottom=1, rows=8, probes=12, steps=12)
    density = found.density
    assert np.allclose(density.weights.sum(1), 1)
    assert density.products == found.products
    for power in (1, 2):
        moment = density.mean(lambda x, w, power=power: float(w @ x**power))
        assert abs(moment.value - (truth**power).mean()) < 4 * moment.stderr
    first = spectrum(objective, top=3, bottom=1, rows=8, probes=1).density
    assert first.weights.shape[0] == 1
    spread = density.mean(lambda x, w: float(w @ x)).stderr * np.sqrt(12)
    assert abs(float((first.weights * first.nodes).sum()) - truth.mean()) < 4 * spread


def test_groups_are_served_by_runs_that_restart(monkeypatch):
    case = next(case for case in cases() if case.name == "mlp")
    options = {"top": 1, "bottom": 1, "density": False, "by": "layer"}
    want = spectrum(case.objective, **options)
    monkeypatch.setattr(krylov_memory, "default_rows", lambda size, wanted: wanted + 4)
    got = spectrum(case.objective, **options)
    for one, other in zip(got.groups, want.groups, strict=True):
        together = one.largest_bound + other.largest_bound
        assert abs(one.largest - other.largest) <= together + 1e-9
        spread = np.hypot(one.trace.stderr, other.trace.stderr)
        assert abs(one.trace.value - other.trace.value) <= 4 * spread + 1e-9


def test_a_basis_is_chosen_by_what_is_free():
    size, dtype = 10**6, torch.float32

    def plan(copies, **options):
        request = KrylovRequest(2, 300, **options)
        return request.plan(size, dtype, CPU, lambda device: int(copies * 4 * size))

    whole = plan(1e4)
    assert whole.storage.rows == 12
    assert whole.memory == krylov_bytes(size, 12, dtype, whole.storage) == (13 + 2) * 4 * size
    assert plan(2 * 11).storage.rows == 8
    least = plan(2 * 8 - 1)
    assert (least.storage.rows, least.storage.dtype) == (5, None)
    half = plan(6)
    assert half.storage.dtype == torch.bfloat16
    assert "bfloat16" in half.note
    assert plan(6, basis="half").note == ""
    with pytest.raises(ArgumentError, match=r"2 eigenvalues of 1000000 parameters need"):
        plan(4)
    with pytest.raises(ArgumentError, match="are free"):
        plan(6, basis="device")
    card = KrylovRequest(2, 300).plan(
        size, dtype, torch.device("cuda"), lambda d: 10**9 if d.type == "cpu" else 9 * 10**6
    )
    assert card.storage.device == CPU
    assert "host" in card.note
    unknown = KrylovRequest(2, 300, rows=5).plan(size, dtype, CPU, lambda device: None)
    assert unknown.storage.rows == 5


def test_wrong_rows_and_bases_are_named(objective):
    with pytest.raises(ArgumentError, match="`rows` must be a whole number >= 5"):
        spectrum(objective, top=2, bottom=1, rows=3)
    with pytest.raises(UnknownNameError, match="did you mean 'half'"):
        spectrum(objective, basis="hal")
    with pytest.raises(ArgumentError, match="`top`"):
        spectrum_memory(objective, top=-1)


def test_what_is_asked_of_memory_allocates_nothing():
    with torch.device("meta"):
        model = nn.Linear(2**14, 2**14)
    request = KrylovRequest(1, 300, rows=4)
    size = sum(value.numel() for value in model.parameters())
    plan = request.plan(size, torch.float32, CPU, lambda device: 10**12)
    assert plan.memory == 7 * 4 * size
