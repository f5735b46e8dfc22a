"""Checks of second derivatives, and of the outputs' first ones, against differences."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lossatlas.curvature.arguments import check_objective
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
from lossatlas.objective.lines import FEW, Line, midpoints, shared_lines
from lossatlas.objective.selfcheck import (
    AGREE,
    CLEARLY,
    FAILED,
    PASSED,
    SETTLED,
    UNKNOWN,
    guarded,
    in_order,
)
from lossatlas.objective.slope import check_slope, ensure_slope, require_whole
from lossatlas.result import Result

Vectors = list[Tensor]
F = TypeVar("F", bound=Callable[..., Any])
# Every pair of gradients costs two: what two pairs do not settle has kinks.
_PAIRS = 2
# Gradients bend this much at a step that crosses kinks: what they change by on its two sides
# has little in common. Smooth ones bend by about the step.
_BENT = 0.5
# A tensor may be wrong alone: it is looked at where its own product is off by this share.
_OFF = 0.2
# Parts of an interval whose differences tell kinks from a wrong derivative, and how far beside
# a point rounding is looked for, as a share of the interval.
_QUARTERS, _AGAIN = 4, 1e-3
_KINKS = "kinks within every step"


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
        found = measure(*args, **options)
        objective = args[0] if args else options["objective"]
        return replace(found, checked=objective.checked)

    return cast(F, measured)


def _require(found: Check) -> None:
    if found.status != FAILED:
        return
    if found.sentence.startswith("differences of"):
        remedy = "the loss is not smooth enough for them (kinks, or low precision)."
    elif found.name == "gradient":
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
    raise DerivativeError(f"{found.sentence}: {remedy}")


def check_hessian(objective: Objective) -> Check:
    """A product with the Hessian against central differences of gradients."""
    with shared_lines(objective) as lines:
        line = lines[0]
    direction = list(line.direction.values())

    def compare() -> Check:
        product, middle = line.at(0.0, lambda leaves: _product(line, leaves, direction))
        differences = _Differences(
            line, lambda step: _filled(line.gradient(step), direction), middle
        )
        return _Comparison(line, product, differences, line.lines.size).verdict()

    with torch.enable_grad(), second_derivatives(objective.model):
        found = line.run(compare)
    return _worded(found, "hessian", "products with the Hessian", "gradients")


def check_differences(objective: Objective) -> Check:
    """Whether central differences of gradients settle: one step against a third of it."""
    with shared_lines(objective) as lines:
        line = lines[0]
    direction = list(line.direction.values())

    def change() -> float:
        differences = _Differences(line, lambda step: _filled(line.gradient(step), direction))
        step = difference_step(line.here) / line.length
        return _relative(differences(step), differences(step / 3))

    return _settled("differences", "products", "gradients", line.run(change))


def _check_settled(line: Line, name: str, read: Read) -> Check:
    # The same for derivatives of what is read.
    def at(step: float) -> Vectors:
        with torch.no_grad():
            return line.objective.swapped(line.point(step), read)

    def change() -> float:
        step, differences = difference_step(line.here) / line.length, _Differences(line, at)
        return _relative(differences(step), differences(step / 3))

    return _settled(name, f"derivatives of the {name}", name, line.run(change))


def _settled(name: str, what: str, of: str, found: float) -> Check:
    if found <= SETTLED:
        sentence = f"{what} are differences of {of}, which agree at two steps"
        return Check(name, PASSED, found, sentence)
    sentence = f"differences of {of} change by {found:.2g} of their size with the step"
    return Check(name, FAILED, found, sentence)


def check_outputs(objective: Objective) -> Check:
    """Derivatives of model's outputs, and the criterion's curvature, against differences."""
    with shared_lines(objective) as lines:
        line = lines[0]
    direction = list(line.direction.values())
    if objective.placed is not None and objective.by_differences:
        return _check_settled(line, "outputs", partial(read_outputs, objective, line.batch))

    def outputs(step: float) -> Vectors:
        _, found = line.at(step, lambda leaves: model_outputs(objective, line.batch))
        return [value.detach() for value in found]

    def compare() -> Check:
        pushed, weighed = _pushed(line, direction)
        # Outputs may well be of order one where their change is small.
        found = _Comparison(
            line,
            pushed,
            _Differences(line, outputs),
            _length(outputs(0.0)),
            derivative=lambda step: _pushed(line, direction, step)[0],
        ).verdict()
        if found.status != PASSED:
            return found
        length = _length(_slopes(line, 0.0, weighed))
        differences = _Differences(line, lambda step: _slopes(line, step, weighed))
        return _Comparison(line, weighed, differences, length).verdict()

    with torch.enable_grad(), second_derivatives(objective.model):
        found = line.run(compare)
    return _worded(found, "outputs", "derivatives of the outputs", "outputs")


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

        return _Comparison(
            line,
            line.at(0.0, push),
            _Differences(line, losses),
            _length(losses(0.0)),
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


class _Differences:
    """Central differences along a line."""

    def __init__(
        self, line: Line, at: Callable[[float], Vectors], middle: Vectors | None = None
    ) -> None:
        self._line, self._at, self._middle = line, at, middle
        # How much what is differenced bends within a step, as a share of what it changes by.
        self.bends: dict[float, float] = {}

    def __call__(self, step: float) -> Vectors:
        width = 2 * step * self._line.length
        high, low = self.at(step), self.at(-step)
        change = [(a - b) / width for a, b in zip(high, low, strict=True)]
        if self._middle is not None:
            sides = zip(high, low, self._middle, strict=True)
            bend = _length([(a + b - 2 * middle) / width for a, b, middle in sides])
            self.bends[step] = bend / (_length(change) or 1.0)
        return change

    def at(self, step: float) -> Vectors:
        """What is differenced, at a step."""
        return [_wide(value) for value in self._at(step)]


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


@dataclass(frozen=True)
class _Comparison:
    """A derivative along the line against central differences at several steps.

    Attributes:
        line: where.
        product: the derivative.
        differences: step -> central difference.
        length: of what is differenced, for its rounding.
        derivative: step -> the derivative there, if what is differenced has no jumps.
    """

    line: Line
    product: Vectors
    differences: _Differences
    length: float
    derivative: Callable[[float], Vectors] | None = None

    def verdict(self) -> Check:
        """Agreement at any step; settled elsewhere; or neither."""
        found: list[tuple[float, Vectors]] = []
        gaps = []
        for place in range(_PAIRS):
            # Upwards where rounding is what parts the two.
            coarse = bool(found) and self._noise(*found[0]) > AGREE
            step = self.line.steps[3 if coarse else place]
            found.append((step, self.differences(step)))
            gap, noise = self._gap(found[-1][1]), self._noise(step, found[-1][1])
            if not math.isfinite(gap):
                return Check("", UNKNOWN, sentence="not finite near the weights")
            if noise <= CLEARLY * AGREE or math.isinf(noise):
                gaps.append(gap)
            if gap <= AGREE or math.isinf(noise):
                return self._with_blocks(found, gap)
            if self._shows_kinks(found[-1]):
                break
        return self._disagreeing(found, gaps)

    def _disagreeing(self, found: list[tuple[float, Vectors]], gaps: list[float]) -> Check:
        if self.derivative is None and self._seems_settled(found) and self._is_smooth():
            return Check("", FAILED, self._gap(found[-1][1]))
        if not gaps:
            return Check("", UNKNOWN, sentence="rounding is too coarse")
        if self.derivative is not None and min(gaps) > CLEARLY * AGREE:
            return self._integrated(found, min(gaps))
        return Check("", UNKNOWN, min(gaps), _KINKS)

    def _integrated(self, found: list[tuple[float, Vectors]], gap: float) -> Check:
        # The integral of a derivative is what its function changes by, whatever kinks lie
        # between; a surrogate's is not.
        assert self.derivative is not None
        exact = [pair for pair in found if self._noise(*pair) <= AGREE]
        step, difference = min(exact or found, key=lambda pair: pair[0])
        parts = [self.derivative(place) for place in midpoints(step)]
        mean = [sum(values) / len(parts) for values in zip(*parts, strict=True)]
        size = max(_length(mean), _length(difference)) or 1.0
        # A mean over points is off by half of what changes between them at most.
        changes = math.fsum(_distance(a, b) for a, b in pairwise(parts))
        off, bound = _relative(mean, difference), changes / (2 * len(parts)) / size
        if off > max(CLEARLY * AGREE, bound):
            return Check("", FAILED, gap)
        if off > AGREE:
            return Check("", UNKNOWN, off, _KINKS)
        return Check("", PASSED, off)

    def _is_smooth(self, place: int | None = None) -> bool:
        # Whether a gap is that of a wrong derivative. Kinks by the hundred make differences
        # settle as well, but scatter what an interval's parts change by, more so the shorter
        # it is, like the root of their number; what is smooth scatters less there.
        fine = self.line.steps[2] < 1e-4
        wide, narrow = (1e-3, 1e-5) if fine else (1e-2, 1e-3)
        spread, rounding = self._scatter(narrow, place)
        if spread > 1 / CLEARLY:
            return False
        return spread <= 1.5 * rounding or spread <= 0.5 * self._scatter(wide, place)[0]

    def _scatter(self, step: float, place: int | None) -> tuple[float, float]:
        # Of quotients over the parts of an interval, and what rounding makes of it, as shares
        # of the gap of their mean to the product.
        at = [
            self._chosen(self.differences.at(step * (2 * part / _QUARTERS - 1)), place)
            for part in range(_QUARTERS + 1)
        ]
        again = self._chosen(self.differences.at(step * (1 + _AGAIN)), place)
        width = 2 * step * self.line.length / _QUARTERS
        quotients = [
            [(b - a) / width for a, b in zip(*two, strict=True)] for two in pairwise(at)
        ]
        mean = [sum(values) / _QUARTERS for values in zip(*quotients, strict=True)]
        gap = _distance(mean, self._chosen(self.product, place)) or 1.0
        spread = math.sqrt(sum(_distance(q, mean) ** 2 for q in quotients) / _QUARTERS)
        return spread / gap, _distance(at[-1], again) / width / gap

    def _chosen(self, vectors: Vectors, place: int | None) -> Vectors:
        return vectors if place is None else vectors[place : place + 1]

    def _gap(self, difference: Vectors) -> float:
        return _relative(difference, self.product)

    def _noise(self, step: float, difference: Vectors) -> float:
        # Relative; infinite where neither way finds anything beyond rounding.
        size = max(_length(difference), _length(self.product))
        floor = 8 * self.line.rounding(step) * self.length
        return floor / size if size > floor else math.inf

    def _shows_kinks(self, pair: tuple[float, Vectors]) -> bool:
        # Another pair is worth its cost unless kinks are plain already.
        bent = self.differences.bends.get(pair[0], 0.0) > _BENT
        return bent and self._noise(*pair) <= AGREE

    def _seems_settled(self, found: list[tuple[float, Vectors]]) -> bool:
        if len(found) < _PAIRS:
            return False
        change = _relative(found[-2][1], found[-1][1])
        return change <= SETTLED and self._gap(found[-1][1]) > CLEARLY * change

    def _with_blocks(self, found: list[tuple[float, Vectors]], gap: float) -> Check:
        # The whole agrees; one tensor that is far off and settled there is wrong all the same.
        before = found[-1][1]
        off = [
            place
            for place, (a, b) in enumerate(zip(before, self.product, strict=True))
            if _relative([a], [b]) > _OFF and self._counts(found[-1][0], a, b)
        ]
        if not off:
            return Check("", PASSED, gap)
        after = self.differences(found[-1][0] / 3)
        for place in off:
            change = _relative([before[place]], [after[place]])
            apart = _relative([after[place]], [self.product[place]])
            settled = change <= SETTLED and apart > CLEARLY * change
            if settled and self._is_smooth(place):
                return Check("", FAILED, apart, sentence=f"'{self.line.name(place)}'")
        return Check("", PASSED, gap)

    def _counts(self, step: float, a: Tensor, b: Tensor) -> bool:
        floor = 8 * self.line.rounding(step) * self.length
        return max(_length([a]), _length([b])) > CLEARLY * floor


def _worded(found: Check, name: str, what: str, of: str) -> Check:
    if found.status == PASSED:
        return replace(found, name=name, sentence=f"{what} equal differences of {of}")
    if found.status == FAILED:
        where = f" in {found.sentence}" if found.sentence.startswith("'") else ""
        sentence = (
            f"{what} are off by {found.figure:.2g} of their size{where} from central "
            f"differences of {of}, at every step"
        )
        return replace(found, name=name, sentence=sentence)
    return replace(found, name=name)


def _filled(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Vectors:
    return [
        torch.zeros_like(value) if part is None else part.detach()
        for part, value in zip(parts, like, strict=True)
    ]


def _length(vectors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(v.abs().double().square().sum()) for v in vectors))


def _distance(a: Vectors, b: Vectors) -> float:
    return _length([x - y for x, y in zip(a, b, strict=True)])


def _relative(a: Vectors, b: Vectors) -> float:
    gap = _distance(a, b)
    size = max(_length(a), _length(b))
    return gap / size if size else gap


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
