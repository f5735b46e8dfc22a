"""The predicted end of a run while it runs."""

from collections.abc import Sequence, Sized

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, check_fraction, is_number
from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Curve, check_rates
from lossatlas.forecast.fit import fit
from lossatlas.forecast.law import Law, log_error
from lossatlas.forecast.laws import LinearLRLaw, MultiPowerLaw, PowerLaw
from lossatlas.forecast.prediction import forecast_estimate, offset_of
from lossatlas.forecast.result import Fit
from lossatlas.forecast.schedules import warmup_length
from lossatlas.forecast.solver import FitSettings
from lossatlas.forecast.watch import Deceleration, Spike, deceleration, spikes
from lossatlas.intervals import t_quantile
from lossatlas.result import Estimate, Result, result
from lossatlas.text import count, interval_text

Floats = NDArray[np.float64]

FEWEST = 20  # points after the warm-up without which nothing is forecast
BACK = (1.0, 0.8, 0.64)  # past forecasts, at these shares of the earliest that can be checked
POINTS = 300  # longer curves are averaged down to this for a forecast


@result("forecast-reading")
class LiveReading(Result):
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
        groups: independent forecasts that the interval comes from.

    Examples:
        >>> reading = LiveForecast(np.full(1000, 0.1)).read()
        >>> reading.sentences()
        ('Step 0: no forecast yet (fewer than 20 losses after the warm-up).',)
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
    groups: int = 0

    def estimates(self) -> tuple[Estimate, ...]:
        """The forecast of the final loss."""
        final = (self.loss, self.lower, self.upper)
        name = "final loss"
        return (forecast_estimate(name, final, self.level, self.groups, self.reason),)

    def sentences(self) -> tuple[str, ...]:
        """The forecast, spikes and the bend."""
        if np.isnan(self.loss):
            return (f"Step {self.step:,}: no forecast yet ({self.reason}).",)
        known = np.isfinite(self.lower)
        band = f" {interval_text(self.lower, self.upper)}" if known else ""
        why = f" ({self.reason})" if self.reason else ""
        out = [
            f"Step {self.step:,}: a loss of {self.loss:.4f}{band} is expected at step "
            f"{self.steps:,}{why}."
        ]
        if self.spikes:
            spikes = count(len(self.spikes), "spike")
            out.append(f"{spikes} so far, the last at step {self.spikes[-1].step:,}.")
        if self.deceleration is not None:
            out += self.deceleration.sentences()
        return tuple(out)


