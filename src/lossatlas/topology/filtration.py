"""Filtered graphs of scattered points, checkpoints and weighted graphs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_number
from lossatlas.errors import ArgumentError, DataError
from lossatlas.topology.basins import (
    Basins,
    descend,
    lowest_saddles,
    merge_plateaus,
    value_order,
)
from lossatlas.topology.certainty import Certainty
from lossatlas.topology.field import Floats, Ints, without_mask


@dataclass(frozen=True, eq=False)
class Graph:
    """A filtered graph: a vertex appears at its value, an edge at its height.

    Attributes:
        values: level of each vertex, float64; +inf where not finite.
        edges: (edges, 2) vertex numbers.
        heights: level of each edge, at least that of its ends.
        made: how the edges were chosen ("given", "checkpoints", "delaunay", "knn-10", ...).
        points: (vertices, dimensions) coordinates, or None.
        error: bound on the error of every level, for the certainty of bars; NaN if unknown.

    Examples:
        >>> path = graph([0.0, 2.0, 1.0], [(0, 1), (1, 2)])
        >>> path.heights, path.range
        (array([2., 2.]), (0.0, 2.0))
    """

    values: Floats
    edges: Ints
    heights: Floats
    made: str = "given"
    points: Floats | None = None
    error: float = float("nan")

    @property
    def excluded(self) -> int:
        """Number of vertices without a finite value."""
        return int(np.count_nonzero(~np.isfinite(self.values)))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest value and largest finite level of a vertex or an edge."""
        values = self.values[np.isfinite(self.values)]
        top = self.heights.max(initial=-np.inf, where=self.heights < np.inf)
        return float(values.min()), float(max(values.max(), top))


def graph(
    values: ArrayLike,
    edges: ArrayLike,
    heights: ArrayLike | None = None,
    *,
    error: float | None = None,
) -> Graph:
    """Build a filtration from a weighted graph.

    Args:
        values: one level per vertex; non-finite or masked vertices are left out.
        edges: (edges, 2) vertex numbers; loops and repetitions are harmless.
        heights: one level per edge, at least that of both ends (an edge with NaN or infinity is
            left out); None gives each edge the higher level of its ends (the lower star).
        error: bound on the error of every level; None if unknown, in which case it is unknown
            which bars are certain.

    Returns:
        The filtration. It may have several connected parts.

    Raises:
        ArgumentError: shapes do not match, `error` is negative, a vertex number is out of
            range, or edges lie below their ends (the message gives their number).
        DataError: no vertex has a finite value.

    Examples:
        >>> from lossatlas.topology import persistence
        >>> path = graph([0.0, 1.0, 0.5], [(0, 1), (1, 2)], heights=[2.0, 3.0])
        >>> persistence(path).bars()
        array([[0.5, 3. ],
               [1. , 2. ]])
    """
    levels = as_float_array("values", without_mask(values))
    ends = _read_edges(edges)
    error = _read_error(error)
    _check_vertices(levels, ends)
    levels = np.where(np.isfinite(levels), levels, np.inf)
    floor = np.maximum(levels[ends[:, 0]], levels[ends[:, 1]])
    if heights is None:
        return Graph(levels, ends, floor, error=error)
    tops = as_float_array("heights", without_mask(heights))
    if tops.shape != floor.shape:
        raise ArgumentError(
            f"`heights` must have one number per edge, shape {floor.shape}; got {tops.shape}."
        )
    has_height = np.isfinite(tops)
    if not has_height.all():
        ends, tops, floor = ends[has_height], tops[has_height], floor[has_height]
    below = int(np.count_nonzero((tops < floor) & (floor < np.inf)))
    if below:
        raise ArgumentError(
            f"`heights` must be at least the values of both ends; got {below} edges below "
            "them; pass the maximum of the loss along each path, including its ends."
        )
    return Graph(levels, ends, np.maximum(tops, floor), error=error)


def _read_error(error: float | None) -> float:
    if error is None:
        return float("nan")
    check_number("error", error, 0)
    return float(error)


def _read_edges(edges: ArrayLike) -> Ints:
    ends = as_float_array("edges", edges)
    ends = ends.reshape(0, 2) if ends.size == 0 else ends
    if ends.ndim != 2 or ends.shape[1] != 2 or not (ends % 1 == 0).all():
        raise ArgumentError(
            f"`edges` must be pairs of vertex numbers, (edges, 2); got shape {ends.shape}."
        )
    return ends.astype(np.int64)


