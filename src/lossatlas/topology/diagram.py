"""Barcodes: basins and loops with their births and deaths, and which of them are certain."""

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

# Births, deaths and degrees of bars -> coordinates of births and deaths.
Locator: TypeAlias = Callable[[Floats, Floats, Ints], tuple[Floats, Floats]]
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
    # Computed on first access: the fast algorithms for bars do not return places.
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

    A bar of degree 0 is a basin: it is born at its minimum and dies at the saddle where it
    joins a deeper one. A bar of degree 1 is a loop, a closed valley around a hill: it is born
    where it closes and dies at the top of the hill.

    Attributes:
        births: level at which each bar begins, in units of the field.
        deaths: level at which it ends; +inf for essential bars (the deepest basin of every
            connected part; a loop around non-finite points).
        dimensions: degree of each bar.
        certain: True for bars known to be longer than `threshold`; False otherwise, including
            when the threshold is unknown (see `why_unknown`).
        threshold: bars longer than this cannot be caused by the errors of the map; NaN if
            unknown.
        connectivity: "full", "axis", or how the graph was built.
        excluded: number of non-finite points, which are left out.
        low: smallest value of the field.
        high: largest finite value: where "cap" ends essential bars.
        superlevel: True if the field was negated first: births, deaths, `low` and `high` are
            then those of the negated field.
        confidence: probability that `threshold` holds; for a graph, the errors given with it
            are assumed to hold.
        why_unknown: why it is unknown which bars are certain; empty if it is known.
        rarest_share: effects present in less than this share of the units (examples, batches)
            cannot be excluded: a sample of n contains none of a share p with probability (1 -
            p)^n, and this is the p at which that equals 1 - `confidence`. 0 if the errors are
            exact, NaN if the number of units is unknown.
        periodic: per axis, whether its two ends touch; empty if none does.
        places: coordinates of births and deaths, two arrays of shape (bars, axes): the points
            whose values they are. A basin is born at its minimum and dies at the saddle where
            it ends; a loop is born at the point that closes it and dies at the top of the hill
            inside. In units of the axes (indices for plain arrays); NaN if there is none.
            Graphs and point clouds have no columns.

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
        """True for bars that never end."""
        return np.isposinf(self.deaths)

    def bars(self, dimension: int = 0, *, essential: Essential | float = "drop") -> Floats:
        """Births and deaths of one degree.

        Args:
            dimension: the degree.
            essential: rule for essential bars. "drop" leaves them out, "keep" leaves their
                deaths infinite, "cap" ends them at the largest value of the field, a number
                ends them at that level.

        Returns:
            An array of shape (bars, 2).

        Raises:
            ArgumentError: the degree is not an integer >= 0.
            UnknownNameError: `essential` is another string.
        """
        check_degree(dimension)
        chosen = self.dimensions == dimension
        bars = np.stack([self.births[chosen], self.deaths[chosen]], axis=1)
        return end_essential(bars, essential, self.high)

    def estimates(self) -> tuple[Estimate, ...]:
        """Number of bars of each degree, and how many are certain."""
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
        has_threshold = not self.why_unknown
        return {
            "bars": [self._bar(row) for row in range(len(self))],
            "bars_above_threshold": int(self.certain.sum()) if has_threshold else None,
            "threshold": self.threshold if has_threshold else None,
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
        """Number of certain loops: hills surrounded by lower loss."""
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

    def figures(
        self, scale: Scale | None = None, open_births: Floats | None = None
    ) -> tuple[Figure, ...]:
        """Persistence diagram, barcode and Betti curves.

        Args:
            scale: how losses are spread, as `plots.scale_of(landscape.values)`; straight by
                default.
            open_births: births of basins whose minimum lies on the edge of the map, as
                `MergeTree.open_births`; drawn hollow in the persistence diagram.

        Returns:
            The figures.
        """
        sure = f", {int(self.certain.sum())} longer than the threshold"
        bars_text = count(len(self), "bar") + (
            ", certainty unknown" if self.why_unknown else sure
        )
        return (
            self._persistence_figure(scale, open_births, bars_text),
            Figure(
                "barcode",
                "Barcode",
                *backends(lambda: bar_plots.barcode_chart(self, scale=scale)),
                "One bar per basin or loop, longest first. A basin's bar starts at the loss "
                "of its minimum and ends at the saddle where it joins a deeper one: its length "
                "is the depth. A loop's bar starts where a ring around a hill closes and ends "
                "at the top. Bars with arrows never end; pale bars are within the error.",
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

    def _persistence_figure(
        self, scale: Scale | None, open_births: Floats | None, bars_text: str
    ) -> Figure:
        edge = (
            "Minima on the edge of a map are among the marks."
            if open_births is None
            else "Hollow: minima on the edge of the map, which are not counted."
        )
        return Figure(
            "persistence",
            "Persistence diagram",
            *backends(
                lambda: bar_plots.persistence_chart(self, scale=scale, open_births=open_births)
            ),
            "One mark per basin or loop. The higher above the diagonal, the longer it lasts; "
            "within the shaded band it may be an effect of the map's errors, and is gray. "
            f"{edge}",
            f"Persistence diagram: {bars_text}.",
        )


def _exact(value: float, name: str, why: str) -> Estimate:
    return Estimate(float(value), why_no_error=why, name=name)


def _counted(amount: int, degree: int) -> Estimate:
    # Rips complexes have bars of any degree.
    has_name = degree < len(_BARS)
    name, meaning = _BARS[degree] if has_name else (f"bars of degree {degree}", "")
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
    places: Locator | None = None,
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
    # Equal lengths are rare; only they need the slower sort by two keys.
    if (ascending[1:] == ascending[:-1]).any():
        order = np.lexsort((bars[:, 0], lengths))
    return bars[order]
