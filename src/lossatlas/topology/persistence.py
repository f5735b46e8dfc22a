"""Persistent homology of a landscape, an array or a graph."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.checks import check_fraction, check_one_of
from lossatlas.topology.arguments import check_degrees, check_graph_options, read_periodic
from lossatlas.topology.certainty import MIN_SHARE, judge
from lossatlas.topology.cubical import BarLocator, elder_bars, grid_bars
from lossatlas.topology.diagram import Diagram, make_diagram
from lossatlas.topology.field import CONNECTIVITIES, Connectivity, Source, read_field
from lossatlas.topology.filtration import Graph, graph_basins, graph_certainty


def persistence(
    landscape: Source | Graph,
    *,
    connectivity: Connectivity = "full",
    dimensions: tuple[int, ...] = (0, 1),
    superlevel: bool = False,
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
    error: float | None = None,
    units: int | None = None,
    min_share: float | None = MIN_SHARE,
    periodic: bool | Sequence[bool] = False,
) -> Diagram:
    """Basins (degree 0) and loops (degree 1) of a landscape, with the certain ones marked.

    Non-finite or masked points are left out and counted, never filled.

    Args:
        landscape: a `Landscape`; or an array of any number of dimensions, whose errors are
            unknown unless `error` or `replicates` is given; or a `Graph`, for which only degree
            0 is computed (a cycle of a graph never ends).
        connectivity: "full": all 3^d - 1 neighbors touch, values are on cells. This counts
            minima more reliably, because "axis" creates spurious minima in valleys that are
            oblique to the grid. "axis": 2d neighbors, values are on vertices: the lower-star
            filtration of the multilinear interpolant. Ignored for graphs.
        dimensions: the homology degrees.
        superlevel: negate the field first, so that bars of degree 0 are hills. If
            `connectivity` joins basins across a diagonal, hills are not joined across it, and
            vice versa: the two filtrations are complementary.
        confidence: probability that the error bound behind `threshold` holds.
        replicates: (count, ...) maps that other samples might have given (`replicate_maps`);
            certainty is then judged by the errors of differences.
        units: number of examples behind the replicates; None uses the `count` of the landscape
            and means unknown for an array.
        min_share: smallest share of the units (examples, batches) whose effects must not be
            missed. If a sample of this size may contain none of such a share (`rarest_share` is
            above it), no bar is certain and `why_unknown` gives the reason. 0.025 needs 119
            units at 95 %. With None or 0, effects that no unit of the sample shows are assumed
            absent.
        error: bound on the error of every value of an array, to which the rounding error of its
            dtype is added (0: exact up to rounding). None: unknown, so no bar is certain.
        periodic: whether the two ends of an axis touch, as for angles; one bool for all axes or
            one per axis. The last point of an axis is a neighbor of the first, not the same
            point. A periodic axis needs at least three points.

    Returns:
        The diagram. Bars of length 0 are left out. A periodic axis adds essential bars of
        degree 1 (the circle itself); a torus has two, and one of degree 2.

    Raises:
        ArgumentError: the input is not an array of real numbers, the degrees are invalid,
            `confidence` is outside (0, 1) or needs more replicates, the replicates are on
            another grid, `units` or `min_share` is invalid, `error` is negative or given with a
            landscape, or `periodic` does not match the axes.
        DataError: there is no finite value, or the standard errors are invalid.
        UnknownNameError: the connectivity is unknown.
        MissingDependencyError: gudhi is not installed, and a degree above 0 is requested for a
            grid that is periodic or not two-dimensional.

    Examples:
        >>> diagram = persistence([3.0, 0.0, 2.0, 1.0, 3.0])
        >>> diagram.births, diagram.deaths
        (array([0., 1.]), array([inf,  2.]))
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_fraction("confidence", confidence)
    dimensions = check_degrees(dimensions)
    if isinstance(landscape, Graph):
        check_graph_options(error=error, periodic=periodic)
        return _graph_diagram(landscape)
    field = read_field(landscape, replicates, error, units)
    wraps = read_periodic(periodic, field.values.shape)
    if superlevel:
        field = replace(field, values=np.where(field.finite, -field.values, np.inf))
    touching = {"full": "axis", "axis": "full"}[connectivity] if superlevel else connectivity
    parts = grid_bars(field.values, touching, dimensions, wraps)
    return make_diagram(
        dict(zip(dimensions, parts, strict=True)),
        connectivity=connectivity,
        span=field.range,
        certainty=judge(field, confidence, min_share),
        excluded=field.excluded,
        superlevel=superlevel,
        confidence=confidence,
        periodic=wraps if any(wraps) else (),
        places=BarLocator(field.values, touching, wraps, field.axes),
    )


def _graph_diagram(source: Graph) -> Diagram:
    return make_diagram(
        {0: elder_bars(graph_basins(source), source.values)},
        connectivity=source.made,
        span=source.range,
        certainty=graph_certainty(source),
        excluded=source.excluded,
    )
