import copy
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas import io
from lossatlas.curvature import diagonal, frobenius_norm, gradient_noise, krylov_memory, trace
from lossatlas.errors import ArgumentError, NonFiniteError, UnknownNameError
from lossatlas.linalg.krylov import Lanczos
from lossatlas.linalg.probes import Budget, deflated_trace
from lossatlas.rng import generator
from reference import curvature_dense as dense
from reference.curvature_cases import cases, mlp, normal

CASES = {case.name: case for case in cases()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_trace_norm_and_diagonal_agree_with_the_dense_hessian(case):
    matrix = dense.hessian(case.objective)
    total = trace(case.objective, 0.05, limit=100, rows=15)
    assert abs(total.value - float(matrix.trace())) <= 4 * total.stderr + 1e-9
    length = frobenius_norm(case.objective, 0.05, limit=100, rows=15)
    assert abs(length.value - float(matrix.norm())) <= 4 * length.stderr + 1e-9
    entries = diagonal(case.objective, 0.1, limit=100)
    off = dense.flat(entries.value) - matrix.diagonal()
    # Random signs: one entry may see twelve equal signs, all of them together may not.
    spread = dense.flat(entries.stderr) + 1e-6 * float(matrix.norm())
    assert float((off / spread).square().mean()) < 4


def test_a_space_that_is_everything_makes_them_exact():
    objective = CASES["mlp"].objective
    matrix = dense.hessian(objective)
    total = trace(objective, 1e-6, rows=100, limit=100)
    assert math.isclose(total.value, float(matrix.trace()), rel_tol=1e-9)
    assert total.stderr == 0.0
    part = frobenius_norm(objective, 1e-9, names="2.bias", limit=60)
    assert math.isclose(part.value, float(matrix[-3:, -3:].norm()), rel_tol=1e-9)
    assert part.stderr == 0.0
    entries = diagonal(objective, names="2.bias")
    assert_close(entries.value["2.bias"], matrix.diagonal()[-3:])
    assert entries.reached


def test_the_gauss_newton_trace_of_a_softmax_head_has_its_closed_form():
    x = normal(40, 6)
    model = nn.Linear(6, 4).double()
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(x, torch.arange(40) % 4)])
    share = model(x).softmax(1).detach()
    want = float(((x.square().sum(1) + 1) * (1 - share.square().sum(1))).mean())
    for curvature in ("gauss_newton", "hessian"):
        low, high = trace(objective, 0.02, curvature=curvature).interval(0.999)
        assert low <= want <= high


def test_the_interval_covers_the_trace_of_a_network():
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    drawn = generator(1, "weights")
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.6 * torch.randn(value.shape, generator=drawn, dtype=value.dtype))
    objective = la.Objective(
        model, la.supervised(F.cross_entropy), [(normal(30, 6), torch.arange(30) % 3)]
    )
    truth = float(dense.hessian(objective).trace())
    hits = 0
    for seed in range(8):
        low, high = trace(objective, 0.2, seed=seed).interval()
        hits += low <= truth <= high
    # Fewer than 6 of 8 happens once in 170 at 95 %; the benchmark counts 200 seeds.
    assert hits >= 6


def test_a_limit_that_does_not_suffice_is_said():
    objective = CASES["mlp"].objective
    assert not trace(objective, 1e-4, limit=15, rows=5).reached
    assert not frobenius_norm(objective, 1e-4, limit=15, rows=5).reached
    entries = diagonal(objective, 1e-4, limit=15, rows=5)
    assert not entries.reached
    assert entries.products == 15
    single = diagonal(objective, 1e-4, limit=6, rows=5)
    assert all(bool(value.isnan().all()) for value in single.stderr.values())


def test_wrong_input_is_named():
    objective = CASES["mlp"].objective
    for measure in (trace, frobenius_norm, diagonal):
        with pytest.raises(ArgumentError, match="`tolerance`"):
            measure(objective, -1.0)
        with pytest.raises(ArgumentError, match="`limit`"):
            measure(objective, limit=0)
        with pytest.raises(UnknownNameError, match="did you mean 'fisher'"):
            measure(objective, curvature="fischer")


def test_the_diagonal_comes_back_from_a_file(tmp_path):
    found = diagonal(CASES["mlp"].objective)
    back = io.load(io.save(found, tmp_path / "diagonal.nc"))
    assert_close(back.value, found.value, rtol=0, atol=0)
    assert back.products == found.products


def _gradients(objective):
    rows = []
    for inputs, targets in objective.iter_batches():
        for i in range(len(inputs)):
            part = la.Objective(
                objective.model, objective.loss, [(inputs[i : i + 1], targets[i : i + 1])]
            )
            rows.append(dense.flat(part.gradient()))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["mlp", "two batches", "attention"])
def test_gradient_noise_is_that_of_single_gradients(name):
    objective = CASES[name].objective
    rows = _gradients(objective)
    mean, count = rows.mean(0), len(rows)
    found = gradient_noise(objective, probes=200)
    assert math.isclose(found.norm.value, float(mean.norm()), rel_tol=1e-9)
    along = rows @ mean / mean.norm()
    assert math.isclose(found.norm.stderr, float(along.std() / count**0.5), rel_tol=1e-6)
    scatter = float(rows.var(0).sum())
    assert abs(found.scatter.value - scatter) < 4 * found.scatter.stderr
    signal = float(mean.square().sum()) - scatter / count
    if signal > 0:
        assert math.isclose(found.noise_scale.value, scatter / signal, rel_tol=0.3)
    else:
        assert found.noise_scale.value == math.inf
        assert "lost in its noise" in found.noise_scale.why_no_error
    assert math.isclose(found.floor, (found.scatter.value / count) ** 0.5)


