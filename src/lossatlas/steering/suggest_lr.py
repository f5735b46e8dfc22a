"""Which learning rate to start with: a range test, short runs, curvature and noise."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Adam, NAdam, Optimizer

from lossatlas.checks import check_at_least, check_kind, check_positive
from lossatlas.curvature.gradient_noise import gradient_noise
from lossatlas.curvature.stability import (
    OptimizerState,
    Steps,
    edge_of_stability,
    has_second_moments,
    warm_adam,
)
from lossatlas.errors import ArgumentError, AtlasError, DataError
from lossatlas.executor import Progress, show_progress
from lossatlas.intervals import interval
from lossatlas.io.records import record
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import batch_size, known_length, rows
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result
from lossatlas.steering.short_runs import (
    BuildOptimizer,
    optimizer_builder,
    train_along,
    training_objective,
    unit_losses,
)
from lossatlas.text import as_sentence, number, with_error

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart, Layer

Floats = NDArray[np.float64]

# Rates of neighboring short runs differ by this factor; by its square far from the best.
_FACTOR = 2.0
# A rate is as good as the best where its loss is at most this share higher.
_TOLERANCE = 0.03
_WARMUP = 0.1
# Updates over which the range test is averaged.
_MEMORY = 8.0
# The best rate falls as updates^-power; on 12 problems the power was between 0 and 3/4, about
# 1/2 (docs/studies/lr).
_POWER, _LEAST_POWER, _MOST_POWER = 0.5, 0.25, 0.75
# Data seen more often than this overfit, so that lower rates may be best; short runs see
# nothing of it.
_PASSES = 16.0
# What both ends of the band are widened by: so wide that it holds 90 % of the best rates,
# corrected for the number of tasks that it was calibrated on (docs/studies/lr/calibration.py).
_MARGIN = 1.11
# One batch in so many judges the runs, where there are as many.
_HELD_OUT = 5
# Searches end here, should every further rate be better still.
_MAX_RUNS = 14
_REFERENCES = (
    Reference(
        "range test",
        "L. N. Smith. Cyclical Learning Rates for Training Neural Networks. WACV 2017.",
        "https://arxiv.org/abs/1506.01186",
    ),
    Reference(
        "edge of stability",
        "J. M. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar. Gradient Descent on Neural "
        "Networks Typically Occurs at the Edge of Stability. ICLR 2021.",
        "https://arxiv.org/abs/2103.00065",
    ),
    Reference(
        "conformal prediction",
        "Y. Romano, E. Patterson, E. J. Candes. Conformalized Quantile Regression. "
        "NeurIPS 2019.",
        "https://arxiv.org/abs/1905.03222",
    ),
)


@record
@dataclass(frozen=True, eq=False)
class RangeTest:
    """One run whose rate grows with every update.

    Attributes:
        rates: (updates,) the rate of each.
        losses: of each batch before its update; NaN after a divergence.
        average: their running mean without the bias of its start.
        stderr: its error, from the scatter of the losses around it.
        falls_at: the first rate where the average is below the first losses beyond its error;
            NaN where it never is.
        diverges_at: the rate at which the loss blew up; infinite where it did not.

    Examples:
        >>> rates, losses = np.array([0.1, 1.0]), np.array([2.0, 1.0])
        >>> RangeTest(rates, losses, losses, 0 * losses, 1.0, math.inf).falls_at
        1.0
    """

    rates: Floats
    losses: Floats
    average: Floats
    stderr: Floats
    falls_at: float
    diverges_at: float


@result("suggested_lr", references=_REFERENCES)
class SuggestedLR(Result):
    """A learning rate to start with, the band around it, and the reasons.

    Attributes:
        lr: the rate to start with.
        low: lower end of the range that probably holds the best rate.
        high: upper end.
        optimizer: name of its class.
        updates: length of a short run.
        horizon: updates of the training that the rate is for.
        passes: over the batches of the objective, that these updates make; NaN where the
            batches have no length.
        rates: (n,) peak rates of the short runs, growing.
        losses: (n,) loss after each; infinite after a divergence.
        gaps: (n,) losses above the best run, by the same examples.
        gap_errors: (n,) their standard errors.
        units: how many examples (or batches) these come from.
        test: the range test; None where it was left out.
        edge: the largest rate that is stable on a quadratic, with its bound.
        noise_scale: batch size at which noise and signal of the gradient are equal.
        batch_size: examples a batch, of the largest.
        gradients: gradients of a batch that were computed.
        held_out: whether the runs were compared on data that they did not train on.
        gain: how far the best run is below the loss without training, by the same examples.
        notes: what else to know, as memory that ran out.

    Examples:
        >>> import torch, lossatlas as la
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batches = [(torch.eye(2), torch.ones(2, 1))] * 20
        >>> objective = la.Objective(torch.nn.Linear(2, 1), loss, batches)
        >>> found = la.suggest_lr(objective, "sgd", updates=10)
        >>> print(found.headline()[:31])
        Start SGD at a peak learning ra
    """

    lr: float
    low: float
    high: float
    optimizer: str
    updates: int
    horizon: int
    passes: float
    rates: Floats
    losses: Floats
    gaps: Floats
    gap_errors: Floats
    units: int
    test: RangeTest
    edge: Estimate
    noise_scale: Estimate
    batch_size: float
    gradients: int
    held_out: bool = True
    gain: Estimate = field(default_factory=lambda: Estimate(math.nan, name="gain"))
    notes: tuple[str, ...] = ()

    @property
    def helps(self) -> bool:
        """Whether the best run is below the loss without training, beyond its error at 95 %."""
        gain = self.gain
        low = gain.interval()[0] if gain.stderr > 0 else gain.value
        return not low <= 0

    def estimates(self) -> tuple[Estimate, ...]:
        """The rate with its band, the edge of stability, the noise scale."""
        return (
            Estimate(
                self.lr,
                ends=(self.low, self.high),
                why_no_error="the brackets are a range of rates, not an interval of confidence",
                name="learning rate",
                meaning="to peak at; the best one lies probably within the brackets",
            ),
            self.gain,
            self.edge,
            self.noise_scale,
        )

    def headline(self) -> str:
        """The rate and its range; or that no rate is seen to help."""
        if not self.helps:
            return (
                f"No rate is seen to help: the best of {len(self.rates)} short runs "
                f"{self._gained()}. Do not train at the rate below: check labels and data, or "
                "give more examples or longer runs (`updates`)."
            )
        return (
            f"Start {self.optimizer} at a peak learning rate of {number(self.lr, 3)}; the best "
            f"rate lies probably between {number(self.low, 3)} and {number(self.high, 3)}."
        )

    def _gained(self) -> str:
        gain = with_error(abs(self.gain.value), self.gain.stderr)
        side = "lowers" if self.gain.value > 0 else "raises"
        return f"{side} the loss on {self._judges()} by {gain}"

    def _judges(self) -> str:
        kind = "held-out" if self.held_out else "training"
        return f"{self.units:,} {kind} {self.gain.sample_unit}"

    def sentences(self) -> tuple[str, ...]:
        """The rate and the reasons."""
        return (
            self.headline(),
            *self._run_reasons(),
            *self._judge_reason(),
            *self._pass_reason(),
            self._edge_reason(),
            self._noise_reason(),
            *map(as_sentence, self.notes),
        )

    def _run_reasons(self) -> tuple[str, ...]:
        best = int(np.argmin(self.losses))
        lost = self.rates[~np.isfinite(self.losses)]
        found = (
            f"Of {len(self.rates)} short runs of {self.updates} updates, that with a peak of "
            f"{number(float(self.rates[best]), 3)} ended lowest, at "
            f"{number(float(self.losses[best]), 3)}"
        )
        found += f"; {self._diverged(lost)}." if lost.size else "."
        if self.horizon == self.updates:
            return (found,)
        share = self.updates / self.horizon
        lower = "longer" if share < 1 else "shorter"
        return (
            found,
            f"The rate for {self.horizon:,} updates is the lowest point of a curve through the "
            f"runs, {number(self.lr / share**_POWER, 3)}, times ({self.updates:,} / "
            f"{self.horizon:,})^{number(_POWER, 2)}: {lower} trainings have "
            f"{'lower' if share < 1 else 'higher'} best rates.",
        )

    def _judge_reason(self) -> tuple[str, ...]:
        if self.held_out:
            return ()
        return (
            "The runs are compared on the batches that they train on, as these are few and "
            "cannot be divided: a rate that overfits looks good here; pass `validation=`.",
        )

    def _diverged(self, lost: Floats) -> str:
        least = float(lost.min())
        said = f"{lost.size} diverged, from {number(least, 3)} on"
        return said + (", which the range passes" if self.high > least else "")

    def _pass_reason(self) -> tuple[str, ...]:
        if math.isnan(self.passes):
            return self._unknown_passes()
        if self.passes <= _PASSES:
            return ()
        return (
            f"{self.horizon:,} updates are {number(self.passes)} passes over the batches; "
            "the range reaches further down, as lower rates may overfit less.",
        )

    def _unknown_passes(self) -> tuple[str, ...]:
        most = self.horizon / _needed(self.updates)
        if most <= _PASSES:
            return ()
        return (
            f"How many passes over the batches {self.horizon:,} updates make is not known, as "
            f"the batches have no length (at most {number(most)}): where it is more than "
            f"{number(_PASSES)}, lower rates than the range holds may overfit less.",
        )

    def _edge_reason(self) -> str:
        if not math.isfinite(self.edge.value):
            return as_sentence(f"The edge of stability is not known: {self.edge.why_no_error}")
        passed = (
            f"The range passes this limit, up to {number(self.high, 3)}: warm-up"
            if self.high > self.edge.value
            else "Warm-up"
        )
        return (
            f"At these weights a quadratic is stable up to {self.edge}. {passed} lets a "
            "training move to where it is flatter."
        )

    def _noise_reason(self) -> str:
        scale = self.noise_scale
        if not math.isfinite(scale.value):
            return as_sentence(f"The gradient noise scale is not known: {scale.why_no_error}")
        side = "below" if self.batch_size < scale.value else "above"
        rule = (
            "the best rate grows with the batch size"
            if side == "below"
            else "a larger batch allows little more"
        )
        return (
            f"The batch of {number(self.batch_size)} is {side} the gradient noise scale "
            f"({with_error(scale.value, scale.stderr)} examples): {rule}."
        )

    def figures(self) -> tuple[Figure, ...]:
        """Losses after the short runs and the range test, over the rate, with the band."""
        caption = (
            f"Loss after short runs of {self.updates:,} updates (dots; crosses at the top "
            "diverged) and along the range test over the learning rate. The suggested rate "
            f"and the shaded range are for a training of {self.horizon:,} updates."
        )
        title = "Learning rates"
        return (chart_of("lr", title, self._chart, caption=caption, alt=self.headline()),)

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, band, curve, marks
        from lossatlas.plots.logs import log_limits

        ended, seen = np.isfinite(self.losses), np.isfinite(self.test.losses)
        test, average = self.test.rates[seen], self.test.average[seen]
        heights = np.concatenate([self.losses[ended], average])
        low, high = float(heights.min()), float(heights.max())
        margin = 0.05 * (high - low or 1.0)
        floor, top = low - margin, high + margin
        layers: list[Layer] = [
            band([self.low, self.high], [floor] * 2, [top] * 2, "probably holds the best"),
            curve(test, average, "range test", style.FAINT),
            curve(self.rates[ended], self.losses[ended], "after a short run"),
            marks(self.rates[ended], self.losses[ended]),
            curve([self.lr] * 2, [floor, top], "suggested", style.PATH),
        ]
        lost = self.rates[~ended]
        if lost.size:
            layers.append(marks(lost, np.full(lost.size, top), "diverged", style.RIDGE, "x"))
        if math.isfinite(self.edge.value):
            edge = [self.edge.value] * 2
            layers.append(curve(edge, [floor, top], "edge of stability", style.RIDGE, dash=1))
        shown = np.concatenate([test, self.rates, [self.low, self.high]])
        x = Axis("learning rate", limits=log_limits(shown), is_log=True)
        return Chart("Learning rates", x, Axis("loss", limits=(floor, top)), tuple(layers))


def suggest_lr(
    objective: Objective,
    optimizer: str | Optimizer | BuildOptimizer = "adamw",
    *,
    validation: Objective | None = None,
    horizon: int | None = None,
    updates: int = 100,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> SuggestedLR:
    """Suggest a learning rate for training from the present weights.

    1. A range test: one run whose rate grows from `min_lr` to `max_lr`.
    2. Short runs on copies of the weights, between where the test begins to fall and where it
       diverges: warm-up over a tenth of the updates, then linear decay to zero. Their losses
       over the same examples are compared in pairs. The best rate is the vertex of a parabola
       through the lowest three, in the logarithm of the rate.
    3. The best rate r of runs of `updates` becomes r (updates / horizon)^(1/2); the ends of the
       band take the powers 3/4 and 1/4.
    4. The edge of stability (2 / lambda_max, on the optimizer's scale) and the gradient noise
       scale say why.

    The band holds the rates whose loss is not more than 3 % above the best, or is not told
    apart from it at 95 %. Where the horizon makes n > 16 passes over the batches, its low end
    is divided by (n / 16)^(1/2); where n is not known the result says so. Both ends are then
    widened by a factor of 1.11, calibrated on 31 problems (16 tasks) so that the band of a new
    one holds the best rate of a tuned grid with 90 %; docs/studies/lr says how often it does.
    The model, its gradients and the random state stay as they are. Dropout is off;
    normalization layers use the statistics of each batch.

    Args:
        objective: model, loss and training batches of the size that you will train with; the
            first `updates` of them are kept in memory.
        optimizer: "sgd" (momentum 0.9), "adam", "adamw", an optimizer of torch (its class,
            groups and settings are used, its state and rate are not), or a function
            (params, lr) -> optimizer.
        validation: where the runs are compared. By default every fifth batch is kept apart for
            it; of fewer than five batches, every fifth example. Where these cannot be divided
            (graphs, fewer than five examples) they train and judge, and the result says so.
        horizon: updates of your training; `updates` by default.
        updates: length of a run.
        min_lr: where the range test begins.
        max_lr: where it ends.
        seed: of the curvature and noise measurements.
        progress: told after every run; True shows a bar.

    Returns:
        Rate, band, runs and reasons; `helps` is False where no run is below the loss without
        training beyond the error, as for random labels, and the sentences say so. About 8
        runs, 900 gradients of a batch by default.

    Raises:
        ArgumentError: a number out of range, an optimizer that cannot be built, or no rate that
            lowers the loss.
        LossError: the loss has no gradient.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> batches = [(torch.eye(4), torch.arange(4))] * 5
        >>> model, loss = torch.nn.Linear(4, 4), la.supervised(F.cross_entropy)
        >>> objective = la.Objective(model, loss, batches)
        >>> found = la.suggest_lr(objective, "sgd", updates=20)
        >>> found.low <= found.lr <= found.high
        True

    Source: range test: Smith, WACV 2017, arXiv:1506.01186; edge: Cohen et al., ICLR 2021,
        arXiv:2103.00065; noise scale: McCandlish et al., arXiv:1812.06162; calibration: split
        conformal prediction, Vovk et al., Algorithmic Learning in a Random World, 2005, by the
        score of Romano et al., arXiv:1905.03222, pooled over tasks as in Dunn et al.,
        arXiv:1809.07441.
    """
    check_kind("objective", objective, Objective, "make one with la.Objective(...)")
    check_kind("validation", validation, (Objective, type(None)), "make one with la.Objective")
    check_at_least("updates", updates, 10)
    _check_same_weights(objective, validation)
    check_positive("min_lr", min_lr)
    check_positive("max_lr", max_lr)
    if not min_lr < max_lr:
        raise ArgumentError(f"`min_lr` must be below `max_lr`; got {min_lr:g} and {max_lr:g}.")
    if horizon is not None:
        check_at_least("horizon", horizon, 1)
    parts = _parts(objective, updates)
    training = parts.training
    build = optimizer_builder(optimizer, objective)
    with show_progress(progress) as tell:
        test = _range_test(training, build, np.geomspace(min_lr, max_lr, updates))
        runs = _Runs(training, build, updates, validation or parts.judge, tell)
        _search(runs, test, min_lr, max_lr)
    reasons = _edge(training, build, optimizer, seed), _noise(training, seed)
    horizon = horizon or updates
    passes = horizon / _batches_a_pass(objective, updates, parts.drawn)
    found = _suggestion(runs, test, reasons, horizon, passes)
    held_out = validation is not None or parts.held_out
    return replace(found, batch_size=parts.batch_size, held_out=held_out)


def _check_same_weights(objective: Objective, validation: Objective | None) -> None:
    # Known before the runs; it would come up after the first of them.
    shapes = {n: tuple(v.shape) for n, v in objective.params.items()}
    if validation is None or shapes == {
        n: tuple(v.shape) for n, v in validation.params.items()
    }:
        return
    raise ArgumentError(
        "`validation` must be of the same model with the same `params=` as `objective`; it has "
        "weights of other names or shapes."
    )


def _batches_a_pass(objective: Objective, updates: int, drawn: int) -> float:
    # Of the walk that checked the loss; NaN where there was none and no length is told.
    if objective.count is not None and objective.shared is None:
        return objective.count
    if drawn < _needed(updates):
        return drawn
    length = known_length(objective.batches)
    return math.nan if length is None else length


def _needed(updates: int) -> int:
    return updates + updates // (_HELD_OUT - 1)


@dataclass(frozen=True)
class _Parts:
    """Data that the runs train on, data that judge them, and what both were made of."""

    training: Objective
    judge: Objective
    drawn: int
    batch_size: float

    @property
    def held_out(self) -> bool:
        return self.judge is not self.training


def _parts(objective: Objective, updates: int) -> _Parts:
    whole = training_objective(objective, _needed(updates))
    batches = list(whole.batches)
    largest = max(map(whole.size_of, batches))
    if len(batches) < _HELD_OUT:
        return _Parts(*_parts_of_few(whole, batches), len(batches), largest)
    kept = [batch for at, batch in enumerate(batches, 1) if at % _HELD_OUT]
    judge = whole.part(batches[_HELD_OUT - 1 :: _HELD_OUT])
    return _Parts(whole.part(kept), judge, len(batches), largest)


def _parts_of_few(whole: Objective, batches: list[Batch]) -> tuple[Objective, Objective]:
    # Every fifth example of each batch judges; all of them where batches cannot be divided.
    try:
        parts = [_divided(batch) for batch in batches]
    except DataError:
        return whole, whole
    return whole.part([kept for kept, _ in parts]), whole.part([held for _, held in parts])


def _divided(batch: Batch) -> tuple[Batch, Batch]:
    places = list(range(batch_size(batch)))
    held = places[_HELD_OUT - 1 :: _HELD_OUT]
    if not held:
        raise DataError(f"a batch of {len(places)} examples leaves none to judge.")
    return rows(batch, [k for k in places if (k + 1) % _HELD_OUT]), rows(batch, held)


def _range_test(training: Objective, build: BuildOptimizer, rates: Floats) -> RangeTest:
    losses, _ = train_along(training, build, rates)
    seen = losses[np.isfinite(losses)]
    if not seen.size:
        raise ArgumentError("`objective` has no finite loss at its weights; look at the loss.")
    weights = np.exp(-np.arange(len(seen)) / _MEMORY)
    average, stderr = np.full(len(rates), math.nan), np.full(len(rates), math.nan)
    start = max(3, len(rates) // 10)
    scatter = float(np.std(np.diff(seen[:start]))) / math.sqrt(2) if len(seen) > 2 else math.nan
    for at in range(len(seen)):
        share = weights[at::-1] / weights[: at + 1].sum()
        average[at] = share @ seen[: at + 1]
        stderr[at] = scatter * math.sqrt(float(share @ share))
    level = float(np.mean(seen[:start]))
    error = np.hypot(stderr, scatter / math.sqrt(start))
    falls = np.flatnonzero(average < level - 3 * error - 1e-3 * abs(level))
    ended = len(seen) < len(rates)
    return RangeTest(
        rates,
        losses,
        average,
        stderr,
        float(rates[falls[0]]) if falls.size else math.nan,
        float(rates[len(seen) - 1]) if ended else math.inf,
    )


class _Runs:
    """Short runs at peak rates, each made once."""

    def __init__(
        self,
        training: Objective,
        build: BuildOptimizer,
        updates: int,
        judge: Objective,
        tell: Progress | None,
    ) -> None:
        self.training, self.build, self.judge, self._tell = training, build, judge, tell
        warm = max(1, round(_WARMUP * updates))
        rise = np.minimum(np.arange(1, updates + 1) / warm, 1.0)
        self.shape = rise * np.minimum(
            1.0, (updates - np.arange(updates)) / (updates - warm + 1)
        )
        self.found: dict[float, Floats | None] = {}
        self.planned = 0

    def loss(self, rate: float) -> float:
        """The loss after a run that peaks at this rate."""
        if rate not in self.found:
            losses, weights = train_along(self.training, self.build, rate * self.shape)
            ended = bool(np.isfinite(losses).all())
            self.found[rate] = unit_losses(self.judge, weights) if ended else None
            if self._tell is not None:
                total = max(self.planned, len(self.found))
                self._tell(len(self.found), total, f"learning rate {rate:.3g}")
        each = self.found[rate]
        value = math.inf if each is None else float(each.mean())
        return value if math.isfinite(value) else math.inf

    def table(self) -> tuple[Floats, Floats, Floats, Floats, int]:
        """Rates, losses, gaps to the best run and their errors; units behind them."""
        rates = np.array(sorted(self.found))
        losses = np.array([self.loss(rate) for rate in rates])
        best = self.found[float(rates[int(np.argmin(losses))])]
        assert best is not None
        gaps, errors = losses - losses.min(), np.full(len(rates), math.nan)
        for at, rate in enumerate(rates):
            each = self.found[float(rate)]
            if each is not None and math.isfinite(losses[at]) and len(each) > 1:
                errors[at] = np.std(each - best, ddof=1) / math.sqrt(len(each))
        return rates, losses, gaps, errors, len(best)

    def gain(self) -> Estimate:
        """How far the best run is below the loss without training."""
        start = unit_losses(self.judge, self.judge.params)
        best = self.found[min(self.found, key=self.loss)]
        assert best is not None
        gaps, unit = start - best, self.judge.unit
        error = (
            float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
        )
        return Estimate(
            float(gaps.mean()), error, samples=len(gaps), sample_unit=unit, name="gain",
            why_no_error=None if len(gaps) > 1 else f"one of the {unit} tells of no error",
            meaning="loss without training - loss after the best short run",
        )  # fmt: skip


def _search(runs: _Runs, test: RangeTest, min_lr: float, max_lr: float) -> None:
    # Every second rung of a ladder of rates, outward as long as an end is the best; then the
    # neighbors of the best.
    low = test.falls_at if math.isfinite(test.falls_at) else min_lr
    high = min(test.diverges_at, max_lr)
    rungs = min(max(math.ceil(math.log(high / low, _FACTOR)), 4), 10)

    def loss(rung: int) -> float:
        return runs.loss(high * _FACTOR**-rung)

    def lowest(done: set[int]) -> int:
        # Of runs that all diverged, the one at the least rate: the way out is downward.
        return min(sorted(done, reverse=True), key=loss)

    done = set(range(0, rungs + 1, 2))
    # The two neighbors of the best come last.
    runs.planned = len(done) + 2
    best = lowest(done)
    for step in (2, 1):
        while len(done) < _MAX_RUNS and not {best - step, best + step} <= done:
            done |= {best - step, best + step}
            runs.planned = max(runs.planned, len(done) + 2 * (step == 2))
            best = lowest(done)
    if not math.isfinite(loss(best)):
        raise ArgumentError(
            f"every run between {min(runs.found):.2g} and {max(runs.found):.2g} diverged; "
            "lower `min_lr`, or look at the loss."
        )


def _suggestion(
    runs: _Runs,
    test: RangeTest,
    reasons: tuple[tuple[Estimate, tuple[str, ...]], Estimate],
    horizon: int,
    passes: float,
) -> SuggestedLR:
    rates, losses, gaps, errors, units = runs.table()
    updates = len(runs.shape)
    best, share = _vertex(rates, losses), updates / horizon
    low, high = _band(rates, losses, gaps, errors, units)
    edge, notes = reasons[0]
    powers = _MOST_POWER, _LEAST_POWER
    slow, fast = powers if share < 1 else powers[::-1]
    often = math.sqrt(passes / _PASSES) if passes > _PASSES else 1.0
    return SuggestedLR(
        lr=best * share**_POWER,
        low=min(low, best) * share**slow / (often * _MARGIN),
        high=max(high, best) * share**fast * _MARGIN,
        optimizer=type(runs.build(list(_parameters(runs.training)), 1.0)).__name__,
        updates=updates,
        horizon=horizon,
        passes=passes,
        rates=rates,
        losses=losses,
        gaps=gaps,
        gap_errors=errors,
        units=units,
        test=test,
        edge=edge,
        noise_scale=reasons[1],
        batch_size=max(runs.training.map_batches(runs.training.size_of)),
        gradients=updates * len(rates) + int(np.isfinite(test.losses).sum()),
        gain=runs.gain(),
        notes=notes,
    )


def _parameters(objective: Objective) -> list[nn.Parameter]:
    every = dict(objective.model.named_parameters())
    return [every[name] for name in objective.names]


def _band(
    rates: Floats, losses: Floats, gaps: Floats, errors: Floats, units: int
) -> tuple[float, float]:
    # Rates next to the best that are about as good, halfway to the first that is not.
    tolerance, best = _TOLERANCE * abs(float(losses.min())), int(np.argmin(losses))

    def alike(at: int) -> bool:
        return bool(
            gaps[at] <= tolerance or interval(float(gaps[at]), float(errors[at]), units)[0] <= 0
        )

    def end(step: int) -> float:
        at = best
        while 0 <= at + step < len(rates) and alike(at + step):
            at += step
        if not 0 <= at + step < len(rates):
            return float(rates[at])
        return math.sqrt(rates[at] * rates[at + step])

    return end(-1), end(1)


def _edge(
    objective: Objective, build: BuildOptimizer, given: Any, seed: int
) -> tuple[Estimate, tuple[str, ...]]:
    # The rate at which the sharpest direction of a quadratic begins to grow.
    name = "largest stable learning rate"
    try:
        steps: Steps = build(_parameters(objective), 1.0)
        if has_second_moments(given):
            steps = OptimizerState(steps.param_groups, given.state)
        elif isinstance(steps, Adam | NAdam):
            steps = warm_adam(objective, 1.0)
        found = edge_of_stability(objective, steps, seed=seed)
    except AtlasError as error:
        return Estimate(math.nan, why_no_error=str(error), name=name), ()
    notes = (f"edge of stability: {found.note}",) if found.note else ()
    if not found.sharpness > found.bound:
        why = "the loss does not curve upward beyond the error bound"
        return Estimate(math.nan, why_no_error=why, name=name), notes
    rate = found.threshold / found.sharpness
    edge = Estimate(
        rate,
        products=found.products,
        reached=found.reached,
        bound=rate * found.bound / (found.sharpness - found.bound),
        name=name,
        meaning="on a quadratic with the curvature at these weights",
    )
    return edge, notes


def _noise(objective: Objective, seed: int) -> Estimate:
    name = "gradient noise scale"
    try:
        found = gradient_noise(objective, seed=seed).noise_scale
    except AtlasError as error:
        return Estimate(math.nan, why_no_error=str(error), name=name)
    return replace(
        found, name=name, unit="examples", meaning="batch size of equal noise and signal"
    )


def _vertex(rates: Floats, losses: Floats) -> float:
    # Of the parabola through the lowest run and its neighbors, over the logarithm of the rate.
    best = int(np.argmin(losses))
    if not 0 < best < len(rates) - 1 or not np.isfinite(losses[best - 1 : best + 2]).all():
        return float(rates[best])
    x, y = np.log(rates[best - 1 : best + 2]), losses[best - 1 : best + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    if not bend > 0:
        return float(rates[best])
    place = (x[0] + x[1]) / 2 - left / (2 * bend)
    return float(np.exp(np.clip(place, (x[0] + x[1]) / 2, (x[1] + x[2]) / 2)))
