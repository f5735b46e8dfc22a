"""Where the lines of a tree and a barcode go; matplotlib and plotly draw the same ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.marks import MOST_MINIMA, most_persistent
from lossatlas.plots.scale import Scale, spanning
from lossatlas.topology import Diagram, MergeTree

Floats = NDArray[np.float64]
MOST_BARS = 40


@dataclass(frozen=True)
class Branch:
    """One branch of a merge tree: up from its minimum, then across to its parent.

    Attributes:
        minimum: number of its minimum.
        x: where it stands.
        low: loss at the minimum.
        high: loss where it ends; the highest of the map where it never does.
        parent_x: where its parent stands; None where it never ends.
        certain: whether it is known to be longer than the tree's threshold.
    """

    minimum: int
    x: float
    low: float
    high: float
    parent_x: float | None
    certain: bool


def branches(tree: MergeTree, most: int = MOST_MINIMA) -> list[Branch]:
    """Lay out a merge tree so that no two lines cross."""
    kept = most_persistent(tree, most)
    place = {number: float(x) for x, number in enumerate(_order(tree, set(kept.tolist())))}
    parent = {int(a): int(b) for a, b in zip(tree.ended, tree.into, strict=True)}
    level = dict(zip(tree.ended.tolist(), tree.saddle_values.tolist(), strict=True))
    certain = tree.certain
    return [
        Branch(
            minimum=number,
            x=place[number],
            low=float(tree.minima_values[number]),
            high=level.get(number, tree.high),
            parent_x=place[parent[number]] if number in parent else None,
            certain=bool(certain[number]),
        )
        for number in kept.tolist()
    ]


def _order(tree: MergeTree, kept: set[int]) -> list[int]:
    # What has merged stays side by side, so a later line across passes above it. Children
    # go left and right in turn, which keeps the oldest branch near the middle.
    rows: dict[int, list[int]] = {number: [number] for number in sorted(kept)}
    turns = dict.fromkeys(rows, 0)
    for ended, into in zip(tree.ended.tolist(), tree.into.tolist(), strict=True):
        if ended not in kept:
            continue
        child = rows.pop(ended)
        rows[into] = rows[into] + child if turns[into] % 2 == 0 else child + rows[into]
        turns[into] += 1
    return [number for row in rows.values() for number in row]


@dataclass(frozen=True, eq=False)
class Bar:
    """One row of a barcode.

    Attributes:
        birth: loss at which it begins.
        end: loss at which it ends; the highest of the map where it never does.
        dimension: its degree.
        certain: longer than the threshold.
        essential: never ends.
        index: its place in the diagram.
    """

    birth: float
    end: float
    dimension: int
    certain: bool
    essential: bool
    index: int


def barcode(diagram: Diagram, most: int = MOST_BARS) -> tuple[list[Bar], int]:
    """The longest bars of every degree."""
    first = np.searchsorted(diagram.dimensions, diagram.dimensions, side="left")
    rank = np.arange(len(diagram)) - first
    chosen = np.flatnonzero(rank < most)
    bars = [
        Bar(
            float(diagram.births[k]),
            float(np.minimum(diagram.deaths[k], diagram.high)),
            int(diagram.dimensions[k]),
            bool(diagram.certain[k]),
            bool(diagram.essential[k]),
            k,
        )
        for k in chosen.tolist()
    ]
    return bars, len(diagram) - len(bars)


def betti_curve(
    diagram: Diagram, dimension: int, *, certain: bool = False
) -> tuple[Floats, Floats]:
    """How many bars of one degree are alive at each level.

    Args:
        diagram: the diagram.
        dimension: the degree.
        certain: count the certain bars alone.

    Returns:
        Levels, from the lowest to the highest loss, and the count from each level on.
    """
    chosen = diagram.dimensions == dimension
    chosen &= diagram.certain if certain else True
    births = np.sort(diagram.births[chosen])
    deaths = np.sort(diagram.deaths[chosen])
    events = np.concatenate(
        [[diagram.low], births, deaths[np.isfinite(deaths)], [diagram.high]]
    )
    levels = np.unique(events)
    alive = np.searchsorted(births, levels, "right") - np.searchsorted(deaths, levels, "right")
    return levels, alive.astype(np.float64)


@dataclass(frozen=True)
class Frame:
    """The square of a persistence diagram.

    Attributes:
        scale: how losses are spread on both sides.
        floor: where it begins, a little below the lowest loss.
        ceiling: where bars that never end are drawn, above the highest loss.
        roof: where it ends.
    """

    scale: Scale
    floor: float
    ceiling: float
    roof: float

    def steps(self, count: int = 60) -> Floats:
        """Losses from floor to roof, evenly spaced as drawn."""
        low, high = self.scale.forward(np.array([self.floor, self.roof]))
        return self.scale.inverse(np.linspace(low, high, count))


def diagram_frame(diagram: Diagram, scale: Scale | None = None) -> Frame:
    """The square of a persistence diagram."""
    scale = scale or spanning(diagram.low, diagram.high)
    low, high = scale.heights(2)
    margin = 0.07 * (high - low)
    floor, ceiling, roof = scale.inverse(
        np.array([low - margin / 2, high + margin, high + 2 * margin])
    )
    return Frame(scale, float(floor), float(ceiling), float(roof))


@dataclass(frozen=True, eq=False)
class Group:
    """Bars of a diagram that look alike.

    Attributes:
        dimension: their degree.
        certain: whether they are certain.
        rows: their indices in the diagram.
        name: for a legend.
    """

    dimension: int
    certain: bool
    rows: NDArray[np.int64]
    name: str


def bar_groups(diagram: Diagram) -> list[Group]:
    """The bars of a diagram by degree and certainty."""
    found = []
    unsure = ", certainty unknown" if diagram.why_unknown else ", uncertain"
    for dimension in np.unique(diagram.dimensions).tolist():
        for certain in (False, True):
            alike = (diagram.dimensions == dimension) & (diagram.certain == certain)
            name = style.DIMENSION_NAMES[dimension] + ("" if certain else unsure)
            if alike.any():
                found.append(Group(dimension, certain, np.flatnonzero(alike), name))
    return found
