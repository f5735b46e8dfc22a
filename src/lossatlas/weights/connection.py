"""The loss along a path between two networks: barrier, sentences and figures."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.text import number
from lossatlas.weights.barrier import BarrierVerdict, Recalibration
from lossatlas.weights.excess import Excess
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
        anew: the excess with running statistics measured anew at each point, where the path
            was measured with others; None where no statistics are in the way, or no point lies
            above the straight line.
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
    anew: Recalibration | None = None

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
    def verdict(self) -> BarrierVerdict:
        """Whether there is a barrier, and the sentences that say so."""
        path = {"line": "straight line", "bezier": "curve", "chain": "chain"}[self.kind]
        return BarrierVerdict(self.profile, self.anew, path)

    @property
    def is_barrier_certain(self) -> bool | None:
        """Whether the excess is above 0 somewhere with 95 %; None where that is unknown.

        Where running statistics were interpolated this is the excess with statistics measured
        anew (`anew`).
        """
        return self.verdict.is_certain

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
            Six estimates; one more, the barrier with running statistics measured anew, where
            those of the path may not fit.
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
        barrier, *anew = self.verdict.estimates(barrier)
        return (barrier, *anew, *others, *ends)

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
        said = self.verdict.sentences()
        if self.kind == "line":
            return (*said, *self.notes)
        longer = 100 * (self.length / self.chord - 1)
        length = (
            f"The path is {number(longer, 2)} % longer than the straight line between the two "
            "networks."
        )
        return (*said, length, *self.notes)

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
