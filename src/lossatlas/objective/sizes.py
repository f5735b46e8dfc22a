"""How many examples a batch holds: as given, known by its container, or inferred safely."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lossatlas.errors import ArgumentError, DataError
from lossatlas.objective.batches import Batch, batch_size, known_size, tensors
from lossatlas.objective.user_code import wrap_errors

Size = Callable[[Batch], float]

_SAY = (
    "say it by size=, as in Objective(..., size=lambda batch: len(batch[1])), or let the loss "
    "return one number an example or la.Weighted(sums, weights)."
)


def said_size(size: Size, batch: Batch) -> float:
    """What the user's `size=` says of a batch."""
    with wrap_errors("`size`", "it is called as size(batch).", ArgumentError):
        stated: Any = size(batch)
    single = isinstance(stated, Tensor) and stated.numel() == 1
    number = float(stated) if single or isinstance(stated, int | float) else math.nan
    if not math.isfinite(number) or number <= 0:
        shown = tuple(stated.shape) if isinstance(stated, Tensor) and not single else stated
        raise ArgumentError(
            f"`size` must give how many examples a batch holds, a number above 0; got {shown}."
        )
    return number


@dataclass(frozen=True)
class Layout:
    """What the structure of a batch tells about its size.

    Attributes:
        known: what a container says that knows it, or None.
        shapes: of all tensors with an axis, in order.
    """

    known: int | None
    shapes: tuple[tuple[int, ...], ...]


def layout_of(batch: Batch) -> Layout:
    """Look at the structure of a batch."""
    known = known_size(batch)
    if known is not None:
        return Layout(known, ())
    return Layout(None, tuple(tuple(value.shape) for value in tensors(batch) if value.ndim))


def check_guessed(layouts: Sequence[Layout]) -> None:
    """Require that a guess from the first tensor gives batches their right weights."""
    if len(layouts) < 2 or all(layout.known is not None for layout in layouts):
        return
    if any(layout.known is None and not layout.shapes for layout in layouts):
        raise DataError(
            "a batch holds no tensor that says how many examples it has, and the loss gives "
            f"means of batches: {_SAY}"
        )
    if len({layout.shapes for layout in layouts}) == 1:
        return
    first = layouts[0]
    odd = next((layout for layout in layouts if _is_odd(layout, first)), None)
    if odd is not None:
        pair = (first, odd if odd != first else next(k for k in layouts if k != first))
        raise DataError(
            "the loss gives means of batches, and how many examples a batch holds cannot be "
            f"told: batches differ in their shapes, {' and '.join(map(_shown, pair))}, not "
            f"along one common axis 0: {_SAY}"
        )


def _is_odd(layout: Layout, first: Layout) -> bool:
    lengths = {shape[0] for shape in layout.shapes}
    alike = [shape[1:] for shape in layout.shapes] == [shape[1:] for shape in first.shapes]
    return layout.known is None and (len(lengths) > 1 or not alike)


def _shown(layout: Layout) -> str:
    return ", ".join(map(str, layout.shapes[:3])) + (", ..." if layout.shapes[3:] else "")


def size_of(batch: Batch, size: Size | None) -> float:
    """The weight of a batch mean."""
    return float(batch_size(batch)) if size is None else said_size(size, batch)
