"""Memory that runs out in the middle: what is done is kept, and less is tried once."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import curvature
from lossatlas.curvature import groups, hessian
from lossatlas.curvature.krylov_memory import RAN_OUT
from lossatlas.landscape.engines import batched, plain
from lossatlas.linalg import basis as bases
from lossatlas.linalg.extremes import converge
from lossatlas.linalg.krylov import Lanczos
from lossatlas.linalg.probes import deflated_trace
from lossatlas.memory import is_out_of_memory
from lossatlas.recipes.transfer import transfer_check
from lossatlas.rng import generator

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory"),
]


@pytest.fixture
def objective():
    drawn = generator("out of memory")
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=drawn))
    batch = torch.randn(9, 4, generator=drawn), torch.randint(3, (9,), generator=drawn)
    return la.Objective(model, la.supervised(F.cross_entropy), [batch])


def matrix(size: int = 40) -> torch.Tensor:
    drawn = torch.randn(size, size, generator=generator("matrix"), dtype=torch.float64)
    return drawn + drawn.T


def run(dense: torch.Tensor, apply=None) -> Lanczos:
    drawn = generator("start")
    start = torch.randn(len(dense), generator=drawn, dtype=dense.dtype)
    return Lanczos(apply or (lambda v: dense @ v), start, drawn)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_map_goes_on_with_fewer_points_at_once(objective, monkeypatch, error):
    plane = la.random_plane(objective)
    options = {"points": 9, "adaptive": False, "engine": "batched"}
    whole = la.map_plane(objective, plane, **options)
    assert not any("Memory" in note for note in whole.notes)
    inner, sizes = batched.BatchedEngine.moments, []

    def scarce(self, coordinates):
        sizes.append(len(coordinates))
        if len(coordinates) > 20:
            raise error
        return inner(self, coordinates)

    monkeypatch.setattr(batched.BatchedEngine, "moments", scarce)
    monkeypatch.setattr(batched, "_MOST_POINTS", 32)
    found = la.map_plane(objective, plane, **options)
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-6)
    assert sum(size > 20 for size in sizes) == 1
    assert "Memory ran out once; after that, 16 points were evaluated at a time" in " ".join(
        found.notes
    )


def test_a_map_that_fails_twice_keeps_what_is_done(objective, monkeypatch, tmp_path):
    plane, file = la.random_plane(objective), tmp_path / "map.resume"
    options = {"points": 9, "adaptive": False, "engine": "plain"}
    whole = la.map_plane(objective, plane, **options)
    inner, counts = plain.PlainEngine.moments, []

    def scarce(self, coordinates):
        counts.append(len(coordinates))
        if sum(counts) > 50:
            raise ERRORS[2]
        return inner(self, coordinates)

    monkeypatch.setattr(plain.PlainEngine, "moments", scarce)
    with pytest.raises(RuntimeError, match="not enough memory"):
        la.map_plane(objective, plane, **options, resume=file)
    monkeypatch.setattr(plain.PlainEngine, "moments", inner)
    again = la.map_plane(objective, plane, **options, resume=file)
    np.testing.assert_array_equal(again.values, whole.values)


def test_another_error_is_not_tried_again(objective, monkeypatch):
    plane, calls, inner = la.random_plane(objective), [], batched.BatchedEngine.moments

    def broken(self, coordinates):
        # Few points are looked at beforehand.
        if len(coordinates) <= 20:
            return inner(self, coordinates)
        calls.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr(batched.BatchedEngine, "moments", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        la.map_plane(objective, plane, points=9, adaptive=False, engine="batched")
    assert len(calls) == 1
    assert not is_out_of_memory(RuntimeError("a bug"))


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_eigenvalues_are_found_in_the_basis_that_fits(monkeypatch, error):
    dense, append, failed = matrix(), bases.Basis.append, []

    def scarce(self, vector):
        if len(self) >= 14 and not failed:
            failed.append(1)
            raise error
        append(self, vector)

    monkeypatch.setattr(bases.Basis, "append", scarce)
    lanczos = run(dense)
    ritz, reached = converge(lanczos, top=2, bottom=1, tolerance=1e-6, limit=200)
    assert reached
    assert lanczos.full
    assert len(lanczos.basis) <= 15
    truth = torch.linalg.eigvalsh(dense).numpy()
    np.testing.assert_allclose(ritz.values[[0, -2, -1]], truth[[0, -2, -1]], rtol=1e-6)


def test_a_product_without_memory_is_taken_again_in_a_smaller_space():
    dense, calls = matrix(), []

    def apply(vector):
        calls.append(1)
        if len(calls) == 12:
            raise MemoryError
        return dense @ vector

    lanczos = run(dense, apply)
    ritz, reached = converge(lanczos, top=1, bottom=0, tolerance=1e-6, limit=200)
    assert reached
    assert ritz.values[-1] == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]))
    # A second time it is told.
    calls.clear()
    with pytest.raises(MemoryError):
        lanczos.extend_within_memory(12)


def test_a_spectrum_says_that_its_basis_was_cut(objective, monkeypatch):
    truth = la.spectrum(objective, top=2, bottom=0, density=False)
    append, failed = bases.Basis.append, []

    def scarce(self, vector):
        if len(self) >= 9 and not failed:
            failed.append(1)
            raise ERRORS[0]
        append(self, vector)

    monkeypatch.setattr(bases.Basis, "append", scarce)
    found = la.spectrum(objective, top=2, bottom=0, density=False)
    assert "memory ran out, and the run went on with a smaller basis" in found.note
    np.testing.assert_allclose(found.top, truth.top, rtol=1e-3)


def test_a_trace_takes_probes_where_the_space_cannot_grow(monkeypatch):
    dense = matrix()
    dense = dense @ dense
    append = bases.Basis.append

    def scarce(self, vector):
        if len(self) >= 6:
            raise ERRORS[1]
        append(self, vector)

    monkeypatch.setattr(bases.Basis, "append", scarce)
    options = {"tolerance": 0.1, "limit": 300, "rows": 30, "seed": 0}
    found, probes = deflated_trace(lambda v: dense @ v, run(dense), **options)
    assert len(probes) > 0
    assert abs(found.value - float(dense.trace())) <= 4 * found.stderr


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("name", ["trace", "frobenius_norm", "diagonal"])
def test_probes_go_on_in_the_space_that_fits_and_say_so(objective, monkeypatch, name, error):
    measure, options = getattr(curvature, name), {"limit": 60, "seed": 2}
    append, failed = bases.Basis.append, []
    assert "memory" not in _said(measure(objective, **options))

    def scarce(self, vector):
        if len(self) >= 3 and not failed:
            failed.append(1)
            raise error
        append(self, vector)

    monkeypatch.setattr(bases.Basis, "append", scarce)
    found = measure(objective, **options)
    assert failed
    assert "memory ran out at 2 vectors of the Krylov space" in _said(found)
    truth = dense_hessian(objective)
    if name == "diagonal":
        assert found.relative_error < 0.5
    else:
        exact = {"trace": truth.trace(), "frobenius_norm": truth.norm()}[name]
        assert abs(found.value - float(exact)) <= 5 * found.stderr


def _said(found) -> str:
    return " ".join(e.meaning for e in getattr(found, "estimates", lambda: [found])())


def dense_hessian(objective) -> torch.Tensor:
    matrix = hessian(objective)
    return torch.stack([matrix.flat(row) for row in torch.eye(matrix.size)])


def scarce_once(monkeypatch, length, error=ERRORS[0]):
    append, failed = bases.Basis.append, []

    def scarce(self, vector):
        if len(self) >= length and not failed:
            failed.append(1)
            raise error
        append(self, vector)

    monkeypatch.setattr(bases.Basis, "append", scarce)
    return failed


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_the_edge_of_stability_says_that_its_basis_was_cut(objective, monkeypatch, error):
    sgd = torch.optim.SGD(objective.model.parameters(), lr=0.1)
    truth = curvature.edge_of_stability(objective, sgd)
    assert not truth.note
    failed = scarce_once(monkeypatch, 6, error)
    found = curvature.edge_of_stability(objective, sgd)
    assert failed
    assert found.note == "memory ran out, and the run went on with a smaller basis"
    assert found.note in _said(found)
    assert found.sharpness == pytest.approx(truth.sharpness, rel=2e-3)


@pytest.mark.parametrize("by", ["layer", "class"])
def test_the_group_whose_basis_was_cut_says_so(objective, monkeypatch, by):
    options = {"by": by, "top": 1, "bottom": 0, "density": False}
    truth = la.spectrum(objective, **options).groups
    assert not any("memory" in group.note for group in truth)
    once = bases.Basis.append
    # The groups come after the whole spectrum, which is not cut here.
    measure, failed = groups._group_spectrum, []

    def cut(*arguments):
        failed.append(scarce_once(monkeypatch, 6) if not failed else [])
        return measure(*arguments)

    monkeypatch.setattr(groups, "_group_spectrum", cut)
    found = la.spectrum(objective, **options).groups
    monkeypatch.setattr(bases.Basis, "append", once)
    assert failed[0]
    assert [group.note.count("the run went on with a smaller basis") for group in found] == [
        1,
        *[0] * (len(found) - 1),
    ]
    for a, b in zip(found, truth, strict=True):
        assert a.largest == pytest.approx(b.largest, abs=a.largest_bound + b.largest_bound)


def test_a_group_whose_trace_ran_out_of_memory_says_so(objective, monkeypatch):
    inner = groups.deflated_trace

    def scarce(apply, lanczos, **options):
        scarce_once(monkeypatch, len(lanczos.basis))
        return inner(apply, lanczos, **options)

    monkeypatch.setattr(groups, "deflated_trace", scarce)
    monkeypatch.setattr(groups, "_TRACE_TOLERANCE", 1e-3)
    options = {"by": "layer", "top": 1, "bottom": 0, "density": False, "tolerance": 0.01}
    found = la.spectrum(objective, **options).groups
    assert any("further products were random probes" in group.note for group in found)


def test_graphs_are_kept_only_while_memory_lasts(objective, monkeypatch):
    matrix = hessian(objective, cache=True)
    vector = torch.ones(matrix.size)
    truth = hessian(objective, cache=False).flat(vector)
    walk, failed = matrix._walk, []

    def scarce(use):
        if not failed:
            failed.append(1)
            raise ERRORS[2]
        return walk(use)

    monkeypatch.setattr(matrix, "_walk", scarce)
    torch.testing.assert_close(matrix.flat(vector), truth)
    torch.testing.assert_close(matrix.flat(2 * vector), 2 * truth)
    assert len(failed) == 1


@pytest.fixture
def scarce(monkeypatch):
    """Every Krylov space runs out of memory once."""
    append = bases.Basis.append

    def once(self, vector):
        if len(self) >= 3 and not getattr(self, "failed", False):
            self.failed = True
            raise MemoryError
        append(self, vector)

    monkeypatch.setattr(bases.Basis, "append", once)


def test_a_suggested_rate_says_that_memory_ran_out(objective, scarce):
    found = la.suggest_lr(objective, "sgd", updates=10)
    assert RAN_OUT in " ".join(found.sentences())


def test_a_check_of_transfer_says_that_memory_ran_out(scarce):
    def factory(width, seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
        batch = torch.randn(9, 4), torch.arange(9) % 3
        made = la.Objective(model, la.supervised(F.cross_entropy), [batch])
        return made, torch.optim.SGD(model.parameters(), lr=0.1)

    found = transfer_check(factory, (4, 8, 16), seeds=2, steps=1)
    assert "Sharpness at width 4, seed 0: " + RAN_OUT in " ".join(found.sentences())


def test_a_report_of_a_spike_says_that_memory_ran_out(scarce):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss(model, batch):
        return (model(batch) - 1).square().mean(1)

    recorder = la.SpikeRecorder(model, optimizer, loss)
    for step in range(40):
        batch = torch.randn(8, 4) + (1000 if step == 30 else 0)
        optimizer.zero_grad()
        value = loss(model, batch).mean() * (1e4 if step == 30 else 1)
        value.backward()
        report = recorder.observe(value, batch)
        if report is not None:
            break
        optimizer.step()
    assert RAN_OUT in " ".join(report.sentences())
