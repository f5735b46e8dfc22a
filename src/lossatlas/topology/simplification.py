"""Simplification: merge trees without short branches, fields without shallow basins."""

from dataclasses import replace

import numpy as np

from lossatlas.checks import check_number
from lossatlas.topology.field import Connectivity, Floats, Ints, Source, read_field
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree, check_tree


def simplify(tree: MergeTree, length: float | None = None) -> MergeTree:
    """Remove every branch not longer than `length` and merge its basin into the parent's.

    Args:
        tree: a merge tree.
        length: longest branch to remove; None uses `tree.threshold`, which leaves the certain
            ones. If it is unknown (`tree.why_unknown`), nothing is removed.

    Returns:
        The smaller tree, with the remaining minima renumbered from the deepest.

    Raises:
        ArgumentError: `tree` is not a merge tree, or `length` is not finite.

    Examples:
        >>> len(simplify(merge_tree([3.0, 0.0, 2.0, 1.0, 3.0]), 1.5))
        1
    """
    check_tree(tree)
    if length is None and tree.why_unknown:
        return tree
    threshold = tree.threshold if length is None else length
    check_number("length", threshold)
    cut = tree.persistences <= threshold
    # A parent is at least as long as its child, so parents of remaining branches remain.
    target = _remaining_ancestors(tree, cut)
    number = np.cumsum(~cut) - 1
    stays = ~cut[tree.ended]
    basins = np.where(tree.basins >= 0, number[target[tree.basins]], -1)
    return replace(
        tree,
        minima=tree.minima[~cut],
        minima_values=tree.minima_values[~cut],
        saddles=tree.saddles[stays],
        saddle_values=tree.saddle_values[stays],
        bridges=tree.bridges[stays],
        ended=number[tree.ended[stays]],
        into=number[target[tree.into[stays]]],
        basins=basins.astype(np.int64),
    )


def _remaining_ancestors(tree: MergeTree, cut: np.ndarray) -> Ints:
    target = np.arange(len(tree))
    # From the highest merge down: the parent's target is final before the child needs it.
    for ended, into in zip(tree.ended[::-1], tree.into[::-1], strict=True):
        if cut[ended]:
            target[ended] = target[into]
    return target


def flood_below(
    landscape: Source, length: float, *, connectivity: Connectivity = "full"
) -> Floats:
    """Fill every basin not deeper than `length` up to the saddle where it ends.

    Args:
        landscape: a landscape or an array.
        length: longest bar of degree 0 to remove.
        connectivity: "full" or "axis".

    Returns:
        A field that is nowhere lower and at most `length` higher, whose bars of degree 0 are
        those longer than `length`; NaN where not finite.

    Raises:
        ArgumentError: `length` is not finite.

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