def test_gradient_noise_of_means_comes_from_batches():
    batches = [(normal(5, 4, seed=s), torch.arange(5) % 3) for s in range(6)]
    objective = la.Objective(mlp(), lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches)
    rows = torch.stack(
        [
            dense.flat(la.Objective(objective.model, objective.loss, [b]).gradient())
            for b in batches
        ]
    )
    found = gradient_noise(objective)
    assert found.unit == "batches"
    assert math.isclose(found.scatter.value, 5 * float(rows.var(0).sum()), rel_tol=1e-9)
    one = la.Objective(objective.model, objective.loss, batches[:1])
    assert "two batches" in gradient_noise(one).norm.why_no_error


def test_a_gradient_of_zero_and_one_that_is_not_finite():
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    zero = la.Objective(
        model, la.supervised(F.mse_loss), [(normal(4, 2), torch.zeros(4, 1).double())]
    )
    found = gradient_noise(zero)
    assert (found.norm.value, found.norm.why_no_error) == (0.0, "the gradient is zero")
    bad = la.Objective(
        model, la.supervised(F.mse_loss), [(normal(4, 2) / 0, torch.ones(4, 1).double())]
    )
    with pytest.raises(NonFiniteError, match="weight"):
        gradient_noise(bad)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("measure", [trace, frobenius_norm])
def test_the_error_in_half_precision_includes_rounding(kind, measure):
    gaps = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(kind)
        x, y = torch.randn(32, 4).to(kind), torch.randint(3, (32,))
        loss = la.supervised(F.cross_entropy)
        fine = la.Objective(copy.deepcopy(model).double(), loss, [(x.double(), y)])
        matrix = dense.hessian(fine)
        truth = float(matrix.trace() if measure is trace else matrix.norm())
        found = measure(la.Objective(model, loss, [(x, y)]), 1e-3)
        gaps.append(abs(found.value - truth) / found.stderr)
        assert found.stderr >= 0.1 * torch.finfo(kind).eps * truth
        assert kind is torch.float16 or not found.reached
    assert max(gaps) < 3


def untrained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 5))
    batch = (torch.randn(30, 10), torch.randint(0, 5, (30,)))
    return la.Objective(model, la.supervised(F.cross_entropy), [batch])


def test_a_budget_is_kept_and_the_cost_of_the_tolerance_is_forecast():
    objective = untrained()
    truth = float(dense.hessian(objective).trace())
    found = trace(objective, 1e-3, limit=40, rows=20)
    assert found.products == 40
    assert not found.reached
    low, high = found.interval(0.999)
    assert low <= truth <= high
    words = re.search(r"within 0\.1 % of it would take about ([\d,]+) products", found.meaning)
    forecast = int(words[1].replace(",", ""))
    assert forecast > 40
    # Four times as wide an interval takes a sixteenth of the probes, about.
    wider = trace(objective, 4e-3, limit=40, rows=20).meaning
    less = int(re.search(r"about ([\d,]+) products", wider)[1].replace(",", ""))
    assert 8 < (forecast - 20) / (less - 20) < 32
    assert "would take" not in trace(objective, 10.0).meaning


def test_a_budget_of_seconds_ends_at_the_pace_of_products():
    now, taken = [0.0], []

    def apply(vector):
        now[0] += 1.0
        taken.append(now[0])
        return torch.linspace(-1, 1, 200) * vector

    lanczos = Lanczos(apply, torch.ones(200), generator(0))
    budget = Budget(1000, 30.0, lambda: now[0])
    deflated_trace(apply, lanczos, tolerance=0.01, limit=budget, rows=10, seed=0)
    assert 25 <= len(taken) <= 30
    assert Budget(5, 1e-9).left(0) == 5
    with pytest.raises(ArgumentError, match="`seconds`"):
        trace(untrained(), seconds=0)
    assert trace(untrained(), 1e-4, seconds=1e-6, rows=5).products <= 16


@pytest.mark.parametrize("measure", [trace, frobenius_norm, diagonal])
def test_probes_need_no_basis_and_say_where_nothing_fits(measure, monkeypatch):
    objective = untrained()
    matrix = dense.hessian(objective)
    found = measure(objective, 0.3, rows=0, limit=200)
    bytes_of_one = 4 * len(matrix)
    monkeypatch.setattr(krylov_memory, "free_memory", lambda device: 9 * bytes_of_one)
    scarce = measure(objective, 0.3, limit=200)
    assert found.products == scarce.products
    if measure is not diagonal:
        assert found.value == scarce.value
        truth = float(matrix.trace() if measure is trace else matrix.norm())
        assert abs(found.value - truth) <= 5 * found.stderr
    monkeypatch.setattr(krylov_memory, "free_memory", lambda device: 2 * bytes_of_one)
    with pytest.raises(ArgumentError, match="random probes of 389 parameters need"):
        measure(objective)
