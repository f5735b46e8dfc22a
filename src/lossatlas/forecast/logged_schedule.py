"""The schedule that logged rates follow: shape, peak, length, warm-up."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap

import numpy as np
from numpy.typing import NDArray

from lossatlas.cooldown import SHAPE_NAMES, SHAPES, CooldownShape, cooldown_factor
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.schedules import WHOLE_RUN, warmup_length

Floats = NDArray[np.float64]

# Largest distance of a logged rate from a schedule that it is said to follow, over the peak.
_CLOSE = 3e-3
# Last rates, as shares of the peak, at which a linear schedule is taken to have ended.
_ENDS = (0.0, 0.1, 0.01)
# How far beyond the log a schedule may end, and at how many places an end is looked for.
_BEYOND, _PLACES = 20.0, 120


@dataclass(frozen=True)
class LoggedSchedule:
    """A schedule that logged rates follow.

    Attributes:
        shape: "constant", or the shape of the fall.
        steps: updates, warm-up included; beyond the log where the fall has not ended there.
        peak: the highest rate.
        warmup: updates of the linear warm-up.
        decay: updates of the fall; None for a constant rate.
        min_ratio: the last rate as a share of the peak.
        has_ended: whether the log reaches the end of the schedule.
    """

    shape: str
    steps: int
    peak: float
    warmup: int = 0
    decay: int | None = None
    min_ratio: float = 0.0
    has_ended: bool = True


@dataclass(frozen=True)
class _Fall:
    """A fall from one update to another, and how far the rates are from it."""

    shape: CooldownShape
    start: int
    end: int
    peak: float
    last: float
    distance: float


def logged_schedule(curve: Curve, warmup: int | None = None) -> LoggedSchedule | None:
    """The schedule behind the logged rates of a run, or None where it has no usual shape.

    Args:
        curve: a run with rates.
        warmup: length of its warm-up, where it is known.

    Returns:
        The schedule.

    Examples:
        >>> from lossatlas.forecast import schedules
        >>> steps = np.arange(50, 1001, 50)
        >>> rates = schedules.cosine(1000, 1e-3, warmup=120)[steps - 1]
        >>> found = logged_schedule(Curve(steps, 1 / steps, rates))
        >>> found.shape, found.steps, round(found.peak, 6), found.warmup
        ('cosine', 1000, 0.001, 120)
    """
    if curve.lr is None:
        return None
    rates = curve.lr
    top = warmup_length(rates)
    # Rates at steps that were logged; what was assumed before them is left out.
    step = np.unique([*curve.step[curve.step > top], rates.size])
    logged = rates[step - 1]
    peak, rises = float(rates[top]), bool(rates[0] < rates[top])
    length = warmup if warmup is not None else (_warmup(rates, peak) if rises else 0)
    if np.ptp(logged) <= 1e-6 * peak:
        return LoggedSchedule("constant", rates.size, peak, length, has_ended=False)
    searched = warmup is None and not rises
    found = _closest(_whole(step, logged, rates, top, length, searched=searched))
    if found is not None and rises and warmup is None:
        # The peak was between two logged rates, and the warm-up ended there.
        length = _warmup(rates, found.peak)
        found = _closest(_whole(step, logged, rates, top, length, searched=False))
    found = found or _closest(_held(step, logged, rates, top, length))
    found = found or _closest(_unfinished(step, logged, length))
    if found is None:
        return None
    begin = found.start if searched and found.start <= step[0] else length
    return LoggedSchedule(
        found.shape, found.end, found.peak, begin, found.end - found.start,
        found.last / found.peak, has_ended=found.end <= rates.size,
    )  # fmt: skip


def _closest(falls: Iterator[_Fall]) -> _Fall | None:
    best = min(falls, key=lambda fall: fall.distance, default=None)
    return best if best is not None and best.distance <= _CLOSE else None


# A linear warm-up from zero has one slope; its end lies where it meets the peak.
def _warmup(rates: Floats, peak: float) -> int:
    top = warmup_length(rates)
    opening = rates[: top + 1]
    first = int(np.argmax(opening > opening[0]))
    slope = max(float(np.diff(opening).max()), float(opening[0]) / first)
    return min(round(peak / slope), top + 1)


# Falls over the whole run after the warm-up. The peak may lie between two logged rates.
def _whole(
    step: NDArray[np.int64], logged: Floats, rates: Floats, top: int, warmup: int,
    *, searched: bool,
) -> Iterator[_Fall]:  # fmt: skip
    last, end = float(logged[-1]), rates.size
    starts = [warmup]
    if searched and not _fits(_fall("cosine", step, logged, warmup, end, last)):
        starts = np.unique(np.linspace(warmup, step[0] - 1, _PLACES).astype(int)).tolist()
    for shape in WHOLE_RUN:
        for start in starts:
            fall = _fall(shape, step, logged, start, end, last)
            if shape == "linear" and not np.isclose(last / fall.peak, _ENDS, atol=2e-3).any():
                continue
            if fall.peak <= 1.25 * rates[top]:
                yield fall


# Falls that begin after the rate was held; between which logged steps is known.
def _held(
    step: NDArray[np.int64], logged: Floats, rates: Floats, top: int, warmup: int
) -> Iterator[_Fall]:
    peak, last = float(rates[top]), float(logged[-1])
    fallen = int(np.argmax(logged < peak * (1 - 1e-6)))
    low = int(step[fallen - 1]) if fallen else warmup
    starts = np.unique(np.linspace(low, step[fallen] - 1, _PLACES).astype(int))
    for shape in SHAPE_NAMES:
        # Without a held rate a line has no start: it is a whole run, or one that goes on.
        if (shape not in SHAPES and last <= 0) or (shape == "linear" and low <= warmup):
            continue
        for start in starts.tolist():
            yield _distance(shape, step, logged, start, rates.size, peak, last)


# Falls to zero that end beyond the log.
def _unfinished(step: NDArray[np.int64], logged: Floats, warmup: int) -> Iterator[_Fall]:
    low, high = float(step[-1]), _BEYOND * float(step[-1])
    for shape in WHOLE_RUN:
        first, last = low, high
        # Finer each time, around the best end so far.
        for _ in range(4):
            ends = np.unique(np.geomspace(first, last, _PLACES).round().astype(int)).tolist()
            falls = list(starmap(_fall, ((shape, step, logged, warmup, e, 0.0) for e in ends)))
            best = int(np.argmin([fall.distance for fall in falls]))
            first, last = ends[max(best - 1, 0)], ends[min(best + 1, len(ends) - 1)]
        yield falls[best]


# The peak by least squares: rate = last + (peak - last) * factor.
def _fall(
    shape: CooldownShape, step: NDArray[np.int64], logged: Floats, start: int, end: int,
    last: float,
) -> _Fall:  # fmt: skip
    factor = SHAPES[shape](_progress(step, start, end))
    squares = float(factor @ factor)
    peak = last + float(factor @ (logged - last)) / squares if squares else last
    return _distance(shape, step, logged, start, end, peak, last)


def _distance(
    shape: CooldownShape, step: NDArray[np.int64], logged: Floats, start: int, end: int,
    peak: float, last: float,
) -> _Fall:  # fmt: skip
    if not peak > 0 or last > peak:
        return _Fall(shape, start, end, max(peak, 1e-300), last, np.inf)
    expected = peak * cooldown_factor(shape, _progress(step, start, end), last / peak)
    off = float(np.abs(expected - logged).max()) / peak
    return _Fall(shape, start, end, peak, last, off)


def _progress(step: NDArray[np.int64], start: int, end: int) -> Floats:
    return np.clip((step - start) / (end - start), 0.0, 1.0)


def _fits(fall: _Fall) -> bool:
    return fall.distance <= _CLOSE
