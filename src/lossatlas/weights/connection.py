"""The loss along a path between two networks: barrier, sentences and figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.text import number, with_error
from lossatlas.weights.paths import PathKind, point_at

Array = NDArray[np.float64]
_CURVES = Reference(
    "curves between modes",
    "T. Garipov, P. Izmailov, D. Podoprikhin, D. Vetrov, A. G. Wilson. Loss Surfaces, Mode "
    "Connectivity, and Fast Ensembling of DNNs. NeurIPS 2018.",
    "https://arxiv.org/abs/1802.10026",
)
_BARRIERS = Reference(
    "barriers",
    "J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin. Linear Mode Connectivity and the "
    "Lottery Ticket Hypothesis. ICML 2020.",
    "https://arxiv.org/abs/1912.05671",
)


@record
@dataclass(frozen=True, eq=False)
class Excess:
    """Loss along a path above the straight line between the losses of its ends.

    Attributes:
        at: positions t from 0 to 1, increasing, shape (points,).
        value: the excess there, shape (points,).
        stderr: its paired standard error, example by example, shape (points,).
        band: half the width, in standard errors, of a band that holds the excess at all points
            together with 95 %; NaN where the error is unknown.
        samples: how many independent units the errors come from.
    """

    at: Array
    value: Array
    stderr: Array
    band: float
    samples: int = 0

    @property
    def top(self) -> int:
        """Index of the largest excess between the ends; what is not finite is largest.

        At the ends the excess is 0 without error, because they carry the straight line.
        """
        height = np.where(np.isnan(self.value), np.inf, self.value)
        height[[0, -1]] = np.where(np.isfinite(self.value[[0, -1]]), -np.inf, np.inf)
        return int(np.argmax(height))

    @property
    def barrier(self) -> Estimate:
        """The largest excess with its error; 0 with an upper bound where none is above 0."""
        top = float(self.value[self.top])
        value = math.inf if math.isnan(top) else max(top, 0.0)
        meaning = "largest loss above the straight line between the losses of the ends"
        why = self._why_no_error(value)
        is_bounded = why is None and value == 0
        if is_bounded:
            meaning = f"{meaning}; its interval holds at all positions with 95 %"
        return Estimate(
            value,
            float(self.stderr[self.top]) if why is None and not is_bounded else math.nan,
            samples=self.samples,
            why_no_error=why,
            bound=self.upper if is_bounded else math.nan,
            ends=(0.0, self.upper) if is_bounded else None,
            name="barrier",
            unit="loss",
            meaning=meaning,
        )

    def _why_no_error(self, barrier: float) -> str | None:
        if not math.isfinite(barrier):
            return "the loss on the path is not finite"
        if not math.isfinite(self.band):
            return "one batch mean has no spread"
        if barrier > 0 or self.upper > 0:
            return None
        if self.has_spread:
            return "none seen: the loss is below that line by more than its error everywhere"
        if self.value.any():
            return "none seen: the loss of no example is above that line at any position"
        return "none seen: up to rounding error the loss of every example lies on that line"

    @property
    def has_spread(self) -> bool:
        """Whether the excess of the examples differs anywhere on the path."""
        return self.band != 0

    @property
    def upper(self) -> float:
        """What no excess at the positions is above, with 95 %; NaN where unknown."""
        highest = float((self.value + self.band * self.stderr)[1:-1].max())
        return max(highest, 0.0)

    @property
    def lower(self) -> float:
        """What the largest excess is above, with 95 %, 0 at least; NaN where unknown."""
        highest = float((self.value - self.band * self.stderr)[1:-1].max())
        return max(highest, 0.0)

    @property
    def is_top_certain(self) -> bool:
        """Whether the largest excess, where it was found, is above 0 with 95 %."""
        return math.isinf(self.barrier.value) or bool(self.barrier.value > self.bound)

    @property
    def barrier_text(self) -> str:
        """The barrier with its error, or what it is at least where that does not reach to 0.

        A lower point of the path with a smaller error can prove a barrier that the highest
        point by itself does not.
        """
        barrier = self.barrier
        if self.is_certain and math.isfinite(barrier.value) and not self.is_top_certain:
            return f"at least {number(self.lower, 2)}"
        return with_error(barrier.value, barrier.stderr)

    @property
    def gap(self) -> float:
        """The largest distance of two positions: what is narrower may be missed."""
        return float(np.diff(self.at).max())

    @property
    def where(self) -> float:
        """Position of the largest excess."""
        return float(self.at[self.top])

    @property
    def bound(self) -> float:
        """What the largest excess may be wrong by, all points at once; NaN where unknown."""
        return self.band * float(self.stderr[self.top])

    @property
    def is_certain(self) -> bool | None:
        """Whether the excess is above 0 somewhere with 95 %; None where errors are unknown."""
        if np.isinf(self.barrier.value):
            return True
        if not math.isfinite(self.band):
            return None
        return bool(np.any(self.value - self.band * self.stderr > 0))


@result("connection", references=(_BARRIERS, _CURVES))
class Connection(Result):
    """The loss along a path from one network (t = 0) to another (t = 1).

    Attributes:
        kind: "line", "bezier" or "chain".
        at: positions t, increasing, shape (points,).
        loss: mean loss there, shape (points,).
        stderr: its standard error, shape (points,).
        excess: loss above the straight line between the losses of the ends, shape (points,).
        excess_stderr: paired standard error, example by example, shape (points,).
        band: half the width, in standard errors, of a band that holds the excess at all points
            together with 95 %; NaN where the error is unknown.
        metrics: name -> values of a metric along the path, shape (points,).
        ends: the two networks; what is in between is made from them and from `bends`.
        bends: the trained points in between; none for a line.
        length: of the path, Euclidean, over the parameters that move.
        chord: distance of the ends.
        repaired: what was done at every point between the ends before its loss was taken, "",
            "norms" or "all"; see `repair`.
        samples: how many independent units the errors come from.
        notes: which running statistics were used.
    """

    kind: PathKind
    at: Array = quantity("")
    loss: Array = quantity("loss")
    stderr: Array = quantity("loss")
    excess: Array = quantity("loss")
    excess_stderr: Array = quantity("loss")
    band: float = quantity("standard errors")
    metrics: Mapping[str, Array]
    ends: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    bends: tuple[Mapping[str, Tensor], ...]
    length: float = quantity("weights")
    chord: float = quantity("weights")
    samples: int = 0
    repaired: str = ""
    notes: tuple[str, ...] = ()

    @property
    def profile(self) -> Excess:
        """The excess without the networks."""
        return Excess(self.at, self.excess, self.excess_stderr, self.band, self.samples)

    @property
    def barrier(self) -> Estimate:
        """Largest excess over the straight line between the end losses, 0 at least."""
        return self.profile.barrier

    @property
    def where(self) -> float:
        """Position of the largest excess."""
        return self.profile.where

    @property
    def is_barrier_certain(self) -> bool | None:
        """Whether the excess is above 0 somewhere with 95 %; None where errors are unknown."""
        return self.profile.is_certain

    @property
    def area(self) -> float:
        """Integral of the excess over t: positive where the path lies above its chord."""
        middle = (self.excess[1:] + self.excess[:-1]) / 2
        return float(middle @ np.diff(self.at))

    def params_at(self, t: float) -> dict[str, Tensor]:
        """The weights at a position of the path.

        Args:
            t: from 0 to 1.

        Returns:
            name -> tensor.
        """
        return point_at(self.kind, (self.ends[0], *self.bends, self.ends[1]), t)

    def estimates(self) -> tuple[Estimate, ...]:
        """Barrier, its place, mean excess, length, and the losses of the ends.

        Returns:
            Six estimates.
        """
        ends = (
            Estimate(
                float(self.loss[k]), float(self.stderr[k]), samples=self.samples, name=name
            )
            for k, name in ((0, "loss at the start"), (-1, "loss at the end"))
        )
        if not self.chord:
            same = "the two networks have equal weights: there is no path between them"
            barrier, place, ratio = replace(self.barrier, why_no_error=same), math.nan, math.nan
            why_place = why_ratio = same
        else:
            barrier, place, ratio = self.barrier, self.where, self.length / self.chord
            why_place = f"on a grid of positions, {number(self.profile.gap, 2)} apart at most"
            why_ratio = "a straight line" if self.kind == "line" else "of 33 points of the path"
            if barrier.value == 0:
                place, why_place = math.nan, "there is no barrier at the positions"
        rest = (
            ("place of the barrier", place, why_place),
            ("mean loss above that line", self.area, "its error is not propagated"),
            ("length over that of the straight line", ratio, why_ratio),
        )
        others = (
            Estimate(
                value,
                why_no_error=why,
                name=name,
                # A straight line is as long as itself.
                is_minor=self.kind == "line" and value is ratio,
            )
            for name, value, why in rest
        )
        return (barrier, *others, *ends)

    def sentences(self) -> tuple[str, ...]:
        """Whether a barrier separates the two networks.

        Returns:
            One or two sentences, and which running statistics were used.
        """
        if not self.chord:
            return (
                "The two networks have equal weights: there is no path and no barrier between "
                "them.",
                *self.notes,
            )
        path = {"line": "straight line", "bezier": "curve", "chain": "chain"}[self.kind]
        certain = self.is_barrier_certain
        if certain is None:
            height = number(self.barrier.value)
            said = [f"The loss barrier on the {path} is {height}; its error is unknown."]
        elif certain:
            height = self.profile.barrier_text
            place = f", at t = {number(self.where, 2)}" * self.profile.is_top_certain
            said = [f"The loss barrier on the {path} is {height}{place}."]
        else:
            said = [*self._no_barrier(path)]
        if self.kind == "line":
            return (*said, *self.notes)
        longer = 100 * (self.length / self.chord - 1)
        length = (
            f"The path is {number(longer, 2)} % longer than the straight line between the two "
            "networks."
        )
        return (*said, length, *self.notes)

    # What was measured where no barrier was: how high one may be, and how narrow.
    def _no_barrier(self, path: str) -> tuple[str, ...]:
        excess, positions = self.profile, len(self.at) - 2
        start = f"No barrier on the {path}"
        narrow = (
            f"A barrier narrower than {number(excess.gap, 2)} of the path may be missed. The "
            "positions are an even grid, made finer around the highest loss."
        )
        if not excess.has_spread:
            return (
                f"{start}: at none of {positions} positions does the loss of any example "
                "exceed the linear interpolation of the end losses.",
                narrow,
            )
        if excess.upper == 0:
            return (
                f"{start}: the loss is below the linear interpolation of the end losses at all "
                f"{positions} positions.",
                f"It is below by more than its error (95 %, all positions at once). {narrow}",
            )
        return (
            f"{start} beyond the error: at most {number(excess.upper, 2)} at any of "
            f"{positions} positions (95 %, all at once).",
            narrow,
        )

    def figures(self) -> tuple[Figure, ...]:
        """The excess along the path with its band, and the loss itself.

        Returns:
            Two figures.
        """
        from lossatlas.plots.chart import Axis, backends
        from lossatlas.plots.paths import Curve, curve_chart

        width = self.band if math.isfinite(self.band) else 0.0
        excess = Curve("excess", self.at, self.excess, width * self.excess_stderr)
        loss = Curve("loss", self.at, self.loss, 1.96 * self.stderr)

        def figure(name: str, title: str, y: str, curve: Curve, caption: str) -> Figure:
            x = Axis("position on the path")
            return Figure(
                name,
                title,
                *backends(lambda: curve_chart([curve], title, x, y)),
                caption=caption,
                alt=f"A curve of the {y} from one network to the other.",
            )

        return (
            figure(
                "excess",
                "Loss above the line between the ends",
                "excess loss",
                excess,
                "The band holds the excess at all points together with 95 %.",
            ),
            figure("loss", "Loss along the path", "loss", loss, "With 95 % intervals."),
        )
