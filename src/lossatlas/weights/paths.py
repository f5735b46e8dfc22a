"""Points on a path between two networks, through trained ones where it bends."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from torch import Tensor

from lossatlas.linalg.params import Params
from lossatlas.weights.paired import blend

PathKind = Literal["line", "bezier", "chain"]
KINDS: tuple[str, ...] = get_args(PathKind)


def point_at(kind: PathKind, knots: Sequence[Params], t: float) -> dict[str, Tensor]:
    """The network at a position; the ends themselves at 0 and 1."""
    if t in {0.0, 1.0}:
        return dict(knots[0] if t == 0 else knots[-1])
    return blend(knots, shares_at(kind, len(knots), t))


def shares_at(kind: PathKind, count: int, t: float) -> list[float]:
    """How much of each knot is in the point at t; they sum to 1."""
    if kind == "bezier":
        return [(1 - t) ** 2, 2 * t * (1 - t), t**2]
    position = t * (count - 1)
    return [max(0.0, 1 - abs(position - k)) for k in range(count)]


def distance_between(first: Params, second: Params, names: Iterable[str]) -> float:
    """Euclidean distance over some tensors."""
    squares = (
        float((second[name].double() - first[name].double()).square().sum())
        for name in names
        if first[name].is_floating_point()
    )
    return math.sqrt(sum(squares))
