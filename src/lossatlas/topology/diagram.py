"""Barcodes: which basins and loops there are, from where to where, and which are real."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from lossatlas.plots import bars as bar_plots
from lossatlas.plots.chart import backends
from lossatlas.plots.scale import Scale
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.text import count
from lossatlas.topology.arguments import check_degree
from lossatlas.topology.bars import Essential, end_essential
from lossatlas.topology.certainty import Certainty
from lossatlas.topology.field import Bools, Floats, Ints

# Births, deaths and degrees of bars -> coordinates where they are born and die.
Finder: TypeAlias = Callable[[Floats, Floats, Ints], tuple[Floats, Floats]]
MAP_COUNT = "an exact count on this map; its errors may add or hide some"
_REFERENCES = (
    Reference(
        "persistence",
        "H. Edelsbrunner, D. Letscher, A. Zomorodian. Topological Persistence and "
        "Simplification. Discrete Comput. Geom. 28 (2002).",
        "https://doi.org/10.1007/s00454-002-2885-2",
    ),
    Reference(
        "which bars are certain",
        "D. Cohen-Steiner, H. Edelsbrunner, J. Harer. Stability of Persistence Diagrams. "
        "Discrete Comput. Geom. 37 (2007).",
        "https://doi.org/10.1007/s00454-006-1276-5",
    ),
)


class _Places:
    # A field that is found when somebody asks: the fast routes to the bars do not tell places.
    def __get__(self, diagram: Any, owner: Any = None) -> Any:
        if diagram is None:
            return None
        places = vars(diagram)["_places"]
        if callable(places):
            places = places(diagram.births, diagram.deaths, diagram.dimensions)
        elif places is None:
            places = np.empty((len(diagram), 0)), np.empty((len(diagram), 0))
        vars(diagram)["_places"] = tuple(places)
        return vars(diagram)["_places"]

    def __set__(self, diagram: Any, value: Any) -> None:
        vars(diagram)["_places"] = value


@result("diagram", references=_REFERENCES)
class Diagram(Result):
    """Bars of a sublevel filtration, longest first in each degree.

    A bar of degree 0 is a basin: born at its minimum, dead at the saddle where it joins a
    deeper one. A bar of degree 1 is a loop, a closed ridge around a hill: born where it
    closes, dead at the top of the hill.

    Attributes:
        births: level at which each bar begins, in units of the field.
        deaths: level at which it ends; +inf for the essential bars (the deepest basin of
            every connected part; a loop around points that are not finite).
        dimensions: degree of each bar.
        certain: True where a bar is known to be longer than `threshold` allows the errors to
            make one; False where it is not, and where that is unknown (see `why_unknown`).
        threshold: bars longer than this are no effect of the map's errors; NaN where that is
            unknown.
        connectivity: "full", "axis", or how the graph was made.
        excluded: number of non-finite points, which were left out.
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
        places: coordinates of births and deaths, two arrays (bars, axes): of the point whose
            value each is. A birth of a basin lies at its minimum, of a loop at the point that
            closes it; a death of a basin at the saddle where it ends, of a loop at the top of
            the hill inside. In units of the axes (indices for plain arrays); NaN where there
            is none. No columns for graphs and clouds.

    Examples:
        >>> from lossatlas.topology import persistence
        >>> diagram = persistence([3.0, 0.0, 2.0, 1.0, 3.0], error=0.1)
        >>> diagram.bars(0)
        array([[1., 2.]])
        >>> diagram.birth_places[0], diagram.certain
        (array([1.]), array([ True,  True]))
    """

    births: Floats = quantity("loss")
    deaths: Floats = quantity("loss")
    dimensions: Ints
    certain: Bools
    threshold: float = quantity("loss")
    connectivity: str
    excluded: int
    low: float
    high: float
    superlevel: bool = False
    confidence: float = 0.95
    why_unknown: str = ""
    rarest_share: float = float("nan")
    periodic: tuple[bool, ...] = ()
    places: Any = _Places()

    def __len__(self) -> int:
        return int(self.births.size)

    @property
    def lengths(self) -> Floats:
        """Length of each bar: death minus birth."""
        return self.deaths - self.births

    @property
    def birth_places(self) -> Floats:
        """Coordinates of the point whose value each birth is; see `places`."""
        births: Floats = self.places[0]
        return births

    @property
    def death_places(self) -> Floats:
        """Coordinates of the point whose value each death is; see `places`."""
        deaths: Floats = self.places[1]
        return deaths

    @property
    def essential(self) -> Bools:
        """True where a bar never ends."""
        return np.isposinf(self.deaths)

    def bars(self, dimension: int = 0, *, essential: Essential | float = "drop") -> Floats:
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

    def estimates(self) -> tuple[Estimate, ...]:
        """How many bars of each degree there are, and how many are certain."""
        rows = [
            _counted(int(np.sum(self.dimensions == k)), k)
            for k in np.union1d(self.dimensions, [0]).tolist()
        ]
        if self.why_unknown:
            return (*rows, _exact(self.threshold, "certainty threshold", self.why_unknown))
        bound = "a 95 % bound for all points at once"
        return (
            *rows,
            replace(
                _exact(int(self.certain.sum()), LONGER, "at least so many are real (95 %)"),
                meaning="basins and loops; minima on the edge of a map among them",
            ),
            replace(_exact(self.threshold, "certainty threshold", bound), unit="loss"),
        )

    def details(self) -> dict[str, Any]:
        """Every bar, how many are certain, the threshold and the connectivity."""
        known = not self.why_unknown
        return {
            "bars": [self._bar(row) for row in range(len(self))],
            "bars_above_threshold": int(self.certain.sum()) if known else None,
            "threshold": self.threshold if known else None,
            "why_unknown": self.why_unknown or None,
            "connectivity": self.connectivity,
        }

    def _bar(self, row: int) -> dict[str, Any]:
        places = self.birth_places[row], self.death_places[row]
        born, dies = (place if np.isfinite(place).all() else None for place in places)
        return {
            "dimension": self.dimensions[row],
            "birth": self.births[row],
            "death": self.deaths[row],
            "certain": None if self.why_unknown else bool(self.certain[row]),
            "birth_place": born,
            "death_place": dies,
        }

    def sentences(self) -> tuple[str, ...]:
        """How many loops are certain: hills with lower ground all around."""
        loops = self.dimensions == 1
        total = int(np.count_nonzero(loops))
        if not total or self.why_unknown:
            return ()
        sure = int(np.count_nonzero(self.certain & loops))
        if not sure:
            verb, noun = ("is", "hill") if total == 1 else ("are", "hills")
            tail = f"with lower ground all around {verb} within the error of the map."
            return (f"{total:,} {noun} {tail}",)
        noun = "hill has" if sure == 1 else "hills have"
        return (f"{sure} {noun} lower ground all around with certainty (of {total:,} seen).",)

    def figures(self, scale: Scale | None = None) -> tuple[Figure, ...]:
        """Persistence diagram, barcode and Betti curves.

        Args:
            scale: how losses are spread, as `plots.scale_of(landscape.values)`; straight by
                default.

        Returns:
            The figures.
        """
        sure = f", {int(self.certain.sum())} longer than the threshold"
        bars_text = count(len(self), "bar") + (
            ", certainty unknown" if self.why_unknown else sure
        )
        return (
            Figure(
                "persistence",
                "Persistence diagram",
                *backends(lambda: bar_plots.persistence_chart(self, scale=scale)),
                "One mark a basin or loop. The higher above the diagonal, the longer it lasts; "
                "within the shaded band it may be an effect of the map's errors. Minima on the "
                "edge of a map are among the marks.",
                f"Persistence diagram: {bars_text}.",
            ),
            Figure(
                "barcode",
                "Barcode",
                *backends(lambda: bar_plots.barcode_chart(self, scale=scale)),
                "One bar a basin or loop, the longest first. A basin's bar starts at the loss "
                "of its minimum and ends at the saddle where it joins a deeper one: its length "
                "is the depth. A loop's bar starts where a ring around a hill closes and ends "
                "at the top. Arrows never end; pale bars are within the error.",
                f"Barcode: {bars_text}.",
            ),
            Figure(
                "betti",
                "Betti curves",
                *backends(lambda: bar_plots.betti_chart(self, scale=scale)),
                "How many basins and loops there are among the points whose loss is at most "
                "that on the axis; thick: the certain.",
                f"Betti curves of {bars_text}.",
                wide=True,
            ),
        )


def _exact(value: float, name: str, why: str) -> Estimate:
    return Estimate(float(value), why_no_error=why, name=name)


def _counted(amount: int, degree: int) -> Estimate:
    # Rips complexes have bars of any degree.
    known = degree < len(_BARS)
    name, meaning = _BARS[degree] if known else (f"bars of degree {degree}", "")
    return replace(_exact(amount, name, MAP_COUNT), meaning=meaning)


_BARS = (
    ("H0 bars (basins)", "persistence bars, one for each minimum"),
    ("H1 bars (loops)", "persistence bars: hills with lower ground all around"),
    ("H2 bars (shells)", "persistence bars: peaks in space with lower ground all around"),
)
LONGER = "persistence bars longer than the threshold"
_NO_BARS = np.empty((0, 2))


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
    places: Finder | None = None,
) -> Diagram:
    """Sort bars into a diagram."""
    ordered = {k: _longest_first(parts[k]) for k in sorted(parts)}
    births, deaths = np.concatenate([_NO_BARS, *ordered.values()]).T
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
        places,
    )


def _longest_first(bars: Floats) -> Floats:
    if len(bars) < 2:
        return bars
    lengths = bars[:, 0] - bars[:, 1]
    order = np.argsort(lengths)
    ascending = lengths[order]
    # Equal lengths are rare, and only they need the slower sort by two keys.
    if (ascending[1:] == ascending[:-1]).any():
        order = np.lexsort((bars[:, 0], lengths))
    return bars[order]
