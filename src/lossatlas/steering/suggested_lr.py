"""The suggested learning rate with its band, and the sentences and figures that explain it."""

import math
from collections.abc import Iterator
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lossatlas.objective.chance import ChanceLevel
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result
from lossatlas.steering.held_out import needed_batches
from lossatlas.steering.judged_rate import GAIN, NO_ERROR, JudgedRate, Verdict
from lossatlas.steering.lr_scaling import MANY_PASSES, POWER
from lossatlas.steering.range_test import RangeTest
from lossatlas.text import as_sentence, count, number, with_error

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart, Layer

Floats = NDArray[np.float64]
# A loss this many times that of a constant, zero or the best, is not one of usual initial
# weights.
_RUINED = 2.0

_PEAK = (
    "Rates are peak rates, the highest of a schedule: short runs rise to them over a tenth of "
    "their updates and then fall to zero linearly. At a constant rate the best is usually "
    "lower."
)
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


@result("suggested_lr", references=_REFERENCES)
class SuggestedLR(Result):
    """A learning rate to start with, the band around it, and the reasons.

    Attributes:
        lr: the rate to start with.
        low: lower end of the range that probably holds the best rate.
        high: upper end.
        optimizer: name of its class, with the momentum of SGD.
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
        gain: loss reduction of the best run: the loss before it minus that after it, on the
            same held-out examples.
        notes: what else to know, as memory that ran out.
        judged: the given rate (`lr=`) with its short run; None where none was given.
        chance: the loss that the runs start at, beside that of a constant prediction; None
            where the latter is not known.

    Examples:
        >>> import torch, lossatlas as la
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batches = [(torch.eye(2), torch.ones(2, 1))] * 20
        >>> objective = la.Objective(torch.nn.Linear(2, 1), loss, batches)
        >>> suggestion = la.suggest_lr(objective, "sgd", updates=10)
        >>> print(suggestion.headline()[:48])
        Start SGD with momentum 0.9 at a peak learning r
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
    gain: Estimate = field(default_factory=lambda: Estimate(math.nan, name=GAIN))
    notes: tuple[str, ...] = ()
    judged: JudgedRate | None = None
    chance: ChanceLevel | None = None

    @property
    def learns(self) -> bool:
        """Whether the best run is below the loss of a constant prediction; True if unknown."""
        if self.chance is None:
            return True
        return not self._is_at_chance(float(self.losses.min()))

    def _is_at_chance(self, loss: float) -> bool:
        if self.chance is None:
            return False
        level = replace(self.chance, loss=loss, stderr=math.nan, samples=self.units)
        return level.is_at_chance

    @property
    def verdict(self) -> Verdict | Literal[""]:
        """Of the given rate; empty where none was given.

        "too high": a short run at the rate diverges, or ends no lower than the loss before it
        or that of a constant prediction and the rate is above the suggested one. "higher than
        needed" and "lower than needed": a short run ends above that at the suggested rate,
        beyond 3 % of its loss and the error at 95 %, or the rate is outside the range of the
        best one. "indistinguishable": neither. "not known": no rate is seen to help, or the
        losses have no standard error (`gain`); then only a run that diverges or ends more than
        50 % above its start shows "too high".
        """
        judged = self.judged
        if judged is None:
            return ""
        if judged.diverged or not (self._has_error and judged.has_error):
            return "too high" if self._is_clearly_high(judged) else "not known"
        if not (self.helps and self.learns):
            return "not known"
        if self._ruins(judged):
            return "too high"
        if not (judged.is_worse or self._is_outside(judged)):
            return "indistinguishable"
        return "higher than needed" if judged.lr > self.lr else "lower than needed"

    def _is_clearly_high(self, judged: JudgedRate) -> bool:
        return judged.diverged or (judged.lr > self.lr and judged.rises_widely)

    def _ruins(self, judged: JudgedRate) -> bool:
        # Also of weights that begin far above chance, or below it by an earlier training.
        learned = judged.loss < judged.start and not self._is_at_chance(judged.loss)
        return judged.lr > self.lr and not learned

    def _is_outside(self, judged: JudgedRate) -> bool:
        return not self.low <= judged.lr <= self.high

    @property
    def helps(self) -> bool:
        """Whether the best run is below the loss without training, beyond its error at 95 %.

        False also where the gain has no standard error: then it is not known.
        """
        return self._has_error and self.gain.interval()[0] > 0

    @property
    def _has_error(self) -> bool:
        return math.isfinite(self.gain.stderr)

    def estimates(self) -> tuple[Estimate, ...]:
        """The rate with its band, the edge of stability, the noise scale."""
        return (
            Estimate(
                self.lr,
                ends=(self.low, self.high),
                why_no_error="the brackets are a range of rates, not an interval of confidence",
                name="learning rate",
                meaning=f"to peak at; the best one {self._lies()} within the brackets",
            ),
            *(() if self.judged is None else (self.judged.estimate(self.gain.sample_unit),)),
            self.gain,
            self.edge,
            self.noise_scale,
        )

    def details(self) -> dict[str, Any]:
        """The given rate with its verdict, where one was given."""
        if self.judged is None:
            return {}
        return {"given_lr": self.judged.lr, "verdict": self.verdict}

    def headline(self) -> str:
        """The verdict on the given rate; without one the rate to start with."""
        return self._judgment() or self._suggested()

    def _judgment(self) -> str:
        # Shares of the verdict: what, for which optimizer, by which evidence.
        judged, verdict = self.judged, self.verdict
        if judged is None:
            return ""
        start = f"A peak learning rate of {number(judged.lr, 3)} for {self.optimizer}"
        run = self._evidence(judged)
        if verdict == "not known":
            return f"{start} cannot be judged, as {self._why_not_known()}; {run}."
        best = f"{self._range_text()}{self._for_horizon()}"
        if verdict == "indistinguishable":
            same = f"is indistinguishable from the suggested {number(self.lr, 3)}"
            return f"{start} {same} by short runs: {run}; {best}."
        if verdict == "too high" or judged.is_worse:
            return f"{start} is {verdict}: {run}; {best}."
        return f"{start} is probably {verdict}: {best}, but {run}, which does not show it."

    def _why_not_known(self) -> str:
        if not self._has_error:
            return f"the losses on {self._judges()} have no standard error"
        if not self.helps:
            return "no rate is seen to help"
        return "no short run ends below the loss of a constant prediction"

    def _lies(self) -> str:
        return "probably lies" if self._has_error else "may lie"

    def _range_text(self) -> str:
        ends = f"{number(self.low, 3)} and {number(self.high, 3)}"
        return f"the best rate {self._lies()} between {ends}"

    def _evidence(self, judged: JudgedRate) -> str:
        run = f"a short run of {self.updates:,} updates at this rate"
        if judged.diverged:
            return f"{run} diverged"
        if not self._ruins(judged):
            return judged.run_text(self.updates, self.horizon)
        ends = f"from {number(judged.start, 3)} to {number(judged.loss, 3)}"
        constant = ""
        if self.chance is not None and self._is_at_chance(judged.loss):
            level = number(self.chance.constant, 3)
            constant = f", no lower than that of the best constant prediction, {level}"
        return f"{run} took the loss {ends}{constant}"

    def _for_horizon(self) -> str:
        same = self.horizon == self.updates
        return "" if same else f" for a training of {self.horizon:,} updates"

    def _suggested(self) -> str:
        # The rate and its range; or that no rate is seen to help, or that this is not known.
        peak = (
            f"{self.optimizer} at a peak learning rate of {number(self.lr, 3)}; "
            f"{self._range_text()}."
        )
        if not self._has_error and self.gain.value > 0:
            return (
                f"Whether any rate helps is not known: the best of {len(self.rates)} short "
                f"runs {self._gained()}, and {self.gain.why_no_error or NO_ERROR}; "
                f"{self._remedy()} would show whether it helps. To try one, start {peak}"
            )
        if not self.helps:
            return (
                f"No rate is seen to help: the best of {len(self.rates)} short runs "
                f"{self._gained()}. Do not train at the rate below: check labels and data, or "
                "give more examples or longer runs (`updates`)."
            )
        return f"Start {peak}"

    def _remedy(self) -> str:
        if self.gain.sample_unit == "examples":
            return "more held-out examples (`validation=`)"
        return "a loss that returns one number per example"

    def _gained(self) -> str:
        gain = with_error(abs(self.gain.value), self.gain.stderr)
        side = "lowers" if self.gain.value > 0 else "raises"
        return f"{side} the loss on {self._judges()} by {gain}"

    def _judges(self) -> str:
        kind = "held-out" if self.held_out else "training"
        singular = {"examples": "example", "batches": "batch"}
        unit = self.gain.sample_unit
        return count(self.units, f"{kind} {singular.get(unit, unit)}", f"{kind} {unit}")

    def sentences(self) -> tuple[str, ...]:
        """The rate and the reasons."""
        return (
            *filter(None, (self._judgment(), self._suggested())),
            *map(as_sentence, (*self._chance_notes(), *self.notes)),
            _PEAK,
            *self._range_reason(),
            *self._run_reasons(),
            *self._judge_reason(),
            *self._pass_reason(),
            self._edge_reason(),
            self._noise_reason(),
        )

    def _range_reason(self) -> tuple[str, ...]:
        sentence = (
            "The range probably holds the best rate; not every rate in it is good. It varies "
            "with the initial weights, the batches and the seed."
        )
        if not self._has_error:
            sentence = (
                "The range holds the rates whose runs end within 3 % of the lowest loss. "
                "Without a standard error it may be too narrow and miss the best rate."
            )
        if self.verdict != "indistinguishable" or self.horizon <= self.updates:
            return (sentence,)
        return (
            sentence,
            f"Longer runs may tell the rate from the suggested one: `updates` up to the "
            f"{self.horizon:,} of the training.",
        )

    def _chance_notes(self) -> Iterator[str]:
        level = self.chance
        if level is None:
            return
        constant = f"that of {level.constant_text}"
        if level.loss > _RUINED * np.fmax(level.constant, level.zero):
            yield (
                f"the runs start at a loss of {number(level.loss, 3)}, far above {constant}: "
                "an earlier training may have ruined these weights; for a rate to begin a "
                "training with, give initial weights"
            )
        if not self.learns:
            yield (
                f"the best short run ends at a loss of {number(float(self.losses.min()), 3)}, "
                f"not below {constant}: {self.updates:,} updates are too few here to learn "
                "more than a constant; give longer runs (`updates`)"
            )

    def _run_reasons(self) -> tuple[str, ...]:
        best = int(np.argmin(self.losses))
        diverged = self.rates[~np.isfinite(self.losses)]
        sentence = (
            f"Of {len(self.rates)} short runs of {self.updates} updates, the one with a peak "
            f"rate of {number(float(self.rates[best]), 3)} ended with the lowest loss, "
            f"{number(float(self.losses[best]), 3)}"
        )
        sentence += f"; {self._diverged(diverged)}." if diverged.size else "."
        if self.horizon == self.updates:
            return (sentence,)
        share = self.updates / self.horizon
        lower = "longer" if share < 1 else "shorter"
        return (
            sentence,
            f"A parabola through the lowest runs has its minimum at "
            f"{number(self.lr / share**POWER, 3)}; for {self.horizon:,} updates that is "
            f"multiplied by ({self.updates:,} / {self.horizon:,})^{number(POWER, 2)}, because "
            f"{lower} trainings have {'lower' if share < 1 else 'higher'} best rates.",
        )

    def _judge_reason(self) -> tuple[str, ...]:
        if self.held_out:
            return ()
        return (
            "The runs are compared on the batches that they train on, because these are too "
            "few to hold some out: a rate that overfits looks good here; pass `validation=`.",
        )

    def _diverged(self, diverged: Floats) -> str:
        lowest = float(diverged.min())
        runs = "one run" if diverged.size == 1 else f"{diverged.size} runs"
        text = f"{runs} diverged, the lowest at {number(lowest, 3)}"
        return text + (", which is inside the range above" if self.high > lowest else "")

    def _pass_reason(self) -> tuple[str, ...]:
        if math.isnan(self.passes):
            return self._unknown_passes()
        if self.passes <= MANY_PASSES:
            return ()
        return (
            f"{self.horizon:,} updates are {number(self.passes)} passes over the batches; the "
            "lower end of the range is lowered for that, as lower rates may overfit less.",
        )

    def _unknown_passes(self) -> tuple[str, ...]:
        max_passes = self.horizon / needed_batches(self.updates)
        if max_passes <= MANY_PASSES:
            return ()
        return (
            f"How many passes over the batches {self.horizon:,} updates make is not known, as "
            f"the batches have no length (at most {number(max_passes)}): with more than "
            f"{number(MANY_PASSES)}, rates below the range may overfit less.",
        )

    def _edge_reason(self) -> str:
        if not math.isfinite(self.edge.value):
            return as_sentence(f"The edge of stability is not known: {self.edge.why_no_error}")
        start = (
            f"With the curvature at the weights that the runs start from, {self.optimizer} is "
            f"stable up to a learning rate of {self.edge}"
        )
        if not self.high > self.edge.value:
            return f"{start}."
        return (
            f"{start}. The range goes beyond this limit, up to {number(self.high, 3)}: such a "
            "rate needs a warm-up, during which the curvature usually falls."
        )

    def _noise_reason(self) -> str:
        scale = self.noise_scale
        if not math.isfinite(scale.value):
            return as_sentence(f"The gradient noise scale is not known: {scale.why_no_error}")
        side = "below" if self.batch_size < scale.value else "above"
        rule = (
            "with a larger batch the best learning rate is higher"
            if side == "below"
            else "with a larger batch the best learning rate is hardly higher"
        )
        return (
            f"The batch size of {number(self.batch_size)} is {side} the gradient noise scale, "
            f"{with_error(scale.value, scale.stderr)} examples (the batch size at which the "
            f"noise of the gradient is as large as the gradient): {rule}."
        )

    def figures(self) -> tuple[Figure, ...]:
        """Losses after the short runs and the range test, over the rate, with the band."""
        caption = (
            f"Loss after short runs of {self.updates:,} updates (dots; crosses at the top "
            "diverged) and along the range test over the learning rate. The suggested rate "
            f"and the shaded range are for a training of {self.horizon:,} updates."
        )
        if self.judged is not None:
            end = ", which diverged" if self.judged.diverged else ""
            caption += f" The diamond is the run at the given rate{end}."
        title = "Learning rates"
        return (chart_of("lr", title, self._chart, caption=caption, alt=self.headline()),)

    def _given_heights(self) -> Floats:
        if self.judged is None or self.judged.diverged:
            return np.array([])
        return np.array([self.judged.loss])

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, band, curve, marks
        from lossatlas.plots.logs import log_limits

        finished, finite = np.isfinite(self.losses), np.isfinite(self.test.losses)
        test, average = self.test.rates[finite], self.test.average[finite]
        heights = np.concatenate([self.losses[finished], average, self._given_heights()])
        low, high = float(heights.min()), float(heights.max())
        margin = 0.05 * (high - low or 1.0)
        floor, top = low - margin, high + margin
        layers: list[Layer] = [
            band([self.low, self.high], [floor] * 2, [top] * 2, "probably holds the best"),
            curve(test, average, "range test", style.FAINT),
            curve(self.rates[finished], self.losses[finished], "after a short run"),
            marks(self.rates[finished], self.losses[finished]),
            curve([self.lr] * 2, [floor, top], "suggested", style.PATH),
        ]
        if self.judged is not None:
            given = min(self.judged.loss, top)
            layers.append(marks([self.judged.lr], [given], "given rate", style.INK, "diamond"))
        diverged = self.rates[~finished]
        if diverged.size:
            layers.append(
                marks(diverged, np.full(diverged.size, top), "diverged", style.RIDGE, "x")
            )
        if math.isfinite(self.edge.value):
            edge = [self.edge.value] * 2
            layers.append(curve(edge, [floor, top], "edge of stability", style.RIDGE, dash=1))
        own = [] if self.judged is None else [self.judged.lr]
        shown = np.concatenate([test, self.rates, [self.low, self.high], own])
        x = Axis("learning rate", limits=log_limits(shown), is_log=True)
        return Chart("Learning rates", x, Axis("loss", limits=(floor, top)), tuple(layers))
