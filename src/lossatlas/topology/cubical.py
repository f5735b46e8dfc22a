"""Bars of grids in every degree, and the points of birth and death."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossatlas.errors import MissingDependencyError
from lossatlas.topology.basins import Basins, grid_basins
from lossatlas.topology.field import Floats, Ints
from lossatlas.topology.pairing import elder_rule


def grid_bars(
    values: Floats,
    connectivity: str,
    dimensions: tuple[int, ...],
    periodic: tuple[bool, ...] = (),
) -> list[Floats]:
    """Bars of the sublevel filtration of a grid."""
    # A box of d dimensions has no cycles of degree d or more; a torus has one of degree d.
    max_degree = values.ndim + (len(periodic) > 0 and all(periodic))
    wanted = [k for k in dimensions if k < max_degree]
    bars = _bars(values, connectivity, wanted, periodic) if wanted else {}
    return [bars.get(k, np.empty((0, 2))) for k in dimensions]


def _bars(
    values: Floats, connectivity: str, wanted: list[int], periodic: tuple[bool, ...]
) -> dict[int, Floats]:
    if values.ndim == 2 and not any(periodic):
        return _plane_bars(values, connectivity, wanted)
    bars = {0: degree_zero(values, connectivity, periodic)} if 0 in wanted else {}
    higher = [k for k in wanted if k > 0]
    if not higher:
        return bars
    complex_ = cubical_complex(values, connectivity, periodic, higher)
    return bars | {
        k: _positive_bars(complex_.persistence_intervals_in_dimension(k).reshape(-1, 2))
        for k in higher
    }


def degree_zero(values: Floats, connectivity: str, periodic: tuple[bool, ...] = ()) -> Floats:
    """Bars of degree 0 by basin reduction.

    Args:
        values: the field, any number of dimensions, +inf where not finite.
        connectivity: "full" or "axis".
        periodic: per axis, whether its two ends touch; empty for none.

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
    return _positive_bars(np.stack([births, deaths], axis=1))


def _plane_bars(values: Floats, connectivity: str, wanted: list[int]) -> dict[int, Floats]:
    route = _rectangle_route()
    if route is None:
        return {k: _plane_without_gudhi(values, connectivity, k) for k in wanted}
    if connectivity == "full":
        bars = route(values)
        return {k: _positive_bars(bars[k]) for k in wanted}
    bars = route(complement(values))
    return {k: _from_complement(bars[1 - k]) for k in wanted}


def _rectangle_route() -> Callable[[Floats], Sequence[Floats]] | None:
    # gudhi's bars of a rectangle, of degrees 0 and 1.
    try:
        from gudhi.sklearn.cubical_persistence import CubicalPersistence
    except ImportError:
        return None

    def wrapped(values: Floats) -> Sequence[Floats]:
        route = CubicalPersistence([0, 1], input_type="top_dimensional_cells")
        pairs: Sequence[Floats] = route.fit_transform([values])[0]
        return pairs

    try:
        # The function underneath: for a small map the scikit-learn and joblib wrappers take
        # three times as long as the bars. The name is private, so it may be missing.
        from gudhi._pers_cub_low_dim_ext import _persistence_on_rectangle_from_top_cells
    except ImportError:
        return wrapped

    def direct(values: Floats) -> Sequence[Floats]:
        if min(values.shape) < _RECTANGLE:
            return wrapped(values)
        pairs: Sequence[Floats] = _persistence_on_rectangle_from_top_cells(values, 0.0)
        return pairs

    return direct


def _plane_without_gudhi(values: Floats, connectivity: str, degree: int) -> Floats:
    if degree == 0:
        return degree_zero(values, connectivity)
    opposite = "axis" if connectivity == "full" else "full"
    # Minus infinity is the lowest value, not a missing point.
    return _from_complement(degree_zero(complement(values), opposite))


def complement(values: Floats) -> Floats:
    """The field whose degree d-1-k mirrors degree k of another on the other connectivity."""
    return np.pad(-values, 1, constant_values=-np.inf)


def _from_complement(bars: Floats) -> Floats:
    # Convert bars of the complement to bars of the field, without the bar of the outside.
    births, deaths = -bars[:, 1], -bars[:, 0]
    proper = (births > -np.inf) & (deaths > births)
    return np.stack([births[proper], deaths[proper]], axis=1)


def cubical_complex(
    values: Floats, connectivity: str, periodic: tuple[bool, ...], wanted: list[int]
) -> Any:
    """Cubical complex of a grid in gudhi, with persistence computed."""
    try:
        import gudhi
    except ImportError:
        kind = "periodic grid" if any(periodic) else f"{values.ndim}-dimensional grid"
        raise MissingDependencyError(
            f"`dimensions` {wanted} of a {kind} need gudhi, which is "
            "not installed; install it, or ask for `dimensions=(0,)`."
        ) from None
    cell_kind = "top_dimensional_cells" if connectivity == "full" else "vertices"
    if any(periodic):
        cells = gudhi.PeriodicCubicalComplex(
            **{cell_kind: values}, periodic_dimensions=periodic
        )
    else:
        cells = gudhi.CubicalComplex(**{cell_kind: values})
    cells.compute_persistence(min_persistence=0.0)
    return cells


