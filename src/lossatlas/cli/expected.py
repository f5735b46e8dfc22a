"""How long a survey will take, before it begins."""

import time

from lossatlas.objective import Objective

# Points that a refined map computes at least, for one to three directions.
_FEWEST = {1: 50, 2: 60, 3: 125}


# Seconds of timing. A machine that others use stops a process for a tenth of a second at a
# time: one evaluation of a few milliseconds tells anything.
_TIMED = 1.0


def timed_evaluation(objective: Objective, short: float = 0.0) -> tuple[float, float]:
    """Time evaluations of the loss on all data.

    Args:
        objective: whose loss.
        short: one evaluation that takes less is enough.

    Returns:
        Seconds of one: the least and the mean, without the first of several.
    """
    seconds: list[float] = []
    while sum(seconds) < _TIMED and not any(s < short for s in seconds):
        started = time.perf_counter()
        objective.evaluate()
        seconds.append(time.perf_counter() - started)
    later = seconds[1:] or seconds
    return min(later), sum(later) / len(later)


def map_evaluations(points: int, dimension: int, *, adaptive: bool) -> tuple[float, float]:
    """How many evaluations a map takes, at least and at most."""
    return (min(_FEWEST[dimension], points) if adaptive else points), points
