"""Barcodes: which basins and ridges there are, from where to where, and which are real."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from lossatlas import store
from lossatlas.topology.bars import end_essential
from lossatlas.topology.field import Bools, Floats, Ints


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
        high: greatest finite value: where an essential bar may be cut ("cap").
        superlevel: True where the field was turned over first: births, deaths, `low` and
            `high` are then those of minus the field.
        confidence: probability with which `threshold` holds; of a graph the errors given with
            it are taken to hold.
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
    superlevel: bool = False
    confidence: float = 0.95

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
        data = {name: ("bar", getattr(self, name)) for name in names}
        attributes = {name: getattr(self, name) for name in _ATTRIBUTES}
        attributes["superlevel"] = int(self.superlevel)
        return {"bars": xr.Dataset(data, attrs=attributes)}

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
            superlevel=bool(bars.attrs["superlevel"]),
            confidence=float(bars.attrs.get("confidence", 0.95)),
        )


_ATTRIBUTES = ("threshold", "connectivity", "excluded", "low", "high", "confidence")


def make_diagram(
    parts: Mapping[int, Floats],
    *,
    connectivity: str,
    span: tuple[float, float],
    threshold: float = 0.0,
    excluded: int = 0,
    superlevel: bool = False,
    confidence: float = 0.95,
) -> Diagram:
    """Sort bars into a diagram.

    Args:
        parts: degree -> (bars, 2).
        connectivity: how neighbours were chosen.
        span: least and greatest value of the field.
        threshold: length above which a bar is certain.
        excluded: number of walls.
        superlevel: whether the field was turned over.
        confidence: probability with which the threshold holds.

    Returns:
        The diagram: degrees ascending, in each the longest bar first, then the earliest.
    """
    ordered = {k: parts[k][_longest_first(parts[k])] for k in sorted(parts)}
    births, deaths = np.concatenate([np.empty((0, 2)), *ordered.values()]).T
    degrees = np.repeat(list(ordered), [len(part) for part in ordered.values()])
    certain = deaths - births > threshold
    return Diagram(
        births,
        deaths,
        degrees.astype(np.int64),
        certain,
        threshold,
        connectivity,
        excluded,
        *span,
        superlevel,
        confidence,
    )


def _longest_first(bars: Floats) -> Ints:
    lengths = bars[:, 0] - bars[:, 1]
    order = np.argsort(lengths)
    ascending = lengths[order]
    # Equal lengths are rare, and only they need the slower sort by two keys.
    if (ascending[1:] == ascending[:-1]).any():
        order = np.lexsort((bars[:, 0], lengths))
    return order