def _positive_bars(bars: Floats) -> Floats:
    return bars[bars[:, 1] > bars[:, 0]]


_NO_POINT = -1
# gudhi treats a thinner rectangle as a line.
_RECTANGLE = 3


@dataclass(frozen=True, eq=False)
class BarLocator:
    """Finds the grid points whose values are the births and deaths of the bars.

    Attributes:
        values: the field, +inf where not finite.
        connectivity: "full" or "axis".
        periodic: one bool per axis.
        axes: coordinates along each axis; empty for plain indices.
    """

    values: Floats
    connectivity: str
    periodic: tuple[bool, ...]
    axes: tuple[Floats, ...] = ()

    def __call__(
        self, births: Floats, deaths: Floats, dimensions: Ints
    ) -> tuple[Floats, Floats]:
        """Coordinates of births and deaths, in the order of the bars."""
        places = np.full((births.size, 2), _NO_POINT, dtype=np.int64)
        for degree in np.unique(dimensions).tolist():
            rows = np.flatnonzero(dimensions == degree)
            pairs = self._pairs(degree)
            levels = np.append(self.values.ravel(), np.inf)[pairs]
            pairs = pairs[levels[:, 1] > levels[:, 0]]
            levels = np.append(self.values.ravel(), np.inf)[pairs]
            places[rows[np.lexsort((deaths[rows], births[rows]))]] = pairs[
                np.lexsort((levels[:, 1], levels[:, 0]))
            ]
        return self._coordinates(places[:, 0]), self._coordinates(places[:, 1])

    def _pairs(self, degree: int) -> Ints:
        # (bars, 2) flat indices of births and deaths, including bars of length 0.
        if degree == 0:
            finite = self.values < np.inf
            return _ends(grid_basins(self.values, finite, self.connectivity, self.periodic))
        if self.values.ndim == 2 and not any(self.periodic):
            return self._ridges()
        return self._gudhi_pairs(degree)

    def _ridges(self) -> Ints:
        # A loop around a hill is a basin of the negated field that joins the outside.
        turned = complement(self.values)
        opposite = "axis" if self.connectivity == "full" else "full"
        pairs = _ends(grid_basins(turned, np.ones(turned.shape, dtype=np.bool_), opposite))
        pairs = pairs[pairs[:, 1] != _NO_POINT]
        row, column = np.divmod(pairs, turned.shape[1])
        flat = (row - 1) * self.values.shape[1] + column - 1
        tops, ends = flat[:, 0], flat[:, 1]
        # A basin of the complement at a missing point is a loop that never ends.
        missing = np.isneginf(turned.ravel()[pairs[:, 0]])
        return np.stack([ends, np.where(missing, _NO_POINT, tops)], axis=1)

    def _gudhi_pairs(self, degree: int) -> Ints:
        complex_ = cubical_complex(self.values, self.connectivity, self.periodic, [degree])
        full = self.connectivity == "full"
        pairs: Any = (
            complex_.cofaces_of_persistence_pairs()
            if full
            else complex_.vertices_of_persistence_pairs()
        )
        regular = pairs[0][degree] if degree < len(pairs[0]) else np.empty((0, 2))
        lasting = pairs[1][degree] if degree < len(pairs[1]) else np.empty(0)
        ended = np.asarray(regular, dtype=np.int64).reshape(-1, 2)
        born = np.asarray(lasting, dtype=np.int64).reshape(-1)
        born = np.stack([born, np.full(born.size, _NO_POINT)], axis=1)
        flat = np.concatenate([ended, born])
        # gudhi counts with the first axis fastest.
        exists = flat != _NO_POINT
        index = np.unravel_index(flat[exists], self.values.shape, order="F")
        flat[exists] = np.ravel_multi_index(index, self.values.shape)
        return flat

    def _coordinates(self, flat: Ints) -> Floats:
        coordinates = np.full((flat.size, self.values.ndim), np.nan)
        exists = flat != _NO_POINT
        index = np.unravel_index(flat[exists], self.values.shape)
        for axis, steps in enumerate(index):
            coordinates[exists, axis] = self.axes[axis][steps] if self.axes else steps
        return coordinates


def _ends(basins: Basins) -> Ints:
    # (minima, 2) flat indices of each minimum and of the saddle where it ends, if any.
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    saddles = np.full(basins.minima.size, _NO_POINT, dtype=np.int64)
    saddles[pairs.ended] = basins.ends[pairs.edge, 1]
    return np.stack([basins.minima, saddles], axis=1)
