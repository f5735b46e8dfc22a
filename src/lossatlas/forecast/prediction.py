"""A forecast: losses with an interval, and what to know before believing it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast.curve import Curve, Inputs
from lossatlas.forecast.law import Law, ScheduleLaw
from lossatlas.forecast.numbers import check_length
from lossatlas.forecast.rates import check_rates
from lossatlas.forecast.schedules import is_monotone, warmup_length

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

POINTS = 200  # of a forecast whose steps are not given
FAR = 2.0  # horizons beyond this are warned of
ABSURD = 100.0  # horizons beyond this are refused


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a law expects of a run.

    Attributes:
        step: (n,) updates done.
        loss: (n,) expected losses.
        lower: (n,) lower ends of the intervals; NaN where there is none.
        upper: (n,) upper ends.
        level: the share of losses that the interval should cover.
        horizon: the last step over the longest one of the fit.
        rates: the schedule, or None.
        reason: why there is no interval; empty where there is one.
        warnings: what to know before believing it, in sentences.
    """

    step: Steps
    loss: Floats
    lower: Floats
    upper: Floats
    level: float
    horizon: float
    rates: Floats | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def half_width(self) -> float:
        """Half the last interval, in log loss; NaN where there is none."""
        return float(np.log(self.upper[-1] / self.lower[-1]) / 2)

    @property
    def final(self) -> tuple[float, float, float]:
        """The last loss, and the ends of its interval."""
        return float(self.loss[-1]), float(self.lower[-1]), float(self.upper[-1])


def inputs_for(
    law: Law,
    schedule: Curve | ArrayLike | None,
    steps: ArrayLike | None,
    *,
    size: ArrayLike | None,
    tokens: ArrayLike | None,
    source: ArrayLike | None,
) -> Inputs:
    """What a law is asked, from what a user gave."""
    if isinstance(schedule, Curve):
        found = schedule.inputs
        if steps is not None:
            found = Inputs(_steps(steps), found.rates)
    else:
        rates = None if schedule is None else as_float_array("schedule", schedule)
        if rates is not None:
            check_rates(rates)
        values = [v for v in (size, tokens, source) if v is not None]
        step = _steps(steps) if steps is not None else _grid(rates, values)
        found = Inputs(step, rates, *(_like(v, step) for v in (size, tokens, source)))
    law.check(found)
    return found


def check_time_unit(law: Law, inputs: Inputs, fitted: Sequence[Curve]) -> None:
    """Require that a law which counts updates or sums rates is asked in the unit of its fit."""
    if not isinstance(law, ScheduleLaw) or law.needs or not fitted:
        return
    rated = fitted[0].rates is not None
    if rated == (inputs.rates is not None):
        return
    if rated:
        raise ArgumentError(
            f"`schedule` must give rates: {law.name} was fitted to runs with rates and sums "
            "them; `steps` alone count updates, which is another unit."
        )
    raise ArgumentError(
        f"`schedule` must not give rates: {law.name} was fitted to runs without rates and "
        "counts updates, which is another unit; give `steps` alone, or fit runs with `lr`."
    )


def horizon_of(inputs: Inputs, longest: int, law: Law) -> Floats:
    """How far each point lies beyond the fitted steps; refused where that is absurd."""
    if law.pointwise and "lr" not in law.needs and law.needs:
        return np.ones(inputs.step.size)
    ratio = inputs.step / longest
    if ratio[-1] > ABSURD:
        raise ArgumentError(
            f"`schedule` reaches step {inputs.step[-1]}, {ratio[-1]:.0f} times the longest "
            f"curve of the fit ({longest}); beyond {ABSURD:.0f} times a forecast is a guess: "
            "fit a longer run."
        )
    return np.asarray(ratio)


def warnings_for(inputs: Inputs, horizon: float, fitted: list[Floats]) -> tuple[str, ...]:
    """Where a question leaves what the fit has seen."""
    out = []
    if horizon > FAR:
        out.append(
            f"the horizon is {horizon:.1f} times the longest fitted curve; the exponents "
            "extrapolate badly that far"
        )
    if inputs.rates is None or not fitted:
        return tuple(out)
    rates = inputs.rates
    if not is_monotone(rates):
        out.append("the schedule rises after its warm-up; the law is untested there")
    peaks = [float(r.max()) for r in fitted]
    if not 0.99 * min(peaks) <= rates.max() <= 1.01 * max(peaks):
        out.append(
            f"the peak rate {rates.max():g} is not among the fitted ones "
            f"({min(peaks):g} to {max(peaks):g}); the law holds for one peak"
        )
    deepest = min(float((r[warmup_length(r) :] / r.max()).min()) for r in fitted)
    depth = float((rates[warmup_length(rates) :] / rates.max()).min())
    if depth < 0.5 * deepest:
        out.append(
            f"the rate falls to {depth:.3g} of its peak; no fitted curve went below "
            f"{deepest:.3g}"
        )
    return tuple(out)


def _steps(steps: ArrayLike) -> Steps:
    values = np.atleast_1d(as_float_array("steps", steps))
    whole = np.isfinite(values).all() and (values % 1 == 0).all() and (values >= 1).all()
    if values.ndim != 1 or not values.size or not whole or (np.diff(values) <= 0).any():
        raise ArgumentError("`steps` must be increasing whole numbers >= 1.")
    check_length("steps", float(values[-1]))
    return values.astype(np.int64)


def _grid(rates: Floats | None, values: list[ArrayLike]) -> Steps:
    if rates is None:
        if not values:
            raise ArgumentError(
                "`schedule` must be a curve or the rates of every update; for a law without "
                "rates give `steps`, `size`, `tokens` or `source`."
            )
        return np.arange(1, max(np.size(v) for v in values) + 1)
    first = min(max(warmup_length(rates), int(np.argmax(rates > 0))) + 1, rates.size)
    return np.unique(np.linspace(first, rates.size, POINTS).astype(np.int64))


def _like(value: ArrayLike | None, step: Steps) -> Floats | None:
    if value is None:
        return None
    array = as_float_array("size, tokens, source", value)
    if array.shape not in {(), (step.size,), (1,)}:
        raise ArgumentError(
            f"`size`, `tokens` and `source` must be numbers or have one length; "
            f"got {array.size} beside {step.size}."
        )
    if not (np.isfinite(array) & (array > 0)).all():
        raise DataError("`size`, `tokens` and `source` must be finite and > 0.")
    return np.broadcast_to(array, (step.size,)).copy()
