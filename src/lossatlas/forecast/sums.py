"""What laws read off a schedule: sums of rates, and falls of the rate."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Inputs

Floats = NDArray[np.float64]


def rate_sums(inputs: Inputs) -> Floats:
    """S1: the sum of rates up to each point, the area of the warm-up included."""
    if inputs.rates is None:
        return inputs.step.astype(np.float64)
    check_cover(inputs)
    sums = np.cumsum(inputs.rates)[inputs.step - 1]
    if sums[0] <= 0:
        raise ArgumentError(
            f"`lr` is 0 up to step {inputs.step[sums <= 0][-1]}: a law of a sum of rates has "
            "no value there; leave those points out."
        )
    return np.asarray(sums)


def log_error(forecast: Floats, truth: Floats) -> Floats:
    """Log of forecast over truth, for any forecast."""
    return np.asarray(np.log(np.maximum(forecast, 1e-3 * truth) / truth))


def check_cover(inputs: Inputs) -> None:
    """Require a rate for every update up to the last step, and no point before the first."""
    if inputs.rates is not None and inputs.step[-1] > inputs.rates.size:
        raise ArgumentError(f"`lr` has {inputs.rates.size} rates but the last step is "
                            f"{inputs.step[-1]}; give a rate for every update.")  # fmt: skip
    if inputs.step[0] < 1:
        raise ArgumentError("`steps` must be >= 1: a law of a sum of rates has no value before "
                            "the first update.")  # fmt: skip


def falls(inputs: Inputs, with_warmup: bool = False) -> Floats:
    """By how much each update's rate lies below the one before; rises are negative."""
    rates = cast("Floats", inputs.rates)
    change = np.zeros(rates.size)
    if with_warmup:
        change[0] = -rates[0]
    start = 0 if with_warmup else inputs.warmup
    change[start + 1 :] = rates[start:-1] - rates[start + 1 :]
    return change