def _check_vertices(values: Floats, edges: Ints) -> None:
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).any():
        raise DataError(
            "`values` must be one number per vertex, at least one of them finite; "
            f"got shape {values.shape}."
        )
    if edges.size and (edges.min() < 0 or edges.max() >= values.size):
        raise ArgumentError(
            f"`edges` must hold vertex numbers 0 to {values.size - 1}; "
            f"got {edges.min()} to {edges.max()}."
        )


def checkpoints(
    losses: ArrayLike,
    heights: Mapping[tuple[int, int], float] | ArrayLike,
    *,
    error: float | None = None,
) -> Graph:
    """Checkpoints joined by paths: the graph behind a loss barcode.

    Args:
        losses: loss of each checkpoint.
        heights: maximum loss along the path between two checkpoints, as `{(i, j): height}` or
            as a symmetric matrix with NaN or infinity where no path was tried. This is the
            height itself, not the barrier above the linear interpolation of the end losses.
        error: bound on the error of every loss; None if unknown.

    Returns:
        The filtration. Its bars are upper bounds: a better path only lowers a death.

    Raises:
        ArgumentError: the matrix has another size or is not symmetric, or heights are below
            losses.
        DataError: no loss is finite.

    Examples:
        >>> from lossatlas.topology import merge_tree
        >>> joined = checkpoints([1.0, 2.0, 1.5], {(0, 1): 3.0, (1, 2): 2.5})
        >>> merge_tree(joined).barrier(0, 2)
        3.0

    Source: Barannikov et al., arXiv:1912.00043 (the bar of a minimum: from its loss to the
    lowest level at which a lower one is reached).
    """
    levels = as_float_array("losses", without_mask(losses))
    if isinstance(heights, Mapping):
        edges = _read_edges(list(heights))
        tops = as_float_array("heights", list(heights.values()))
    else:
        edges, tops = _from_matrix(
            as_float_array("heights", without_mask(heights)), levels.size
        )
    return replace(graph(levels, edges, tops, error=error), made="checkpoints")


def _from_matrix(matrix: Floats, count: int) -> tuple[Ints, Floats]:
    if matrix.shape != (count, count) or not np.array_equal(matrix, matrix.T, equal_nan=True):
        raise ArgumentError(
            f"`heights` must be a symmetric matrix of {count} by {count}, one path per pair; "
            f"got shape {matrix.shape}{'' if matrix.shape != (count, count) else ', unequal'}."
        )
    upper = np.stack(np.triu_indices(count, 1), axis=1)
    return upper, matrix[upper[:, 0], upper[:, 1]]


def graph_certainty(source: Graph) -> Certainty:
    """Length above which a bar of a graph is certain."""
    if np.isnan(source.error):
        return Certainty(float("nan"), "the levels come without an error")
    return Certainty(2.0 * source.error, rarest_share=0.0)


def graph_basins(source: Graph) -> Basins:
    """Reduce a graph to its minima and the saddles between their basins."""
    finite = np.isfinite(source.values)
    order = value_order(source.values)
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    u, v = np.ascontiguousarray(source.edges.T)
    numbers = np.flatnonzero(finite[u] & finite[v])
    if numbers.size < u.size:
        u, v = u[numbers], v[numbers]
    low = np.where(rank[u] > rank[v], v, u)
    high = u + v - low
    # An edge above both its ends comes after every vertex of its level.
    star = source.heights[numbers] == source.values[high]
    lowest = rank.copy()
    np.minimum.at(lowest, high[star], rank[low[star]])
    labels, minima = descend(order[lowest], order, finite)
    saddles = np.flatnonzero(labels[low] != labels[high])
    opening = np.where(star, rank[high], order.size)[saddles]
    if star[saddles].all():
        ends = low[saddles], high[saddles]
        saddles = saddles[lowest_saddles(minima.size, labels, *ends, opening)]
    else:
        saddles = saddles[np.lexsort((opening, source.heights[numbers[saddles]]))]
    low, high, numbers = low[saddles], high[saddles], numbers[saddles]
    bridges = np.stack([low, high], axis=1)
    heights = source.heights[numbers]
    basins = Basins(labels, minima, labels[low], labels[high], bridges, heights, numbers)
    return merge_plateaus(basins, source.values[minima])
