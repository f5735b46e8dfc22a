"""Bars of grids in every degree: gudhi's compiled routes, and our own where they lack."""

from typing import Any

import numpy as np

from lossatlas.errors import MissingDependencyError
from lossatlas.topology.basins import Basins, grid_basins
from lossatlas.topology.field import Floats
from lossatlas.topology.pairing import elder_rule


def grid_bars(
    values: Floats,
    connectivity: str,
    dimensions: tuple[int, ...],
    periodic: tuple[bool, ...] = (),
) -> list[Floats]:
    """Bars of the sublevel filtration of a grid."""
    # A box of d dimensions has no cycles of degree d or more; a torus has one of degree d.
    most = values.ndim + (len(periodic) > 0 and all(periodic))
    wanted = [k for k in dimensions if k < most]
    found = _bars(values, connectivity, wanted, periodic) if wanted else {}
    return [found.get(k, np.empty((0, 2))) for k in dimensions]


def _bars(
    values: Floats, connectivity: str, wanted: list[int], periodic: tuple[bool, ...]
) -> dict[int, Floats]:
    if values.ndim == 2 and not any(periodic):
        return _plane_bars(values, connectivity, wanted)
    found = {0: degree_zero(values, connectivity, periodic)} if 0 in wanted else {}
    higher = [k for k in wanted if k > 0]
    if not higher:
        return found
    complex_ = cubical_complex(values, connectivity, periodic, higher)
    return found | {
        k: _longer_than_zero(complex_.persistence_intervals_in_dimension(k).reshape(-1, 2))
        for k in higher
    }


def degree_zero(values: Floats, connectivity: str, periodic: tuple[bool, ...] = ()) -> Floats:
    """Bars of degree 0 by basin reduction.

    Args:
        values: the field, any number of dimensions, +inf at the walls.
        connectivity: "full" or "axis".
        periodic: per axis, whether its two ends touch; empty: none.

    Returns:
        (bars, 2) births and deaths, none of length 0, essential deaths +inf.
    """
    return elder_bars(grid_basins(values, values < np.inf, connectivity, periodic), values)


def elder_bars(basins: Basins, values: Floats) -> Floats:
    """Bars of degree 0 of a reduced grid or graph."""
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    births = values.ravel()[basins.minima]
    deaths = np.full(births.size, np.inf)
    deaths[pairs.ended] = basins.heights[pairs.edge]
    return _longer_than_zero(np.stack([births, deaths], axis=1))


def _plane_bars(values: Floats, connectivity: str, wanted: list[int]) -> dict[int, Floats]:
    try:
        from gudhi.sklearn.cubical_persistence import CubicalPersistence
    except ImportError:
        return {k: _plane_alone(values, connectivity, k) for k in wanted}
    route = CubicalPersistence([0, 1], input_type="top_dimensional_cells")
    if connectivity == "full":
        bars = route.fit_transform([values])[0]
        return {k: _longer_than_zero(bars[k]) for k in wanted}
    bars = route.fit_transform([complement(values)])[0]
    return {k: _turned(bars[1 - k]) for k in wanted}


def _plane_alone(values: Floats, connectivity: str, degree: int) -> Floats:
    if degree == 0:
        return degree_zero(values, connectivity)
    other = "axis" if connectivity == "full" else "full"
    # Minus infinity is the lowest value here, and not a wall.
    return _turned(degree_zero(complement(values), other))


def complement(values: Floats) -> Floats:
    """The field whose degree d-1-k mirrors degree k of another on the other connectivity."""
    return np.pad(-values, 1, constant_values=-np.inf)


def _turned(bars: Floats) -> Floats:
    # Bars of the complement read as bars of the field; the outside itself is none.
    births, deaths = -bars[:, 1], -bars[:, 0]
    kept = (births > -np.inf) & (deaths > births)
    return np.stack([births[kept], deaths[kept]], axis=1)


def cubical_complex(
    values: Floats, connectivity: str, periodic: tuple[bool, ...], wanted: list[int]
) -> Any:
    """The complex of a grid in gudhi, its persistence computed."""
    try:
        import gudhi
    except ImportError:
        kind = "periodic grid" if any(periodic) else f"{values.ndim}-dimensional grid"
        raise MissingDependencyError(
            f"`dimensions` {wanted} of a {kind} need gudhi, which is "
            "not installed; install it, or ask for `dimensions=(0,)`."
        ) from None
    place = "top_dimensional_cells" if connectivity == "full" else "vertices"
    if any(periodic):
        found = gudhi.PeriodicCubicalComplex(**{place: values}, periodic_dimensions=periodic)
    else:
        found = gudhi.CubicalComplex(**{place: values})
    found.compute_persistence(min_persistence=0.0)
    return found


def _longer_than_zero(bars: Floats) -> Floats:
    return bars[bars[:, 1] > bars[:, 0]]
