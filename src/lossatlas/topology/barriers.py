"""Barriers between all minima, trees cut to size, fields filled, trees compared."""

from dataclasses import replace

import numpy as np

from lossatlas.checks import check_number
from lossatlas.errors import ArgumentError
from lossatlas.topology.field import Floats, Ints, Source, read_field
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree


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
    _check_tree(tree)
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


def _check_tree(tree: object) -> None:
    if not isinstance(tree, MergeTree):
        raise ArgumentError(
            f"`tree` must be a MergeTree, as `merge_tree` gives; got {type(tree).__name__}."
        )


def simplify(tree: MergeTree, length: float | None = None) -> MergeTree:
    """Cut every branch that is not longer than `length`; its basin joins its parent's.

    Args:
        tree: a merge tree.
        length: the greatest branch to cut; None takes `tree.threshold`, which leaves the
            certain ones; where that is unknown (`tree.why_unknown`), nothing is cut.

    Returns:
        The smaller tree: the minima that stay, numbered anew from the deepest.

    Raises:
        ArgumentError: no merge tree, or a length that is not finite.

    Examples:
        >>> len(simplify(merge_tree([3.0, 0.0, 2.0, 1.0, 3.0]), 1.5))
        1
    """
    _check_tree(tree)
    if length is None and tree.why_unknown:
        return tree
    least = tree.threshold if length is None else length
    check_number("length", least)
    cut = tree.persistences <= least
    # A parent is at least as long as its child, so what stays is closed upwards.
    home = _kept_parents(tree, cut)
    number = np.cumsum(~cut) - 1
    stays = ~cut[tree.ended]
    basins = np.where(tree.basins >= 0, number[home[tree.basins]], -1)
    return replace(
        tree,
        minima=tree.minima[~cut],
        minima_values=tree.minima_values[~cut],
        saddles=tree.saddles[stays],
        saddle_values=tree.saddle_values[stays],
        bridges=tree.bridges[stays],
        ended=number[tree.ended[stays]],
        into=number[home[tree.into[stays]]],
        basins=basins.astype(np.int64),
    )


def _kept_parents(tree: MergeTree, cut: np.ndarray) -> Ints:
    home = np.arange(len(tree))
    # From the highest merge down: the parent's home is settled before the child asks.
    for ended, into in zip(tree.ended[::-1], tree.into[::-1], strict=True):
        if cut[ended]:
            home[ended] = home[into]
    return home


def flood_below(landscape: Source, length: float, *, connectivity: str = "full") -> Floats:
    """Fill every basin that is not deeper than `length` up to the saddle where it ends.

    Args:
        landscape: a landscape or an array.
        length: the greatest bar of degree 0 to remove.
        connectivity: "full" or "axis".

    Returns:
        A field nowhere lower and at most `length` higher, whose bars of degree 0 are those
        longer than `length`; NaN where it is not finite.

    Raises:
        ArgumentError: a length that is not finite.

    Examples:
        >>> flood_below([3.0, 0.0, 2.0, 1.0, 3.0], 1.5)
        array([3., 0., 2., 2., 3.])
    """
    check_number("length", length)
    field = read_field(landscape)
    tree = merge_tree(landscape, connectivity=connectivity)
    cut = tree.persistences <= length
    level = np.full(len(tree), -np.inf)
    for ended, into, height in zip(
        tree.ended[::-1], tree.into[::-1], tree.saddle_values[::-1], strict=True
    ):
        if cut[ended]:
            level[ended] = max(height, level[into])
    raised = np.maximum(field.values, level[tree.basins])
    return np.where(field.finite, raised, np.nan)


def barrier_distance(first: Source, second: Source, *, connectivity: str = "full") -> float:
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
