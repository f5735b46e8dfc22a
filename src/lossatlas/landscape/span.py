"""Choose the span of a map."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lossatlas.arguments import public
from lossatlas.checks import check_positive, is_number
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.landscape.engines import Choice, Engine, Task, select
from lossatlas.landscape.engines.task import quantities_of
from lossatlas.landscape.plane import Plane, check_objective, prepare_plane
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Result, quantity, result

Span = float | Sequence[tuple[float, float]]
Ranges = tuple[tuple[float, float], ...]
_WIDEST = 8.0
# The narrowest span that is tried.
START = 0.125


def ranges(span: object, dimension: int) -> Ranges:
    """Convert a `span` argument to one (low, high) per direction."""
    expected = (
        '`span` must be a finite number > 0, "auto", or one (low, high) for each direction'
    )
    if is_number(span):
        half = float(span)  # type: ignore[arg-type]
        if not math.isfinite(half) or half <= 0:
            raise ArgumentError(f"{expected}; got {span}.")
        return ((-half, half),) * dimension
    try:
        pairs = tuple((float(low), float(high)) for low, high in span)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"{expected}; got {span!r}.") from None
    if len(pairs) != dimension or not all(
        math.isfinite(low) and math.isfinite(high) and low < high for low, high in pairs
    ):
        raise ArgumentError(f"{expected}, low < high; got {span!r} for {dimension} directions.")
    return pairs


@result("span-suggestion")
class SpanSuggestion(Result):
    """A suggested span.

    Attributes:
        span: half the width of the map, in lengths of the directions.
        rise: rise of the loss at that span (the smallest over the directions), in units of the
            loss.
        reason: why this span was chosen, a sentence.
        evaluations: number of points evaluated.
    """

    span: float = quantity("direction lengths")
    rise: float = quantity("loss")
    reason: str
    evaluations: int

    def estimates(self) -> tuple[Estimate, ...]:
        """The span, and the rise of the loss at it."""
        rise = "no error was estimated"
        return (
            Estimate(self.span, why_no_error="chosen", name="span", unit="direction lengths"),
            Estimate(self.rise, why_no_error=rise, name="rise of the loss", unit="loss"),
        )

    def sentences(self) -> tuple[str, ...]:
        """Why this span was chosen."""
        return (f"A span of {self.span:g}: {self.reason}",)


@public
def suggest_span(
    objective: Objective, plane: Plane, *, start: float = START, rise: float = 4.0
) -> SpanSuggestion:
    """Suggest a span by widening it until the loss has risen enough.

    Both ends of every direction are evaluated at `start`, 2 `start`, 4 `start`, ... The first
    span is chosen at which, along every direction, the higher end has risen by `rise` times the
    loss at the center and by ten of its standard errors, or by twenty standard errors if the
    span is at least 1 (a step of one filter norm).

    Args:
        objective: the objective to map.
        plane: the plane; its origin is the center.
        start: the smallest span to try.
        rise: required rise, as a multiple of the loss at the center.

    Returns:
        The suggestion; the largest span (8) if the loss never rises enough.

    Raises:
        ArgumentError: `objective` or `plane` has the wrong type, or `start` or `rise` is not
            positive.
        ModelError: the outputs of the model do not depend on the weights that move.
        NonFiniteError: the loss at the center is not finite.
        StructureError: the plane is one of another model.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> batch = torch.eye(2), torch.ones(2, 1)
        >>> mse = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, mse, [batch])
        >>> la.suggest_span(objective, la.random_plane(objective)).span > 0
        True
    """
    check_objective(objective, plane)
    check_positive("start", start)
    check_positive("rise", rise)
    task = Task(objective, prepare_plane(objective, plane))
    chosen = select(task, "auto", np.full(plane.dimension, start))
    center = float(chosen.center[0])
    if not math.isfinite(center):
        raise NonFiniteError(f"the loss at the center is {center}; load finite weights.")
    return widen(chosen, start, rise)[0]


def narrowest(chosen: Choice) -> float:
    """The span to try first."""
    # Along an eigenvector the rise is known beforehand: begin where it is the loss itself.
    sharpest = max(chosen.engine.task.plane.recipe.get("eigenvalues", [0.0]))
    loss = abs(float(chosen.center[0]))
    return min(START, math.sqrt(2 * loss / sharpest)) if sharpest > 0 < loss else START


def widen(
    chosen: Choice, start: float, rise: float = 4.0
) -> tuple[SpanSuggestion, dict[tuple[float, ...], NDArray[np.float64]]]:
    """Look for a span, and keep what was evaluated on the way.

    Args:
        chosen: an engine, and what it gives at the center.
        start: as for `suggest_span`.
        rise: as for `suggest_span`.

    Returns:
        The suggestion, and coordinates -> quantities.
    """
    engine, row = chosen.engine, chosen.center
    center, stderr = float(row[0]), float(row[quantities_of(row)])
    # An error that is unknown asks for nothing and vouches for nothing.
    has_error = math.isfinite(stderr)
    error = stderr if has_error else 0.0
    enough, well = max(rise * abs(center), 10 * error), (20 * error, 0.05 * abs(center))
    evaluated: dict[tuple[float, ...], NDArray[np.float64]] = {}
    axes, span = list(range(engine.task.plane.dimension)), start
    while True:
        rises: list[float] = []
        while len(rises) < len(axes):
            rises.append(_rise(engine, axes[len(rises)], span, center, evaluated))
            risen, rise_text = min(rises), f"the loss rises by {min(rises):.3g}"
            reason = f"even {span:g} directions away {rise_text} only."
            if risen >= enough:
                reason = f"{rise_text}."
            elif span >= 1 and risen >= well[0] and risen > well[1]:
                judged = "well above its error" if has_error else "whose error is unknown"
                reason = f"one filter norm away {rise_text}, {judged}."
            elif span < _WIDEST:
                # What one direction does not reach, no other one has to. It goes first now.
                axes.insert(0, axes.pop(len(rises) - 1))
                break
        else:
            return SpanSuggestion(span, risen, reason, 1 + len(evaluated)), evaluated
        span *= 2


def _rise(
    engine: Engine,
    axis: int,
    span: float,
    center: float,
    evaluated: dict[tuple[float, ...], NDArray[np.float64]],
) -> float:
    # Of the higher end of a direction; both are kept.
    ends = np.zeros((2, engine.task.plane.dimension))
    ends[:, axis] = -span, span
    rows = engine.evaluate(ends)
    evaluated.update(zip(map(tuple, ends.tolist()), rows, strict=True))
    # A loss that is not finite has risen as far as a loss can.
    differences = rows[:, 0] - center
    return float(np.nan_to_num(differences, nan=np.inf, posinf=np.inf, neginf=-np.inf).max())
