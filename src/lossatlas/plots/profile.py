"""The topological profile: a landscape of any dimension as nested basins on paper."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style
from lossatlas.plots.marks import MOST_MINIMA, most_persistent
from lossatlas.topology import MergeTree

Floats = NDArray[np.float64]
_STEPS = 100


@dataclass(frozen=True, eq=False)
class Silhouette:
    """One part of a topological profile: a basin between two of its passes.

    Attributes:
        minimum: number of the deepest minimum in it.
        levels: ascending losses.
        center: middle of the part, as a share of the map's points.
        widths: share of the map's points that lie in the basin at or below each level.
        depth: passes above it; 0 for the whole map.
        certain: how many certain minima it holds.
    """

    minimum: int
    levels: Floats
    center: float
    widths: Floats
    depth: int
    certain: int


@dataclass(eq=False)
class _Node:
    # A component of the sublevel sets, from `bottom` up to the pass where it merges.
    minimum: int
    values: Floats
    bottom: float
    certain: int
    children: tuple["_Node", ...] = ()

    def width(self, level: float) -> int:
        return int(np.searchsorted(self.values, level, side="right"))


def silhouettes(
    landscape: Landscape, tree: MergeTree, most: int = MOST_MINIMA
) -> list[Silhouette]:
    """The topological profile: basins as silhouettes, as wide as they hold points."""
    total = int(np.count_nonzero(tree.basins >= 0))
    drawn: list[Silhouette] = []
    start = 0.0
    for root in _forest(landscape, tree, set(most_persistent(tree, most).tolist())):
        stack = [(root, start + root.values.size / 2, tree.high, 0)]
        start += root.values.size
        while stack:
            node, center, top, depth = stack.pop()
            levels, widths = _outline(node, top)
            drawn.append(
                Silhouette(
                    node.minimum, levels, center / total, widths / total, depth, node.certain
                )
            )
            stack += [(*child, node.bottom, depth + 1) for child in _side_by_side(node, center)]
    return drawn


def profile_color(certain: int) -> str:
    """Color of a part of a topological profile."""
    return {0: style.FAINT, 1: style.FILL}.get(certain, style.SHARED)


def _forest(landscape: Landscape, tree: MergeTree, kept: set[int]) -> list[_Node]:
    home = np.arange(len(tree))
    # The last merge first: a basin that is not kept goes where its parent went.
    for ended, into in zip(tree.ended[::-1], tree.into[::-1], strict=True):
        if int(ended) not in kept:
            home[ended] = home[into]
    labels = np.where(tree.basins >= 0, home[tree.basins], -1).ravel()
    values = landscape.values.ravel()
    certain = tree.certain.astype(int)
    inside = {number: np.sort(values[labels == number]) for number in sorted(kept)}
    live = {
        number: _Node(number, held, float(held[0]), int(certain[number]))
        for number, held in inside.items()
    }
    merges = zip(tree.ended.tolist(), tree.into.tolist(), tree.saddle_values, strict=True)
    for ended, into, level in merges:
        if ended in kept:
            pair = sorted((live[into], live.pop(ended)), key=lambda part: -part.width(level))
            merged = np.sort(np.concatenate([part.values for part in pair]))
            sure = sum(part.certain for part in pair)
            live[into] = _Node(into, merged, float(level), sure, tuple(pair))
    return list(live.values())


def _side_by_side(node: _Node, center: float) -> list[tuple[_Node, float]]:
    widths = [child.width(node.bottom) for child in node.children]
    left = center - sum(widths) / 2
    starts = np.cumsum([0, *widths])
    return [
        (child, float(left + start + width / 2))
        for child, start, width in zip(node.children, starts, widths, strict=False)
    ]


def _outline(node: _Node, top: float) -> tuple[Floats, Floats]:
    inner = np.unique(node.values[(node.values > node.bottom) & (node.values < top)])
    picked = (
        inner[np.unique(np.linspace(0, inner.size - 1, _STEPS).astype(int))]
        if inner.size
        else inner
    )
    levels = np.concatenate([[node.bottom], picked, [top]])
    return levels, np.searchsorted(node.values, levels, side="right").astype(np.float64)