class LiveForecast:
    """Collects the losses of a run and forecasts its end.

    With earlier runs the law is fitted to them once and shifted to where this run lies, and
    the interval is theirs. Without them the run's own past is all there is: the forecast comes
    from a power law in the sum of rates, its interval from forecasts that the run could have
    made of its present, and a decay still to come is not in it (`reason` says so).

    Args:
        lr: the rate of every update of the whole run.
        history: earlier runs at the same size and peak rate. Default none.
        law: the law for earlier runs. Default `MultiPowerLaw()`.
        level: the share of losses to cover. Default 0.9.

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
        lr: ArrayLike,
        *,
        history: Sequence[Curve] = (),
        law: Law | None = None,
        level: float = 0.9,
    ) -> None:
        self.lr = as_float_array("lr", lr)
        check_rates(self.lr)
        check_at_least("steps", self.lr.size, 2)
        check_fraction("level", level)
        self.level = level
        self.fitted: Fit | None = (
            None
            if history is None or (isinstance(history, Sized) and not len(history))
            else fit(MultiPowerLaw() if law is None else law, history)
        )
        if self.fitted is not None:
            # A history that cannot answer for this run fails now, not in the middle of it.
            self.fitted.predict(self.lr, steps=[self.lr.size])
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
        if not last <= step <= self.lr.size:
            raise ArgumentError(
                f"`step` must lie between the last one ({last}) and the end of the schedule "
                f"({self.lr.size}); got {step}; start a new LiveForecast for a new run."
            )
        self._points[int(step)] = float(loss)

    def curve(self) -> Curve | None:
        """Returns the run so far, or None where it is too short."""
        steps = np.array(list(self._points), dtype=np.int64)
        losses = np.array(list(self._points.values()))
        keep = np.isfinite(losses) & (losses > 0) & (steps > warmup_length(self.lr))
        if keep.sum() < FEWEST or np.ptp(losses[keep]) == 0:
            return None
        return Curve(steps[keep], losses[keep], self.lr).thinned(POINTS)

    def read(self) -> LiveReading:
        """The forecast now.

        Returns:
            The expected final loss with its interval, spikes and the bend.
        """
        curve = self.curve()
        now = next(reversed(self._points), 0)
        loss = lower = upper = float("nan")
        bend, groups = None, 0
        reason = f"fewer than {FEWEST} losses after the warm-up"
        if curve is not None:
            loss, half, reason, groups = (
                self._from_history(curve) if self.fitted else self._alone(curve)
            )
            lower, upper = loss * np.exp(-half), loss * np.exp(half)
            bend = deceleration(curve)
        seen = spikes(list(self._points), list(self._points.values()))
        return LiveReading(now, self.lr.size, loss, float(lower), float(upper), self.level,
                       reason, seen.spikes, bend, groups)  # fmt: skip

    def _from_history(self, curve: Curve) -> tuple[float, float, str, int]:
        assert self.fitted is not None
        prediction = self.fitted.predict(self.lr, steps=[self.lr.size], level=self.level)
        expected = self.fitted.law.predict(self.fitted.values, curve.inputs)
        shift = float(np.exp(offset_of(-log_error(expected, curve.loss))))
        final = shift * prediction.final[0]
        doubt = f"a guess: {prediction.guess}" if prediction.guess else prediction.reason
        return final, prediction.half_width, doubt, prediction.groups

    def _alone(self, curve: Curve) -> tuple[float, float, str, int]:
        law: Law = LinearLRLaw() if _has_fallen(self.lr, curve) else PowerLaw()
        settings = FitSettings(law, law.huber)
        steps = self.lr.size
        loss = _forecast(settings, curve, self.lr, steps)
        errors = list(_past_errors(settings, curve, self.lr, steps))
        ahead = self.lr[int(curve.step[-1]) - 1 :]
        reason = ""
        if ahead.min() < 0.99 * ahead[0] and isinstance(law, PowerLaw):
            reason = (
                "the rate has not fallen yet: what the decay will gain cannot be known from "
                "this run alone, and is left out; give earlier runs as `history`"
            )
        if len(errors) < len(BACK):
            why = reason or "too early to check a forecast of this horizon"
            return loss, float("nan"), why, len(errors)
        spread = float(np.sqrt(np.mean(np.square(errors)) * (1 + 1 / len(errors))))
        half = float(t_quantile(self.level, len(errors) + 1)) * spread
        return loss, float("nan") if reason else half, reason, len(errors)


def _forecast(settings: FitSettings, curve: Curve, rates: Floats, step: int) -> float:
    values = settings.solve([curve]).values
    question = Curve([step - 1, step], [1.0, 2.0], rates).inputs
    return float(settings.law.predict(values, question)[-1])


# Log errors of forecasts that reached as many times ahead as the present one does.
def _past_errors(settings: FitSettings, curve: Curve, rates: Floats, steps: int) -> list[float]:
    now = int(curve.step[-1])
    reach = steps / now
    errors = []
    for share in BACK:
        origin, target = now / reach * share, now * share
        early = curve.step <= origin
        if early.sum() < FEWEST or np.ptp(curve.loss[early]) == 0:
            continue
        at = int(np.argmin(np.abs(curve.step - target)))
        forecast = _forecast(settings, curve.select(early), rates, int(curve.step[at]))
        near = np.median(curve.loss[max(at - 2, 0) : at + 3])
        errors.append(float(log_error(np.array(forecast), np.array(near))))
    return errors


def _has_fallen(rates: Floats, curve: Curve) -> bool:
    past = rates[curve.inputs.warmup : int(curve.step[-1])]
    return bool(past[-1] < 0.9 * past[0])
