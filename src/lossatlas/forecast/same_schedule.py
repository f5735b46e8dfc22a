"""Whether rates are those of one schedule: the only place that decides it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve
from lossatlas.forecast.schedules import warmup_length

Floats = NDArray[np.float64]

# Rates that differ by less than this share of the peak are those of one schedule: between two
# logged rates they are interpolated.
ALIKE = 0.02
# A warm-up over at most this share of the run is too short to tell schedules apart.
SHORT = 0.05


def distinct_schedules(curves: Sequence[Curve]) -> int:
    """How many schedules runs have: each differs from all before it where both have rates."""
    kept: list[Curve] = []
    for curve in curves:
        if curve.lr is not None and not any(_shared(other, curve.lr) for other in kept):
            kept.append(curve)
    return len(kept)


def _shared(run: Curve, rates: Floats) -> bool:
    assert run.lr is not None
    size = min(run.lr.size, rates.size)
    return not first_difference(run, run.lr[:size], rates[:size])


def first_difference(run: Curve, own: Floats, rates: Floats) -> int:
    """The first update whose rate is not that of a run; 0 where there is none.

    A short warm-up does not count. A longer rise may be shifted by as many updates as lie
    between two points of the log, which does not show where between them it begins and ends.

    Args:
        run: the run, with rates.
        own: (T,) its rates, continued beyond the log or cut.
        rates: (T,) the rates to compare.

    Returns:
        The update, counted from 1.
    """
    assert run.lr is not None
    margin = ALIKE * float(run.lr.max())
    low, high = own - margin, own + margin
    top = warmup_length(own)
    if 0 < top < own.size - 1:
        gap = int(np.median(np.diff(run.step)))
        rise = own[: top + 1]
        low[: top + 1] = np.pad(rise, (gap, 0))[: top + 1] - margin
        high[: top + 1] = np.pad(rise, (0, gap), mode="edge")[gap:] + margin
    off = (rates < low) | (rates > high)
    off[: _short_warmup(run)] = False
    return int(np.argmax(off)) + 1 if off.any() else 0


# Updates of the opening rise, or of the warm-up that was given, where it is short.
def _short_warmup(run: Curve) -> int:
    assert run.lr is not None
    longest = int(SHORT * run.lr.size)
    top = warmup_length(run.lr[: longest + 2])
    shown = top + 1 if 0 < top <= longest else 0
    given = run.warmup or 0
    return max(shown, given if given <= longest else 0)
