"""Curvature: eigenvalues to a true 1e-3, traces whose interval holds, what a density costs."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import numpy as np
import subjects
import torch
from harness import Row
from subjects import Case
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.algebra.estimators import Estimate
from lossatlas.algebra.extremes import converge
from lossatlas.algebra.krylov import Lanczos, quadrature
from lossatlas.algebra.probes import deflated_trace
from lossatlas.curvature import Product, hessian, spectrum, spectrum_memory, trace
from lossatlas.curvature.trace import random_run
from lossatlas.rng import generator

_BATCH = 8 if harness.QUICK else 32
_SEEDS = 20 if harness.QUICK else 200
_STEPS = 30 if harness.QUICK else 100
_TOP = 5
_PYHESSIAN, _CURVLINOPS = "PyHessian", "curvlinops + eigsh"


@dataclass(frozen=True)
class Subject:
    """A case, its short name, and the products on one cached graph."""

    case: Case
    name: str
    matrix: Product

    @property
    def start(self) -> torch.Tensor:
        drawn = generator(0, "bench")
        return torch.randn(self.matrix.size, generator=drawn, dtype=self.matrix.dtype)


def rows() -> list[Row]:
    """CPU time on one thread, medians of interleaved rounds; counts and errors beside it.

    Returns:
        One row a comparison.
    """
    small, net = subjects.small_network(), subjects.resnet20(_BATCH)
    both = [
        _subject(small, f"MLP 784-64-10, batch 512 ({small.source})"),
        _subject(net, f"ResNet-20, batch {_BATCH} ({net.source})"),
    ]
    table = [row for subject in both for row in _eigenvalues(subject)]
    table += [_density(subject) for subject in both]
    return [*table, *_traces(both[1]), _coverage(), _memory(small)]


def _subject(case: Case, name: str) -> Subject:
    matrix = hessian(case.objective)
    matrix.flat(matrix.zeros())
    return Subject(case, name, matrix)


def _eigenvalues(subject: Subject) -> list[Row]:
    truth = _truth(subject.case)
    found = spectrum(subject.case.objective, top=_TOP, bottom=0, density=False)
    error = float(np.abs(found.top / truth - 1).max())
    inside = bool(np.all(np.abs(found.top - truth) <= found.top_bounds))
    what = f"top-{_TOP} eigenvalues, {subject.name}"
    note = f"bounds {'hold' if inside else 'DO NOT hold'} against float64"
    vector = subject.start

    def bare() -> None:
        for _ in range(found.products):
            subject.matrix.flat(vector)

    jobs: dict[str, Callable[[], Any]] = {"ours": lambda: _top(subject.matrix), "bare": bare}
    jobs |= {peer: lambda job=job: job(subject.case) for peer, job in _peers().items()}
    rounds = 3 if subject.matrix.size > 100_000 else 11
    times = harness.interleaved(jobs, rounds=rounds)
    share = times["ours"].median / times["bare"].median
    speed = {
        peer: Row(
            what, peer, times["ours"].ms, times[peer].ms, "ms", goal, _error(peer, subject)
        )
        if peer in times
        else harness.not_installed(Row(what, peer, goal=goal))
        for peer, goal in ((_PYHESSIAN, ">= 3x"), (_CURVLINOPS, ">= 2.5x"))
    }
    return [
        Row(what, "products", found.products, None, "products", "<= 30 products", note),
        Row(what, "largest relative error, to float64", error, None, "", "<= 0.001"),
        Row(what, "bare products", share, None, "of bare", "<= 1.3 of bare"),
        *speed.values(),
    ]


def _top(matrix: Product) -> Lanczos:
    lanczos = random_run(matrix, 0)
    converge(lanczos, top=_TOP, bottom=0, tolerance=1e-3, limit=300)
    return lanczos


def _truth(case: Case) -> np.ndarray:
    model = copy.deepcopy(case.model).double()
    batch = (case.inputs.double(), case.targets)
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    # More than asked for, and from another start: nothing among the top is missed.
    found = spectrum(objective, top=_TOP + 3, bottom=0, density=False, tolerance=1e-7, seed=1)
    return found.top[:_TOP]


def _peers() -> dict[str, Callable[[Case], np.ndarray]]:
    known = {_PYHESSIAN: ("pyhessian", _pyhessian), _CURVLINOPS: ("curvlinops", _curvlinops)}
    return {peer: job for peer, (module, job) in known.items() if harness.installed(module)}


def _pyhessian(case: Case) -> np.ndarray:
    from pyhessian import hessian as theirs

    with harness.silence():
        data = (case.inputs, case.targets)
        values, _ = theirs(
            case.model, nn.CrossEntropyLoss(), data=data, cuda=False
        ).eigenvalues(maxIter=1000, tol=1e-3, top_n=_TOP)
    case.model.zero_grad(set_to_none=True)
    return np.array(values)


def _curvlinops(case: Case) -> np.ndarray:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    weights = [value for value in case.model.parameters() if value.requires_grad]
    data = [(case.inputs, case.targets)]
    operator = HessianLinearOperator(
        case.model, nn.CrossEntropyLoss(), weights, data, check_deterministic=False
    )
    return eigsh(operator.to_scipy(), k=_TOP, which="LA", tol=1e-3, return_eigenvectors=False)


def _error(peer: str, subject: Subject) -> str:
    truth = _truth(subject.case)
    theirs = np.sort(_peers()[peer](subject.case))[::-1]
    return f"their largest relative error {float(np.abs(theirs / truth - 1).max()):.0e}"


def _density(subject: Subject) -> Row:
    vector = subject.start
    # As `spectrum` does it: beside the eigenvectors that it has found.
    lanczos = random_run(subject.matrix, 0)
    ritz, _ = converge(lanczos, top=10, bottom=2, tolerance=1e-3, limit=300)
    ends = [*range(len(ritz.values) - 10, len(ritz.values)), 0, 1]
    lanczos.basis.rotate(ritz.vectors[:, ends])

    def bare() -> None:
        for _ in range(_STEPS):
            subject.matrix.flat(vector)

    def ours() -> None:
        quadrature(subject.matrix.flat, vector, _STEPS, lanczos.basis)

    rounds = 3 if subject.matrix.size > 100_000 else 11
    times = harness.interleaved({"ours": ours, "bare": bare}, rounds=rounds)
    extra = 100 * (times["ours"].median / times["bare"].median - 1)
    what = f"density, {_STEPS} steps: algebra beside the products, {subject.name}"
    return Row(what, "PyHessian (+73 to +224 %)", extra, None, "%", "<= 20 %")


def _traces(subject: Subject) -> list[Row]:
    lanczos = random_run(subject.matrix, 0)
    estimate, probes = deflated_trace(
        subject.matrix.flat, lanczos, tolerance=0.05, limit=1000, rows=100, seed=0
    )
    deviation = float(np.std(probes.plain, ddof=1))
    plain = math.ceil((1.96 * deviation / (0.05 * estimate.value)) ** 2)
    what = f"trace to 5 % (95 %), {subject.name}"
    note = f"{lanczos.steps} in the space, {len(probes)} probes; undeflated from their spread"
    if not estimate.reached:
        note = f"NOT reached in {estimate.products} products"
    return [
        Row(
            what, "undeflated Hutchinson", estimate.products, plain, "products", ">= 2.5x", note
        )
    ]


def _coverage() -> Row:
    objective, truth = _tiny()
    hits, products = 0, []
    for seed in range(_SEEDS):
        found: Estimate = trace(objective, 0.05, seed=seed)
        low, high = found.interval()
        hits += low <= truth <= high
        products.append(found.products)
    share = 100 * hits / _SEEDS
    what = f"95 % interval of the trace: distance of its coverage from 95 %, {_SEEDS} seeds"
    note = f"covers in {share:.1f} %; {np.mean(products):.0f} products on average"
    return Row(what, "exact trace", abs(share - 95), None, "points", "<= 2 points", note)


def _tiny() -> tuple[la.Objective, float]:
    drawn = generator(0, "tiny")
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=drawn, dtype=value.dtype))
    inputs = torch.randn(64, 8, generator=drawn, dtype=torch.float64)
    targets = torch.randint(4, (64,), generator=drawn)
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(inputs, targets)])
    matrix = hessian(objective)
    unit = torch.eye(matrix.size, dtype=torch.float64)
    return objective, math.fsum(float(matrix.flat(row) @ row) for row in unit)


def _memory(case: Case) -> Row:
    objective = case.objective
    lanczos = _top(hessian(objective))
    held = sum(panel.untyped_storage().nbytes() for panel in lanczos.basis.panels())
    copies = held / (lanczos.size * lanczos.basis.dtype.itemsize)
    said = spectrum_memory(objective, lanczos.steps) / (
        lanczos.size * lanczos.basis.dtype.itemsize
    )
    note = f"{lanczos.steps} products; said beforehand: {said:.0f} copies, two of them working"
    return Row(
        "memory of the basis, MLP", "copies of the weights", copies, None, "copies", "", note
    )
