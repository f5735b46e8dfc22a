"""What a survey will take, before it begins: memory and time."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from lossatlas.cli.output import Output
from lossatlas.cli.processes import process_count
from lossatlas.curvature import chosen, spectrum_memory
from lossatlas.curvature.costs import instrument_evaluations
from lossatlas.landscape.engines import Metric
from lossatlas.landscape.engines.choice import EngineName
from lossatlas.landscape.mapping import plan_map
from lossatlas.landscape.plane import Plane
from lossatlas.objective import Objective
from lossatlas.text import between, byte_size

if TYPE_CHECKING:
    from lossatlas.cli.survey_settings import SurveySettings

# Seconds from which a survey announces its duration.
_LONG = 30.0
# Points that a refined map computes at least, for one to three directions.
_MIN_POINTS = {1: 50, 2: 60, 3: 125}
# Seconds of timing. A machine that others use stops a process for a tenth of a second at a
# time: one evaluation of a few milliseconds says little.
_TIMED = 1.0


def announce(
    settings: "SurveySettings",
    instruments: tuple[str, ...],
    objective: Objective,
    plane: Plane,
    metrics: Mapping[str, Metric],
    *,
    output: Output,
) -> None:
    """Print engine, memory and, where it is long, the duration of a survey."""
    if output.quiet or process_count() > 1:
        return
    plan = plan_map(
        objective,
        plane,
        points=settings.points,
        engine=cast("EngineName", settings.map.engine),
        metrics=metrics,
        executor=settings.map.executor,
    )
    mapping = (
        f"mapping up to {plan.points:,} points, engine {plan.engine}, with about "
        f"{byte_size(plan.memory)} beside model and data"
    )
    output.note("; ".join((mapping, *plan.notes)))
    tools = chosen(instruments, curvature=settings.curvature)
    if tools:
        basis = byte_size(spectrum_memory(objective))
        output.note(f"measuring at the weights; a spectrum takes up to {basis}")
    counts = (
        map_evaluations(plan.points, plane.dimension, adaptive=settings.map.adaptive),
        instrument_evaluations(tools, objective),
    )
    _announce_duration(objective, counts, output)


def _announce_duration(
    objective: Objective, counts: tuple[tuple[float, float], ...], output: Output
) -> None:
    min_count, max_count = (sum(side) for side in zip(*counts, strict=True))
    min_time, mean_time = timed_evaluation(objective, _LONG / max_count)
    low, high = min_count * min_time, max_count * mean_time
    if high >= _LONG:
        output.note(
            f"this takes about {between(low, high)}: one evaluation of the loss takes "
            f"{mean_time:.2g} s"
        )


def timed_evaluation(objective: Objective, short: float = 0.0) -> tuple[float, float]:
    """Least and mean seconds of evaluating the loss, without the first of several."""
    # One evaluation is enough where it takes less than `short`.
    seconds: list[float] = []
    while sum(seconds) < _TIMED and not any(s < short for s in seconds):
        started = time.perf_counter()
        objective.evaluate()
        seconds.append(time.perf_counter() - started)
    later = seconds[1:] or seconds
    return min(later), sum(later) / len(later)


def map_evaluations(points: int, dimension: int, *, adaptive: bool) -> tuple[float, float]:
    """How many evaluations a map takes, at least and at most."""
    return (min(_MIN_POINTS[dimension], points) if adaptive else points), points
