"""Comparison: two checkpoints of one model, mapped along the same directions."""

import math
from collections.abc import Iterator
from dataclasses import field, replace

import numpy as np

from lossatlas.io import Provenance
from lossatlas.landscape.landscape import COUNT, DIFFERENCE, Landscape
from lossatlas.plots import pairs
from lossatlas.plots.chart import backends
from lossatlas.plots.maps import line_scale
from lossatlas.plots.scale import Scale
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.surveys.comparison_sentences import (
    MATCH_IS_NO_BASIN,
    distance_sentence,
    ends_sentence,
    line_sentences,
    reach,
)
from lossatlas.text import count, cut_off, number
from lossatlas.topology import Diagram, MergeTree, match_bars
from lossatlas.topology.basin_matching import BasinMatching
from lossatlas.topology.diagram import MAP_COUNT
from lossatlas.topology.field import Floats
from lossatlas.topology.mergetree import NO_SADDLE
from lossatlas.weights.barrier import BarrierVerdict, Recalibration
from lossatlas.weights.excess import Excess

_BARRIER = Reference(
    "loss barrier on the line between two networks",
    "J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin. Linear Mode Connectivity and the "
    "Lottery Ticket Hypothesis. ICML 2020.",
    "https://arxiv.org/abs/1912.05671",
)
_DISTANCE = Reference(
    "bottleneck distance and its error",
    "D. Cohen-Steiner, H. Edelsbrunner, J. Harer. Stability of Persistence Diagrams. "
    "Discrete Comput. Geom. 37 (2007).",
    "https://doi.org/10.1007/s00454-006-1276-5",
)
# More bars than this make no picture.
_MOST_BARS = 800


