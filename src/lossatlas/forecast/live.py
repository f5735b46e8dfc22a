"""The predicted end of a run while it runs."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, check_fraction, is_number
from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.fit import fit
from lossatlas.forecast.law import Law
from lossatlas.forecast.laws import LinearLRLaw, MultiPowerLaw, PowerLaw
from lossatlas.forecast.rates import check_rates
from lossatlas.forecast.result import Fit
from lossatlas.forecast.schedules import warmup_length
from lossatlas.forecast.sums import log_error
from lossatlas.forecast.validation import Recipe
from lossatlas.forecast.watch import Deceleration, Spike, deceleration, spikes
from lossatlas.forecast.whatif import offset_of
from lossatlas.intervals import t_quantile

Floats = NDArray[np.float64]

FEWEST = 20  # points after the warm-up without which nothing is forecast
BACK = (1.0, 0.8, 0.64)  # past forecasts, at these shares of the earliest that can be checked
POINTS = 300  # longer curves are averaged down to this for a forecast


@dataclass(frozen=True)
class Reading:
    """What a run under way says about its end.

    Attributes:
        step: the step of the reading.
        steps: the last step of the schedule.
        loss: the forecast of the final loss; NaN where there is none yet.
        lower: lower end of its interval; NaN where there is none.
        upper: upper end.
        level: the share of losses that the interval should cover.
        reason: why there is no interval or no forecast; empty where there is one.
        spikes: spikes so far.
        deceleration: the bend so far, or None.
    """

    step: int
    steps: int
    loss: float
    lower: float
    upper: float
    level: float
    reason: str
    spikes: tuple[Spike, ...]
    deceleration: Deceleration | None


class LiveForecast:
    """Collects the losses of a run and forecasts its end.

    With earlier runs the law is fitted to them once and shifted to where this run lies, and
    the interval is theirs. Without them the run's own past is all there is: the forecast comes
    from a power law in the sum of rates, its interval from forecasts that the run could have
    made of its present, and a decay still to come is not in it (`reason` says so).

    Args:
        rates: the rate of every update of the whole run.
        history: earlier runs at the same size and peak rate. Default none.
        law: the law for earlier runs. Default `MultiPowerLaw()`.
        interval: the share of losses to cover. Default 0.9.

    Raises:
        ArgumentError: rates of fewer than two updates, an interval outside (0, 1), or a history
            that cannot answer for these rates.
        DataError: values that are no rates.

    Examples:
        >>> live = LiveForecast(np.full(1000, 0.1))
        >>> for step in range(10, 500, 10):
        ...     live.update(step, 2 + step**-0.5)
        >>> abs(live.read().loss - (2 + 1000**-0.5)) < 0.005
        True
    """

    def __init__(
        self,
        rates: ArrayLike,
        *,
        history: Sequence[Curve] = (),
        law: Law | None = None,
        interval: float = 0.9,
    ) -> None:
        self.rates = as_float_array("rates", rates)
        check_rates(self.rates)
        check_at_least("steps", self.rates.size, 2)
        check_fraction("interval", interval)
        self.interval = interval
        self.fitted: Fit | None = (
            None
            if history is None or (isinstance(history, Sized) and not len(history))
            else fit(MultiPowerLaw() if law is None else law, history)
        )
        if self.fitted is not None:
            # A history that cannot answer for this run fails now, not in the middle of it.
            self.fitted.predict(self.rates, steps=[self.rates.size])
        self._points: dict[int, float] = {}

    def update(self, step: int, loss: float) -> None:
        """Take in one loss.

        Args:
            step: updates done; must not fall back (a second value at one step replaces the
                first).
            loss: the loss; values that are not finite are kept as spikes.

        Raises:
            ArgumentError: the loss is no number, or the step is not a whole number >= 1, falls
                back, or lies beyond the schedule.
        """
        if not is_number(step) or not step >= 1 or step % 1:
            raise ArgumentError(f"`step` must be a whole number >= 1; got {step!r}.")
        if not is_number(loss):
            raise ArgumentError(f"`loss` must be a number; got {loss!r}.")
        last = next(reversed(self._points), 0)
        if not last <= step <= self.rates.size:
            raise ArgumentError(
                f"`step` must lie between the last one ({last}) and the end of the schedule "
                f"({self.rates.size}); got {step}; start a new LiveForecast for a new run."
            )
        self._points[int(step)] = float(loss)

    def curve(self) -> Curve | None:
        """Returns the run so far, or None where it is too short."""
        steps = np.array(list(self._points), dtype=np.int64)
        losses = np.array(list(self._points.values()))
        keep = np.isfinite(losses) & (losses > 0) & (steps > warmup_length(self.rates))
        if keep.sum() < FEWEST or np.ptp(losses[keep]) == 0:
            return None
        return Curve(steps[keep], losses[keep], self.rates).thinned(POINTS)

    def read(self) -> Reading:
        """The forecast now.

        Returns:
            The expected final loss with its interval, spikes and the bend.
        """
        curve = self.curve()
        now = next(reversed(self._points), 0)
        loss = lower = upper = float("nan")
        bend = None
        reason = f"fewer than {FEWEST} losses after the warm-up"
        if curve is not None:
            loss, half, reason = (
                self._from_history(curve) if self.fitted else self._alone(curve)
            )
            lower, upper = loss * np.exp(-half), loss * np.exp(half)
            bend = deceleration(curve)
        seen = spikes(list(self._points), list(self._points.values()))
        return Reading(now, self.rates.size, loss, float(lower), float(upper), self.interval,
                       reason, seen, bend)  # fmt: skip

    def _from_history(self, curve: Curve) -> tuple[float, float, str]:
        assert self.fitted is not None
        told = self.fitted.predict(self.rates, steps=[self.rates.size], interval=self.interval)
        here = self.fitted.law.predict(self.fitted.values, curve.inputs)
        shift = float(np.exp(offset_of(-log_error(here, curve.loss))))
        return shift * told.final[0], told.half_width, told.reason

    def _alone(self, curve: Curve) -> tuple[float, float, str]:
        law: Law = LinearLRLaw() if _has_fallen(self.rates, curve) else PowerLaw()
        recipe = Recipe(law, law.huber)
        steps = self.rates.size
        loss = _forecast(recipe, curve, self.rates, steps)
        errors = list(_past_errors(recipe, curve, self.rates, steps))
        ahead = self.rates[int(curve.step[-1]) - 1 :]
        reason = ""
        if ahead.min() < 0.99 * ahead[0] and isinstance(law, PowerLaw):
            reason = (
                "the rate has not fallen yet: what the decay will win cannot be known from "
                "this run alone, and is left out; give earlier runs as `history`"
            )
        if len(errors) < len(BACK):
            return loss, float("nan"), reason or "too early to check a forecast of this horizon"
        spread = float(np.sqrt(np.mean(np.square(errors)) * (1 + 1 / len(errors))))
        half = float(t_quantile(self.interval, len(errors) + 1)) * spread
        return loss, float("nan") if reason else half, reason


def _forecast(recipe: Recipe, curve: Curve, rates: Floats, step: int) -> float:
    values = recipe.solve([curve]).values
    question = Curve([step - 1, step], [1.0, 2.0], rates).inputs
    return float(recipe.law.predict(values, question)[-1])


# Log errors of forecasts that reached as many times ahead as the present one does.
def _past_errors(recipe: Recipe, curve: Curve, rates: Floats, steps: int) -> list[float]:
    now = int(curve.step[-1])
    reach = steps / now
    found = []
    for share in BACK:
        origin, target = now / reach * share, now * share
        early = curve.step <= origin
        if early.sum() < FEWEST or np.ptp(curve.loss[early]) == 0:
            continue
        at = int(np.argmin(np.abs(curve.step - target)))
        told = _forecast(recipe, curve.select(early), rates, int(curve.step[at]))
        near = np.median(curve.loss[max(at - 2, 0) : at + 3])
        found.append(float(log_error(np.array(told), np.array(near))))
    return found


def _has_fallen(rates: Floats, curve: Curve) -> bool:
    past = rates[curve.inputs.warmup : int(curve.step[-1])]
    return bool(past[-1] < 0.9 * past[0])
