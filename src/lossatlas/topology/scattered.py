"""Scattered points as a neighbor graph."""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import scipy
from numpy.typing import ArrayLike

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import DataError
from lossatlas.topology.arguments import read_coordinates
from lossatlas.topology.field import Floats, Ints
from lossatlas.topology.filtration import Graph, graph

NeighborMethod = Literal["auto", "delaunay", "knn"]


def scattered(
    points: ArrayLike,
    values: ArrayLike,
    *,
    method: NeighborMethod = "auto",
    neighbors: int | None = None,
    error: float | None = None,
) -> Graph:
    """Build the lower-star filtration of a neighbor graph of scattered points.

    Results depend on the graph: a sparser one has more minima. `Graph.made` and every result
    state how it was built.

    Args:
        points: (points, dimensions), finite. Equal points count as neighbors.
        values: one number per point; non-finite or masked points are left out.
        method: "delaunay" (at most 3 dimensions), "knn" (symmetrized nearest neighbors, plus
            the shortest edges that connect the components), or "auto": Delaunay in up to 3
            dimensions if the points span them, otherwise "knn".
        neighbors: number of neighbors for "knn"; by default the larger of 10 and twice the
            dimension.
        error: bound on the error of every value; None if unknown.

    Returns:
        The filtration.

    Raises:
        UnknownNameError: the method is unknown.
        ArgumentError: `neighbors` is below 1.
        DataError: there are no points, coordinates are not finite, the number of values
            differs, or "delaunay" is requested for points that do not span their space.

    Examples:
        >>> from lossatlas.topology import merge_tree
        >>> line = scattered([[0.0], [1.0], [2.0], [3.0]], [0.0, 2.0, 1.0, 3.0])
        >>> merge_tree(line).minima
        array([0, 2])
    """
    check_one_of("method", method, get_args(NeighborMethod))
    if neighbors is not None:
        check_at_least("neighbors", neighbors, 1)
    coordinates = read_coordinates(points)
    _check_values(coordinates, np.shape(values))
    # Duplicates would break Delaunay and nearest neighbors, so one point represents them.
    distinct, first, which = np.unique(
        coordinates, axis=0, return_index=True, return_inverse=True
    )
    which = which.reshape(-1)
    edges, made = _neighbor_edges(distinct, method, neighbors)
    repeated = np.flatnonzero(first[which] != np.arange(which.size))
    same = np.stack([repeated, first[which[repeated]]], axis=1)
    lower_star = graph(values, np.concatenate([first[edges], same]), error=error)
    return replace(lower_star, made=made, points=coordinates)


def _check_values(points: Floats, values_shape: tuple[int, ...]) -> None:
    if values_shape != points.shape[:1]:
        raise DataError(
            f"`values` must have one number per point, shape {points.shape[:1]}; "
            f"got shape {values_shape}."
        )


def _neighbor_edges(points: Floats, method: str, neighbors: int | None) -> tuple[Ints, str]:
    count, dimensions = points.shape
    if method != "knn" and dimensions == 1:
        # Sorted by `unique`, so consecutive points on a line are neighbors.
        return np.stack([np.arange(count - 1), np.arange(1, count)], axis=1), "delaunay"
    if method == "delaunay" or (method == "auto" and 2 <= dimensions <= 3):
        try:
            return _delaunay(points), "delaunay"
        except (scipy.spatial.QhullError, ValueError):
            if method == "delaunay":
                raise DataError(
                    f"`points` do not span their {dimensions} dimensions, which Delaunay "
                    f"needs (got {count} distinct ones); use `method='knn'`."
                ) from None
    nearest = min(neighbors or max(10, 2 * dimensions), count - 1)
    return _nearest(points, nearest), f"knn-{nearest}"


def _delaunay(points: Floats) -> Ints:
    start, neighbors = scipy.spatial.Delaunay(points).vertex_neighbor_vertices
    edges = np.stack([np.repeat(np.arange(len(points)), np.diff(start)), neighbors], axis=1)
    return edges[edges[:, 0] < edges[:, 1]].astype(np.int64)


def _nearest(points: Floats, neighbors: int) -> Ints:
    if neighbors == 0:
        return np.empty((0, 2), dtype=np.int64)
    _, indices = scipy.spatial.cKDTree(points).query(points, k=neighbors + 1)
    edges = np.stack([np.repeat(indices[:, 0], neighbors), indices[:, 1:].ravel()], axis=1)
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    while (parts := _parts(edges, len(points))).max() > 0:
        edges = np.concatenate([edges, _bridges(points, parts)])
    return edges


def _parts(edges: Ints, count: int) -> Ints:
    links = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
    return np.asarray(
        scipy.sparse.csgraph.connected_components(links, directed=False)[1], dtype=np.int64
    )


def _bridges(points: Floats, parts: Ints) -> Ints:
    # The shortest edge out of every component but the largest: a round of Boruvka's algorithm.
    largest = np.bincount(parts).argmax()
    bridges = []
    for part in np.unique(parts[parts != largest]):
        inside, outside = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        distance, nearest = scipy.spatial.cKDTree(points[outside]).query(points[inside])
        best = distance.argmin()
        bridges.append((inside[best], outside[nearest[best]]))
    return np.array(bridges, dtype=np.int64)
