"""The rate of every update: given, constant, or interpolated between logged ones."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast.schedules import ramp

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


def check_rates(values: Floats, label: str = "") -> None:
    """Require finite rates >= 0, some of them above zero, in one dimension."""
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"`lr`{label} must be one-dimensional and not empty; "
                        f"got shape {values.shape}.")  # fmt: skip
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise DataError(f"`lr`{label} must be finite, >= 0 and somewhere > 0.")


def per_update(
    lr: ArrayLike | None, step: Steps, warmup: int | None, label: str
) -> tuple[Floats | None, tuple[str, ...]]:
    """The rate of every update from what a user knows of the rates."""
    if lr is None:
        return None, ()
    values = as_float_array("lr", lr, label)
    last = int(step[-1])
    if values.ndim == 0:
        values = np.full(last, float(values))
    check_rates(values, label)
    if values.size >= last:
        return values, ()
    if values.size != step.size:
        raise ArgumentError(
            f"`lr`{label} must be one number, one a point ({step.size}) or one an update (at "
            f"least {last}, the last step); got {values.size}, which does not cover the steps."
        )
    return _interpolated(values, step, warmup)


# Logged rates on all updates: linear in between, a ramp or the first rate before.
def _interpolated(
    values: Floats, step: Steps, warmup: int | None
) -> tuple[Floats, tuple[str, ...]]:
    return logged_rates(values, step, int(step[-1]), warmup)


def logged_rates(
    values: Floats, step: Steps | Floats, last: int, warmup: int | None
) -> tuple[Floats, tuple[str, ...]]:
    """Rates that were logged now and then, on every update."""
    if warmup is not None:
        check_at_least("warmup", warmup, 0)
    every = np.arange(1, last + 1)
    rates = np.interp(every, step, values)
    first = max(int(step[0]), 1)
    gaps = min(last, int(step[-1])) - first + 1 - int(((step >= first) & (step <= last)).sum())
    notes = []
    if gaps > 0:
        notes.append(f"rates of {gaps} updates between the logged ones interpolated")
    if warmup:
        rates[: min(warmup, first)] = ramp(warmup, float(values[0]))[:first]
        notes.append(f"a linear warm-up of {warmup} steps assumed before step {first}")
    elif first > 1:
        notes.append(f"the first logged rate assumed for the {first - 1} updates before it")
    if step[-1] < last:
        notes.append(
            f"the last logged rate assumed for the {last - int(step[-1])} updates after it"
        )
    return rates, tuple(notes)
