"""Sums over all eigenvalues of a matrix: exact for small ones, else by the density."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.curvature.all_eigenvalues import (
    DENSE,
    Eigenvalues,
    dense_eigenvalues,
    eigenvalues_in_range,
    is_dense,
    range_products,
)
from lossatlas.curvature.matrices import MatrixKind
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.spectrum import spectrum
from lossatlas.linalg.krylov import Lanczos
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate
from lossatlas.rng import generator

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
# Probes at most, times those of the start.
_MOST_PROBES = 8
# How many of the largest are found one by one, to what tolerance, and how close they must be
# to be taken as known.
_KNOWN, _CLOSE, _FIRM = 20, 1e-2, 0.05
# Products of one probe: at most, and between two looks; how closely both rules agree then.
_STEPS, _BLOCK, _AGREES = 400, 10, 3e-3


def examples_of(objective: Objective) -> float:
    """How many examples an objective holds; the sum of their weights where they have some."""
    if objective.unit == "examples":
        return float(objective.example_pairs().weights.sum())
    return math.fsum(objective.map_batches(objective.size_of))


@dataclass(frozen=True)
class EigenvalueSums:
    """Sums over all eigenvalues, and the ends of the spectrum with their bounds.

    Attributes:
        estimates: one sum a statistic. Where all eigenvalues are computed it has a bound, of
            what rounding of the products (or differences, where they are taken by these) may
            do to it, and a standard error of 0.
        largest: of |eigenvalue|, its bound added.
        smallest: lowest eigenvalue that was found.
    """

    estimates: tuple[Estimate, ...]
    largest: float
    smallest: float


def eigenvalue_sums(
    objective: Objective,
    statistics: tuple[Statistic, ...],
    *,
    matrix: CurvatureOperator,
    params: Params | None,
    seed: int,
    probes: int = 8,
    tolerance: float | None = None,
) -> EigenvalueSums:
    """Sums of functions of the eigenvalues: from all of them where few, else by quadrature.

    A matrix of a rank below half its size has few: few examples have few outputs. All are
    computed only where that fits into half of the memory that is free. Otherwise the largest
    eigenvalues are found one by one; random probes see the rest. Each runs until Gauss and
    Gauss-Radau quadrature agree, which lie on both sides of the truth for functions like
    log(1 + h) and h / (1 + h).

    Args:
        objective: what the matrix is of.
        statistics: eigenvalues -> what is summed. Each must be 0 at 0, because eigenvalues
            that are exactly zero are left out, and must not fall with the eigenvalue.
        matrix: a curvature matrix of it.
        params: where the matrix is; the present weights by default.
        seed: of random starts.
        probes: random starts of the first stage, at least 2.
        tolerance: standard error of each sum relative to it: a second stage of probes follows,
            as many as the spread of the first asks for, 8 times as many in all at most. Where
            all eigenvalues cost fewer products they are computed instead. None takes `probes`.

    Returns:
        Sums and ends.
    """
    small, start = matrix.size <= DENSE, matrix.count
    in_range = None if small else range_products(matrix, params)
    price = in_range or (matrix.size if is_dense(matrix) else math.inf)
    if small or price <= DENSE:
        exact = _of_all(matrix, statistics, in_range, seed, start)
        if exact is not None:
            return exact
        in_range, price = None, math.inf
    options: Any = {"params": params, "names": list(matrix.params), "vectors": True}
    ends = spectrum(
        objective,
        _KNOWN,
        1,
        False,
        _CLOSE,
        curvature=cast(MatrixKind, matrix.kind),
        seed=seed,
        **options,
    )
    # Eigenvectors of the top are left to no probe.
    is_sharp = ends.top_bounds <= _FIRM * np.abs(ends.top)
    values = ends.top[is_sharp]
    vectors = [v for v, sharp in zip(ends.vectors, is_sharp, strict=False) if sharp]
    # Not its bound: below the spectrum a statistic may have a pole.
    rest = _Rest(matrix, vectors, float(min(ends.bottom[0], 0.0)))
    known = [float(f(values).sum()) for f in statistics]
    given: Any = {"seed": seed, "probes": probes, "tolerance": tolerance}
    sums = _by_probes(rest, statistics, known, price=price, **given)
    if sums is None:
        exact = _of_all(matrix, statistics, in_range, seed, start - ends.products)
        if exact is not None:
            return exact
        sums = _by_probes(rest, statistics, known, **given)
    assert sums is not None
    sizes = np.abs(np.concatenate([ends.top, ends.bottom])) + ends.bounds
    return EigenvalueSums(sums, float(sizes.max()), float(ends.bottom[0]))


def _of_all(
    matrix: CurvatureOperator,
    statistics: tuple[Statistic, ...],
    in_range: int | None,
    seed: int,
    start: int,
) -> EigenvalueSums | None:
    # None where the matrix is large, and its rank higher than was thought. `start`: products
    # that were not of this sum.
    eigenvalues = None if in_range is None else eigenvalues_in_range(matrix, in_range, seed)
    smallest = 0.0 if eigenvalues is not None else math.inf
    if eigenvalues is None and is_dense(matrix):
        eigenvalues = dense_eigenvalues(matrix)
    if eigenvalues is None:
        return None
    if matrix.kind != "hessian" and eigenvalues.values.min() >= -eigenvalues.rounding:
        # A sum of squares, or of convex losses: below zero there is rounding alone.
        eigenvalues = replace(eigenvalues, values=np.maximum(eigenvalues.values, 0.0))
        floor = 0.0
    else:
        floor = -math.inf
    spent = matrix.count - start
    sums = tuple(_with_bound(f, eigenvalues, floor, spent) for f in statistics)
    smallest = min(smallest, float(eigenvalues.values.min()))
    return EigenvalueSums(sums, float(np.abs(eigenvalues.values).max()), smallest)


def _with_bound(
    statistic: Statistic, eigenvalues: Eigenvalues, floor: float, products: int
) -> Estimate:
    # What eigenvalues that are off by rounding do to a sum, at the most.
    values, off = eigenvalues.values, eigenvalues.rounding
    here = statistic(values)
    below, above = statistic(np.maximum(values - off, floor)), statistic(values + off)
    total = float(here.sum())
    slack = 16 * np.finfo(float).eps * (1 + np.abs(here))
    # Beyond a pole a statistic that grows has fallen.
    if not (np.all(below <= here + slack) and np.all(here <= above + slack)):
        why = (
            f"rounding of the products puts eigenvalues off by up to {off:.2g}, across a pole "
            "of what is summed; use a float64 model"
        )
        return Estimate(total, products=products, why_no_error=why)
    bound = float(np.maximum(above - here, here - below).clip(min=0).sum())
    return Estimate(total, 0.0, products, bound=bound)


def _by_probes(
    rest: "_Rest",
    statistics: tuple[Statistic, ...],
    known: list[float],
    *,
    seed: int,
    probes: int,
    tolerance: float | None,
    price: float = math.inf,
) -> tuple[Estimate, ...] | None:
    # None where all eigenvalues cost fewer products.
    runs = [rest.sums(statistics, seed, 0)]
    for stage in ("first", "second"):
        wanted: float = probes
        if stage == "second":
            wanted = max(_probes_for(*each, tolerance) for each in _columns(known, runs))
        if (wanted - len(runs)) * rest.products / len(runs) > price:
            return None
        wanted = min(wanted, _MOST_PROBES * probes)
        while len(runs) < wanted:
            runs.append(rest.sums(statistics, seed, len(runs)))
    columns = _columns(known, runs)
    return tuple(_summed(*each, probes, tolerance, rest.products) for each in columns)


def _columns(known: list[float], runs: list[list[Array]]) -> list[tuple[Array, Array]]:
    # Of each statistic: the sum by each probe, and half the width of its bracket.
    tables = np.array(runs).transpose(1, 2, 0)
    return [(start + middle, half) for start, (middle, half) in zip(known, tables, strict=True)]


def _probes_for(sums: Array, halves: Array, tolerance: float | None) -> float:
    # How many probes the tolerance asks for. Two stages (Stein, Ann. Math. Statist. 16, 1945):
    # the number follows from the spread of the first stage, the error from the same spread, so
    # that Student's t of the first stage holds. Stopping where an error that is estimated anew
    # is small would prefer errors that are too small.
    if tolerance is None:
        return len(sums)
    error = float(sums.std(ddof=1) / math.sqrt(len(sums)))
    # The lower end of the mean, so that the tolerance is reached at the final one as well.
    mean = max(abs(float(sums.mean())) - 2 * error, 0.0)
    room = (tolerance * mean) ** 2 - float(halves.mean()) ** 2
    if not error > 0:
        return len(sums)
    return max(len(sums), math.ceil(len(sums) * error**2 / room)) if room > 0 else math.inf


def _summed(
    sums: Array, halves: Array, first: int, tolerance: float | None, products: int
) -> Estimate:
    # Means and half-widths of what each probe leaves open; the spread is of the first stage.
    spread = float(sums[:first].std(ddof=1) / math.sqrt(len(sums)))
    value, error = float(sums.mean()), math.hypot(spread, float(halves.mean()))
    reached = tolerance is None or error <= tolerance * abs(value)
    return Estimate(value, error, products, first, reached)


class _Rest:
    # The matrix on what is orthogonal to known eigenvectors.
    def __init__(
        self, matrix: CurvatureOperator, known: list[dict[str, Tensor]], floor: float
    ) -> None:
        self.matrix, self.floor, self.products = matrix, floor, 0
        rows = [torch.cat([v.flatten() for v in each.values()]) for each in known]
        like = matrix.zeros()
        stacked = torch.stack(rows) if rows else like.new_zeros((0, matrix.size))
        self._known = torch.linalg.qr(stacked.to(like).T)[0]

    def _outside(self, vector: Tensor) -> Tensor:
        inside: Tensor = self._known @ (self._known.T @ vector)
        return vector - inside

    def sums(self, statistics: tuple[Statistic, ...], seed: int, index: int) -> list[Array]:
        """Of one probe: middle and half-width of each sum."""
        matrix = self.matrix
        drawn = generator(seed, "sums", index, device=matrix.device)
        start = torch.randn(
            matrix.size, generator=drawn, dtype=matrix.dtype, device=matrix.device
        )
        run = Lanczos(lambda v: self._outside(matrix.flat(v)), self._outside(start), drawn)
        size, quadratures = matrix.size - self._known.shape[1], [np.zeros(2)]
        while run.steps < min(_STEPS, size):
            run.extend(_BLOCK)
            ends = _brackets(run, self.floor)
            quadratures = [
                size * np.array([_quadrature(f, end) for end in ends]) for f in statistics
            ]
            if len(run.starts) > 1 or all(
                abs(a - b) <= _AGREES * abs(a) for a, b in quadratures
            ):
                break
        self.products += run.steps
        return [np.array([(a + b) / 2, abs(a - b) / 2]) for a, b in quadratures]


def _brackets(run: Lanczos, floor: float) -> list[tuple[Array, Array]]:
    # Gauss quadrature, and Radau with a node at `floor`; equal where the space is exhausted.
    last = run.starts[1] if len(run.starts) > 1 else run.steps
    alpha, beta = np.array(run.alpha[:last]), np.array(run.beta[:last])
    gauss = _rule(alpha, beta[:-1])
    if len(run.starts) > 1:
        return [gauss, gauss]
    below = np.diag(alpha - floor) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    shift = np.linalg.lstsq(below, beta[-1] ** 2 * np.eye(last)[-1], rcond=None)[0][-1]
    return [gauss, _rule(np.append(alpha, floor + shift), beta)]


def _rule(alpha: Array, beta: Array) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    return values, vectors[0] ** 2


def _quadrature(statistic: Statistic, rule: tuple[Array, Array]) -> float:
    nodes, shares = rule
    return float((shares * statistic(nodes)).sum())
