"""Barriers between all minima of a landscape, and how far those of two landscapes differ."""

import numpy as np

from lossatlas.errors import ArgumentError
from lossatlas.topology.field import Connectivity, Floats, Ints, Source, read_field
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree, check_tree


def barrier_matrix(tree: MergeTree) -> Floats:
    """Least height that every path between two minima must reach, for all pairs.

    Args:
        tree: a merge tree; its minima are counted in thousands, not more: the matrix has
            their square.

    Returns:
        (minima, minima), symmetric; the values of the minima on the diagonal, +inf between
        parts that points which are not finite keep apart. Off the diagonal it is an
        ultrametric: b(i, k) <= max(b(i, j), b(j, k)).

    Raises:
        ArgumentError: no merge tree.

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
    """How far two landscapes on one grid differ in the heights that join their minima.

    Every minimum of either field is a label on both merge trees. The distance is the
    greatest difference between the least levels at which two labels are joined (or one is
    born): the interleaving distance of the labeled trees. It never exceeds the greatest
    difference of the fields, and unlike a distance of barcodes it knows which basin is which.

    Args:
        first: a landscape or an array.
        second: another of the same shape.
        connectivity: "full" or "axis".

    Returns:
        The distance, in units of the field; +inf where missing points part the labels of one
        field and not of the other.

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
    # A point meets its own minimum without rising, so only its value and the basins matter.
    basin = tree.basins.ravel()[labels]
    own = values[labels]
    levels = barrier_matrix(tree)[np.ix_(basin, basin)]
    levels = np.maximum(levels, np.maximum.outer(own, own))
    levels[basin < 0, :] = np.inf
    levels[:, basin < 0] = np.inf
    return levels
