"""Flooding a landscape: the merge tree of its sublevel sets."""

import sys
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from lossatlas.checks import check_fraction, check_one_of
from lossatlas.topology.arguments import check_graph_options, read_periodic
from lossatlas.topology.basins import Basins, grid_basins
from lossatlas.topology.certainty import MIN_SHARE, Certainty, judge
from lossatlas.topology.field import (
    CONNECTIVITIES,
    Connectivity,
    Field,
    Floats,
    Source,
    read_field,
)
from lossatlas.topology.filtration import Graph, graph_basins, graph_certainty
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.pairing import elder_rule


def merge_tree(
    landscape: Source | Graph,
    *,
    connectivity: Connectivity = "full",
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
    error: float | None = None,
    units: int | None = None,
    min_share: float | None = MIN_SHARE,
    periodic: bool | Sequence[bool] = False,
) -> MergeTree:
    """Minima of a landscape and the saddles over which they join.

    Args:
        landscape: a `Landscape`; or an array of any number of dimensions; or a tensor, which
            is flooded on its own device; or a `Graph` (`scattered`, `checkpoints`, `graph`).
            Points that are not finite, or masked, are left out.
        connectivity: "full" (3^d - 1 neighbors, the better count of minima) or "axis" (2d
            neighbors; `smad()` is then Landscaper's number on smooth fields). A graph brings
            its own.
        confidence: probability with which the error bound behind `threshold` holds.
        replicates: (count, ...) maps that other examples might have given (`replicate_maps`);
            with them certainty is judged by errors of differences.
        units: how many examples the replicates come from, as for `persistence`.
        min_share: least share of the units whose effects must not be missed, as for
            `persistence`; None or 0: no such rule.
        error: bound on the error of every value of an array, as for `persistence`; None
            where it is unknown.
        periodic: whether the two ends of an axis touch, as for `persistence`.

    Returns:
        The merge tree of the sublevel sets. Exact: as many minima as `persistence` has bars
        of degree 0. A connected plateau is one minimum; equal ones are ordered by flat index.

    Raises:
        ArgumentError: not an array of real numbers, a confidence outside (0, 1), too few
            replicates for it, replicates on another grid, bad units or a bad share, an error
            below 0 or beside a landscape, or periodic axes that do not fit.
        DataError: no finite value, or bad standard errors.
        UnknownNameError: an unknown connectivity.

    Examples:
        >>> tree = merge_tree([3.0, 0.0, 2.0, 1.0, 3.0])
        >>> tree.minima, tree.saddles, tree.barrier(0, 1), tree.smad()
        (array([1, 3]), array([2]), 2.0, 1.5)
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_fraction("confidence", confidence)
    if isinstance(landscape, Graph):
        check_graph_options(error=error, periodic=periodic)
        basins, made, span = graph_basins(landscape), landscape.made, landscape.range
        sure = graph_certainty(landscape)
        return grow(basins, landscape.values, span=span, certainty=sure, connectivity=made)
    field = read_field(landscape, replicates, error, units)
    wraps = read_periodic(periodic, field.values.shape)
    return grow(
        _grid_basins(landscape, field, connectivity, wraps),
        field.values,
        span=field.range,
        certainty=judge(field, confidence, min_share),
        connectivity=connectivity,
        confidence=confidence,
        periodic=wraps if any(wraps) else (),
    )


def _grid_basins(
    landscape: Any, field: Field, connectivity: Connectivity, wraps: tuple[bool, ...]
) -> Basins:
    # Whoever passes a tensor has imported torch already; nobody else shall pay for it.
    if "torch" in sys.modules and not any(wraps):
        from lossatlas.topology.device import on_accelerator, tensor_basins

        if on_accelerator(landscape):
            return tensor_basins(landscape, connectivity)
    return grid_basins(field.values, field.finite, connectivity, wraps)


def grow(
    basins: Basins,
    values: Floats,
    *,
    span: tuple[float, float],
    certainty: Certainty,
    connectivity: str,
    confidence: float = 0.95,
    periodic: tuple[bool, ...] = (),
) -> MergeTree:
    """Apply the elder rule to a reduction and lay out the tree."""
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    bridges = basins.ends[pairs.edge]
    return MergeTree(
        minima=basins.minima,
        minima_values=values.ravel()[basins.minima],
        saddles=bridges[:, 1],
        saddle_values=basins.heights[pairs.edge],
        bridges=bridges,
        ended=pairs.ended,
        into=pairs.into,
        basins=basins.labels.reshape(values.shape),
        values=values,
        low=span[0],
        high=span[1],
        threshold=certainty.threshold,
        connectivity=connectivity,
        confidence=confidence,
        why_unknown=certainty.why_unknown,
        rarest_share=certainty.rarest_share,
        periodic=periodic,
    )
