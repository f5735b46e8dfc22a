"""Paths between two networks: the loss along them, with one band for all points."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.curvature.memory_plan import require_memory
from lossatlas.io.records import record
from lossatlas.landscape.checkpoints import states_of
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.slope import ensure_slope
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.rng import generator
from lossatlas.text import number, with_error
from lossatlas.weights.align import align, check_finite, endless_batches, with_statistics
from lossatlas.weights.paired import EQUAL, PairedLosses, blend, rounded_away
from lossatlas.weights.repair import Repairer
from lossatlas.weights.unfinished import Unfinished, identity

Array = NDArray[np.float64]
PathKind = Literal["line", "bezier", "chain"]
KINDS: tuple[str, ...] = get_args(PathKind)
_DRAWS = 1000
_REFINEMENTS = 6
Repair = Literal["norms", "all"]
REPAIRS: tuple[str, ...] = get_args(Repair)
# How often the state of a training is kept.
_SAVES = 50
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
        length: of the path, Euclidean.
        chord: distance of the ends.
        repaired: what was done at every point between the ends before its loss was taken, "",
            "norms" or "all"; see `repair`.
        samples: how many independent units the errors come from.
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
        return _point(self.kind, (self.ends[0], *self.bends, self.ends[1]), t)

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
            same = "the two networks are equal: there is no path between them"
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
        others = (Estimate(value, why_no_error=why, name=name) for name, value, why in rest)
        return (barrier, *others, *ends)

    def sentences(self) -> tuple[str, ...]:
        """Whether a barrier separates the two networks.

        Returns:
            One or two sentences.
        """
        if not self.chord:
            return (
                "The two networks are equal: there is no path and no barrier between them.",
            )
        path = {"line": "straight line", "bezier": "curve", "chain": "chain"}[self.kind]
        certain = self.is_barrier_certain
        if certain is None:
            said = f"The {path} rises by {number(self.barrier.value)}; the error is unknown."
        elif certain:
            height = self.profile.barrier_text
            place = f", at t = {number(self.where, 2)}" * self.profile.is_top_certain
            said = f"A barrier of {height} loss separates the two on the {path}{place}."
        else:
            said = f"No barrier on the {path}: {self._nothing_above()}"
        if self.kind == "line":
            return (said,)
        longer = 100 * (self.length / self.chord - 1)
        return said, (
            f"The path is {number(longer, 2)} % longer than the straight line between the two "
            "networks."
        )

    # What was measured where no barrier was: how high one may be, and how narrow.
    def _nothing_above(self) -> str:
        found, count = self.profile, len(self.at)
        narrow = f"A barrier narrower than {number(found.gap, 2)} of the path may be missed."
        if not found.has_spread:
            return (
                f"at none of {count} positions is the loss of any example above the "
                f"straight line between the losses of the ends. {narrow}"
            )
        if found.upper == 0:
            return (
                f"at all {count - 2} positions between the ends the loss is below the straight "
                "line between the losses of the ends by more than its error (95 %, all "
                f"positions at once). {narrow}"
            )
        return (
            f"at none of {count} positions is the loss above the straight line between the "
            "losses of the ends by more than its error; a barrier there is at most "
            f"{number(found.upper, 2)} (95 %, all positions at once). {narrow}"
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


def connect(
    objective: Objective,
    first: Params,
    second: Params,
    *,
    kind: PathKind = "line",
    points: int = 11,
    steps: int = 0,
    lr: float = 0.03,
    momentum: float = 0.9,
    bends: int = 1,
    train: Objective | None = None,
    align_first: bool = False,
    repair: Repair | None = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Connection:
    """Measure the loss along a path between two networks of one architecture.

    "line" is the straight line. "bezier" is a curve with one trained bend,
    (1 - t)^2 a + 2 t (1 - t) b + t^2 c, "chain" a polygon through trained bends: both are
    trained by SGD on the loss at random positions, one batch at a time. The grid is refined
    around the largest excess. All losses are taken on the same examples, so that the error of
    the barrier is that of paired differences.

    Args:
        objective: model, loss and batches; use data that neither network was trained on for
            what you report. mode="recalibrated" estimates norm statistics anew at every point.
        first: the network at t = 0: parameters, or a full state dict.
        second: the network at t = 1.
        kind: "line", "bezier" or "chain".
        points: positions along the path before refinement.
        steps: steps of training for a curve.
        lr: rate of that training: constant for half of it, then linear to a hundredth.
        momentum: of that training.
        bends: trained points of a chain.
        train: the same model and loss on the data that curves are trained on; by default
            `objective`, on whose data a curve then looks better than it is.
        align_first: align the second network to the first beforehand (see `align`).
        repair: "norms" estimates running statistics anew at every point between the ends,
            "all" gives the units of all layers the statistics of the ends as well (see
            `repair`; one pass over the data a layer and point).
        metrics: name -> function of (model, batch), recorded along the path.
        seed: of positions and order of the batches in training, and of the band.
        resume: a file that finished steps and points go to; the same call goes on from there
            after a kill, with the same bits.
        progress: called with how many steps and points are done, and of how many.

    Returns:
        The path with its losses, band and barrier.

    Raises:
        ArgumentError: too few points, or a curve without steps.
        NonFiniteError: a checkpoint is not finite.
        ResumeError: `resume` belongs to another run, or cannot be written.
        StructureError: the two are no points of one model.
        UnknownNameError: an unknown kind or repair.

    Source: Frankle et al., arXiv:1912.05671; Garipov et al., arXiv:1802.10026. The band is a
        Gaussian multiplier bootstrap (Chernozhukov, Chetverikov, Kato, Ann. Statist. 2013).

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch = torch.ones(9, 1), torch.zeros(9, 1)
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
        >>> ends = ({"weight": torch.tensor([[w]])} for w in (-1.0, 1.0))
        >>> connect(objective, *ends).barrier.value
        0.0
    """
    check_one_of("kind", kind, KINDS)
    if repair is not None:
        check_one_of("repair", repair, REPAIRS)
    check_at_least("points", points, 3)
    check_at_least("steps", steps, 0 if kind == "line" else 1)
    check_at_least("bends", bends, 1)
    check_positive("lr", lr)
    for name, params in (("first", first), ("second", second)):
        check_finite(name, params)
    a, b = (state.whole for state in states_of(objective, (first, second)))
    training = _Training(steps if kind != "line" else 0, lr, momentum, seed)
    plan = _Plan(kind, points, bends, training)
    require_memory(objective, "connect", kind=kind, bends=bends)
    settings: dict[str, Any] = {"plan": repr(plan), "align": align_first, "repair": repair}
    settings["metrics"] = list(metrics or {})
    told = _Told(progress, plan)
    judges = [objective, *([train] if train is not None else [])]
    with Unfinished(resume, identity("connect", judges, [a, b], settings)) as kept:
        if align_first:
            a, b = (with_statistics(objective, end) for end in (a, b))
            b = _aligned(objective, a, b, seed, kept)
        between: tuple[dict[str, Tensor], ...] = ()
        if kind != "line":
            # Before weights are copied, because a check holds several copies itself.
            ensure_slope(train or objective)
            between = _trained(train or objective, plan, (a, b), kept, told)
        knots = (a, *between, b)
        survey = _Survey(
            objective, knots, plan, kept, told, metrics=metrics or {}, repair=repair
        )
        for t in np.linspace(0, 1, points).tolist():
            survey.measure(t)
        survey.refine(_REFINEMENTS)
    return survey.result(seed)


def _aligned(
    objective: Objective, a: Params, b: Params, seed: int, kept: Unfinished
) -> dict[str, Tensor]:
    found = kept.get_tensors("aligned", b.values())
    if found is None:
        aligned = align(objective, a, b, seed=seed).params
        found = [aligned[name] for name in b]
        kept.put_tensors("aligned", found)
    return dict(zip(b, found, strict=True))


def _point(kind: PathKind, knots: Sequence[Params], t: float) -> dict[str, Tensor]:
    if t in {0.0, 1.0}:
        return dict(knots[0] if t == 0 else knots[-1])
    return blend(knots, _shares(kind, len(knots), t))


def _shares(kind: PathKind, count: int, t: float) -> list[float]:
    """How much of each knot is in the point at t; they sum to 1."""
    if kind == "bezier":
        return [(1 - t) ** 2, 2 * t * (1 - t), t**2]
    place = t * (count - 1)
    return [max(0.0, 1 - abs(place - k)) for k in range(count)]


@dataclass(frozen=True)
class _Training:
    steps: int
    lr: float
    momentum: float
    seed: int

    def rate(self, step: int) -> float:
        """Constant for half of the steps, linear to a hundredth at nine tenths."""
        done = step / self.steps
        return self.lr * min(1.0, max(0.01, 1 - 0.99 * (done - 0.5) / 0.4))


@dataclass(frozen=True)
class _Plan:
    kind: PathKind
    points: int
    bends: int
    training: _Training

    @property
    def count(self) -> int:
        """Trained points."""
        return {"line": 0, "bezier": 1, "chain": self.bends}[self.kind]


class _Told:
    """Progress over steps of training, then points."""

    def __init__(self, tell: Callable[[int, int], None] | None, plan: _Plan) -> None:
        self._tell, self._done = tell, 0
        self._total = plan.training.steps + plan.points + _REFINEMENTS

    def add(self, count: int = 1) -> None:
        self._done += count
        if self._tell is not None:
            self._tell(min(self._done, self._total), self._total)


def _trained(
    objective: Objective,
    plan: _Plan,
    ends: tuple[Params, Params],
    kept: Unfinished,
    told: _Told,
) -> tuple[dict[str, Tensor], ...]:
    shares = [(k + 1) / (plan.count + 1) for k in range(plan.count)]
    bends = [blend(ends, [1 - share, share]) for share in shares]
    speed = [{n: torch.zeros_like(bend[n]) for n in objective.names} for bend in bends]
    training = plan.training
    draw = generator(training.seed, "positions")
    batches = endless_batches(objective, training.seed)
    start = _resumed(kept, bends, speed)
    told.add(start)
    for step in range(training.steps):
        t, batch = float(torch.rand((), generator=draw, dtype=torch.float64)), next(batches)
        if step < start:
            # What is drawn is the same as if never stopped.
            continue
        part = _shares(plan.kind, plan.count + 2, t)
        slope = objective.part([batch]).gradient(blend((ends[0], *bends, ends[1]), part))
        for bend, velocity, share in zip(bends, speed, part[1:-1], strict=True):
            for name, value in slope.items() if share else ():
                velocity[name].mul_(training.momentum).add_(value, alpha=share)
                bend[name] -= training.rate(step) * velocity[name]
        told.add()
        done = step + 1
        if done == training.steps or done % max(1, training.steps // _SAVES) == 0:
            moved = [side[n] for n in objective.names for side in (*bends, *speed)]
            kept.put_tensors("training", [torch.tensor(float(done)), *moved])
    return tuple(bends)


def _resumed(
    kept: Unfinished, bends: list[dict[str, Tensor]], speed: list[dict[str, Tensor]]
) -> int:
    """Put back what was kept of a training; how many steps were done."""
    places = [(side, name) for name in speed[0] for side in (*bends, *speed)]
    like = [torch.zeros((), dtype=torch.float64), *(side[name] for side, name in places)]
    found = kept.get_tensors("training", like)
    if found is None:
        return 0
    for (side, name), value in zip(places, found[1:], strict=True):
        side[name] = value.clone()
    return int(found[0])


class _Survey:
    """Losses at positions of a path, unit by unit."""

    def __init__(
        self,
        objective: Objective,
        knots: tuple[Params, ...],
        plan: _Plan,
        kept: Unfinished,
        told: _Told,
        *,
        metrics: Mapping[str, Callable[..., Any]],
        repair: Repair | None,
    ) -> None:
        self._objective, self._knots, self._plan = objective, knots, plan
        self._metrics, self._kept, self._told = metrics, kept, told
        self._losses = PairedLosses(objective, kept)
        self._sums: dict[float, Array] = {}
        self._measured: dict[float, dict[str, float]] = {}
        self._repair = repair or ""
        self._repairer: Repairer | None = None

    def _point(self, t: float) -> dict[str, Tensor]:
        point = _point(self._plan.kind, self._knots, t)
        if not self._repair:
            return point
        if self._repairer is None:
            ends, only = (self._knots[0], self._knots[-1]), self._repair == "norms"
            self._repairer = Repairer(self._objective, *ends, only_norms=only)
        return dict(self._repairer.repaired(point, t).params)

    def measure(self, t: float) -> None:
        self._sums[t] = self._losses.sums_once(f"losses at {t!r}", lambda: self._point(t))
        if self._metrics:
            values = self._kept.once(f"metrics at {t!r}", lambda: self._metrics_at(t))
            self._measured[t] = dict(zip(self._metrics, values[0].tolist(), strict=True))
        self._told.add()

    def _metrics_at(self, t: float) -> Array:
        found = self._objective.evaluate_all(self._metrics, self._point(t))
        return np.array([[found[name].value for name in self._metrics]])

    def refine(self, count: int) -> None:
        """Halve the wider of the two intervals around the largest excess, again and again."""
        for _ in range(count):
            at = sorted(self._sums)
            excess = self._excess(np.array(at)).sum(1)
            if not np.isfinite(excess).all():
                return
            top = int(np.argmax(excess))
            around = list(pairwise(range(max(top - 1, 0), min(top + 2, len(at)))))
            # Of two that are as wide the higher one, whichever end the path starts from.
            k, _ = max(
                around,
                key=lambda pair: (round(at[pair[1]] - at[pair[0]], 9), excess[[*pair]].sum()),
            )
            low, high = at[k], at[k + 1]
            self.measure((low + high) / 2)

    def _excess(self, at: Array) -> Array:
        rows = np.array([self._sums[t] for t in at.tolist()])
        start = self._sums[0.0]
        return rows - start - np.outer(at, self._sums[1.0] - start)

    def _risen(self, t: float, row: Array) -> Estimate:
        scale = float(np.abs(self._sums[t]).sum() / self._losses.weights.sum())
        return rounded_away(self._objective, self._losses.mean(row), scale)

    def result(self, seed: int) -> Connection:
        knots, kind = self._knots, self._plan.kind
        at = np.array(sorted(self._sums))
        means = [self._losses.mean(self._sums[t]) for t in at.tolist()]
        rows = self._excess(at)
        excess = [self._risen(*pair) for pair in zip(at.tolist(), rows, strict=True)]
        # What is rounding alone has no spread either.
        rows[[found.why_no_error == EQUAL for found in excess]] = 0.0
        stderr = np.array([found.stderr for found in excess])
        places = np.linspace(0, 1, 33).tolist() if kind != "line" else []
        # One after another: each is as large as the network.
        path = (_point(kind, knots, t) for t in places)
        chord = _between(knots[0], knots[-1])
        return Connection(
            kind=kind,
            at=at,
            loss=np.array([found.value for found in means]),
            stderr=np.array([found.stderr for found in means]),
            excess=np.array([found.value for found in excess]),
            excess_stderr=stderr,
            band=_band(rows, self._losses.weights, seed),
            metrics={
                name: np.array([self._measured[t][name] for t in at.tolist()])
                for name in self._metrics
            },
            ends=(dict(knots[0]), dict(knots[-1])),
            bends=tuple(map(dict, knots[1:-1])),
            length=sum(_between(*pair) for pair in pairwise(path)) if places else chord,
            chord=chord,
            samples=excess[0].samples,
            repaired=self._repair,
        )


def _between(first: Params, second: Params) -> float:
    squares = (
        float((second[name].double() - value.double()).square().sum())
        for name, value in first.items()
        if value.is_floating_point()
    )
    return math.sqrt(sum(squares))


def _band(rows: Array, weights: Array, seed: int, level: float = 0.95) -> float:
    """Half width, in standard errors, of a band over all positions at once."""
    count = int(np.count_nonzero(weights))
    if count < 2 or not np.isfinite(rows).all():
        return math.nan
    means = rows.sum(1) / weights.sum()
    residuals = rows - np.outer(means, weights)
    scale = np.sqrt(np.square(residuals).sum(1))
    known = scale > 1e-12 * max(float(np.abs(rows).max()), 1e-300)
    if not known.any():
        return 0.0
    draws = np.random.default_rng(seed).standard_normal((_DRAWS, rows.shape[1]))
    # Few units: a normal multiplier over a chi, so that one point has Student's t.
    spread = np.random.default_rng(seed + 1).chisquare(count - 1, (_DRAWS, 1))
    draws /= np.sqrt(spread / (count - 1))
    largest = np.abs(draws @ (residuals[known] / scale[known, None]).T).max(1)
    return float(np.quantile(largest, level))
