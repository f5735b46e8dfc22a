"""Barriers between all minima of a landscape, and the distance between two sets of barriers."""

import numpy as np

from lossatlas.errors import ArgumentError
from lossatlas.topology.field import Connectivity, Floats, Ints, Source, read_field
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree, check_tree


def barrier_matrix(tree: MergeTree) -> Floats:
    """Lowest level at which two minima are connected, for all pairs.

    Args:
        tree: a merge tree with at most a few thousand minima: the matrix is quadratic in their
            number.

    Returns:
        Symmetric array of shape (minima, minima): the values of the minima on the diagonal,
        +inf between parts separated by non-finite points. Off the diagonal it is an
        ultrametric: b(i, k) <= max(b(i, j), b(j, k)).

    Raises:
        ArgumentError: `tree` is not a merge tree.

    Examples:
        >>> barrier_matrix(merge_tree([3.0, 0.0, 2.0, 1.0, 3.0]))
        array([[0., 2.],
               [2., 1.]])
    """
    check_tree(tree)
    levels = np.full((len(tree), len(tree)), np.inf)
    np.fill_diagonal(levels, tree.minima_values)
    groups = {number: [number] for number in range(len(tree))}
    merges = zip(tree.ended.tolist(), tree.into.tolist(), tree.saddle_values, strict=True)
    for ended, into, level in merges:
        young, old = groups.pop(ended), groups[into]
        levels[np.ix_(young, old)] = level
        levels[np.ix_(old, young)] = level
        old.extend(young)
    return levels


def barrier_distance(
    first: Source, second: Source, *, connectivity: Connectivity = "full"
) -> float:
    """Distance between two landscapes on one grid by the levels that connect their minima.

    Every minimum of either field labels a point of both merge trees. The distance is the
    maximum difference between the lowest levels at which two labels are connected (or one is
    born): the interleaving distance of the labeled trees. It never exceeds the maximum
    difference of the fields and, unlike a distance between barcodes, it distinguishes basins by
    their location.

    Args:
        first: a landscape or an array.
        second: a second one of the same shape.
        connectivity: "full" or "axis".

    Returns:
        The distance, in units of the field; +inf if missing points separate two labels in one
        field but not in the other.

    Raises:
        ArgumentError: the shapes differ.

    Examples:
        >>> barrier_distance([3.0, 0.0, 2.0, 1.0, 3.0], [3.0, 0.0, 2.5, 1.0, 3.0])
        0.5

    Source: Gasparovic, Munch, Oudot, Turner, Wang, Wang, arXiv:1908.00063.
    """
    fields = [read_field(source).values for source in (first, second)]
    if fields[0].shape != fields[1].shape:
        raise ArgumentError(
            "`first` and `second` must be fields on one grid; got shapes "
            f"{fields[0].shape} and {fields[1].shape}."
        )
    trees = [merge_tree(source, connectivity=connectivity) for source in (first, second)]
    labels = np.union1d(trees[0].minima, trees[1].minima)
    a, b = (
        _joining_levels(tree, field.ravel(), labels)
        for tree, field in zip(trees, fields, strict=True)
    )
    apart = ~(np.isinf(a) & np.isinf(b))
    return float(np.abs(a[apart] - b[apart]).max(initial=0.0))


def _joining_levels(tree: MergeTree, values: Floats, labels: Ints) -> Floats:
    # A point reaches its minimum without climbing, so only its value and basin matter.
    basin = tree.basins.ravel()[labels]
    vertex_levels = values[labels]
    levels = barrier_matrix(tree)[np.ix_(basin, basin)]
    levels = np.maximum(levels, np.maximum.outer(vertex_levels, vertex_levels))
    levels[basin < 0, :] = np.inf
    levels[:, basin < 0] = np.inf
    return levels
