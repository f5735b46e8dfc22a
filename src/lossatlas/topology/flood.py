"""Flooding a landscape: the merge tree of its sublevel sets."""

import sys
from typing import Any

from numpy.typing import ArrayLike

from lossatlas.checks import check_one_of
from lossatlas.topology.basins import Basins, grid_basins
from lossatlas.topology.certainty import certainty_threshold, check_confidence
from lossatlas.topology.field import CONNECTIVITIES, Field, Floats, Source, read_field
from lossatlas.topology.filtration import Graph, graph_basins
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.pairing import elder_rule


def merge_tree(
    landscape: Source | Graph,
    *,
    connectivity: str = "full",
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
) -> MergeTree:
    """Minima of a landscape and the saddles over which they join.

    Args:
        landscape: a `Landscape`; or an array of any number of dimensions; or a tensor, which
            is flooded on its own device; or a `Graph` (`scattered`, `checkpoints`, `graph`).
            Points that are not finite are walls.
        connectivity: "full" (3^d - 1 neighbours, the better count of minima) or "axis" (2d
            neighbours; `smad()` is then Landscaper's number on smooth fields). A graph brings
            its own.
        confidence: probability with which the error bound behind `threshold` holds.
        replicates: (count, ...) maps that other examples might have given (`replicate_maps`);
            with them certainty is judged by errors of differences.

    Returns:
        The merge tree of the sublevel sets. Exact, ties broken by flat index.

    Raises:
        ArgumentError: not an array of real numbers, a confidence outside (0, 1), too few
            replicates for it, or replicates on another grid.
        DataError: no finite value.
        UnknownNameError: an unknown connectivity.

    Examples:
        >>> tree = merge_tree([3.0, 0.0, 2.0, 1.0, 3.0])
        >>> tree.minima, tree.saddles, tree.barrier(0, 1), tree.smad()
        (array([1, 3]), array([2]), 2.0, 1.5)
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_confidence(confidence)
    if isinstance(landscape, Graph):
        basins, made, span = graph_basins(landscape), landscape.made, landscape.range
        threshold = 2.0 * landscape.error
        return grow(basins, landscape.values, span=span, threshold=threshold, connectivity=made)
    field = read_field(landscape, replicates)
    return grow(
        _grid_basins(landscape, field, connectivity),
        field.values,
        span=field.range,
        threshold=certainty_threshold(field, confidence),
        connectivity=connectivity,
        confidence=confidence,
    )


def _grid_basins(landscape: Any, field: Field, connectivity: str) -> Basins:
    # Whoever passes a tensor has imported torch already; nobody else shall pay for it.
    if "torch" in sys.modules:
        from lossatlas.topology.device import on_accelerator, tensor_basins

        if on_accelerator(landscape):
            return tensor_basins(landscape, connectivity)
    return grid_basins(field.values, field.finite, connectivity)


def grow(
    basins: Basins,
    values: Floats,
    *,
    span: tuple[float, float],
    threshold: float,
    connectivity: str,
    confidence: float = 0.95,
) -> MergeTree:
    """Apply the elder rule to a reduction and lay out the tree.

    Args:
        basins: the reduced grid or graph.
        values: the field, in its shape.
        span: least and greatest finite value.
        threshold: length above which a branch is certain.
        connectivity: how neighbours were chosen.
        confidence: probability with which the threshold holds.

    Returns:
        The merge tree.
    """
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
        low=span[0],
        high=span[1],
        threshold=threshold,
        connectivity=connectivity,
        confidence=confidence,
    )
