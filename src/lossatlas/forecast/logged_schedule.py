"""The schedule that logged rates follow: shape, peak, length, warm-up."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lossatlas.cooldown import SHAPE_NAMES, SHAPES, CooldownShape, cooldown_factor
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.schedules import WHOLE_RUN, warmup_length

Floats = NDArray[np.float64]

# Largest distance of a logged rate from a schedule that it is said to follow, over the peak.
_CLOSE = 3e-3
# Schedules that are as close as this to the rates cannot be told apart by them.
_ALIKE = 1e-6
# Last rates, as shares of the peak, at which a linear schedule is taken to have ended.
_ENDS = (0.0, 0.1, 0.01)
# A peak beyond the logged ones, at most.
_UNSEEN = 1.25
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
        rivals: shapes of other schedules that the rates follow as closely. Where there are
            some, this schedule is a guess.
    """

    shape: str
    steps: int
    peak: float
    warmup: int = 0
    decay: int | None = None
    min_ratio: float = 0.0
    has_ended: bool = True
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fall:
    """A fall from one update to another, and how far the rates are from it."""

    shape: CooldownShape
    span: tuple[int, int]
    peak: float
    last: float
    distance: float = np.inf
    #: Updates by which it lags: torch's schedulers give the first update the peak.
    lag: int = 0


