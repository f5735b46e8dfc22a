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
    """Merge tree of a landscape: its minima and the saddles at which their basins join.

    Args:
        landscape: a `Landscape`; or an array of any number of dimensions; or a tensor, which is
            processed on its device; or a `Graph` (`scattered`, `checkpoints`, `graph`).
            Non-finite or masked points are left out.
        connectivity: "full" (3^d - 1 neighbors, the better count of minima) or "axis" (2d
            neighbors; `smad()` is then Landscaper's number on smooth fields). Ignored for
            graphs.
        confidence: probability that the error bound behind `threshold` holds.
        replicates: (count, ...) maps that other samples might have given (`replicate_maps`);
            certainty is then judged by the errors of differences.
        units: number of examples behind the replicates, as for `persistence`.
        min_share: smallest share of the units whose effects must not be missed, as for
            `persistence`; None or 0 disables the rule.
        error: bound on the error of every value of an array, as for `persistence`; None if
            unknown.
        periodic: whether the two ends of an axis touch, as for `persistence`.

    Returns:
        The exact merge tree of the sublevel sets, with as many minima as `persistence` has bars
        of degree 0. A connected plateau is one minimum; ties are ordered by flat index.

    Raises:
        ArgumentError: the input is not an array of real numbers, `confidence` is outside (0, 1)
            or needs more replicates, the replicates are on another grid, `units` or `min_share`
            is invalid, `error` is negative or given with a landscape, or `periodic` does not
            match the axes.
        DataError: there is no finite value, or the standard errors are invalid.
        UnknownNameError: the connectivity is unknown.

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
    # A caller with a tensor has imported torch already; other callers need not pay for it.
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
    """Build the merge tree of a reduction by the elder rule."""
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
