"""Whether the fitted runs have seen a schedule: a forecast of another one is a guess."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve
from lossatlas.forecast.own_schedule import own_schedule
from lossatlas.forecast.same_schedule import distinct_schedules, first_difference
from lossatlas.text import count

Floats = NDArray[np.float64]

NO_ERROR = "no fitted run has another schedule, so that the error of such a forecast is unknown"


def one_schedule(curves: Sequence[Curve]) -> bool:
    """Whether runs have rates, all of the same schedule."""
    return distinct_schedules(curves) == 1


def unseen_schedule(curves: Sequence[Curve], rates: Floats | None) -> str:
    """Why the answer of a law about a schedule is a guess; empty where it is none.

    Runs of one schedule show what the rates of that schedule do. This function decides it for
    every forecast, what-if and ranking.

    Args:
        curves: the fitted runs.
        rates: rate of every update; None asks about other schedules in general.

    Returns:
        A clause.
    """
    if not one_schedule(curves):
        return ""
    rated = [curve for curve in curves if curve.lr is not None]
    runs = "the fitted run" if len(rated) == 1 else f"the {count(len(rated), 'fitted run')}"
    if rates is None:
        one = "has one schedule" if len(rated) == 1 else "share one schedule"
        return f"{runs} {one}, and what other rates do was not seen"
    first = _first_unseen(max(rated, key=lambda curve: int(curve.step[-1])), rates)
    if not first:
        return ""
    return (
        f"the schedule is not that of {runs} from update {first:,} on, and what other rates do "
        "was not seen"
    )


# The first update whose rate is not that of the run; 0 where there is none.
def _first_unseen(run: Curve, rates: Floats) -> int:
    assert run.lr is not None
    expected = own_schedule(run).rates(rates.size)
    if expected is not None:
        return first_difference(run, expected, rates)
    # The log shows no rate beyond its end.
    return first_difference(run, run.lr, rates[: run.lr.size]) or run.lr.size + 1
