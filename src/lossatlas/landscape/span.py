"""How far to look: the ranges of a map."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lossatlas.arguments import public
from lossatlas.checks import check_positive, is_number
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.landscape.engines import Task, select
from lossatlas.landscape.plane import Plane, check_objective, settled
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Result, quantity, result

Span = float | Sequence[tuple[float, float]]
Ranges = tuple[tuple[float, float], ...]
_WIDEST = 8.0


def ranges(span: object, dimension: int) -> Ranges:
    """What a `span` argument means, as one (low, high) a direction."""
    expected = "`span` must be a finite number > 0, or one (low, high) for each direction"
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
    """A span worth a picture.

    Attributes:
        span: half the width of the map, in lengths of the directions.
        rise: how much the loss has risen there (the least over the directions), in its units.
        reason: why it is this one, a sentence.
        evaluations: points evaluated to find it.
    """

    span: float = quantity("direction lengths")
    rise: float = quantity("loss")
    reason: str
    evaluations: int

    def estimates(self) -> tuple[Estimate, ...]:
        """The span, and how much the loss has risen there."""
        rise = "no error was estimated"
        return (
            Estimate(self.span, why_no_error="chosen", name="span", unit="direction lengths"),
            Estimate(self.rise, why_no_error=rise, name="rise of the loss", unit="loss"),
        )

    def sentences(self) -> tuple[str, ...]:
        """Why it is this span."""
        return (f"A span of {self.span:g}: {self.reason}",)


@public
def suggest_span(
    objective: Objective, plane: Plane, *, start: float = 0.125, rise: float = 4.0
) -> SpanSuggestion:
    """Widen until the loss has risen enough to be worth a picture.

    Both ends of every direction are evaluated at `start`, 2 `start`, 4 `start`, ... The first
    span is taken where along every direction the higher end has risen by `rise` times the loss
    at the center and by ten standard errors of it, or where it has risen by twenty standard
    errors and the span is at least 1 (a step of one filter norm).

    Args:
        objective: what to map.
        plane: where; its origin is the center.
        start: the narrowest span to try.
        rise: how many times the center's loss is enough.

    Returns:
        The suggestion; the widest span (8) where the loss never rises enough.

    Raises:
        ArgumentError: no objective, no plane, or a `start` or `rise` that is not above zero.
        ModelError: the model's outputs do not depend on the weights that move.
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
    task = Task(objective, settled(objective, plane))
    chosen = select(task, "auto", np.full(plane.dimension, start))
    engine, (center, stderr, *_) = chosen.engine, chosen.center.tolist()
    if not math.isfinite(center):
        raise NonFiniteError(f"the loss at the center is {center}; load finite weights.")
    # An error that is unknown asks for nothing and vouches for nothing.
    known = math.isfinite(stderr)
    error = stderr if known else 0.0
    enough = max(rise * abs(center), 10 * error)
    span, evaluations = start, 1
    while True:
        risen = _rise(engine.evaluate(_ends(span, plane.dimension))[:, 0] - center)
        evaluations += 2 * plane.dimension
        if risen >= enough:
            return SpanSuggestion(span, risen, f"the loss rises by {risen:.3g}.", evaluations)
        if span >= 1 and risen >= 20 * error and risen > 0.05 * abs(center):
            judged = "well above its error" if known else "whose error is unknown"
            reason = f"one filter norm away the loss rises by {risen:.3g}, {judged}."
            return SpanSuggestion(span, risen, reason, evaluations)
        if span >= _WIDEST:
            reason = f"even {span:g} directions away the loss rises by {risen:.3g} only."
            return SpanSuggestion(span, risen, reason, evaluations)
        span *= 2


def _ends(span: float, dimension: int) -> NDArray[np.float64]:
    return np.concatenate([-span * np.eye(dimension), span * np.eye(dimension)])


def _rise(differences: NDArray[np.float64]) -> float:
    # A loss that is not finite has risen as far as a loss can.
    each = np.nan_to_num(differences, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    return float(each.reshape(2, -1).max(0).min())
