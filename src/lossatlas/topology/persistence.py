"""Persistent homology of a landscape: which basins and ridges there are, and which are real."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.topology.certainty import certainty_threshold
from lossatlas.topology.cubical import grid_bars
from lossatlas.topology.field import Bools, Floats, Ints, Source, read_field

CONNECTIVITIES = ("full", "axis")


@store.kind("diagram")
@dataclass(frozen=True, eq=False)
class Diagram:
    """Bars of a sublevel filtration, longest first in each degree.

    A bar of degree 0 is a basin: born at its minimum, dead where it spills into a deeper
    one. A bar of degree 1 is a ridge around a hill: born where it closes, dead at the top.

    Attributes:
        births: level at which each bar begins, in units of the field.
        deaths: level at which it ends; +inf for the essential bars (the deepest basin of
            every connected part; a closed ridge around a wall).
        dimensions: degree of each bar.
        certain: True where a bar is longer than `threshold`.
        threshold: bars longer than this are no effect of the map's errors; 0 where no error
            is known.
        connectivity: "full", "axis", or how the graph was made.
        excluded: number of non-finite points, which were left out as walls.
        low: least value of the field.
        high: greatest finite value: where an essential bar may be cut (`cap`).
    """

    births: Floats
    deaths: Floats
    dimensions: Ints
    certain: Bools
    threshold: float
    connectivity: str
    excluded: int
    low: float
    high: float

    def __len__(self) -> int:
        return int(self.births.size)

    @property
    def lengths(self) -> Floats:
        """Length of each bar: death minus birth."""
        return self.deaths - self.births

    @property
    def essential(self) -> Bools:
        """True where a bar never ends."""
        return np.isposinf(self.deaths)

    def bars(self, dimension: int = 0, *, essential: str | float = "drop") -> Floats:
        """Births and deaths of one degree, under one stated rule for the essential bars.

        Args:
            dimension: the degree.
            essential: "drop" leaves them out; "keep" leaves their death infinite; "cap"
                ends them at the greatest value of the field; a number ends them there.

        Returns:
            An array (bars, 2).

        Raises:
            UnknownNameError: `essential` is none of these words.
        """
        chosen = self.dimensions == dimension
        bars = np.stack([self.births[chosen], self.deaths[chosen]], axis=1)
        return end_essential(bars, essential, self.high)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The diagram as labelled arrays.

        Returns:
            One group, `bars`.
        """
        names = ("births", "deaths", "dimensions", "certain")
        attributes = ("threshold", "connectivity", "excluded", "low", "high")
        data = {name: ("bar", getattr(self, name)) for name in names}
        return {
            "bars": xr.Dataset(data, attrs={name: getattr(self, name) for name in attributes})
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Diagram":
        """The inverse of `to_tree`.

        Args:
            tree: group name -> arrays.

        Returns:
            An equal diagram.
        """
        bars = tree["bars"]
        return cls(
            births=bars["births"].to_numpy().astype(np.float64),
            deaths=bars["deaths"].to_numpy().astype(np.float64),
            dimensions=bars["dimensions"].to_numpy().astype(np.int64),
            certain=bars["certain"].to_numpy().astype(np.bool_),
            threshold=float(bars.attrs["threshold"]),
            connectivity=str(bars.attrs["connectivity"]),
            excluded=int(bars.attrs["excluded"]),
            low=float(bars.attrs["low"]),
            high=float(bars.attrs["high"]),
        )


def end_essential(bars: Floats, essential: str | float, high: float) -> Floats:
    """Apply the rule for bars that never end.

    Args:
        bars: (bars, 2).
        essential: "drop", "keep", "cap", or a level.
        high: the level of "cap".

    Returns:
        The bars; those that a cap leaves without length are dropped.

    Raises:
        UnknownNameError: `essential` is none of these words.
    """
    if essential == "keep":
        return bars
    if essential == "drop":
        return bars[np.isfinite(bars[:, 1])]
    if isinstance(essential, str):
        check_one_of("essential", essential, ("drop", "keep", "cap"))
    level = high if isinstance(essential, str) else float(essential)
    ended = np.stack([bars[:, 0], np.where(np.isposinf(bars[:, 1]), level, bars[:, 1])], axis=1)
    return ended[ended[:, 1] > ended[:, 0]]


def make_diagram(
    parts: Mapping[int, Floats],
    *,
    connectivity: str,
    span: tuple[float, float],
    threshold: float = 0.0,
    excluded: int = 0,
) -> Diagram:
    """Sort bars into a diagram.

    Args:
        parts: degree -> (bars, 2).
        connectivity: how neighbours were chosen.
        span: least and greatest value of the field.
        threshold: length above which a bar is certain.
        excluded: number of walls.

    Returns:
        The diagram: degrees ascending, in each the longest bar first, then the earliest.
    """
    bars = np.concatenate([np.empty((0, 2)), *parts.values()])
    degrees = np.repeat(list(parts), [len(part) for part in parts.values()]).astype(np.int64)
    births, deaths = bars.T
    order = np.lexsort((births, births - deaths, degrees))
    births, deaths = births[order], deaths[order]
    certain = deaths - births > threshold
    low, high = span
    return Diagram(
        births, deaths, degrees[order], certain, threshold, connectivity, excluded, low, high
    )


def persistence(
    landscape: Source,
    *,
    connectivity: str = "full",
    dimensions: tuple[int, ...] = (0, 1),
    confidence: float = 0.95,
) -> Diagram:
    """Basins (degree 0) and ridges (degree 1) of a landscape, with the certain ones marked.

    Points that are not finite are walls: they are left out and counted, never filled.

    Args:
        landscape: a `Landscape`, or an array of one, two, three or more dimensions, whose
            errors are then taken as zero.
        connectivity: "full": all 3^d - 1 neighbours touch, values live on cells. The better
            count of minima, because "axis" invents minima in valleys that run across the
            grid at an angle. "axis": 2d neighbours, values live on vertices: the lower-star
            filtration of the multilinear interpolant.
        dimensions: the degrees wanted.
        confidence: probability with which the error bound behind `threshold` holds.

    Returns:
        The diagram. Bars of length 0 are left out.

    Raises:
        ArgumentError: not an array of real numbers, or a confidence outside (0, 1).
        DataError: no finite value.
        UnknownNameError: an unknown connectivity.
        MissingDependencyError: a degree above 0 of a grid that is not a plane needs gudhi.

    Example:
        >>> diagram = persistence([3.0, 0.0, 2.0, 1.0, 3.0])
        >>> diagram.births, diagram.deaths
        (array([0., 1.]), array([inf,  2.]))
    """
    check_one_of("connectivity", connectivity, CONNECTIVITIES)
    check_confidence(confidence)
    field = read_field(landscape)
    parts = grid_bars(field.values, connectivity, dimensions)
    return make_diagram(
        dict(zip(dimensions, parts, strict=True)),
        connectivity=connectivity,
        span=field.range,
        threshold=certainty_threshold(field, confidence),
        excluded=field.excluded,
    )


def check_confidence(confidence: float) -> None:
    """Require a probability strictly between 0 and 1.

    Args:
        confidence: what came.

    Raises:
        ArgumentError: it is not.
    """
    if not 0.0 < confidence < 1.0:
        raise ArgumentError(
            f"`confidence` must lie strictly between 0 and 1; got {confidence!r}."
        )