@result(
    "comparison",
    references=(_BARRIER, *Landscape.references, *BasinMatching.references, _DISTANCE),
)
class Comparison(Result):
    """Two checkpoints side by side.

    Attributes:
        first: the map around the first checkpoint.
        second: the map around the second, along the same directions.
        line: the loss on the straight line from the first (0) to the second (1).
        diagrams: persistence of the two maps.
        matching: merge trees of the two maps, and which basin of one is which of the other.
        excess: how far the line rises above the straight line between the losses of its ends,
            on the same examples everywhere, so that errors are paired (see `weights.connect`).
        bottleneck: bottleneck distance of the basins of the two maps; the deepest basins,
            which never end, are compared by their depths.
        wasserstein: 1-Wasserstein distance of the same, ground norm infinity.
        difference: loss of the second minus that of the first, on the same examples; its error
            is that of the paired differences. None where the loss gives only means.
        seconds: wall time.
        provenance: seed, settings, fingerprints, versions.
        statistics: sentences on which running statistics were used.
        anew: the rise of the line with running statistics measured anew at each point, where
            interpolated ones may not fit; None where no statistics are in the way, or no point
            lies above the straight line between the losses.
    """

    first: Landscape
    second: Landscape
    line: Landscape
    diagrams: tuple[Diagram, Diagram]
    matching: BasinMatching
    excess: Excess
    bottleneck: float = quantity("loss")
    wasserstein: float = quantity("loss")
    difference: Estimate | None = quantity("loss", default=None)
    seconds: float = quantity("s", default=0.0, compare=False)
    provenance: Provenance = field(default_factory=Provenance)
    statistics: tuple[str, ...] = ()
    anew: Recalibration | None = None

    @property
    def names(self) -> tuple[str, str]:
        """What the two checkpoints are called."""
        return "A", "B"

    @property
    def lands(self) -> tuple[Landscape, Landscape]:
        """The two maps."""
        return self.first, self.second

    @property
    def trees(self) -> tuple[MergeTree, MergeTree]:
        """Their merge trees."""
        return self.matching.first, self.matching.second

    @property
    def barrier(self) -> Estimate:
        """Largest loss above the straight line between both losses; 0: linear connection."""
        return self.excess.barrier

    @property
    def verdict(self) -> BarrierVerdict:
        """Whether there is a barrier between the two, for every place that says so."""
        return BarrierVerdict(self.excess, self.anew, has_place=False)

    @property
    def top(self) -> int | None:
        """Index of the point of the line next to the barrier; None where there is none."""
        if not 0 < self.barrier.value < math.inf:
            return None
        return int(np.abs(self.line.axes[0] - self.excess.where).argmin())

    @property
    def line_bound(self) -> float:
        """What a rise above that line may be wrong by, all points at once; 0 if unknown."""
        bound = self.excess.bound
        return bound if math.isfinite(bound) else 0.0

    @property
    def depth_bound(self) -> float:
        """What the bottleneck distance may be wrong by; 0 where no error is known."""
        return sum(tree.threshold for tree in self.trees) / 2 if self.judged else 0.0

    @property
    def judged(self) -> bool:
        """Whether the errors of both maps are known, to judge their basins by."""
        return not any(tree.why_unknown for tree in self.trees)

    def headline(self) -> str:
        """Whether there is a barrier between the two, and how sure that is, in one sentence."""
        return self.verdict.headline()

    def estimates(self) -> tuple[Estimate, ...]:
        """The barrier, the distances, what became of the basins, both maps."""
        return (*self.line_estimates(), *self.basin_estimates())

    def line_estimates(self) -> tuple[Estimate, ...]:
        """The barrier and the losses of the line."""
        line, (one, two) = self.line, self.names
        rows = [
            self._difference(),
            *self.verdict.estimates(self._barrier()),
            self._bound(),
            line.value_at(0, f"loss at {one}"),
            line.value_at(line.values.size - 1, f"loss at {two}"),
            replace(line.value_at(line.lowest, "lowest loss on the line"), is_minor=True),
            replace(line.value_at(line.highest, "highest loss on the line"), is_minor=True),
        ]
        return (*rows, *_interpolation(line, "of the line"), *self._metrics())

    def _barrier(self) -> Estimate:
        meaning = "largest loss above the straight line between the losses of A and B"
        return replace(self.barrier, name="barrier", unit="loss", meaning=meaning)

    def _difference(self) -> Estimate:
        one, two = self.names
        name, meaning = "difference of the losses", f"{two} minus {one}"
        if self.difference is None:
            step = float(self.line.values[-1] - self.line.values[0])
            return _minor(step, name, DIFFERENCE, meaning)
        paired = f"{meaning}, on the same {self.difference.sample_unit}"
        return replace(self.difference, name=name, unit="loss", meaning=paired)

    def _bound(self) -> Estimate:
        known = self.line_bound > 0
        why = "a 95 % bound for all points at once"
        return _minor(
            self.line_bound or math.nan,
            "what a rise may be wrong by",
            why if known else "no error of the line is known",
            "a barrier above it is certain",
        )

    def _metrics(self) -> Iterator[Estimate]:
        for name, values in self.line.metrics.items():
            errors = self.line.metric_stderr.get(name, np.full(values.shape, np.nan))
            places = {f"at {self.names[0]}": 0, "half-way": values.size // 2}
            for place, k in (places | {f"at {self.names[1]}": values.size - 1}).items():
                why = None if np.isfinite(errors[k]) else "interpolated, or no spread is known"
                yield Estimate(
                    float(values[k]),
                    float(errors[k]),
                    why_no_error=why,
                    name=f"{cut_off(name, 40)} {place}",
                    is_minor=True,
                )

    def basin_estimates(self) -> tuple[Estimate, ...]:
        """How far the two maps are apart, what became of the basins, each map by itself."""
        evaluations = sum(land.evaluations for land in (*self.lands, self.line))
        return (
            *self._distances(),
            *self.matching.estimates(),
            *self._certain(),
            *(row for k in (0, 1) for row in self._around(k)),
            replace(
                _minor(evaluations, "evaluations", COUNT, "both maps and the line"), unit=""
            ),
            replace(_minor(self.seconds, "wall time", "a clock, read once"), unit="s"),
        )

    def _distances(self) -> tuple[Estimate, ...]:
        bound = self.depth_bound
        why = "the maps have no errors to carry over"
        if bound > 0:
            why = f"right to within {number(bound, 2)} (95 % for each map)"
        if bound > 0 and self.bottleneck <= bound:
            most = f"at most {reach(self)} (95 % for each map)"
            why = f"the errors of the maps could cause it; {most}"
        if not math.isfinite(self.bottleneck):
            why = "points that are not finite part the maps into different numbers of pieces"
        sums = why if not bound else "a sum over all basins, small ones too: no bound is known"
        far = _minor(self.bottleneck, "bottleneck distance", why, "of the basins")
        order_one = "1-Wasserstein distance"
        return (
            replace(far, is_minor=False),
            _minor(self.wasserstein, order_one, sums, "of the basins"),
        )

    def _certain(self) -> Iterator[Estimate]:
        why = "at least so many of them are basins of their own map (95 %)"
        for kind, amount in self.matching.certain_alone().items() if self.judged else ():
            name = f"certain basins among the {kind}"
            yield replace(_minor(amount, name, why), unit="")

    def _around(self, k: int) -> Iterator[Estimate]:
        land, tree, name = self.lands[k], self.trees[k], self.names[k]
        smad = "the map has no error to carry over" if tree.saddles.size else NO_SADDLE
        if tree.saddles.size and tree.threshold > 0:
            smad = f"each rise is right to within {number(tree.threshold, 2)} (95 %)"
        bound = tree.why_unknown or "a 95 % bound for all points at once"
        lost = int((~land.finite).sum())
        lowest = land.value_at(land.lowest, f"lowest loss around {name}")
        yield replace(lowest, is_minor=True)
        yield _minor(land.range, f"range around {name}", DIFFERENCE)
        minima = _minor(len(tree), f"minima around {name}", MAP_COUNT)
        yield replace(minima, unit="", is_minor=False)
        yield _minor(tree.threshold, f"certainty threshold around {name}", bound)
        title = f"mean rise to the first saddle, over all minima around {name}"
        yield _minor(
            tree.mean_rise,
            title,
            smad,
            "saddle-minimum average distance (SMAD); the deepest minimum counts too",
        )
        title = f"points without a finite loss around {name}"
        yield replace(_minor(lost, title, COUNT), unit="")
        yield from _interpolation(land, f"around {name}")

    def sentences(self) -> tuple[str, ...]:
        """Which of the two is lower, the line, basins; which running statistics were used."""
        files = (self.files,) if self.files else ()
        said = (*self.line_sentences(), *self.basin_sentences())
        return (*files, *said, *self.statistics)

    @property
    def files(self) -> str:
        """Which checkpoint is which, as in "A = a.pt, B = b.pt."; empty where not known."""
        settings = self.provenance.settings
        paths = [str(settings.get(key) or "") for key in ("first", "second")]
        pairs_ = zip(self.names, paths, strict=True)
        known = ", ".join(f"{name} = {cut_off(path, 160)}" for name, path in pairs_ if path)
        return f"{known}." if known else ""

    def line_sentences(self) -> tuple[str, ...]:
        """Which of the two is lower, and what the line between them looks like."""
        return (ends_sentence(self), *line_sentences(self))

    def basin_sentences(self) -> tuple[str, ...]:
        """Which basins are matched, how far the maps are apart, where there is no loss."""
        return (*self.match_sentences(), *self.distance_sentences())

    def match_sentences(self) -> tuple[str, ...]:
        """Which basins of one map are matched by one of the other, and what that means."""
        has_match = len(self.matching.pairs) > 0
        note = (MATCH_IS_NO_BASIN,) if has_match and self.verdict.is_certain else ()
        first, *others = self.matching.sentences(self.names)
        return (first, *note, *others)

    def distance_sentences(self) -> tuple[str, ...]:
        """How far the maps are apart, and where there is no loss."""
        lost = [
            f"{count(total, 'point')} of the map around {name} have no finite loss."
            for name, land in zip(self.names, self.lands, strict=True)
            if (total := int((~land.finite).sum()))
        ]
        return (distance_sentence(self), *lost)

    def figures(self) -> tuple[Figure, ...]:
        """The rise above the straight line, the line, both maps with basins, both diagrams."""
        return (
            self._rise_figure(),
            self._line_figure(),
            *self._map_figures(),
            self._diagrams_figure(),
        )

    def _rise_figure(self) -> Figure:
        rise = self.excess
        known = "The band holds all points together with 95 %"
        tail = known if math.isfinite(rise.band) else "No error of it is known"
        # Interpolated statistics fit no network, so a rise alone is no barrier.
        is_plain = self.verdict.anew is None
        reading = "; where it is above zero, the line has a barrier" if is_plain else ""
        return Figure(
            "rise",
            "Rise above the straight line",
            *backends(
                lambda: pairs.rise_chart(
                    rise.at, rise.value, rise.band * rise.stderr, names=self.names
                )
            ),
            "The loss on the line minus the straight line between the losses of its ends, on "
            f"the same data at every point{self.verdict.statistics}. {tail}{reading}.",
            f"Line plot of the rise of the loss; barrier {number(self.barrier.value, 3)}.",
            wide=True,
        )

    def _line_figure(self) -> Figure:
        line = self.line
        note = ""
        if line_scale(line).is_log:
            note = (
                " Heights are logarithmic above the lowest loss, so the straight line between "
                "the two losses is drawn bent."
            )
        ends = " and ".join(number(float(line.values[k]), 3) for k in (0, -1))
        return Figure(
            "line",
            "Loss along the line",
            *backends(lambda: pairs.line_chart(line, names=self.names, top=self.top)),
            "The band holds each value alone with 95 % probability, ups and downs of the whole "
            "line included, so it is wider than the error of the barrier; dots were computed, "
            f"the rest is interpolated.{note}",
            "Line plot of the loss between the two checkpoints. Ends at "
            f"{ends}; barrier {number(self.barrier.value, 3)}.",
            wide=True,
        )

    def matches(self) -> pairs.Sides:
        """Of each map its matched minima and those without a partner, for pictures."""
        matching = self.matching
        return pairs.basin_matches(self.lands, self.trees, matching.pairs, matching.apart)

    def _map_figures(self) -> Iterator[Figure]:
        scale = pairs.shared_scale(self.lands)
        parts = zip(self.names, self.lands, self.matches(), strict=True)
        for name, land, matches in parts:
            yield _map_figure(name, land, matches, scale)

    def _diagrams_figure(self) -> Figure:
        scale = pairs.shared_scale(self.lands)
        return Figure(
            "diagrams",
            "Both persistence diagrams",
            *backends(
                lambda: pairs.diagrams_chart(
                    *self.diagrams, _bar_steps(*self.diagrams), scale=scale, names=self.names
                )
            ),
            "One mark a basin. A line joins it with its partner by depth, or with the diagonal "
            "where it has none; within the shaded band a basin may be an effect of errors.",
            "Persistence diagrams of both maps; bottleneck distance "
            f"{number(self.bottleneck, 3)}.",
            wide=True,
        )


def _map_figure(
    name: str, land: Landscape, matches: tuple[pairs.BasinMatch, pairs.BasinMatch], scale: Scale
) -> Figure:
    both, alone = matches
    log = " Colors are logarithmic above the lowest loss." if scale.is_log else ""
    lost = "" if land.finite.all() else " Hatched: the loss is not finite there."
    low, high = number(float(land.values[land.finite].min()), 3), number(land.range, 3)
    rest = f"{alone.total:,} {alone.kind}"
    title = f"Around {name}"
    return Figure(
        f"around {name}",
        title,
        *backends(lambda: pairs.matched_chart(land, matches, scale, title)),
        f"{count(both.total, 'basin')} matched, {rest}. Pale marks are within the error."
        f"{log}{lost}",
        f"Contour map of the loss around {name}: lowest {low}, range {high}; {both.total} "
        f"matched basins, {rest}.",
    )


def _minor(value: float, name: str, why: str, meaning: str = "") -> Estimate:
    return Estimate(
        float(value), why_no_error=why, name=name, unit="loss", meaning=meaning, is_minor=True
    )


def _interpolation(land: Landscape, place: str) -> Iterator[Estimate]:
    if not land.computed.all():
        why = f"measured on {land.held_out:,} points, each predicted from the others"
        yield _minor(land.interpolation_error, f"interpolation error {place}", why)


def _bar_steps(first: Diagram, second: Diagram) -> tuple[Floats, Floats]:
    # From where to where the basins of one diagram move in the other.
    bars = [diagram.bars(0, essential="keep") for diagram in (first, second)]
    if sum(map(len, bars)) > _MOST_BARS:
        return np.empty((0, 2)), np.empty((0, 2))
    moved = match_bars(first, second, order=1.0).steps()
    depths = [np.sort(part[np.isposinf(part[:, 1]), 0]) for part in bars]
    # Where missing points part the maps differently, the deepest ones have no common number.
    lasting = min(map(len, depths))
    endless = [
        np.stack([depth[:lasting], np.full(lasting, np.inf)], axis=1) for depth in depths
    ]
    starts, ends = (np.concatenate(part) for part in zip(moved, endless, strict=True))
    return starts, ends
