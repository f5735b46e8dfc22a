"""Persistent homology of a landscape, an array, a graph."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.checks import check_fraction, check_one_of
from lossatlas.topology.arguments import check_degrees, check_graph_options, read_periodic
from lossatlas.topology.certainty import MIN_SHARE, judge
from lossatlas.topology.cubical import GridPlaces, elder_bars, grid_bars
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

    Points that are not finite, or masked, are left out and counted, never
    filled.

    Args:
        landscape: a `Landscape`; or an array of any number of dimensions, whose errors are
            unknown unless `error` or `replicates` are given; or a `Graph`, of which only
            degree 0 is computed (a cycle of a graph never ends).
        connectivity: "full": all 3^d - 1 neighbors touch, values live on cells. The better
            count of minima, because "axis" invents minima in valleys that run across the
            grid at an angle. "axis": 2d neighbors, values live on vertices: the lower-star
            filtration of the multilinear interpolant. A graph brings its own.
        dimensions: the degrees wanted.
        superlevel: turn the field over first, so that bars of degree 0 are hills. Where
            `connectivity` joins basins across a diagonal, hills are not joined across it, and
            the other way round: the two filtrations are complements.
        confidence: probability with which the error bound behind `threshold` holds.
        replicates: (count, ...) maps that other examples might have given (`replicate_maps`);
            with them certainty is judged by errors of differences.
        units: how many examples the replicates come from; None takes the `count` of the
            landscape, and is unknown for an array.
        min_share: least share of the units (examples, batches) whose effects must not be
            missed. Where a sample of so many units may hold none of such a share
            (`rarest_share` is above it), no bar is certain, and `why_unknown` says so. 0.025
            takes 119 units at 95 %. None or 0: effects that no unit of the sample shows are
            taken to be absent.
        error: bound on the error of every value of an array, to which the rounding of its
            dtype is added (0: the values are exact but for rounding). None: unknown, and
            then no bar is certain.
        periodic: whether the two ends of an axis touch, as for angles; one for all axes or
            one an axis. The last point of an axis is a neighbor of the first, not the same
            point. Such an axis needs three points or more.

    Returns:
        The diagram. Bars of length 0 are left out. A periodic axis adds essential bars of
        degree 1 (the circle itself); a torus has two, and one of degree 2.

    Raises:
        ArgumentError: not an array of real numbers, bad degrees, a confidence outside
            (0, 1), too few replicates for it, replicates on another grid, bad units or a bad
            share, an error below 0 or beside a landscape, or periodic axes that do not fit.
        DataError: no finite value, or bad standard errors.
        UnknownNameError: an unknown connectivity.
        MissingDependencyError: a degree above 0 of a grid that is not a plane, or that is
            periodic, needs gudhi.

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
        places=GridPlaces(field.values, touching, wraps, field.axes),
    )


def _graph_diagram(source: Graph) -> Diagram:
    return make_diagram(
        {0: elder_bars(graph_basins(source), source.values)},
        connectivity=source.made,
        span=source.range,
        certainty=graph_certainty(source),
        excluded=source.excluded,
    )
