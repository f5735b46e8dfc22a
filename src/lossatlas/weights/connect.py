"""Paths between two networks: the loss along them, with one band for all points."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.curvature.memory_plan import require_memory
from lossatlas.errors import AtlasError
from lossatlas.landscape.checkpoints import states_of
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.slope import ensure_slope
from lossatlas.result import Estimate
from lossatlas.weights.align import align, with_statistics
from lossatlas.weights.barrier import Recalibration
from lossatlas.weights.connection import Connection
from lossatlas.weights.curve_training import CurveTraining, PathPlan, trained_bends
from lossatlas.weights.excess import Excess
from lossatlas.weights.network_checks import check_finite, check_whole_numbers
from lossatlas.weights.paired import EQUAL, PairedLosses, rounded_away
from lossatlas.weights.paths import KINDS, PathKind, distance_between, point_at
from lossatlas.weights.repair import Repairer
from lossatlas.weights.statistics import (
    NOT_ANEW,
    running_statistics,
    statistics_between,
    statistics_notes,
    why_not_anew,
)
from lossatlas.weights.unfinished import Unfinished, identity

Array = NDArray[np.float64]
_DRAWS = 1000
_REFINEMENTS = 6
# Where running statistics are measured anew, beside the highest point.
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
Repair = Literal["norms", "all"]
REPAIRS: tuple[str, ...] = get_args(Repair)


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
        StructureError: the two are no points of one model, or buffers of whole numbers differ.
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
    ends = {"first": first, "second": second}
    for name, params in ends.items():
        check_finite(name, params)
    states = states_of(objective, [*ends.values()], names=[*ends])
    check_whole_numbers(states)
    a, b = (state.whole for state in states)
    training = CurveTraining(steps if kind != "line" else 0, lr, momentum, seed)
    plan = PathPlan(kind, points, bends, training)
    require_memory(objective, "connect", kind=kind, bends=bends)
    settings: dict[str, Any] = {"plan": repr(plan), "align": align_first, "repair": repair}
    settings["metrics"] = list(metrics or {})
    counter = _StepCounter(progress, plan)
    judges = [objective, *([train] if train is not None else [])]
    with Unfinished(resume, identity("connect", judges, [a, b], settings)) as unfinished:
        if align_first:
            a, b = (with_statistics(objective, end) for end in (a, b))
            b = _aligned(objective, a, b, seed, unfinished)
        between: tuple[dict[str, Tensor], ...] = ()
        if kind != "line":
            # Before weights are copied, because a check holds several copies itself.
            ensure_slope(train or objective)
            between = trained_bends(train or objective, plan, (a, b), unfinished, counter.add)
        knots = (a, *between, b)
        survey = _Survey(
            objective, knots, plan, unfinished, counter, metrics=metrics or {}, repair=repair
        )
        for t in np.linspace(0, 1, points).tolist():
            survey.measure(t)
        survey.refine(_REFINEMENTS)
        connection = survey.result(seed)
        anew = survey.anew(statistics_between(objective, states), connection, seed)
    notes = statistics_notes(objective, states, "networks between them", anew=bool(repair))
    return replace(connection, notes=notes, anew=anew)


def _aligned(
    objective: Objective, a: Params, b: Params, seed: int, unfinished: Unfinished
) -> dict[str, Tensor]:
    aligned_values = unfinished.get_tensors("aligned", b.values())
    if aligned_values is None:
        aligned = align(objective, a, b, seed=seed).params
        aligned_values = [aligned[name] for name in b]
        unfinished.put_tensors("aligned", aligned_values)
    return dict(zip(b, aligned_values, strict=True))


class _StepCounter:
    """Progress over steps of training, then points."""

    def __init__(self, tell: Callable[[int, int], None] | None, plan: PathPlan) -> None:
        self._tell, self._done = tell, 0
        self._total = plan.training.steps + plan.points + _REFINEMENTS

    def add(self, count: int = 1) -> None:
        self._done += count
        if self._tell is not None:
            self._tell(min(self._done, self._total), self._total)


class _Survey:
    """Losses at positions of a path, unit by unit."""

    def __init__(
        self,
        objective: Objective,
        knots: tuple[Params, ...],
        plan: PathPlan,
        unfinished: Unfinished,
        counter: _StepCounter,
        *,
        metrics: Mapping[str, Callable[..., Any]],
        repair: Repair | None,
    ) -> None:
        self._objective, self._knots, self._plan = objective, knots, plan
        self._metrics, self._unfinished, self._counter = metrics, unfinished, counter
        self._losses = PairedLosses(objective, unfinished)
        self._sums: dict[float, Array] = {}
        self._measured: dict[float, dict[str, float]] = {}
        self._repair = repair or ""
        self._repairer: Repairer | None = None

    def _point(self, t: float) -> dict[str, Tensor]:
        point = point_at(self._plan.kind, self._knots, t)
        if not self._repair:
            return point
        if self._repairer is None:
            ends, only = (self._knots[0], self._knots[-1]), self._repair == "norms"
            self._repairer = Repairer(self._objective, *ends, only_norms=only)
        return dict(self._repairer.repaired(point, t).params)

    def measure(self, t: float) -> None:
        self._sums[t] = self._losses.sums_once(f"losses at {t!r}", lambda: self._point(t))
        if self._metrics:
            values = self._unfinished.once(f"metrics at {t!r}", lambda: self._metrics_at(t))
            self._measured[t] = dict(zip(self._metrics, values[0].tolist(), strict=True))
        self._counter.add()

    def _metrics_at(self, t: float) -> Array:
        metrics = self._objective.evaluate_all(self._metrics, self._point(t))
        return np.array([[metrics[name].value for name in self._metrics]])

    def refine(self, count: int) -> None:
        """Halve the wider of the two intervals around the largest excess, again and again."""
        for _ in range(count):
            at = sorted(self._sums)
            excess = _above_ends(self._sums).sum(1)
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

    def _profile(self, sums: Mapping[float, Array], seed: int) -> Excess:
        at, rows = sorted(sums), _above_ends(sums)
        excess = [self._risen(sums[t], row) for t, row in zip(at, rows, strict=True)]
        # What is rounding alone has no spread either.
        rows[[estimate.why_no_error == EQUAL for estimate in excess]] = 0.0
        return Excess(
            np.array(at),
            np.array([estimate.value for estimate in excess]),
            np.array([estimate.stderr for estimate in excess]),
            _band(rows, self._losses.weights, seed),
            excess[0].samples,
        )

    def _risen(self, losses: Array, row: Array) -> Estimate:
        scale = float(np.abs(losses).sum() / self._losses.weights.sum())
        return rounded_away(self._objective, self._losses.mean(row), scale)

    def result(self, seed: int) -> Connection:
        knots, kind = self._knots, self._plan.kind
        at = np.array(sorted(self._sums))
        means = [self._losses.mean(self._sums[t]) for t in at.tolist()]
        profile = self._profile(self._sums, seed)
        places = np.linspace(0, 1, 33).tolist() if kind != "line" else []
        # One after another: each is as large as the network.
        path = (point_at(kind, knots, t) for t in places)
        names = self._objective.names
        chord = distance_between(knots[0], knots[-1], names)
        return Connection(
            kind=kind,
            at=at,
            loss=np.array([estimate.value for estimate in means]),
            stderr=np.array([estimate.stderr for estimate in means]),
            excess=profile.value,
            excess_stderr=profile.stderr,
            band=profile.band,
            metrics={
                name: np.array([self._measured[t][name] for t in at.tolist()])
                for name in self._metrics
            },
            ends=(dict(knots[0]), dict(knots[-1])),
            bends=tuple(map(dict, knots[1:-1])),
            length=sum(distance_between(*pair, names) for pair in pairwise(path)) or chord,
            chord=chord,
            samples=profile.samples,
            repaired=self._repair,
        )

    def anew(self, used: str, connection: Connection, seed: int) -> Recalibration | None:
        """The excess with statistics that fit each point, where those used may not."""
        if self._repair or not used or not connection.barrier.value > 0:
            return None
        why = why_not_anew(self._objective)
        if why:
            return Recalibration(used, why_unknown=why)
        places = sorted({*_QUARTERS, connection.where})
        try:
            sums = {t: self._sums_anew(t) for t in places}
        except AtlasError:
            return Recalibration(used, why_unknown=NOT_ANEW)
        return Recalibration(used, self._profile(sums, seed))

    def _sums_anew(self, t: float) -> Array:
        def fitted() -> dict[str, Tensor]:
            point = self._point(t)
            return point | running_statistics(self._objective, point)

        return self._losses.sums_once(f"losses at {t!r} with statistics anew", fitted)


def _above_ends(sums: Mapping[float, Array]) -> Array:
    """Losses above the straight line between those of the ends, shape (points, units)."""
    at = np.array(sorted(sums))
    rows = np.array([sums[t] for t in at.tolist()])
    rows = rows - sums[0.0]
    above: Array = rows - np.outer(at, rows[-1])
    return above


def _band(rows: Array, weights: Array, seed: int, level: float = 0.95) -> float:
    """Half width, in standard errors, of a band over all positions at once."""
    count = int(np.count_nonzero(weights))
    if count < 2 or not np.isfinite(rows).all():
        return math.nan
    means = rows.sum(1) / weights.sum()
    residuals = rows - np.outer(means, weights)
    scale = np.sqrt(np.square(residuals).sum(1))
    varies = scale > 1e-12 * max(float(np.abs(rows).max()), 1e-300)
    if not varies.any():
        return 0.0
    draws = np.random.default_rng(seed).standard_normal((_DRAWS, rows.shape[1]))
    # Few units: a normal multiplier over a chi, so that one point has Student's t.
    spread = np.random.default_rng(seed + 1).chisquare(count - 1, (_DRAWS, 1))
    draws /= np.sqrt(spread / (count - 1))
    largest = np.abs(draws @ (residuals[varies] / scale[varies, None]).T).max(1)
    return float(np.quantile(largest, level))
