"""Learning-rate schedules: the share of the rate at each step."""

import math
from collections.abc import Callable

from lossatlas.checks import check_number, check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.objective.user_code import wrap_errors

Schedule = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """Always 1."""
    return 1.0


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 1 to 0, which would be reached one step after the last."""
    return 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine}


def build_schedule(schedule: str | Schedule) -> Schedule:
    """Return a schedule by name, or a user-defined one."""
    if callable(schedule):
        return _checked(schedule)
    if not isinstance(schedule, str):
        kind = type(schedule).__name__
        raise ArgumentError(
            f"`schedule` must be a name or a function(step, steps); got {kind}."
        )
    check_one_of("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]


def _checked(schedule: Schedule) -> Schedule:
    def share(step: int, steps: int) -> float:
        with wrap_errors("`schedule`", "it is called as schedule(step, steps).", ArgumentError):
            value = schedule(step, steps)
        check_number(f"schedule({step}, {steps})", value)
        return float(value)

    return share
