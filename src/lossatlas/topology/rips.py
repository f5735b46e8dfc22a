"""Vietoris-Rips barcodes of point clouds: checkpoints, activations, parameters."""

import numpy as np
import scipy
from numpy.typing import ArrayLike

from lossatlas.arrays import as_float_array
from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError, MissingDependencyError
from lossatlas.topology.arguments import check_degrees, read_coordinates
from lossatlas.topology.certainty import Certainty
from lossatlas.topology.diagram import Diagram, make_diagram
from lossatlas.topology.field import Floats, Ints


def rips(
    points: ArrayLike | None = None,
    *,
    distances: ArrayLike | None = None,
    dimensions: tuple[int, ...] = (0, 1),
    reach: float = np.inf,
) -> Diagram:
    """Bars of the Vietoris-Rips filtration, where a simplex appears at its diameter.

    Degree 0 is single linkage and does not need gudhi.

    Args:
        points: (points, dimensions), finite, compared by Euclidean distance.
        distances: a symmetric distance matrix instead of points.
        dimensions: the homology degrees.
        reach: maximum diameter; bars still alive at it count as essential. A small value makes
            large clouds cheap.

    Returns:
        The diagram. Births of degree 0 are 0; duplicate points add no bar.

    Raises:
        ArgumentError: not exactly one of `points` and `distances` is given, the matrix or the
            degrees are invalid, or `reach` is negative.
        DataError: there are no points, or coordinates are not finite.
        MissingDependencyError: a degree above 0 is requested and gudhi is not installed.

    Examples:
        >>> rips([[0.0], [1.0], [3.0]], dimensions=(0,)).deaths
        array([inf,  2.,  1.])
    """
    dimensions = check_degrees(dimensions)
    if not is_number(reach) or not reach >= 0:
        raise ArgumentError(f"`reach` must be a number >= 0 or infinity; got {reach!r}.")
    matrix = read_distances(points, distances)
    parts: dict[int, Floats] = {}
    higher = [k for k in dimensions if k > 0]
    if higher:
        parts = _higher_bars(matrix, higher, reach)
    if 0 in dimensions:
        parts = {0: _linkage_bars(matrix, reach)} | parts
    unknown = Certainty(float("nan"), "the distances come without an error")
    return make_diagram(
        parts, connectivity="rips", span=(0.0, float(matrix.max())), certainty=unknown
    )


def read_distances(points: ArrayLike | None, distances: ArrayLike | None) -> Floats:
    """Compute or validate the distance matrix of a cloud."""
    if (points is None) == (distances is None):
        raise ArgumentError("Exactly one of `points` and `distances` must be given.")
    if distances is not None:
        matrix = as_float_array("distances", distances)
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] > 0
        if not square or not np.array_equal(matrix, matrix.T) or not (matrix >= 0).all():
            raise ArgumentError(
                "`distances` must be a symmetric matrix of numbers >= 0; "
                f"got shape {matrix.shape}."
            )
        return matrix
    assert points is not None
    cloud = read_coordinates(points)
    if len(cloud) < 2:
        return np.zeros((1, 1))
    condensed = scipy.spatial.distance.pdist(cloud)
    return np.asarray(scipy.spatial.distance.squareform(condensed))


def _linkage_bars(matrix: Floats, reach: float) -> Floats:
    deaths = np.empty(0)
    if len(matrix) > 1:
        condensed = scipy.spatial.distance.squareform(matrix, checks=False)
        deaths = scipy.cluster.hierarchy.linkage(condensed, "single")[:, 2]
    deaths = np.append(np.where(deaths > reach, np.inf, deaths), np.inf)
    deaths = deaths[deaths > 0]
    return np.stack([np.zeros(deaths.size), deaths], axis=1)


def _higher_bars(matrix: Floats, dimensions: list[int], reach: float) -> dict[int, Floats]:
    try:
        from gudhi.sklearn.rips_persistence import RipsPersistence
    except ImportError:
        raise MissingDependencyError(
            f"`dimensions` {dimensions} of a cloud need gudhi, which is not installed; "
            "install it, or ask for `dimensions=(0,)`."
        ) from None
    # Edge collapse costs more than it saves on dense clouds.
    route = RipsPersistence(
        dimensions, threshold=reach, input_type="full distance matrix", num_collapses=0
    )
    diagrams = route.fit_transform([matrix])[0]
    return {
        k: bars[bars[:, 1] > bars[:, 0]] for k, bars in zip(dimensions, diagrams, strict=True)
    }


def spanning_edges(distances: Floats) -> Ints:
    """Edges of a minimum spanning tree by Prim's algorithm; lengths of 0 are supported."""
    count = len(distances)
    near, via = distances[0].copy(), np.zeros(count, dtype=np.int64)
    outside = np.ones(count, dtype=bool)
    outside[0] = False
    edges = np.empty((count - 1, 2), dtype=np.int64)
    for step in range(count - 1):
        new = int(np.where(outside, near, np.inf).argmin())
        edges[step] = via[new], new
        outside[new] = False
        closer = distances[new] < near
        near[closer], via[closer] = distances[new][closer], new
    return edges