def logged_schedule(curve: Curve, warmup: int | None = None) -> LoggedSchedule | None:
    """The schedule behind the logged rates of a run, or None where it has no usual shape.

    Near its top a cosine or a line that goes on cannot be told from a short fall that ends with
    the log: the one that goes on is returned, with the others as `rivals`. Of a log that ends
    within the warm-up nothing is known: None.

    Args:
        curve: a run with rates.
        warmup: length of its warm-up, where it is known. Default: that of the curve.

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
    if curve.lr is None or ends_in_warmup(curve):
        return None
    warmup = curve.warmup if warmup is None else warmup
    rates, top = curve.lr, warmup_length(curve.lr)
    # Rates at steps that were logged; what was assumed before them is left out.
    step = np.unique([*curve.step[curve.step > top], rates.size])
    peak, rises = float(rates[top]), bool(rates[0] < rates[top])
    length = warmup if warmup is not None else (_warmup(rates, peak) if rises else 0)
    log = _Log(step, rates[step - 1], rates.size, peak, length)
    if np.ptp(log.rates) <= 1e-6 * peak:
        return LoggedSchedule("constant", updates_of(curve), peak, length, has_ended=False)
    searched = warmup is None and not rises
    closest = _closest(log.whole(searched=searched))
    if closest is not None and rises and warmup is None:
        # The peak was between two logged rates, and the warm-up ended there.
        log = replace(log, warmup=_warmup(rates, closest.peak))
        closest = _closest(log.whole(searched=False))
    rivals: tuple[str, ...] = ()
    if closest is None:
        closest, rivals = log.beyond_or_held()
    if closest is None:
        return None
    (start, end), begin = closest.span, log.warmup
    if searched and start <= step[0]:
        begin = start
    return LoggedSchedule(
        closest.shape, end, closest.peak, begin, end - start, closest.last / closest.peak,
        has_ended=end <= rates.size + _gap(curve), rivals=rivals,
    )  # fmt: skip


def updates_of(curve: Curve) -> int:
    """How many updates a run has; logs that count from zero end one short of a round number."""
    last = int(curve.step[-1])
    from_zero = int(curve.step[0]) <= _gap(curve)
    return last + 1 if from_zero and last % 10 == 9 else last


# Updates from one logged loss to the next, as a rule.
def _gap(curve: Curve) -> int:
    return int(np.median(np.diff(curve.step)))


def ends_in_warmup(curve: Curve) -> bool:
    """Whether the logged rates still rise where the log ends: nothing else of them is known."""
    rates = curve.lr
    if rates is None or rates.size < 2:
        return False
    return bool(rates[0] < rates[-1]) and warmup_length(rates) == rates.size - 1


@dataclass(frozen=True, eq=False)
class _Log:
    """Rates that were logged after the top of the warm-up, of a run of so many updates."""

    step: NDArray[np.int64]
    rates: Floats
    steps: int
    peak: float
    warmup: int

    # A fall that goes on beyond the log, else one that ends with it; and what else fits.
    def beyond_or_held(self) -> tuple[_Fall | None, tuple[str, ...]]:
        held = sorted(
            (fall for fall in self.held() if fall.distance <= _CLOSE),
            key=lambda fall: fall.distance,
        )
        beyond = _closest(self.unfinished())
        if beyond is not None:
            return beyond, tuple(dict.fromkeys(fall.shape for fall in held))
        if not held:
            return None, ()
        others = dict.fromkeys(fall.shape for fall in held[1:] if fall.shape != held[0].shape)
        return held[0], tuple(others)

    # Falls over the whole run after the warm-up. The peak may lie between two logged rates.
    def whole(self, *, searched: bool) -> Iterator[_Fall]:
        last, starts = float(self.rates[-1]), [self.warmup]
        plain = self.fall("cosine", (self.warmup, self.steps), last)
        if searched and plain.distance > _CLOSE:
            places = np.linspace(self.warmup, self.step[0] - 1, _PLACES)
            starts = np.unique(places.astype(int)).tolist()
        for shape in WHOLE_RUN:
            for start in starts:
                for end, lag in ((last, 0), (0.0, 1)):
                    fall = self.fall(shape, (start, self.steps), end, lag)
                    has_ended = np.isclose(end / fall.peak, _ENDS, atol=2e-3).any()
                    if fall.peak <= _UNSEEN * self.peak and (shape != "linear" or has_ended):
                        yield fall

    # Falls that begin after the rate was held; between which logged steps is known.
    def held(self) -> Iterator[_Fall]:
        last = float(self.rates[-1])
        fallen = int(np.argmax(self.rates < self.peak * (1 - 1e-6)))
        low = int(self.step[fallen - 1]) if fallen else self.warmup
        starts = np.unique(np.linspace(low, self.step[fallen] - 1, _PLACES).astype(int))
        for shape in SHAPE_NAMES:
            # Without a held rate a line has no start: it is a whole run, or one that goes on.
            if (shape not in SHAPES and last <= 0) or (
                shape == "linear" and (fallen <= 1 or low <= self.warmup + 1)
            ):
                continue
            for start in starts.tolist():
                yield self.off(_Fall(shape, (start, self.steps), self.peak, last))

    # Falls to zero that end beyond the log.
    def unfinished(self) -> Iterator[_Fall]:
        for shape, lag in product(WHOLE_RUN, (0, 1)):
            first, last = float(self.step[-1]), _BEYOND * float(self.step[-1])
            # Finer each time, around the best end so far.
            for _ in range(4):
                ends = np.unique(
                    np.geomspace(first, last, _PLACES).round().astype(int)
                ).tolist()
                falls = [self.fall(shape, (self.warmup, end), 0.0, lag) for end in ends]
                best = int(np.argmin([fall.distance for fall in falls]))
                first, last = ends[max(best - 1, 0)], ends[min(best + 1, len(ends) - 1)]
            yield falls[best]

    # The peak by least squares: rate = last + (peak - last) * factor.
    def fall(
        self, shape: CooldownShape, span: tuple[int, int], last: float, lag: int = 0
    ) -> _Fall:
        factor = SHAPES[shape](_progress(self.step - lag, span))
        squares = float(factor @ factor)
        peak = last + float(factor @ (self.rates - last)) / squares if squares else last
        return self.off(_Fall(shape, span, peak, last, lag=lag))

    # How far the rates are from a fall, over its peak.
    def off(self, fall: _Fall) -> _Fall:
        if not fall.peak > 0 or fall.last > fall.peak:
            return fall
        share = cooldown_factor(
            fall.shape, _progress(self.step - fall.lag, fall.span), fall.last / fall.peak
        )
        distance = float(np.abs(fall.peak * share - self.rates).max()) / fall.peak
        return replace(fall, distance=distance)


def _closest(falls: Iterator[_Fall]) -> _Fall | None:
    close = [fall for fall in falls if fall.distance <= _CLOSE]
    least = min((fall.distance for fall in close), default=0.0)
    # A line that lags is another line exactly: people choose round numbers.
    alike = [fall for fall in close if fall.distance <= least + _ALIKE]
    return min(alike, key=lambda fall: (_digits(fall), fall.distance), default=None)


# How many digits the peak and the last update have; those of the number, not of its rounding.
def _digits(fall: _Fall) -> int:
    texts = f"{fall.peak:.6e}".partition("e")[0], str(fall.span[1])
    return sum(len(text.replace(".", "").strip("0")) for text in texts)


# A linear warm-up from zero has one slope; its end lies where it meets the peak.
def _warmup(rates: Floats, peak: float) -> int:
    top = warmup_length(rates)
    opening = rates[: top + 1]
    first = int(np.argmax(opening > opening[0]))
    slope = max(float(np.diff(opening).max()), float(opening[0]) / first)
    return min(round(peak / slope), top + 1)


def _progress(step: NDArray[np.int64], span: tuple[int, int]) -> Floats:
    start, end = span
    return np.clip((step - start) / (end - start), 0.0, 1.0)
