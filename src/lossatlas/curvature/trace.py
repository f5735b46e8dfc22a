"""Trace, Frobenius norm and diagonal of a curvature matrix, each with its standard error."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_one_of, check_positive
from lossatlas.curvature.arguments import check_count
from lossatlas.curvature.krylov_memory import probing_storage
from lossatlas.curvature.matrices import KINDS, MatrixKind, product_of
from lossatlas.curvature.operators import CurvatureOperator, matching
from lossatlas.curvature.selfcheck import CheckedResult, ensure_curvature, says_checks
from lossatlas.linalg.estimators import mean_of, rademacher
from lossatlas.linalg.krylov import Lanczos, Storage
from lossatlas.linalg.params import Params
from lossatlas.linalg.probes import Budget, DeflatedProbes, deflated_trace, probes_needed
from lossatlas.objective import Objective
from lossatlas.objective.lines import coarse_rounding
from lossatlas.result import Estimate, Figure, result, rows_figure
from lossatlas.rng import derive_seed, generator
from lossatlas.text import number

# Below this many probes a standard error is not to be trusted.
_FEW = 12
_NAMES = {
    "hessian": "the Hessian",
    "gauss_newton": "the Gauss-Newton matrix",
    "fisher": "the Fisher matrix",
    "empirical_fisher": "the empirical Fisher matrix",
}
UNIT = "loss / weight²"


@says_checks
def trace(
    objective: Objective,
    tolerance: float = 0.05,
    *,
    seed: int = 0,
    curvature: MatrixKind = "hessian",
    params: Params | None = None,
    names: str | Iterable[str] | None = None,
    limit: int = 300,
    seconds: float | None = None,
    rows: int = 100,
) -> Estimate:
    """The trace: the sum of all eigenvalues.

    Part of the products go into a Krylov space, whose share of the trace is known exactly, the
    others into random probes that see the rest; the split follows what pays. Probes stop when
    the 95 % interval is within `tolerance` of the value, or when the budget (`limit`,
    `seconds`) is spent: the interval is then what that buys, and `.meaning` forecasts how many
    products the tolerance takes.

    Args:
        objective: model, loss, batches.
        tolerance: half-width of the 95 % interval, relative to the value.
        seed: what the start and the probes are drawn from.
        curvature: "hessian", "gauss_newton", "fisher" or "empirical_fisher".
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        limit: products at most; `reached` is False where they did not suffice (an indefinite
            matrix whose trace is near zero, say).
        seconds: time at most, at the pace of the products so far; any by default. It makes the
            number of products, and so the last digits, depend on the machine.
        rows: vectors of the Krylov space at most: what it may take of the memory. Fewer where
            they would take more than half of what is free; 0 for random probes alone.

    Returns:
        Value, standard error and products; `.interval()` is the 95 % interval. In half
        precision the error includes the rounding of products, about the machine epsilon times
        the Frobenius norm.

    Raises:
        ArgumentError: a number of the wrong kind.
        UnknownNameError: an unknown kind of curvature or parameter.
        LossError: the loss is not twice differentiable.
        NonFiniteError: the gradient or a product is not finite.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import trace
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> round(trace(la.Objective(model, loss, [batch])).value, 4)
        5.0

    Source: see `lossatlas.linalg.probes.DeflatedProbes`.
    """
    check_positive("tolerance", tolerance)
    _check_counts(limit, rows)
    if seconds is not None:
        check_positive("seconds", seconds)
    budget = Budget(limit, seconds, _clock(objective))
    matrix = checked_product(curvature, objective, params=params, names=names)
    lanczos = random_run(matrix, seed, probing_storage(matrix, rows))
    estimate, probes = deflated_trace(
        matrix.flat, lanczos, tolerance=tolerance, limit=budget, rows=rows, seed=seed
    )
    forecast = _forecast(estimate, lanczos.products, len(probes), tolerance)
    scale = math.sqrt(_squares_inside(lanczos, lanczos.steps))
    estimate = _with_rounding(estimate, coarse_rounding(objective) * scale, tolerance)
    name, meaning = f"trace of {_NAMES[curvature]}", f"sum of all eigenvalues{forecast}"
    return replace(estimate, name=name, unit=UNIT, meaning=_noted(meaning, lanczos))


def _noted(meaning: str, lanczos: Lanczos) -> str:
    return "; ".join(filter(None, (meaning, memory_note(lanczos))))


def memory_note(lanczos: Lanczos) -> str:
    """Where memory ran out before the space was as large as it was meant to be."""
    if not lanczos.full:
        return ""
    return (
        f"memory ran out at {lanczos.steps} vectors of the Krylov space, and further products "
        "were random probes"
    )


def _forecast(estimate: Estimate, space: int, drawn: int, tolerance: float) -> str:
    if estimate.reached or not math.isfinite(estimate.stderr) or estimate.value == 0:
        return ""
    needed = space + max(probes_needed(estimate, tolerance), drawn)
    return (
        f"; within {number(100 * tolerance, 2)} % of it would take about "
        f"{float(f'{needed:.2g}'):,.0f} products"
    )


def _clock(objective: Objective) -> Callable[[], float]:
    # Processes that work together stop together.
    began, ranks = time.monotonic(), objective.ranks

    def elapsed() -> float:
        here = time.monotonic() - began
        return here if ranks is None else max(ranks.gather(here))

    return elapsed


@says_checks
def frobenius_norm(
    objective: Objective,
    tolerance: float = 0.05,
    *,
    seed: int = 0,
    curvature: MatrixKind = "hessian",
    params: Params | None = None,
    names: str | Iterable[str] | None = None,
    limit: int = 500,
    rows: int = 50,
) -> Estimate:
    """The Frobenius norm: the root of the sum of squared eigenvalues.

    Args:
        objective: model, loss, batches.
        tolerance: half-width of the 95 % interval, relative to the value.
        seed: what the start and the probes are drawn from.
        curvature: "hessian", "gauss_newton", "fisher" or "empirical_fisher".
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        limit: products at most.
        rows: vectors of the Krylov space at most, as for `trace`.

    Returns:
        Value, standard error and products.

    Raises:
        ArgumentError: a number of the wrong kind.
        UnknownNameError: an unknown kind of curvature or parameter.
        LossError: the loss is not twice differentiable.
        NonFiniteError: the gradient or a product is not finite.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import frobenius_norm
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> round(frobenius_norm(la.Objective(model, loss, [batch])).value, 3)
        4.123
    """
    check_positive("tolerance", tolerance)
    _check_counts(limit, rows)
    matrix = checked_product(curvature, objective, params=params, names=names)
    storage = probing_storage(matrix, rows)
    lanczos = random_run(matrix, seed, storage)
    lanczos.extend_within_memory(min(storage.rows or 0, limit, 20))
    probes = DeflatedProbes(matrix.flat, lanczos, seed)
    while True:
        estimate = _norm_so_far(lanczos, probes, tolerance)
        if estimate.reached or estimate.products >= limit:
            rounding = coarse_rounding(objective) * estimate.value
            estimate = _with_rounding(estimate, rounding, tolerance)
            name, meaning = f"Frobenius norm of {_NAMES[curvature]}", _noted("", lanczos)
            return replace(estimate, name=name, unit=UNIT, meaning=meaning)
        more = max(len(probes) // 2, _FEW - len(probes), 4)
        probes.draw(min(more, limit - estimate.products))


def _norm_so_far(lanczos: Lanczos, probes: DeflatedProbes, tolerance: float) -> Estimate:
    spent = lanczos.steps + len(probes)
    last = lanczos.steps if lanczos.exhausted else max(lanczos.steps - 1, 0)
    inside = _squares_inside(lanczos, last)
    if lanczos.exhausted:
        return Estimate(math.sqrt(inside), 0.0, spent)
    outside = mean_of(probes.squares()[1])
    square = inside + (outside.value if len(probes) else 0.0)
    value = math.sqrt(max(square, 0.0))
    if math.isnan(outside.stderr):
        why = outside.why_no_error
        return Estimate(value, math.nan, spent, outside.samples, False, why)
    error = outside.stderr / (2 * value) if value else 0.0
    half = (Estimate(value, error, samples=outside.samples).interval()[1]) - value
    enough = len(probes) >= _FEW and half <= tolerance * value
    return Estimate(value, error, spent, outside.samples, enough)


def _squares_inside(lanczos: Lanczos, last: int) -> float:
    # |H Q|^2: neighbors inside the space count twice, the coupling to the outside once.
    alpha, beta = lanczos.alpha[:last], lanczos.beta[:last]
    inside = math.fsum(a * a for a in alpha) + math.fsum(2 * b * b for b in beta)
    return inside - (beta[-1] ** 2 if beta else 0.0)


def _with_rounding(estimate: Estimate, rounding: float, tolerance: float) -> Estimate:
    # Half precision puts every product off in the same way, which probes do not see.
    if not rounding or math.isnan(estimate.stderr):
        return estimate
    wider = replace(estimate, stderr=math.hypot(estimate.stderr, rounding))
    half = wider.interval()[1] - wider.value
    enough = half <= tolerance * abs(wider.value)
    return replace(wider, reached=estimate.reached and enough)


@result("diagonal")
class Diagonal(CheckedResult):
    """The diagonal of a curvature matrix.

    Attributes:
        value: name -> estimate, curvature units, shaped like the parameters.
        stderr: name -> standard error of each entry.
        relative_error: length of the error over length of the diagonal.
        products: products spent.
        reached: whether `relative_error` is within the tolerance.
        note: what else to know; empty as a rule.
    """

    value: dict[str, Tensor]
    stderr: dict[str, Tensor]
    relative_error: float
    products: int
    reached: bool
    note: str = ""

    def estimates(self) -> tuple[Estimate, ...]:
        """The sum of the entries of each parameter."""
        why = "errors of entries are in `stderr`; those of one probe go together"
        return tuple(
            Estimate(
                float(value.double().sum()),
                why_no_error=why,
                name=name,
                unit=UNIT,
                meaning=self.note,
            )
            for name, value in self.value.items()
        )

    def figures(self) -> tuple[Figure, ...]:
        """The sum of the entries of each parameter."""
        axis = "trace of the block (loss per squared weight)"
        return (rows_figure("Diagonal", self.estimates(), axis),)


@says_checks
def diagonal(
    objective: Objective,
    tolerance: float = 0.2,
    *,
    seed: int = 0,
    curvature: MatrixKind = "hessian",
    params: Params | None = None,
    names: str | Iterable[str] | None = None,
    limit: int = 200,
    rows: int = 20,
) -> Diagonal:
    """The diagonal, entry by entry: the part in a Krylov space exactly, the rest by probes.

    Args:
        objective: model, loss, batches.
        tolerance: root mean square error of the entries, relative to their root mean square.
        seed: what the start and the probes are drawn from.
        curvature: "hessian", "gauss_newton", "fisher" or "empirical_fisher".
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        limit: products at most.
        rows: vectors of the Krylov space at most, as for `trace`.

    Returns:
        Entries with standard errors.

    Raises:
        ArgumentError: a number of the wrong kind.
        UnknownNameError: an unknown kind of curvature or parameter.
        LossError: the loss is not twice differentiable.
        NonFiniteError: the gradient or a product is not finite.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import diagonal
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> diagonal(la.Objective(model, loss, [batch])).value["weight"].round(decimals=4)
        tensor([[4., 1.]])

    Source: Bekas, Kokiopoulou, Saad, Applied Numerical Mathematics 57 (2007).
    """
    check_positive("tolerance", tolerance)
    _check_counts(limit, rows)
    matrix = checked_product(curvature, objective, params=params, names=names)
    storage = probing_storage(matrix, rows, vectors=7)
    lanczos = random_run(matrix, seed, storage)
    # The basis vector after the last product is left out: its own product is not known.
    lanczos.extend_within_memory(min(storage.rows or 0, limit))
    inside = _diagonal_inside(lanczos)
    mean, squares, count = torch.zeros_like(inside), torch.zeros_like(inside), 0
    relative, least = (0.0, 0) if lanczos.exhausted else (math.inf, _FEW)
    while (relative > tolerance or count < least) and lanczos.steps + count < limit:
        sample = _diagonal_outside(matrix.flat, lanczos, derive_seed(seed, "probe", count))
        count += 1
        step = sample - mean
        mean += step / count
        squares += step * (sample - mean)
        if count >= 2:
            error = float((squares.sum() / (count * (count - 1))).sqrt())
            relative = error / max(float((inside + mean).norm()), torch.finfo(mean.dtype).tiny)
    stderr = (squares / max(count * (count - 1), 1)).sqrt()
    if count < 2 and not lanczos.exhausted:
        stderr = torch.full_like(stderr, math.nan)
    return Diagonal(
        matrix.unflatten(inside + mean),
        matrix.unflatten(stderr),
        relative,
        lanczos.steps + count,
        relative <= tolerance,
        _noted("", lanczos),
    )


def _diagonal_inside(lanczos: Lanczos) -> Tensor:
    # diag(Q^T Q H), with H q_j from the recurrence instead of from products.
    total = torch.zeros_like(lanczos.basis[0])
    for j, alpha in enumerate(lanczos.alpha):
        image = alpha * lanczos.basis[j]
        if j:
            image = image + lanczos.beta[j - 1] * lanczos.basis[j - 1]
        if lanczos.beta[j]:
            image = image + lanczos.beta[j] * lanczos.basis[j + 1]
        total.addcmul_(lanczos.basis[j], image)
    return total


def _diagonal_outside(apply: Callable[[Tensor], Tensor], lanczos: Lanczos, seed: int) -> Tensor:
    probe = rademacher(lanczos.size, seed, lanczos.basis[0])
    image = apply(probe)
    inside = lanczos.basis.coefficients(image)[: lanczos.steps, None]
    return probe * (image - lanczos.basis.combine(inside)[0])


def _check_counts(limit: int, rows: int) -> None:
    check_count("limit", limit, 1)
    check_count("rows", rows, 0)


def checked_product(
    curvature: MatrixKind, objective: Objective, **options: Any
) -> CurvatureOperator:
    """The matrix of a kind that a user names."""
    check_one_of("curvature", curvature, KINDS)
    matching(objective.names, options.get("names"))
    if curvature == "hessian":
        # Before weights are copied, because a check holds several copies itself.
        ensure_curvature(objective, curvature)
    return product_of(curvature, objective, **options)


def random_run(matrix: CurvatureOperator, seed: int, storage: Storage | None = None) -> Lanczos:
    """A Krylov space from a random start."""
    drawn = generator(seed, "start", device=matrix.device)
    start = torch.randn(matrix.size, generator=drawn, dtype=matrix.dtype, device=matrix.device)
    return Lanczos(matrix.flat, start, drawn, storage)
