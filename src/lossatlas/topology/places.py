"""Where bars are born and die: cells of the grid, found when somebody asks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lossatlas.topology.basins import Basins, grid_basins
from lossatlas.topology.cubical import complement, cubical_complex
from lossatlas.topology.field import Floats, Ints
from lossatlas.topology.pairing import elder_rule

_NOWHERE = -1


@dataclass(frozen=True, eq=False)
class GridPlaces:
    """Finds the points of a grid whose values are the births and deaths of its bars.

    Attributes:
        values: the field, +inf at the walls.
        connectivity: "full" or "axis".
        periodic: one bool an axis.
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
        places = np.full((births.size, 2), _NOWHERE, dtype=np.int64)
        for degree in np.unique(dimensions).tolist():
            rows = np.flatnonzero(dimensions == degree)
            found = self._pairs(degree)
            levels = np.append(self.values.ravel(), np.inf)[found]
            found = found[levels[:, 1] > levels[:, 0]]
            levels = np.append(self.values.ravel(), np.inf)[found]
            places[rows[np.lexsort((deaths[rows], births[rows]))]] = found[
                np.lexsort((levels[:, 1], levels[:, 0]))
            ]
        return self._coordinates(places[:, 0]), self._coordinates(places[:, 1])

    def _pairs(self, degree: int) -> Ints:
        # (bars, 2) flat indices of births and deaths, bars of length 0 among them.
        if degree == 0:
            finite = self.values < np.inf
            return _ends(grid_basins(self.values, finite, self.connectivity, self.periodic))
        if self.values.ndim == 2 and not any(self.periodic):
            return self._ridges()
        return self._gudhi_pairs(degree)

    def _ridges(self) -> Ints:
        # A ridge around a hill is, upside down, a basin that spills into the outside.
        turned = complement(self.values)
        other = "axis" if self.connectivity == "full" else "full"
        pairs = _ends(grid_basins(turned, np.ones(turned.shape, dtype=np.bool_), other))
        pairs = pairs[pairs[:, 1] != _NOWHERE]
        row, column = np.divmod(pairs, turned.shape[1])
        flat = (row - 1) * self.values.shape[1] + column - 1
        tops, ends = flat[:, 0], flat[:, 1]
        # What is upside down the depth of a wall never ends.
        walled = np.isneginf(turned.ravel()[pairs[:, 0]])
        return np.stack([ends, np.where(walled, _NOWHERE, tops)], axis=1)

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
        born = np.stack([born, np.full(born.size, _NOWHERE)], axis=1)
        flat = np.concatenate([ended, born])
        # gudhi counts with the first axis fastest.
        there = flat != _NOWHERE
        index = np.unravel_index(flat[there], self.values.shape, order="F")
        flat[there] = np.ravel_multi_index(index, self.values.shape)
        return flat

    def _coordinates(self, flat: Ints) -> Floats:
        found = np.full((flat.size, self.values.ndim), np.nan)
        there = flat != _NOWHERE
        index = np.unravel_index(flat[there], self.values.shape)
        for axis, steps in enumerate(index):
            found[there, axis] = self.axes[axis][steps] if self.axes else steps
        return found


def _ends(basins: Basins) -> Ints:
    # (minima, 2) flat indices of each minimum and of the saddle where it ends, if it does.
    pairs = elder_rule(basins.minima.size, basins.first, basins.second)
    saddles = np.full(basins.minima.size, _NOWHERE, dtype=np.int64)
    saddles[pairs.ended] = basins.ends[pairs.edge, 1]
    return np.stack([basins.minima, saddles], axis=1)
