"""Checks of second derivatives, and of the outputs' first ones, against differences."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.comparison import (
    Comparison,
    Differences,
    Vectors,
    length_of,
    relative_gap,
)
from lossatlas.curvature.differentiable import check_graph, second_derivatives
from lossatlas.curvature.forms import (
    Read,
    criterion_gradient,
    difference_step,
    gradient_graph,
    model_outputs,
    of_gradient,
    read_outputs,
    sandwich_form,
)
from lossatlas.errors import DerivativeError
from lossatlas.objective import Batch, Check, CheckReport, Objective
from lossatlas.objective.batches import batch_size
from lossatlas.objective.lines import FEW, Line, shared_lines
from lossatlas.objective.selfcheck import (
    FAILED,
    PASSED,
    SETTLED,
    guarded,
    in_order,
)
from lossatlas.objective.slope import check_slope, ensure_slope, require_whole
from lossatlas.result import Result

F = TypeVar("F", bound=Callable[..., Any])
# Losses below are looked at for what cancels in them, before kinks are held to be the reason.
_NEAR_ZERO = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class CheckedResult(Result):
    """A result that rests on derivatives of the loss.

    Attributes:
        checked: what the derivatives under it were compared with, and how closely they agree, a
            sentence each.
    """

    checked: tuple[str, ...] = field(default=(), kw_only=True)


def check(objective: Objective) -> CheckReport:
    """Check that derivatives are those of the loss that is evaluated.

    Made on a few examples of the first batch: whether the loss moves with the parameters
    (made on construction), the gradient along a random direction against central differences
    of values, a product with the Hessian against central differences of gradients, and the
    derivative of the model's outputs against differences of outputs. Central differences are
    taken at steps of 1e-3 of the length of the weights, and to both sides.

    Args:
        objective: model, loss, batches.

    Returns:
        What was found; `print` shows a table. A failed check raises nothing here: instruments
        that rest on it refuse.

    Examples:
        >>> import torch, lossatlas as la
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
        >>> batch = (torch.eye(2), torch.zeros(2, 3))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> la.check(la.Objective(model, loss, [batch])).passed
        True
    """
    check_objective(objective)
    skipped = {"hessian", "differences"} - {_rests_on(objective, "hessian")}
    with shared_lines(objective):
        for name in _MAKERS:
            if name not in skipped:
                check_once(objective, name)
    return CheckReport(in_order(objective.checks), objective.unused)


def check_once(objective: Objective, name: str) -> Check:
    """A check, made once an objective."""
    if name not in objective.checks:
        objective.checks[name] = guarded(name, _MAKERS[name], objective)
    return objective.checks[name]


def ensure_curvature(objective: Objective, kind: str) -> None:
    """Check what a matrix rests on before its first product, once an objective.

    Args:
        objective: what is differentiated.
        kind: "hessian", "gauss_newton", "fisher" or "empirical_fisher".

    Raises:
        DerivativeError: derivatives are not those of the loss.
    """
    if objective.derivatives == "unchecked" or not objective.is_checked:
        return
    require_whole(objective)
    name = _rests_on(objective, kind)
    if not {"gradient", name} <= objective.checks.keys():
        with shared_lines(objective):
            # Curvature first: the gradient is then known, and values beside it.
            check_once(objective, name)
            ensure_slope(objective)
    _require(objective.checks["gradient"])
    _require(objective.checks[name])


def check_before(objective: Objective, kind: str) -> None:
    """Make the checks that a matrix rests on, ahead of the instruments; raises nothing."""
    if objective.derivatives == "unchecked" or not objective.is_checked:
        return
    with shared_lines(objective):
        check_once(objective, _rests_on(objective, kind))
        check_once(objective, "gradient")


def _rests_on(objective: Objective, kind: str) -> str:
    name = _RESTS_ON[kind]
    by_differences = name == "hessian" and objective.by_differences
    return "differences" if by_differences else name


def says_checks(measure: F) -> F:
    """Decorator of an instrument: its result says what was checked of its objective."""

    @functools.wraps(measure)
    def measured(*args: Any, **options: Any) -> Any:
        outcome = measure(*args, **options)
        objective = args[0] if args else options["objective"]
        return replace(outcome, checked=objective.checked)

    return cast(F, measured)


def _require(check: Check) -> None:
    if check.status != FAILED:
        return
    if check.sentence.startswith("differences of"):
        remedy = "the loss is not smooth enough for them (kinks, or low precision)."
    elif check.name == "gradient":
        remedy = (
            "curvature of it is not that of the loss; map only, or take it as it is with "
            "Objective(..., derivatives='unchecked')."
        )
    else:
        remedy = (
            "a custom torch.autograd.Function may keep its derivative as a constant, or an "
            "adjoint may have none; write its backward with differentiable operations, or "
            "pass Objective(..., derivatives='differences') where the loss is smooth."
        )
    raise DerivativeError(f"{check.sentence}: {remedy}")


def check_hessian(objective: Objective) -> Check:
    """A product with the Hessian against central differences of gradients."""
    with shared_lines(objective) as lines:
        line = lines[0]
    direction = list(line.direction.values())

    def compare() -> Check:
        product, middle = line.at(0.0, lambda leaves: _product(line, leaves, direction))
        differences = Differences(
            line, lambda step: _filled(line.gradient(step), direction), middle
        )
        return Comparison(
            line,
            product,
            differences,
            line.lines.size,
            lambda: line.rounding.gradient,
            # The value came with a gradient.
            cancels=lambda: abs(line.value(line.steps[0])) < _NEAR_ZERO,
        ).verdict()

    with torch.enable_grad(), second_derivatives(objective.model):
        found = line.run(compare)
    return _worded(found, "hessian", "products with the Hessian", "gradients")


def check_differences(objective: Objective) -> Check:
    """Whether central differences of gradients settle: one step against a third of it."""
    with shared_lines(objective) as lines:
        line = lines[0]
    direction = list(line.direction.values())

    def change() -> float:
        differences = Differences(line, lambda step: _filled(line.gradient(step), direction))
        step = difference_step(line.here) / line.length
        return relative_gap(differences(step), differences(step / 3))

    return _settled("differences", "products", "gradients", line.run(change))


def _check_settled(line: Line, name: str, read: Read) -> Check:
    # The same for derivatives of what is read.
    def at(step: float) -> Vectors:
        with torch.no_grad():
            return line.objective.swapped(line.point(step), read)

    def change() -> float:
        step, differences = difference_step(line.here) / line.length, Differences(line, at)
        return relative_gap(differences(step), differences(step / 3))

    return _settled(name, f"derivatives of the {name}", name, line.run(change))


def _settled(name: str, what: str, of: str, value: float) -> Check:
    if value <= SETTLED:
        sentence = f"{what} are differences of {of}, which agree at two steps"
        return Check(name, PASSED, value, sentence)
    sentence = f"differences of {of} change by {value:.2g} of their size with the step"
    return Check(name, FAILED, value, sentence)


def check_outputs(objective: Objective) -> Check:
    """Derivatives of model's outputs, and the criterion's curvature, against differences."""
    with shared_lines(objective) as lines:
        line = lines[0]
    direction = list(line.direction.values())
    if objective.placed is not None and objective.by_differences:
        return _check_settled(line, "outputs", partial(read_outputs, objective, line.batch))

    def outputs(step: float) -> Vectors:
        _, outputs = line.at(step, lambda leaves: model_outputs(objective, line.batch))
        return [value.detach() for value in outputs]

    def compare() -> Check:
        pushed, weighed = _pushed(line, direction)
        # Outputs may well be of order one where their change is small.
        check = Comparison(
            line,
            pushed,
            Differences(line, outputs),
            length_of(outputs(0.0)),
            lambda: 0.0,
            derivative=lambda step: _pushed(line, direction, step)[0],
        ).verdict()
        if check.status != PASSED:
            return check
        length = length_of(_slopes(line, 0.0, weighed))
        differences = Differences(line, lambda step: _slopes(line, step, weighed))
        scale = lambda: line.rounding.criterion  # noqa: E731
        return Comparison(line, weighed, differences, length, scale).verdict()

    with torch.enable_grad(), second_derivatives(objective.model):
        check = line.run(compare)
    return _worded(check, "outputs", "derivatives of the outputs", "outputs")


def check_losses(objective: Objective) -> Check:
    """The derivative of the losses along a direction against differences of losses."""
    with shared_lines(objective) as lines:
        line = lines[0]
    direction = list(line.direction.values())

    def read() -> Vectors:
        return [_losses(objective, line.batch)]

    if objective.placed is not None and objective.by_differences:
        return _check_settled(line, "losses", read)

    def compare() -> Check:
        def push(leaves: dict[str, Tensor]) -> Vectors:
            losses, seen = read(), list[Vectors]()

            def middle(pushed: Vectors, keep: bool) -> list[Tensor | None]:
                seen.append(pushed)
                return list(pushed)

            sandwich_form(leaves, read, losses, middle, 0)(direction, False)
            return seen[0]

        def losses(step: float) -> Vectors:
            return [value.detach() for value in line.at(step, lambda leaves: read())]

        at_weights = losses(0.0)
        numbers = sum(value.numel() for value in at_weights)
        return Comparison(
            line,
            line.at(0.0, push),
            Differences(line, losses),
            length_of(at_weights),
            lambda: line.rounding.losses * math.sqrt(numbers),
            derivative=lambda step: line.at(step, push),
        ).verdict()

    with torch.enable_grad(), second_derivatives(objective.model):
        found = line.run(compare)
    return _worded(found, "losses", "derivatives of the losses", "losses")


def _losses(objective: Objective, batch: Batch) -> Tensor:
    measured = objective.batch_loss(batch)
    return measured if isinstance(measured, Tensor) else measured.sums


def _product(
    line: Line, leaves: dict[str, Tensor], direction: Vectors
) -> tuple[Vectors, Vectors | None]:
    # With the gradient itself, where a second pair of gradients would be dear.
    _, gradient = gradient_graph(line.objective, leaves, line.batch)
    check_graph(gradient)
    line.lines.note([None if part is None else part.detach() for part in gradient])
    middle = _filled(gradient, direction) if batch_size(line.batch) > FEW else None
    return _filled(of_gradient(gradient, leaves)(direction, False), direction), middle


def _pushed(line: Line, direction: Vectors, step: float = 0.0) -> tuple[Vectors, Vectors]:
    # J v, and the Hessian of the criterion times it.
    seen: list[Vectors] = []

    def push(leaves: dict[str, Tensor]) -> None:
        _, outputs, cuts, gradient = criterion_gradient(line.objective, leaves, line.batch)

        def middle(pushed: Vectors, keep: bool) -> list[Tensor | None]:
            live = [g if g is not None and g.requires_grad else None for g in gradient]
            pairs = [(g, u) for g, u in zip(live, pushed, strict=True) if g is not None]
            weighed: Sequence[Tensor | None] = (
                torch.autograd.grad(
                    [g for g, _ in pairs],
                    cuts,
                    [u for _, u in pairs],
                    retain_graph=True,
                    allow_unused=True,
                )
                if pairs
                else [None] * len(cuts)
            )
            seen.extend([pushed, _filled(weighed, pushed)])
            return list(weighed)

        read = partial(read_outputs, line.objective, line.batch)
        sandwich_form(leaves, read, outputs, middle, 0)(direction, False)

    line.at(step, push)
    return seen[0], seen[1]


def _slopes(line: Line, step: float, like: Vectors) -> Vectors:
    _, _, _, gradient = line.at(
        step, lambda leaves: criterion_gradient(line.objective, leaves, line.batch)
    )
    return [v.detach() for v in _filled(gradient, like)]


def _worded(check: Check, name: str, checked: str, compared: str) -> Check:
    if check.status == PASSED:
        return replace(check, name=name, sentence=f"{checked} equal differences of {compared}")
    if check.status == FAILED:
        where = f" in {check.sentence}" if check.sentence.startswith("'") else ""
        sentence = (
            f"{checked} are off by {check.figure:.2g} of their size{where} from central "
            f"differences of {compared}, at every step"
        )
        return replace(check, name=name, sentence=sentence)
    return replace(check, name=name)


def _filled(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Vectors:
    return [
        torch.zeros_like(value) if part is None else part.detach()
        for part, value in zip(parts, like, strict=True)
    ]


# What each matrix rests on. The empirical Fisher takes first derivatives alone, but in a way
# that a backward pass without a graph would turn into zeros.
_RESTS_ON = {
    "hessian": "hessian",
    "gauss_newton": "outputs",
    "fisher": "outputs",
    "empirical_fisher": "losses",
}
_MAKERS: dict[str, Callable[[Objective], Check]] = {
    "hessian": check_hessian,
    "gradient": check_slope,
    "outputs": check_outputs,
    "losses": check_losses,
    "differences": check_differences,
}
