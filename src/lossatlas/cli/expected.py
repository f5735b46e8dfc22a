"""How long a survey will take, before it begins."""

import time

from lossatlas.objective import Objective

# Points that a refined map computes at least, for one to three directions.
_FEWEST = {1: 50, 2: 60, 3: 125}


def timed_evaluation(objective: Objective) -> float:
    """Seconds of one evaluation of the loss on all data; the first one may be slower."""
    started = time.perf_counter()
    objective.evaluate()
    first = time.perf_counter() - started
    if first > 1:
        return first
    started = time.perf_counter()
    objective.evaluate()
    return time.perf_counter() - started


def map_evaluations(points: int, dimension: int, *, adaptive: bool) -> tuple[float, float]:
    """How many evaluations a map takes, at least and at most."""
    return (min(_FEWEST[dimension], points) if adaptive else points), points
