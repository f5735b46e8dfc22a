"""Persistent homology of a landscape, an array, a graph."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.checks import check_one_of
from lossatlas.topology.certainty import certainty_threshold, check_confidence
from lossatlas.topology.choices import check_degrees
from lossatlas.topology.cubical import elder_bars, grid_bars
from lossatlas.topology.diagram import Diagram, make_diagram
from lossatlas.topology.field import CONNECTIVITIES, Field, Source, read_field
from lossatlas.topology.filtration import Graph, graph_basins


def persistence(
    landscape: Source | Graph,
    *,
    connectivity: str = "full",
    dimensions: tuple[int, ...] = (0, 1),
    superlevel: bool = False,
    confidence: float = 0.95,
    replicates: ArrayLike | None = None,
) -> Diagram:
    """Basins (degree 0) and ridges (degree 1) of a landscape, with the certain ones marked.

    Points that are not finite are walls: they are left out and counted, never filled.

    Args:
        landscape: a `Landscape`; or an array of any number of dimensions, whose errors are
            then taken as zero; or a `Graph`, of which only degree 0 is computed (a cycle of
            a graph never ends).
        connectivity: "full": all 3^d - 1 neighbours touch, values live on cells. The better
            count of minima, because "axis" invents minima in valleys that run across the
            grid at an angle. "axis": 2d neighbours, values live on vertices: the lower-star
            filtration of the multilinear interpolant. A graph brings its own.
        dimensions: the degrees wanted.
        superlevel: turn the field over first, so that bars of degree 0 are hills. Where
            `connectivity` lets water pass a diagonal, land then does not, and the other way
            round: the two filtrations are complements.
        confidence: probability with which the error bound behind `threshold` holds.
        replicates: (count, ...) maps that other examples might have given (`replicate_maps`);
            with them certainty is judged by errors of differences.

    Returns:
        The diagram. Bars of length 0 are left out.

    Raises:
        ArgumentError: not an array of real numbers, bad degrees, a confidence outside
            (0, 1), too few replicates for it, or replicates on another grid.
        DataError: no finite value.
        UnknownNameError: an unknown connectivity.
        MissingDependencyError: a degree above 0 of a grid that is not a plane needs gudhi.

    Examples:
        >>> diagram = persistence([3.0, 0.0, 2.0, 1.0, 3.0])
        >>> diagram.births, diagram.deaths
        (array([0., 1.]), array([inf,  2.]))
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_confidence(confidence)
    dimensions = check_degrees(dimensions)
    if isinstance(landscape, Graph):
        return _graph_diagram(landscape)
    field = read_field(landscape, replicates)
    if superlevel:
        turned = np.where(field.finite, -field.values, np.inf)
        return _grid_diagram(
            replace(field, values=turned), connectivity, dimensions, confidence, superlevel=True
        )
    return _grid_diagram(field, connectivity, dimensions, confidence, superlevel=False)


def _grid_diagram(
    field: Field,
    connectivity: str,
    dimensions: tuple[int, ...],
    confidence: float,
    *,
    superlevel: bool,
) -> Diagram:
    touching = {"full": "axis", "axis": "full"}[connectivity] if superlevel else connectivity
    parts = grid_bars(field.values, touching, dimensions)
    return make_diagram(
        dict(zip(dimensions, parts, strict=True)),
        connectivity=connectivity,
        span=field.range,
        threshold=certainty_threshold(field, confidence),
        excluded=field.excluded,
        superlevel=superlevel,
        confidence=confidence,
    )


def _graph_diagram(source: Graph) -> Diagram:
    return make_diagram(
        {0: elder_bars(graph_basins(source), source.values)},
        connectivity=source.made,
        span=source.range,
        threshold=2.0 * source.error,
        excluded=source.excluded,
    )
