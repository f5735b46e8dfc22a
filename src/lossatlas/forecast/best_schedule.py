"""The schedule that a law likes best: free, as a plain cooldown, and beside other shapes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import NDArray

from lossatlas.cooldown import CooldownShape
from lossatlas.errors import DataError
from lossatlas.forecast import schedules
from lossatlas.forecast.law import ScheduleLaw
from lossatlas.forecast.validation import ErrorModel
from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Result, Table, chart_of, result
from lossatlas.text import as_sentence, count, number

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Floats = NDArray[np.float64]

KNOTS = 48  # of the smooth optimum
STAIRS = 32  # blocks of the staircase
MANY_FALLS = 50  # fewer falls than this make a staircase
FRACTIONS = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)
_ROUNDING = 1e-9  # share of a loss that tells nothing
END = 0.01  # of the peak: where the shapes stop that cannot reach zero
ABRUPT = 0.005  # of the steps: a cooldown shorter than this is an artefact of the law


@record
@dataclass(frozen=True)
class ScheduleRow:
    """One row of the table of schedules.

    Attributes:
        name: "linear cooldown", "cosine", ...
        decay: length of its cooldown in updates, the best one for its shape; 0 for a constant.
        loss: the final loss that the law expects.
        behind: by how much that lies above the free optimum.
        distinguishable: whether that is more than the law's own error; None where the error is
            not known.
    """

    name: str
    decay: int
    loss: float
    behind: float
    distinguishable: bool | None

    @property
    def verdict(self) -> str:
        """What to think of the schedule, in a few words."""
        # Searches that end at one optimum differ by rounding.
        if self.behind <= _ROUNDING * abs(self.loss):
            return "the best"
        words = {True: "worse", False: "indistinguishable", None: "error of the law unknown"}
        return f"+{_gap(self.behind)}, {words[self.distinguishable]}"


@result("schedule-plan")
class SchedulePlan(Result):
    """What the law advises.

    Attributes:
        free: (T,) rates of the best schedule that never rises after the warm-up.
        free_loss: the final loss expected of it.
        wsd: (T,) rates of the best plain cooldown, which any trainer can run.
        wsd_loss: the final loss expected of it.
        wsd_shape: its shape, a name for `schedules.wsd`.
        wsd_decay: its cooldown in updates.
        table: all shapes, best first, each with its best cooldown.
        error: one root mean square error of the law, in units of the loss; NaN if not known.
        warnings: what to know before running it.
        groups: independent curves that the error comes from.
        distrust: why it is not to be used, where the fit failed its checks; empty elsewhere.
        guess: why it is a guess, where the fitted runs share one schedule; empty elsewhere.

    Examples:
        >>> from lossatlas.forecast import Fit, LinearLRLaw
        >>> law = {"L0": 2.0, "A": 1.0, "alpha": 0.5, "B": 1.0}
        >>> plan = Fit.from_parameters(LinearLRLaw(), law).optimize_schedule(200, 0.1)
        >>> plan.wsd.shape, plan.table[0].behind
        ((200,), 0.0)
    """

    free: Floats
    free_loss: float
    wsd: Floats
    wsd_loss: float
    wsd_shape: CooldownShape
    wsd_decay: int
    table: tuple[ScheduleRow, ...]
    error: float
    warnings: tuple[str, ...]
    groups: int = 0
    distrust: str = ""
    guess: str = ""

    @property
    def verdict(self) -> str:
        """The table in one sentence."""
        gap = self.wsd_loss - self.free_loss
        if np.isnan(self.error):
            if gap == 0:
                return (
                    f"of {len(self.table)} schedules, free ones included, this one has the "
                    "lowest expected loss; the law's error is not known"
                )
            return (
                f"the best cooldown lies {_gap(gap)} behind the free optimum; the law's error "
                "is not known"
            )
        near = sum(not row.distinguishable for row in self.table)
        return (
            f"{near} of {len(self.table)} schedules are indistinguishable from the best one: "
            f"they lie within the law's own error of {self.error:.4f}"
        )

    def estimates(self) -> tuple[Estimate, ...]:
        """The final losses of the best cooldown and of the free optimum."""
        losses = {f"final loss, {self.wsd_shape} cooldown of {self.wsd_decay}": self.wsd_loss}
        if not self._cooldown_is_best:
            losses["final loss, free optimum"] = self.free_loss
        why = "the error of the law is not known" if np.isnan(self.error) else None
        return tuple(
            Estimate(loss, self.error, samples=self.groups, why_no_error=why, name=name)
            for name, loss in losses.items()
        )

    def sentences(self) -> tuple[str, ...]:
        """The best cooldown, how many schedules are as good, and warnings."""
        best = (
            f"The best plain cooldown is {self.wsd_shape} over the last {self.wsd_decay:,} "
            f"updates: a loss of {number(self.wsd_loss)} is expected."
        )
        doubt = [self.distrust] * bool(self.distrust)
        doubt += [f"this ranking is a guess: {self.guess}"] * bool(self.guess)
        return (
            *map(as_sentence, doubt),
            best,
            as_sentence(self.verdict),
            *map(as_sentence, self.warnings),
        )

    @property
    def _cooldown_is_best(self) -> bool:
        return bool(self.wsd_loss == self.free_loss)

    def tables(self) -> tuple[Table, ...]:
        """All shapes with their best cooldowns."""
        head = ("schedule", "cooldown in updates", "final loss", "behind the best")
        rows = ((r.name, f"{r.decay:,}", f"{r.loss:.4f}", r.verdict) for r in self.table)
        return (Table("Schedules", head, tuple(rows)),)

    def figures(self) -> tuple[Figure, ...]:
        """The best plain cooldown and the free optimum."""
        alt = " ".join(self.sentences()[:2])
        return (chart_of("schedule", self._title, self._chart, alt=alt),)

    @property
    def _title(self) -> str:
        title = "Schedules that the law likes best"
        if self.distrust:
            return f"Not to be used: {title[0].lower()}{title[1:]}"
        return f"{title} (a guess)" if self.guess else title

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, curve

        update = np.arange(1, self.free.size + 1)
        cooldown = f"{self.wsd_shape} cooldown of {self.wsd_decay:,}: {self.wsd_loss:.4f}"
        free = f"free optimum: {self.free_loss:.4f}"
        curves = [curve(update, self.wsd, cooldown)]
        if not self._cooldown_is_best:
            curves.append(curve(update, self.free, free, style.PATH, dash=1))
        return Chart(
            self._title, Axis("update"), Axis("learning rate", from_zero=True), tuple(curves)
        )


# A gap that is not zero is never shown as one.
def _gap(gap: float) -> str:
    return f"{gap:.4f}" if gap >= 5e-5 else number(gap, 2)


def plan_schedule(
    law: ScheduleLaw,
    values: Floats,
    steps: int,
    peak: float,
    *,
    warmup: int,
    errors: ErrorModel,
) -> SchedulePlan:
    """Search the best schedules."""

    def loss_of(rates: Floats) -> float:
        return law.final(values, rates)[0]

    rows = [
        _best_cooldown(loss_of, name, steps, peak, warmup) for name in schedules.SHAPE_NAMES
    ]
    shape, decay, wsd, wsd_loss = min(rows, key=lambda row: row[3])
    candidates = [
        (f"{name} cooldown", length, rates, loss) for name, length, rates, loss in rows
    ]
    others = _others(steps, peak, warmup)
    for name, stairs in (("free, in stairs", True), ("free, smooth", False)):
        optimum = _free(law, values, wsd, warmup, stairs)
        others.append((name, int((optimum[warmup:] < peak).sum()), optimum))
    candidates += [(name, length, rates, loss_of(rates)) for name, length, rates in others]
    # A free search that ends above the cooldown it began with has found no optimum.
    candidates = [row for row in candidates if "free" not in row[0] or row[3] < wsd_loss]
    _, _, free, free_loss = min(candidates, key=lambda row: row[3])
    _check_possible(law, free_loss)
    width = errors.scale * free_loss
    table = tuple(
        ScheduleRow(name, length, loss, loss - free_loss,
              None if np.isnan(width) else bool(loss - free_loss > width))
        for name, length, _, loss in sorted(candidates, key=lambda row: row[3])
    )  # fmt: skip
    return SchedulePlan(
        free, free_loss, wsd, wsd_loss, shape, decay, table, width,
        _warnings(free, decay, steps - warmup), errors.groups,
    )  # fmt: skip


# The best length of a cooldown of one shape: a coarse search, then a fine one.
def _best_cooldown(
    loss_of: Callable[[Floats], float],
    name: CooldownShape,
    steps: int,
    peak: float,
    warmup: int,
) -> tuple[CooldownShape, int, Floats, float]:
    body = steps - warmup
    min_ratio = END if name not in schedules.SHAPES else 0.0

    def rates(log_length: float) -> Floats:
        length = int(np.clip(round(np.exp(log_length)), 1, body))
        return schedules.wsd(
            steps, peak, max(length, 1) / body, name, min_ratio=min_ratio, warmup=warmup
        )

    grid = np.log(np.maximum(np.array(FRACTIONS) * body, 1.0))
    losses = [loss_of(rates(x)) for x in grid]
    i = int(np.argmin(losses))
    low, high = grid[max(i - 1, 0)], grid[min(i + 1, grid.size - 1)]
    fine = scipy.optimize.minimize_scalar(
        lambda x: loss_of(rates(x)), bounds=(low, high), method="bounded",
        options={"xatol": 0.01, "maxiter": 15},
    )  # fmt: skip
    best = fine.x if fine.fun < losses[i] else grid[i]
    chosen = rates(best)
    return name, int(np.clip(round(np.exp(best)), 1, body)), chosen, loss_of(chosen)


def _others(steps: int, peak: float, warmup: int) -> list[tuple[str, int, Floats]]:
    body = steps - warmup
    return [
        ("cosine to 0", body, schedules.cosine(steps, peak, 0.0, warmup)),
        ("cosine to 10 %", body, schedules.cosine(steps, peak, 0.1, warmup)),
        ("constant", 0, schedules.constant(steps, peak, warmup)),
    ]


# Minimize over falls of the log rate at knots that crowd towards the end.
def _free(law: ScheduleLaw, values: Floats, start: Floats, warmup: int, stairs: bool) -> Floats:
    steps, peak = start.size, float(start.max())
    spread = _stairs(steps, warmup) if stairs else _slopes(steps, warmup)

    def rates(falls: Floats) -> tuple[Floats, Floats]:
        at_knots = peak * np.exp(-np.cumsum(falls))
        return np.concatenate([start[:warmup], spread @ at_knots]), at_knots

    def objective(falls: Floats) -> tuple[float, Floats]:
        whole, at_knots = rates(falls)
        loss, gradient = law.final(values, whole)
        by_knot = spread.T @ gradient[warmup:]
        # A fall at a knot lowers that knot and all after it.
        by_fall = -np.cumsum((by_knot * at_knots)[::-1])[::-1]
        return loss / scale, by_fall / scale

    scale = 1e-4 * law.final(values, start)[0]
    # Below a thousandth of the peak nothing is learnt, and the logarithm runs away.
    body = np.maximum(start[warmup:], 1e-3 * peak)
    logs = np.log(spread.T @ body / spread.sum(axis=0))
    falls = np.maximum(-np.diff(logs, prepend=np.log(peak)), 0.0)
    falls[0] = 0.0
    bounds = [(0.0, 0.0)] + [(0.0, 10.0)] * (falls.size - 1)  # the first knot keeps the peak
    solution = scipy.optimize.minimize(
        objective, falls, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 300, "ftol": 1e-11, "gtol": 1e-6},
    )  # fmt: skip
    return rates(solution.x)[0]


# (body, blocks): every update takes the rate of its block.
def _stairs(steps: int, warmup: int) -> scipy.sparse.csr_array:
    away = np.unique(np.round(np.geomspace(1, steps - warmup, STAIRS)).astype(int))[::-1]
    block = np.repeat(np.arange(away.size), -np.diff(away, append=0))
    return scipy.sparse.csr_array((np.ones(block.size), (np.arange(block.size), block)))


# (body, knots): every update lies on the straight line between its two knots.
def _slopes(steps: int, warmup: int) -> scipy.sparse.csr_array:
    body = steps - warmup
    away = np.unique(np.round(np.geomspace(1, body, KNOTS)).astype(int))[::-1]
    knots, every = body - away, np.arange(body)
    left = np.clip(np.searchsorted(knots, every, side="right") - 1, 0, knots.size - 2)
    share = (every - knots[left]) / (knots[left + 1] - knots[left])
    row = np.concatenate([every, every])
    entries = np.concatenate([1 - share, share])
    return scipy.sparse.csr_array((entries, (row, np.concatenate([left, left + 1]))))


def _check_possible(law: ScheduleLaw, loss: float) -> None:
    if not loss > 0:
        raise DataError(
            f"{law.name} gives {number(loss)} for the schedule that it likes best, which no "
            "loss can be: it does not hold there, and its ranking of schedules has no meaning; "
            "fit runs with more schedules, or ask for steps and peak of the fitted ones."
        )


def _warnings(free: Floats, decay: int, body: int) -> tuple[str, ...]:
    out = []
    falls = int((np.diff(free[-body:]) < 0).sum())
    if not falls:
        out.append(
            "the free optimum never falls: the formula rewards no cooldown at all, which no "
            "run has confirmed; the plain cooldown is the safe choice"
        )
    elif falls < MANY_FALLS:
        out.append(
            f"the free optimum is a staircase of {count(falls, 'fall')}: the formula rewards "
            "few large ones, which no run has confirmed; the plain cooldown is the safe choice"
        )
    if decay < ABRUPT * body:
        out.append(
            f"the best cooldown takes {decay} updates: this law rewards a fall at once, which "
            "no run confirms; use the multi-power law for schedules"
        )
    if decay > 0.9 * body:
        out.append("the best cooldown begins at once: the stable phase is shorter than a tenth")
    return tuple(out)
