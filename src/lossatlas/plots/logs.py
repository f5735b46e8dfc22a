"""Logarithmic axes of a page that name round numbers, and few of them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.plots import web
from lossatlas.text import number


def log_axis(title: str, values: ArrayLike, **options: Any) -> dict[str, Any]:
    """An axis for positive numbers that may span one decade or ten."""
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[np.isfinite(known) & (known > 0)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.1, 10.0)
    margin = max(0.05 * np.log10(high / low), 0.06)
    ends = [float(np.log10(low) - margin), float(np.log10(high) + margin)]
    ticks = _round_numbers(*ends)
    plain = {"type": "log", "range": ends, "tickvals": ticks, "ticktext": _names(ticks)}
    return web.axis(title, **(plain | options))


def _round_numbers(low: float, high: float) -> list[float]:
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    wide = high - low
    leading = (1, 1.5, 2, 3, 4, 5, 7) if wide < 1 else (1, 2, 5) if wide < 3 else (1,)
    step = max(1, round(wide / 8))
    places = (m * 10.0**k for k in decades if k % step == 0 or wide < 3 for m in leading)
    return [place for place in places if low <= np.log10(place) <= high]


def _names(ticks: list[float]) -> list[str]:
    return [number(tick, 2) if 1e-4 <= tick < 1e5 else f"{tick:.0e}" for tick in ticks]
