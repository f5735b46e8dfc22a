"""Comparison: two checkpoints of one model, mapped along the same directions."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.checks import check_path, check_seed, nearest
from lossatlas.errors import ArgumentError
from lossatlas.executor import Progress
from lossatlas.intervals import t_quantile
from lossatlas.io import Provenance
from lossatlas.landscape.buffers import Buffers
from lossatlas.landscape.checkpoints import states_of, through
from lossatlas.landscape.landscape import COUNT, DIFFERENCE, Landscape
from lossatlas.landscape.mapping import map_plane
from lossatlas.landscape.plane import Plane, check_objective, random_plane
from lossatlas.landscape.request import NO_STATISTICS
from lossatlas.landscape.span import Span, suggest_span
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.plots import pairs
from lossatlas.plots.chart import backends
from lossatlas.plots.maps import line_scale
from lossatlas.plots.scale import Scale
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.text import count, cut_off, interval_text, number, with_error
from lossatlas.topology import Diagram, MergeTree, match_bars, persistence
from lossatlas.topology.basin_matching import BasinMatching, match_basins
from lossatlas.topology.certainty import MIN_SHARE, check_min_share
from lossatlas.topology.diagram import MAP_COUNT
from lossatlas.topology.distances import bottleneck, wasserstein
from lossatlas.topology.field import Connectivity, Floats
from lossatlas.topology.mergetree import NO_SADDLE
from lossatlas.weights.connect import connect
from lossatlas.weights.connection import Excess
from lossatlas.weights.paired import EQUAL, rounded_away
from lossatlas.weights.statistics import statistics_notes

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
_MATCH_IS_NO_BASIN = (
    "A match compares the shapes of two maps, each around its own weights; it does not mean "
    "that the two checkpoints lie in one basin: a barrier separates them on the line."
)


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
        """Whether a barrier stands between the two, and how sure that is, in one sentence."""
        barrier = self.barrier.value
        shown = with_error(barrier, self.barrier.stderr)
        if not math.isfinite(barrier):
            return "Between the two the loss is not finite somewhere along the line."
        if barrier == 0:
            return "The two lie in one basin along the line: no barrier."
        if self.excess.is_certain is None:
            return f"A barrier of {shown} stands between them; its error is not known."
        if not self.excess.is_certain:
            return (
                f"No barrier beyond the error: the line rises by {shown}, which is "
                "within the error of the samples."
            )
        return f"A barrier of {self.excess.barrier_text} stands between them."

    def estimates(self) -> tuple[Estimate, ...]:
        """The barrier, the distances, what became of the basins, both maps."""
        return (*self.line_estimates(), *self.basin_estimates())

    def line_estimates(self) -> tuple[Estimate, ...]:
        """The barrier and the losses of the line."""
        line, (one, two) = self.line, self.names
        rows = [
            self._difference(),
            self._barrier(),
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
            most = f"at most {_reach(self)} (95 % for each map)"
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
        return (_ends(self), *_line(self))

    def basin_sentences(self) -> tuple[str, ...]:
        """Which basins are matched, how far the maps are apart, where there is no loss."""
        return (*self.match_sentences(), *self.distance_sentences())

    def match_sentences(self) -> tuple[str, ...]:
        """Which basins of one map are matched by one of the other, and what that means."""
        has_match = len(self.matching.pairs) > 0
        note = (_MATCH_IS_NO_BASIN,) if has_match and self.excess.is_certain else ()
        first, *others = self.matching.sentences(self.names)
        return (first, *note, *others)

    def distance_sentences(self) -> tuple[str, ...]:
        """How far the maps are apart, and where there is no loss."""
        lost = [
            f"{count(total, 'point')} of the map around {name} have no finite loss."
            for name, land in zip(self.names, self.lands, strict=True)
            if (total := int((~land.finite).sum()))
        ]
        return (_distance(self), *lost)

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
        return Figure(
            "rise",
            "Rise above the straight line",
            *backends(
                lambda: pairs.rise_chart(
                    rise.at, rise.value, rise.band * rise.stderr, names=self.names
                )
            ),
            "The loss on the line minus the straight line between the losses of its ends, on "
            f"the same data at every point. {tail}; where it is above zero, a barrier stands.",
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


def _ends(comparison: Comparison) -> str:
    if comparison.difference is not None:
        return _paired(comparison, comparison.difference)
    line, (one, two) = comparison.line, comparison.names
    first, second = (float(line.values[k]) for k in (0, -1))
    errors = [float(line.stderr[k]) for k in (0, -1)]
    step, both = second - first, math.hypot(*errors)
    text = f"The loss is {with_error(first, errors[0])} at {one} and "
    text += f"{with_error(second, errors[1])} at {two}"
    if not math.isfinite(both):
        return f"{text}; whether they differ by more than error is not known."
    allowed = float(t_quantile(0.95, line.count)) * both
    if math.isnan(allowed):
        return f"{text}; how many units these errors come from is not known."
    if abs(step) <= allowed:
        return f"{text}: equal within their errors, taken as independent."
    lower = two if step < 0 else one
    return f"{text}: {lower} is lower by {number(abs(step), 3)}, more than the errors allow."


def _paired(comparison: Comparison, gap: Estimate) -> str:
    line, (one, two) = comparison.line, comparison.names
    first, second = (with_error(float(line.values[k]), float(line.stderr[k])) for k in (0, -1))
    low, high = gap.interval()
    text = f"The loss is {first} at {one} and {second} at {two}; on the same {gap.sample_unit} "
    if gap.why_no_error == EQUAL:
        return f"{text}the losses are {EQUAL}."
    text += f"they differ by {with_error(gap.value, gap.stderr)}, 95 % interval "
    text += interval_text(low, high)
    if not math.isfinite(gap.stderr) or low <= 0 <= high:
        return f"{text}: indistinguishable."
    return f"{text}: {two if high < 0 else one} is lower."


def _line(comparison: Comparison) -> Iterator[str]:
    line, bound = comparison.line, comparison.line_bound
    if comparison.top is not None:
        tail = f" ({_reliability(comparison)}, 95 %, all points at once)" * (bound > 0)
        yield (
            "The loss on the line is highest above the straight line between both losses "
            f"{number(100 * comparison.excess.where, 3)} % of the way, by "
            f"{number(comparison.barrier.value, 3)}{tail}."
        )
    lost = int((~line.finite).sum())
    if lost:
        yield f"{count(lost, 'point')} of the line have no finite loss."
    yield from _lower_between(comparison)


# A point between the ends that is lower than both by more than its error.
def _lower_between(comparison: Comparison) -> Iterator[str]:
    values, share = comparison.line.values, comparison.line.axes[0]
    low = comparison.line.lowest
    gain = min(float(values[0]), float(values[-1])) - float(values[low])
    if not (gain > 0 and 0 < low < share.size - 1):
        return
    place = f"{number(100 * float(share[low]), 3)} % of the way the loss is lower than at both"
    error = _gain_error(comparison, float(share[low]))
    if math.isnan(error):
        yield (
            f"{place} ends, by {number(gain, 3)}; whether that is more than its error is not "
            "known."
        )
    elif gain > error:
        yield (
            f"{place} ends, by {number(gain, 3)} (right to within {number(error, 2)}, 95 %): "
            "an average of the two may serve better."
        )


def _gain_error(comparison: Comparison, where: float) -> float:
    """What the loss at a share of the way minus the lower end may be wrong by; NaN: unknown."""
    gap, rise = comparison.difference, comparison.excess
    if gap is None:
        return math.nan
    # The loss at t minus that at the end is the rise at t plus a share of the difference.
    share = 1 - where if gap.value < 0 else where
    low, high = gap.interval()
    near = int(np.abs(rise.at - where).argmin())
    return rise.band * float(rise.stderr[near]) + share * (high - low) / 2


def _reliability(comparison: Comparison) -> str:
    # A lower point can prove a barrier where the error at the highest one reaches to zero.
    rise = comparison.excess
    if rise.is_certain and not rise.is_top_certain:
        return f"the highest rise is from {number(rise.lower, 2)} to {number(rise.upper, 2)}"
    return f"right to within {number(comparison.line_bound, 2)}"


def _distance(comparison: Comparison) -> str:
    far, bound = comparison.bottleneck, comparison.depth_bound
    if not math.isfinite(far):
        return (
            "Points without a finite loss split the two maps into different numbers of pieces: "
            "their distance is not defined."
        )
    text = (
        "The bottleneck distance of the two maps is "
        f"{number(far, 3)}: where basins are paired by depth, the losses of their minima and "
        "saddles differ by no more"
    )
    if bound <= 0:
        return f"{text}; the error of that is not known."
    if far <= bound:
        return (
            f"{text}. The errors of the maps could cause it; it is at most "
            f"{_reach(comparison)} (95 % for each map)."
        )
    return f"{text} (right to within {number(bound, 2)}, 95 % for each map)."


# What the distance cannot exceed.
def _reach(comparison: Comparison) -> str:
    return number(comparison.bottleneck + comparison.depth_bound, 2)


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


_PARTS = ("first", "second", "path", "line")
_OPTIONS = ("adaptive", "tolerance", "engine", "executor", "metrics")


def compare(
    objective: Objective,
    first: Params,
    second: Params,
    *,
    span: str | Span = "auto",
    points: int = 31,
    connectivity: Connectivity = "full",
    min_share: float | None = MIN_SHARE,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Comparison:
    """Compare two checkpoints: their surroundings, and the line between them.

    Both maps run along the same random directions, scaled to the filters of the first
    checkpoint, over the same range: what differs is the ground, not the picture.

    Args:
        objective: the model, loss and data; the model's own weights do not matter.
        first: one point, names and shapes as in `objective.params`, or a full state dict:
            its running statistics then go with its weights, and are interpolated on the line.
        second: another.
        span: half the width of the maps, or "auto": wide enough for the first checkpoint.
        points: points along each direction.
        connectivity: which neighbors count for the topology.
        min_share: least share of the examples whose effects must not be missed for a basin
            to be certain, as for `persistence`; None or 0: no such rule.
        seed: of the random directions.
        resume: as for `map_plane`; each map keeps its chunks in a file of its own, see
            `comparison_ledgers`.
        progress: as for `map_plane`.
        **options: further options of `map_plane` (adaptive, tolerance, engine, executor).

    Returns:
        The maps, the line, its barrier, distances and matched basins.

    Raises:
        ArgumentError: arguments that cannot be served, or equal checkpoints.
        NonFiniteError: the loss at a checkpoint is not finite.
        ResumeError: a resume file is damaged or belongs to another run.
        StructureError: checkpoints of another model.
        UnknownNameError: an unknown engine, executor or connectivity.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> batch = torch.eye(2), torch.ones(2, 1)
        >>> mse = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, mse, [batch])
        >>> first = objective.params
        >>> second = {name: value + 1 for name, value in first.items()}
        >>> found = la.compare(objective, first, second, points=5, span=0.5)
        >>> found.line.axes[0][[0, -1]].tolist(), len(found.figures())
        ([0.0, 1.0], 5)
    """
    started = time.monotonic()
    check_objective(objective, progress=progress)
    _check_options(options, min_share, seed)
    ledgers = comparison_ledgers(resume) if resume is not None else [None] * len(_PARTS)
    states = states_of(objective, (first, second))
    line = map_plane(
        objective,
        through([s.params for s in states], [s.buffers for s in states]),
        span=[(0.0, 1.0)],
        points=points,
        resume=ledgers[-1],
        **options,
    )
    excess = connect(
        objective, first, second, points=max(points, 3), seed=seed, resume=ledgers[-2]
    ).profile
    around = random_plane(objective, origin=first, seed=seed)
    chosen = suggest_span(objective, around).span if isinstance(span, str) else span
    common: dict[str, Any] = {"span": chosen, "points": points, "progress": progress} | options
    lands = (
        map_plane(objective, _moved(around, state), resume=ledger, **common)
        for state, ledger in zip(states, ledgers[:2], strict=True)
    )
    maps = [_noted(land, line) for land in lands]
    diagrams = _diagrams(maps, connectivity, min_share)
    matching = _judged_as(diagrams, match_basins(*maps, connectivity=connectivity))
    return Comparison(
        first=maps[0],
        second=maps[1],
        line=line,
        diagrams=diagrams,
        matching=matching,
        excess=excess,
        bottleneck=bottleneck(*diagrams, essential="keep"),
        wasserstein=wasserstein(*diagrams, essential="keep"),
        difference=paired_difference(objective, states[0], states[1]),
        statistics=statistics_notes(objective, states, "points between"),
        seconds=time.monotonic() - started,
        provenance=maps[0].provenance,
    )


def _noted(land: Landscape, line: Landscape) -> Landscape:
    missing = [note for note in line.notes if note == NO_STATISTICS]
    return replace(land, notes=(*land.notes, *missing))


def _diagrams(
    maps: list[Landscape], connectivity: Connectivity, min_share: float | None
) -> tuple[Diagram, Diagram]:
    first, second = (
        persistence(land, connectivity=connectivity, min_share=min_share) for land in maps
    )
    return first, second


def _judged_as(diagrams: tuple[Diagram, Diagram], matching: BasinMatching) -> BasinMatching:
    # One judgment of what is certain, whatever share of the examples may be missed.
    first, second = (
        replace(tree, threshold=diagram.threshold, why_unknown=diagram.why_unknown)
        for tree, diagram in zip((matching.first, matching.second), diagrams, strict=True)
    )
    return replace(matching, first=first, second=second)


def _moved(plane: Plane, state: State) -> Plane:
    held = Buffers(state.buffers) if state.buffers else None
    return replace(plane, origin=state.params, buffers=held)


def _check_options(options: Mapping[str, Any], min_share: float | None, seed: int) -> None:
    check_min_share(min_share)
    check_seed("seed", seed)
    for name in options:
        if name not in _OPTIONS:
            raise ArgumentError(
                f"`{name}` is no option of compare{nearest(name, _OPTIONS)}; "
                f"known: {', '.join(_OPTIONS)}."
            )


def comparison_ledgers(resume: str | Path) -> list[Path]:
    """Where a comparison keeps what is finished while it runs."""
    return [Path(f"{check_path('resume', resume)}.{name}") for name in _PARTS]


def paired_difference(objective: Objective, first: State, second: State) -> Estimate | None:
    """Loss of the second point minus that of the first, example by example."""
    if objective.unit != "examples":
        return None
    one, two = (objective.example_losses(state.whole) for state in (first, second))
    gap = (two - one).numpy()
    stderr = float(gap.std(ddof=1)) / math.sqrt(gap.size) if gap.size > 1 else math.nan
    difference = Estimate(
        float(gap.mean()),
        stderr,
        samples=gap.size,
        sample_unit="examples",
        why_no_error=None if math.isfinite(stderr) else "one example has no spread",
        name="difference of the losses",
    )
    return rounded_away(objective, difference, float(max(one.abs().mean(), two.abs().mean())))
