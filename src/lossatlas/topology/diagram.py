"""Barcodes: which basins and ridges there are, from where to where, and which are real."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from lossatlas import store
from lossatlas.topology.bars import end_essential
from lossatlas.topology.certainty import Certainty
from lossatlas.topology.choices import check_degree
from lossatlas.topology.field import Bools, Floats, Ints

# Births, deaths and degrees of bars -> coordinates where they are born and die.
Finder: TypeAlias = Callable[[Floats, Floats, Ints], tuple[Floats, Floats]]


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
        certain: True where a bar is known to be longer than `threshold` allows the errors to
            make one; False where it is not, and where that is unknown (see `why_unknown`).
        threshold: bars longer than this are no effect of the map's errors; NaN where that is
            unknown.
        connectivity: "full", "axis", or how the graph was made.
        excluded: number of non-finite points, which were left out as walls.
        low: least value of the field.
        high: greatest finite value: where an essential bar may be cut ("cap").
        superlevel: True where the field was turned over first: births, deaths, `low` and
            `high` are then those of minus the field.
        confidence: probability with which `threshold` holds; of a graph the errors given with
            it are taken to hold.
        why_unknown: why it is unknown which bars are certain; empty where it is known.
        rarest_share: effects that fewer than this share of the units (examples, batches)
            have cannot be excluded: a sample of n holds none of a share p with probability
            (1 - p)^n, and this is the p where that is 1 - `confidence`. 0 where the errors
            are exact, NaN where the number of units is unknown.
        periodic: per axis, whether its two ends touch; empty where none does.
        birth_places: (bars, axes) coordinates of the point whose value each birth is: of a
            basin its minimum, of a ridge the point that closes it. In units of the axes
            (indices for plain arrays); NaN where it has none. No columns for graphs and
            clouds.
        death_places: the same for the deaths: of a basin the saddle where it spills over, of
            a ridge the top of the hill inside. NaN for essential bars.
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
    why_unknown: str = ""
    rarest_share: float = float("nan")
    periodic: tuple[bool, ...] = ()
    finder: Finder | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return int(self.births.size)

    @property
    def lengths(self) -> Floats:
        """Length of each bar: death minus birth."""
        return self.deaths - self.births

    @property
    def birth_places(self) -> Floats:
        """Coordinates of the point whose value each birth is; see `Diagram`."""
        return self._places[0]

    @property
    def death_places(self) -> Floats:
        """Coordinates of the point whose value each death is; see `Diagram`."""
        return self._places[1]

    @cached_property
    def _places(self) -> tuple[Floats, Floats]:
        # Found when somebody asks: the fast routes to the bars do not tell the places.
        if self.finder is None:
            return np.empty((len(self), 0)), np.empty((len(self), 0))
        return self.finder(self.births, self.deaths, self.dimensions)

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
            ArgumentError: a degree that is no whole number from 0.
            UnknownNameError: `essential` is none of these words.
        """
        check_degree(dimension)
        chosen = self.dimensions == dimension
        bars = np.stack([self.births[chosen], self.deaths[chosen]], axis=1)
        return end_essential(bars, essential, self.high)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """The diagram as labeled arrays.

        Returns:
            One group, `bars`.
        """
        names = ("births", "deaths", "dimensions", "certain")
        data: dict[str, Any] = {name: ("bar", getattr(self, name)) for name in names}
        places = ("birth_places", "death_places")
        if self.birth_places.shape[1]:
            data |= {name: (("bar", "axis"), getattr(self, name)) for name in places}
        attributes = {name: getattr(self, name) for name in _ATTRIBUTES}
        attributes["superlevel"] = int(self.superlevel)
        if self.periodic:
            attributes["periodic"] = np.array(self.periodic, dtype=np.int64)
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
        count = bars["births"].size
        places = tuple(
            bars[name].to_numpy() if name in bars else np.empty((count, 0))
            for name in ("birth_places", "death_places")
        )
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
            why_unknown=str(bars.attrs.get("why_unknown", "")),
            rarest_share=float(bars.attrs.get("rarest_share", np.nan)),
            periodic=tuple(bool(k) for k in np.atleast_1d(bars.attrs.get("periodic", []))),
            finder=_Stored(places[0], places[1]),
        )


@dataclass(frozen=True, eq=False)
class _Stored:
    # Places that a file holds, in the order of its bars.
    birth_places: Floats
    death_places: Floats

    def __call__(
        self, births: Floats, deaths: Floats, dimensions: Ints
    ) -> tuple[Floats, Floats]:
        return self.birth_places, self.death_places


_ATTRIBUTES = (
    "threshold",
    "connectivity",
    "excluded",
    "low",
    "high",
    "confidence",
    "why_unknown",
    "rarest_share",
)


def make_diagram(
    parts: Mapping[int, Floats],
    *,
    connectivity: str,
    span: tuple[float, float],
    certainty: Certainty,
    excluded: int = 0,
    superlevel: bool = False,
    confidence: float = 0.95,
    periodic: tuple[bool, ...] = (),
    finder: Finder | None = None,
) -> Diagram:
    """Sort bars into a diagram."""
    ordered = {k: parts[k][_longest_first(parts[k])] for k in sorted(parts)}
    births, deaths = np.concatenate([np.empty((0, 2)), *ordered.values()]).T
    degrees = np.repeat(list(ordered), [len(part) for part in ordered.values()])
    return Diagram(
        births,
        deaths,
        degrees.astype(np.int64),
        deaths - births > certainty.threshold,
        certainty.threshold,
        connectivity,
        excluded,
        *span,
        superlevel,
        confidence,
        certainty.why_unknown,
        certainty.rarest_share,
        periodic,
        finder,
    )


def _longest_first(bars: Floats) -> Ints:
    lengths = bars[:, 0] - bars[:, 1]
    order = np.argsort(lengths)
    ascending = lengths[order]
    # Equal lengths are rare, and only they need the slower sort by two keys.
    if (ascending[1:] == ascending[:-1]).any():
        order = np.lexsort((bars[:, 0], lengths))
    return order
