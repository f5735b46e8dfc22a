"""What a simple forecast can answer: its log continued, under the schedule of that log."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.logged_schedule import LoggedSchedule, logged_schedule, updates_of
from lossatlas.forecast.same_schedule import first_difference
from lossatlas.forecast.schedules import in_words, warmup_length, wsd
from lossatlas.text import number

Floats = NDArray[np.float64]

NO_RATE = 1e-2  # a rate below this share of the peak has ended


@dataclass(frozen=True, eq=False)
class OwnSchedule:
    """How the rate of a log goes on, as far as the log shows it.

    Attributes:
        curve: the log.
        plan: the schedule that its rates follow; None where they follow no usual one.
    """

    curve: Curve
    plan: LoggedSchedule | None

    @property
    def end(self) -> int | None:
        """The last update of the schedule; None where it shows no end."""
        plan, last = self.plan, updates_of(self.curve)
        if self.curve.lr is None:
            return None
        if plan is not None and plan.decay is not None:
            return max(plan.steps, last)
        return last if self._now <= NO_RATE * self._peak else None

    @property
    def is_over(self) -> bool:
        """Whether the log reaches the end of its schedule."""
        end = self.end
        return end is not None and end <= updates_of(self.curve)

    @property
    def is_held(self) -> bool:
        """Whether the rate was the same over the last half of the log."""
        rates = self.curve.lr
        return rates is not None and bool(np.ptp(rates[rates.size // 2 :]) <= 1e-6 * self._peak)

    @property
    def warmup(self) -> int:
        """Updates of the warm-up: those given, or those that the rates show."""
        if self.plan is not None:
            return self.plan.warmup
        top = 0 if self.curve.lr is None else warmup_length(self.curve.lr)
        return self.curve.warmup if self.curve.warmup is not None else top + bool(top)

    @property
    def question(self) -> int:
        """The update to forecast: the end of the schedule, or twice the log."""
        return self.end or 2 * updates_of(self.curve)

    def rates(self, updates: int) -> Floats | None:
        """The rates of so many updates; None where the log does not show them."""
        known, plan = self.curve.lr, self.plan
        if known is None or updates <= known.size:
            return None if known is None else known[:updates]
        if plan is not None and plan.decay is not None:
            ratio = (
                plan.min_ratio if plan.shape not in _NEVER_ZERO else max(plan.min_ratio, 1e-6)
            )
            whole = wsd(
                plan.steps, plan.peak, _share(plan), plan.shape,  # type: ignore[arg-type]
                min_ratio=ratio, warmup=plan.warmup,
            )  # fmt: skip
            return whole[:updates] if whole.size >= updates else None
        held = np.full(updates - known.size, self._now)
        return np.concatenate([known, held]) if self.is_held else None

    @property
    def may_ask(self) -> str:
        """What can be forecast; a clause."""
        if self.end is None:
            kept = f", with the rate held at {number(self._now)}" if self.is_held else ""
            return f"any number of updates of this run{kept}"
        return f"updates up to {self.end:,}, where the schedule of the log ends"

    @property
    def condition(self) -> str:
        """What a forecast of this run takes for granted about its rate; a clause."""
        if self.curve.lr is None:
            return (
                "no learning rate was logged: the forecast holds if the rate goes on as it did"
            )
        if self.is_over:
            return (
                f"the schedule of this run ends at update {self.end:,}, so that the run is "
                "over: a run with more updates has another schedule, of which this log says "
                "nothing"
            )
        if self.plan is not None and self.end is not None:
            doubt = " or ".join(self.plan.rivals)
            also = f", or a {doubt} fall that ends with the log" if doubt else ""
            return (
                f"the forecast is for the schedule of the log (a {self.plan.shape} fall to "
                f"update {self.end:,}{also}), but knows no learning rate: the effect of the "
                "rest of the fall on the loss is not included"
            )
        if self.is_held:
            return f"the forecast holds while the rate stays at {number(self._now)}"
        return "the forecast holds if the rate goes on as it did in the log"

    def check(
        self,
        law: str,
        steps: NDArray[np.int64],
        rates: Floats | None,
        begin: int,
        instead: str,
    ) -> None:
        """Refuse updates and rates of which the log shows nothing, and say what helps."""
        if steps[0] < begin:
            raise ArgumentError(
                f"`steps` must be {begin} or more, where {law} was fitted: it does not "
                f"describe the run before; got {steps[0]}."
            )
        self._check_rates(law, rates, instead)
        if self.end is not None and steps[-1] > max(self.end, int(self.curve.step[-1])):
            raise ArgumentError(
                f"`steps` must be at most {self.end}, where the schedule of the log ends; got "
                f"{steps[-1]}: a longer run has another schedule, and {law}, which knows no "
                f"learning rate, says nothing of other schedules. {instead}"
            )

    def _check_rates(self, law: str, rates: Floats | None, instead: str) -> None:
        if rates is None:
            return
        if self.curve.lr is None:
            raise ArgumentError(
                f"`schedule` cannot be given: the log has no learning rates, and {law} knows "
                "none; give `steps` alone, or a log with learning rates."
            )
        own = self.rates(rates.size)
        first = 1 if own is None else first_difference(self.curve, own, rates)
        if first:
            raise ArgumentError(
                "the requested schedule (`schedule`) is not that of the log, whose rates are: "
                f"{in_words(self._shown)}; "
                f"yours differs from update {first:,} on. {law} knows no learning rate and "
                f"says nothing of other schedules; it can forecast {self.may_ask}. "
                f"{instead}"
            )

    @property
    def _shown(self) -> Floats:
        assert self.curve.lr is not None
        whole = self.rates(self.end) if self.end is not None else None
        return self.curve.lr if whole is None else whole

    @property
    def _now(self) -> float:
        assert self.curve.lr is not None
        return float(self.curve.lr[min(int(self.curve.step[-1]), self.curve.lr.size) - 1])

    @property
    def _peak(self) -> float:
        assert self.curve.lr is not None
        return float(self.curve.lr.max())


_NEVER_ZERO = ("exponential", "inverse")


def _share(plan: LoggedSchedule) -> float:
    assert plan.decay is not None
    body = plan.steps - plan.warmup
    return 1.0 if plan.decay >= body else max(plan.decay, 2)


def own_schedule(curve: Curve) -> OwnSchedule:
    """The schedule of a log, as far as it can be read from it."""
    return OwnSchedule(curve, logged_schedule(curve))
