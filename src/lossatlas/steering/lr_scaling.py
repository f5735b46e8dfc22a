"""From the best rate of short runs to a rate and its range for a training of another length."""

import math

# The best rate falls as updates^-power; on 12 problems the power was between 0 and 3/4, about
# 1/2 (docs/studies/lr).
POWER, _MIN_POWER, _MAX_POWER = 0.5, 0.25, 0.75
# Data seen more often than this overfit, so that lower rates may be best; short runs see
# nothing of it.
MANY_PASSES = 16.0
# What both ends of the range are widened by: so wide that it holds 90 % of the best rates,
# corrected for the number of tasks that it was calibrated on (docs/studies/lr/calibration.py).
MARGIN = 1.11


def scaled_rate(rate: float, updates: int, horizon: int, power: float = POWER) -> float:
    """Rate (updates / horizon)^power."""
    return rate * math.pow(updates / horizon, power)


def scaled_range(
    low: float, high: float, updates: int, horizon: int, passes: float
) -> tuple[float, float]:
    """The range for `horizon` updates, lower where these make many passes over the data."""
    slow, fast = (_MAX_POWER, _MIN_POWER) if horizon > updates else (_MIN_POWER, _MAX_POWER)
    overfits = math.sqrt(passes / MANY_PASSES) if passes > MANY_PASSES else 1.0
    return (
        scaled_rate(low, updates, horizon, slow) / (overfits * MARGIN),
        scaled_rate(high, updates, horizon, fast) * MARGIN,
    )


def equivalent_rate(rate: float, best: float, updates: int, horizon: int) -> float:
    """The rate of short runs equivalent to one of a training, as near `best` as can be."""
    # The power is not known: a difference that remains is one of the rates, not of the lengths.
    ends = sorted(scaled_rate(rate, horizon, updates, power) for power in (0.0, _MAX_POWER))
    return min(max(best, ends[0]), ends[1])
