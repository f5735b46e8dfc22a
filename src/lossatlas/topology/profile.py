"""The topological profile: basins of any dimension as nested silhouettes."""

from dataclasses import dataclass

import numpy as np

from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Result, result
from lossatlas.topology.field import Connectivity, Floats, Source, read_field
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.simplification import simplify


@record
@dataclass(frozen=True, eq=False)
class Silhouette:
    """One basin of the profile, or the union of merged basins up to their next saddle.

    Attributes:
        minimum: number of its deepest minimum in `Profile.tree`.
        center: horizontal position of its axis, in points.
        levels: values of its points, ascending, followed by the level where it ends; at height
            `levels[k]` it extends `k` points to either side of the center.
        depth: number of silhouettes it lies in.

    Examples:
        >>> part = profile([3.0, 0.0, 2.0, 1.0, 3.0]).silhouettes[1]
        >>> part.minimum, part.levels
        (0, array([0., 2.]))
    """

    minimum: int
    center: float
    levels: Floats
    depth: int

    @property
    def outline(self) -> tuple[Floats, Floats]:
        """Horizontal and vertical coordinates of the outline, from left to right."""
        across = np.arange(self.levels.size, dtype=np.float64)
        sides = np.concatenate([-across[::-1], across[1:]])
        heights = np.concatenate([self.levels[::-1], self.levels[1:]])
        return self.center + sides, heights


@result("profile")
class Profile(Result):
    """A landscape of any dimension as nested silhouettes.

    Attributes:
        silhouettes: the silhouettes, outer ones first.
        tree: the merge tree they were drawn from.

    Examples:
        >>> nested = profile([3.0, 0.0, 2.0, 1.0, 3.0])
        >>> [part.minimum for part in nested.silhouettes]
        [0, 0, 1]
    """

    silhouettes: tuple[Silhouette, ...]
    tree: MergeTree

    def estimates(self) -> tuple[Estimate, ...]:
        """The estimates of its merge tree."""
        return self.tree.estimates()

    def sentences(self) -> tuple[str, ...]:
        """The sentences of its merge tree."""
        return self.tree.sentences()

    def figures(self) -> tuple[Figure, ...]:
        """The profile, then the merge tree."""
        return self.tree.figures()[::-1]


def profile(
    landscape: Source, *, connectivity: Connectivity = "full", length: float | None = None
) -> Profile:
    """Lay out the basins of a landscape as nested silhouettes.

    The width of a silhouette at a height is the number of points of its basin below that
    height. Children share the strip under their parent, wider ones first.

    Args:
        landscape: a landscape or an array.
        connectivity: "full" or "axis".
        length: branches not longer than this are left out; None uses the certainty threshold
            and leaves none out if it is unknown.

    Returns:
        The profile: one silhouette per component at each merge, and one for each whole part.

    Examples:
        >>> [part.depth for part in profile([3.0, 0.0, 2.0, 1.0, 3.0]).silhouettes]
        [0, 1, 1]

    Source: Landscaper 1.3.1, `generate_profile` (the layout).
    """
    field = read_field(landscape)
    tree = simplify(merge_tree(landscape, connectivity=connectivity), length)
    basins = [np.sort(field.values[tree.basins == k]) for k in range(len(tree))]
    roots = _components(tree, basins)
    silhouettes: list[Silhouette] = []
    start = 0.0
    for root in sorted(roots, key=_width, reverse=True):
        _lay_out(root, start + _width(root), silhouettes)
        start += 2 * _width(root)
    silhouettes.sort(key=lambda shape: shape.depth)
    return Profile(tuple(silhouettes), tree)


@dataclass(eq=False)
class _Component:
    minimum: int
    points: Floats
    end: float
    children: tuple["_Component", ...] = ()


def _components(tree: MergeTree, basins: list[Floats]) -> list[_Component]:
    # At each merge: two components below the saddle, one above it with all their points.
    alive = {k: _Component(k, points, np.inf) for k, points in enumerate(basins)}
    merges = zip(tree.ended.tolist(), tree.into.tolist(), tree.saddle_values, strict=True)
    for ended, into, level in merges:
        young, old = alive.pop(ended), alive[into]
        points = np.sort(np.concatenate([young.points, old.points]))
        for child in (young, old):
            child.end = float(level)
            child.points = child.points[child.points < level]
        alive[into] = _Component(into, points, np.inf, (young, old))
    return list(alive.values())


def _width(component: _Component) -> float:
    return float(component.points.size)


def _lay_out(root: _Component, center: float, silhouettes: list[Silhouette]) -> None:
    todo = [(root, center, 0)]
    while todo:
        component, middle, inside = todo.pop()
        top = component.end if component.end < np.inf else component.points[-1]
        levels = np.append(component.points, top)
        silhouettes.append(Silhouette(component.minimum, middle, levels, inside))
        left = middle - sum(map(_width, component.children))
        for child in sorted(component.children, key=_width, reverse=True):
            todo.append((child, left + _width(child), inside + 1))
            left += 2 * _width(child)
