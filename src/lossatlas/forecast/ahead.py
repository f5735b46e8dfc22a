"""The default forecast of a fit: its longest run continued."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import AtlasError
from lossatlas.forecast import schedules
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.laws.baselines import Baseline
from lossatlas.forecast.logged_schedule import LoggedSchedule, logged_schedule
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.same_schedule import first_difference
from lossatlas.forecast.simple import ahead as simple_ahead
from lossatlas.forecast.unseen import one_schedule

if TYPE_CHECKING:
    from lossatlas.forecast.prediction import Prediction
    from lossatlas.forecast.result import Fit

Floats = NDArray[np.float64]

# Shares of the peak below this are no rate.
_NO_RATE = 1e-3


def forecast_ahead(fit: "Fit") -> "Prediction | None":
    """The longest run to the end of its schedule, or twice its updates; see `Fit.ahead`."""
    if not fit.curves or fit.distrust or {"size", "tokens", "source"} & set(fit.law.needs):
        return None
    if isinstance(fit.law, Baseline):
        return simple_ahead(fit)
    run = longest(fit)
    try:
        if run.lr is None:
            last = own_schedule(run).question
            first = min(fit.first_step, last // 2 + 1)
            return fit.predict(
                steps=np.unique(np.linspace(first, last, min(200, last)).round())
            )
        rates = _rates_ahead(fit, run)
        return None if rates is None else fit.predict(rates)
    except AtlasError:
        return None


def longest(fit: "Fit") -> Curve:
    """The run with the most updates."""
    return max(fit.curves, key=lambda curve: int(curve.step[-1]))


def _rates_ahead(fit: "Fit", run: Curve) -> Floats | None:
    plan = logged_schedule(run)
    if plan is None:
        return None
    # A run longer than one that is over has another schedule.
    ends = plan.decay is not None and (not plan.has_ended or one_schedule(fit.curves))
    rates = stretched(plan, plan.steps if ends else 2 * plan.steps)
    assert run.lr is not None
    follows = not first_difference(run, run.lr[: rates.size], rates[: run.lr.size])
    # A rise in stages is no warm-up to a peak: the logged rates are kept.
    return rates if follows else own_schedule(run).rates(rates.size)


def stretched(plan: LoggedSchedule, steps: int) -> Floats:
    """A schedule over so many updates, with as few digits as tell it."""
    peak = rounded(plan.peak)
    if plan.decay is None:
        return schedules.constant(steps, peak, plan.warmup)
    return schedules.wsd(
        steps, peak, decay_share(plan), plan.shape,  # type: ignore[arg-type]
        min_ratio=rounded_ratio(plan), warmup=plan.warmup,
    )  # fmt: skip


def decay_share(plan: LoggedSchedule) -> float:
    """The fall as a share of the updates after the warm-up."""
    if plan.decay is None:
        return 1.0
    return min(rounded(plan.decay / (plan.steps - plan.warmup)), 1.0)


def rounded_ratio(plan: LoggedSchedule) -> float:
    """The last rate over the peak; 0 where it is no rate."""
    return rounded(plan.min_ratio) if plan.min_ratio > _NO_RATE else 0.0


def rounded(value: float) -> float:
    """As few digits as keep a number to a thousandth."""
    texts = (float(f"{value:.{digits}g}") for digits in range(1, 7))
    return next((each for each in texts if abs(each / value - 1) < 1e-3), value)


def place_of(fit: "Fit", prediction: "Prediction") -> str:
    """Of which run a forecast is, and over how many updates; a clause."""
    run, last = longest(fit), int(prediction.step[-1])
    own = own_schedule(run)
    if run.lr is None:
        return f"'{run.label}' continued"
    if own.is_held:
        return f"'{run.label}' continued with its rate held"
    if own.end is not None and last <= own.end:
        return f"the end of the schedule of '{run.label}'"
    return (
        f"the schedule of '{run.label}' over {last / int(run.step[-1]):.2g} times its updates"
    )
