"""Merge trees: minima, and the saddles at which their basins join."""

import math
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.plots import trees
from lossatlas.plots.chart import backends
from lossatlas.plots.scale import scale_of
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.text import number
from lossatlas.topology.basin_counts import BasinCounts, edge_words
from lossatlas.topology.diagram import MAP_COUNT
from lossatlas.topology.field import CONNECTIVITIES, Bools, Floats, Ints

_MAX_SADDLES = 12
# The saddle-minimum average distance (SMAD).
_RISE = "mean rise to the first saddle, over all minima"
NO_SADDLE = "no saddle: no basin meets another"
SaddleRule = Literal["leaf", "elder"]
_REFERENCES = (
    Reference(
        "topological profile",
        "Visualizing Loss Functions as Topological Landscape Profiles. 2024.",
        "https://arxiv.org/abs/2411.12136",
    ),
    Reference(
        "saddle-minimum average distance (SMAD)",
        "J. Chen, N. Hadler, T. Xie et al. Landscaper: Understanding Loss Landscapes Through "
        "Multi-Dimensional Topological Analysis. 2026.",
        "https://arxiv.org/abs/2602.07135",
    ),
)


@result("mergetree", references=_REFERENCES)
class MergeTree(Result):
    """How the basins of a landscape join as the level of the loss rises.

    Minima are numbered from the deepest, ties by flat index. Merge `i` happens at saddle `i`,
    in order of height: the basin of minimum `ended[i]` joins the one whose deepest minimum is
    `into[i]`. Together, `ended`, `saddles` and `into` form the branch decomposition (minimum,
    saddle, parent branch).

    Attributes:
        minima: flat index of each minimum.
        minima_values: value at each minimum, ascending.
        saddles: flat index of the point that joins two basins, one per merge.
        saddle_values: height of each merge, ascending.
        bridges: (merges, 2) flat indices of the edge where the basins touch.
        ended: number of the minimum whose basin ends at each merge.
        into: number of the minimum whose basin continues.
        basins: number of the basin of each point, shaped like the field; -1 where not finite.
        values: the field, same shape, with its non-finite values.
        low: smallest value of the field.
        high: largest finite value.
        threshold: branches longer than this cannot be caused by the errors of the map; NaN if
            unknown.
        connectivity: "full", "axis", or how the graph was built.
        confidence: probability that `threshold` holds; for a graph, the errors given with it
            are assumed to hold.
        why_unknown: why it is unknown which branches are certain; empty if it is known.
        rarest_share: effects present in less than this share of the units cannot be excluded;
            see `Diagram`.
        periodic: per axis, whether its two ends touch; empty if none does.

    Examples:
        >>> from lossatlas.topology import merge_tree
        >>> tree = merge_tree([3.0, 0.0, 2.0, 1.0, 3.0], error=0.1)
        >>> tree.minima_values, tree.saddle_values
        (array([0., 1.]), array([2.]))
        >>> tree.headline()
        '2 basins, all certain: each is deeper than the 95 % bound of 0.2.'
    """

    minima: Ints
    minima_values: Floats = quantity("loss")
    saddles: Ints
    saddle_values: Floats = quantity("loss")
    bridges: Ints
    ended: Ints
    into: Ints
    basins: Ints
    values: Floats = quantity("loss")
    low: float = quantity("loss")
    high: float = quantity("loss")
    threshold: float = quantity("loss")
    connectivity: str
    confidence: float = 0.95
    why_unknown: str = ""
    rarest_share: float = float("nan")
    periodic: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return int(self.minima.size)

    @property
    def excluded(self) -> int:
        """Number of points that are not finite."""
        return int(np.count_nonzero(self.basins < 0))

    @property
    def volumes(self) -> Ints:
        """Number of points in each basin."""
        return np.bincount(self.basins[self.basins >= 0], minlength=len(self))

    @property
    def persistences(self) -> Floats:
        """Length of the branch of each minimum by the elder rule; +inf if it never ends."""
        lengths = np.full(len(self), np.inf)
        lengths[self.ended] = self.saddle_values - self.minima_values[self.ended]
        return lengths

    @property
    def certain(self) -> Bools:
        """True for minima whose branch is known to be longer than the threshold.

        False otherwise, including when the threshold is unknown (see `why_unknown`).
        """
        return self.persistences > self.threshold

    @property
    def on_edge(self) -> Bools:
        """True for minima on the edge of a map, whose basin may extend outside it.

        Periodic axes, axes of one or two points, and graphs have no edge.
        """
        edge = np.zeros(len(self), dtype=np.bool_)
        if self.connectivity not in CONNECTIVITIES:
            return edge
        positions = self.coordinates(self.minima)
        for axis, size in enumerate(self.basins.shape):
            if size > 2 and not (self.periodic and self.periodic[axis]):
                edge |= (positions[:, axis] == 0) | (positions[:, axis] == size - 1)
        return edge

    @property
    def counts(self) -> BasinCounts:
        """Which minima are certain basins; every sentence and picture counts by it."""
        extent = self.high - self.low
        return BasinCounts(
            self.certain, self.on_edge, self.parts, extent, self.threshold, self.why_unknown
        )

    @property
    def open_minima(self) -> Ints:
        """Numbers of the certain minima on the edge, beyond which the loss may keep falling."""
        return self.counts.edge

    @property
    def open_births(self) -> Floats:
        """Losses at the minima on the edge that are not counted, certain or not."""
        return self.minima_values[self.on_edge & ~self.counted]

    @property
    def counted(self) -> Bools:
        """True for the certain minima that count as basins: those not on the edge of the map.

        If the whole range of the map is within its error, the lowest minimum counts wherever it
        lies.
        """
        return self.counts.counted

    @property
    def certain_count(self) -> int:
        """Number of certain minima that count as basins: those not on the edge of the map."""
        return self.counts.basins

    def coordinates(self, points: Ints) -> Ints:
        """Convert flat indices to grid indices.

        Args:
            points: flat indices, as in `minima` and `saddles`.

        Returns:
            Array of shape (points, dimensions).
        """
        return np.stack(np.unravel_index(points, self.basins.shape), axis=-1).astype(np.int64)

    def barrier(self, i: int, j: int) -> float:
        """Lowest level at which two minima are connected.

        Args:
            i: number of a minimum.
            j: number of another minimum; equal numbers give the value at the minimum.

        Returns:
            A level, in units of the field (subtract `minima_values[i]` for the climb from `i`);
            +inf if non-finite points separate them.

        Raises:
            ArgumentError: there is no such minimum.
        """
        for name, minimum in (("i", i), ("j", j)):
            if not isinstance(minimum, int | np.integer) or not 0 <= minimum < len(self):
                raise ArgumentError(
                    f"`{name}` must be the number of a minimum, 0 to {len(self) - 1}; "
                    f"got {minimum!r}."
                )
        merge, parent = self._merge_of, self._parent_of
        level = float(self.minima_values[i]) if i == j else -np.inf
        while i != j:
            # Always climb from the branch that ends first: its parent continues above it.
            if merge[j] < merge[i]:
                i, j = j, i
            if merge[i] == self.ended.size:
                return np.inf
            level = float(self.saddle_values[merge[i]])
            i = int(parent[i])
        return level

    @property
    def _merge_of(self) -> Ints:
        merge = np.full(len(self), self.ended.size, dtype=np.int64)
        merge[self.ended] = np.arange(self.ended.size)
        return merge

    @property
    def _parent_of(self) -> Ints:
        parent = np.arange(len(self))
        parent[self.ended] = self.into
        return parent

    def first_saddles(self) -> Floats:
        """Level at which the basin of each minimum first meets another.

        Returns:
            One level per minimum; +inf if it meets none.
        """
        level = np.full(len(self), np.inf)
        for nodes in (self.ended, self.into):
            np.minimum.at(level, nodes, self.saddle_values)
        return level

    def smad(
        self, *, weighted: bool = False, normalize: bool = False, rule: SaddleRule = "leaf"
    ) -> float:
        """Saddle-minimum average distance: mean rise of the field from a minimum to a saddle.

        Args:
            weighted: multiply each rise by the share of the points in its basin.
            normalize: divide by the range of the field.
            rule: "leaf" takes the rise of every minimum, including the deepest, to the saddle
                where it first meets another (Landscaper's definition, on axis connectivity).
                "elder" takes the length of each finite branch, so the result is the mean
                persistence.

        Returns:
            The mean over the minima, in units of the field (or of its range); 0 if no basin
            meets another.

        Raises:
            UnknownNameError: the rule is unknown.

        Source: Landscaper 1.3.1, `LossLandscape.smad`. It computes the rises from a contour
        tree instead, whose nodes also include the points where a superlevel set splits, and
        prunes it in two passes that stop early on rough grids. Basins not reached are left out,
        down to NaN for a field of three points. If all are reached and each first meets another
        basin, the numbers are equal.
        """
        check_one_of("rule", rule, get_args(SaddleRule))
        gaps = (
            self.first_saddles() - self.minima_values if rule == "leaf" else self.persistences
        )
        met = np.isfinite(gaps)
        if not met.any():
            return 0.0
        points = np.count_nonzero(self.basins >= 0)
        share = self.volumes / points if weighted else np.ones(len(self))
        scale = self.high - self.low if normalize else 1.0
        return float(np.mean(gaps[met] * share[met]) / scale) if scale > 0 else 0.0

    @property
    def mean_rise(self) -> float:
        """`smad()`; NaN if no basin meets another, as there is no rise to average."""
        return self.smad() if self.saddles.size else math.nan

    @property
    def parts(self) -> int:
        """Number of parts separated by non-finite points."""
        return int(np.count_nonzero(np.isposinf(self.persistences)))

    @property
    def is_within_error(self) -> bool:
        """Whether the whole range of the field is within the bound on its errors."""
        return self.counts.is_within_error

    def headline(self) -> str:
        """Number of basins and its certainty, in one sentence."""
        return self.counts.headline()

    def estimates(self) -> tuple[Estimate, ...]:
        """Numbers of minima and certain minima, mean depths, and saddles of certain basins."""
        minima = _exact(len(self), "minima", MAP_COUNT, "basins of every depth")
        return (*self._certainty(), minima, *self._means(), *self._saddles())

    def _certainty(self) -> tuple[Estimate, ...]:
        name = "certainty threshold"
        if self.why_unknown:
            return (_exact(self.threshold, name, self.why_unknown, unit="loss"),)
        bound = "a 95 % bound for all points at once"
        longer = "deeper basins are not caused by errors"
        return (
            _exact(self.threshold, name, bound, longer, unit="loss"),
            _exact(
                self.certain_count,
                "certain minima",
                "at least so many are real (95 %)",
                "basins deeper than the threshold; none on the edge of the map",
            ),
        )

    def _means(self) -> tuple[Estimate, ...]:
        bound = number(self.threshold, 2)
        why = f"each rise is right to within {bound} (95 %); minima may be missing"
        why = self.why_unknown or why if self.saddles.size else NO_SADDLE
        share = self.smad(normalize=True) if self.saddles.size else math.nan
        lasting = self.smad(rule="elder") if self.saddles.size else math.nan
        rows = (
            (
                _RISE,
                self.mean_rise,
                "saddle-minimum average distance (SMAD); the deepest minimum counts too",
                "loss",
            ),
            (f"{_RISE}, share of range", share, "the same, over the range", ""),
            ("mean persistence", lasting, "mean depth of basins that end", "loss"),
        )
        return tuple(
            replace(_exact(value, name, why, meaning, unit=unit), is_minor=name != _RISE)
            for name, value, meaning, unit in rows
        )

    def _saddles(self) -> tuple[Estimate, ...]:
        if self.why_unknown:
            return ()
        bound = number(self.threshold / 2, 2)
        why = f"right to within {bound} (95 %, all points at once)"
        sure = np.flatnonzero(self.certain[self.ended])[::-1][:_MAX_SADDLES]
        return tuple(
            replace(
                _exact(
                    float(self.saddle_values[k]),
                    f"saddle of minimum {self.ended[k]}",
                    why,
                    f"where its basin joins that of minimum {self.into[k]}",
                    unit="loss",
                ),
                is_minor=True,
            )
            for k in sure
        )

    def details(self) -> dict[str, Any]:
        """Number of minima, mean rise to the first saddle, and the rarest detectable effect."""
        return {
            "minima": len(self),
            "smad": self.mean_rise,
            "rarest_share": self.rarest_share,
        }

    def sentences(self) -> tuple[str, ...]:
        """Number of basins, which are certain, and the height of the saddles between them."""
        counts = self.counts
        sentences = [counts.headline()]
        if counts.is_constant:
            return tuple(sentences)
        if len(self) > 1 and counts.edge.size:
            has, own = ("has", "its") if counts.edge.size == 1 else ("have", "their")
            which = edge_words(counts.edge).partition(" lie")[0]
            sentences.append(f"A wider span shows whether {which} {has} a basin of {own} own.")
        if self.parts > 1:
            sentences.append(
                f"Points without a finite loss split the map into {self.parts} pieces."
            )
        merges = np.flatnonzero(self.certain[self.ended])
        if not self.why_unknown and merges.size:
            lives = self.persistences[self.ended[merges]]
            longest = merges[int(np.argmax(lives))]
            climb = _with_bound(float(lives.max()), self.threshold)
            sentences.append(
                f"On this map the loss must climb by {climb} to leave the basin of minimum "
                f"{self.ended[longest]} for the deeper one of minimum {self.into[longest]}."
            )
        return tuple(sentences)

    def figures(self) -> tuple[Figure, ...]:
        """The merge tree and the topological profile."""
        minima = self.counts.short
        scale = scale_of(self.values)
        return (
            Figure(
                "tree",
                "Merge tree",
                *backends(lambda: trees.tree_chart(self, scale=scale)),
                "How basins join as the level of the loss rises, numbered as on the map and in "
                "the table. Hollow marks are minima on the edge of the map, which are not "
                "counted.",
                f"Merge tree: {minima}.",
            ),
            Figure(
                "profile",
                "Topological profile",
                *backends(lambda: trees.profile_chart(self, self.values, scale=scale)),
                "Each basin is as wide as its number of map points; this works in any "
                "dimension.",
                f"Topological profile: {minima}.",
            ),
        )


def check_tree(tree: object) -> None:
    """Require a merge tree."""
    if not isinstance(tree, MergeTree):
        raise ArgumentError(
            "`tree` must be a MergeTree, as returned by `merge_tree`; got "
            f"{type(tree).__name__}."
        )


def _exact(value: float, name: str, why: str, meaning: str = "", *, unit: str = "") -> Estimate:
    return Estimate(float(value), why_no_error=why, name=name, meaning=meaning, unit=unit)


def _with_bound(value: float, threshold: float) -> str:
    if not threshold > 0:
        return number(value, 3)
    return f"{number(value, 3)} (to within {number(threshold, 2)} at 95 %)"
