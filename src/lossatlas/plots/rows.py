"""Numbers in rows: dots with error bars on one axis, one row per name."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.chart import Area, Axis, Chart, Layer, Line, Note, joined, marks
from lossatlas.plots.logs import log_limits
from lossatlas.text import cut_off, number

Floats = NDArray[np.float64]
MAX_ROWS = 40
_LETTERS = 32
# Room beyond the outermost error bar, as a share of all of them.
_MARGIN = 0.04
_COLORS = (style.BASIN, style.PATH, style.RIDGE)


@dataclass(frozen=True, eq=False)
class Dots:
    """One series: a number for each row.

    Attributes:
        name: for the legend.
        values: numbers; on a logarithmic axis those above 0 are drawn.
        errors: lengths of their error bars, shape (rows,), or (2, rows) below and above; no
            bar where one is not finite.
    """

    name: str
    values: Floats
    errors: Floats | float = np.nan

    def ends(self) -> tuple[Floats, Floats]:
        """Both ends of the error bars; NaN where there is none."""
        below, above = np.broadcast_to(self.errors, (2, len(self.values)))
        return self.values - below, self.values + above


def rows_chart(
    names: Sequence[str],
    series: Sequence[Dots],
    title: str,
    axis: str,
    *,
    samples: Sequence[Floats] = (),
    log: bool = False,
    zero: bool = False,
    limit: float | None = None,
    sides: tuple[str, str] = ("", ""),
) -> Chart:
    """Named rows with one dot per series.

    Args:
        names: of the rows, from top to bottom.
        series: what is drawn in each.
        title: heading.
        axis: title of the axis of values.
        samples: what stands behind the numbers of each row, drawn as faint dots.
        log: whether the axis is logarithmic.
        zero: whether a line marks zero.
        limit: a value that is marked by a line; what lies beyond is shaded.
        sides: texts left and right of that line.

    Returns:
        The chart, as high as there are rows.
    """
    rows = np.arange(len(names), dtype=np.float64)
    heights = (len(names) - 0.5, -0.5 if limit is None else -1.2)
    span = _limits(series, samples, limit, log=log, zero=zero)
    layers: list[Layer] = []
    if limit is not None and span is not None:
        layers += _limit(limit, span[1], heights, sides)
    if zero:
        layers.append(Line([0.0, 0.0], heights, color=style.FAINT, width=1))
    for row, values in zip(rows, samples, strict=False):
        layers.append(marks(values, np.full(len(values), row), color=style.SHARED))
    for color, dots in zip(_COLORS, series, strict=False):
        shown = dots if len(series) > 1 else replace(dots, name="")
        layers += dot_layers(shown, rows, color, floor=span[0] if log and span else None)
    x = Axis(axis, limits=span, is_log=log)
    labels = [_in_lines(name) for name in names]
    y = Axis(limits=heights, ticks=(rows.tolist(), labels))
    lines = sum(label.count("\n") + 1 for label in labels)
    size = (5.4, 1.2 + 0.22 * max(lines, 3))
    # Rows leave no free place for the names of several series.
    legend = "below" if len(series) > 1 else "best"
    height = 176 + 22 * lines
    return Chart(title, x, y, tuple(layers), size=size, height=height, legend=legend)


def _in_lines(name: str) -> str:
    # A long name takes two lines before it is cut off.
    return "\n".join(textwrap.wrap(cut_off(name, 2 * _LETTERS - 2), _LETTERS)[:2]) or name


def dot_layers(
    dots: Dots, heights: Floats, color: str, *, floor: float | None = None
) -> Iterator[Layer]:
    """Dots and their error bars, which end at `floor`: below it nothing is drawn."""
    lower = -np.inf if floor is None else floor
    low, high = dots.ends()
    shown = np.flatnonzero(np.isfinite(dots.values) & (dots.values > lower))
    hover = [_words(*(float(row[k]) for row in (dots.values, low, high))) for k in shown]
    places = marks(dots.values[shown], heights[shown], dots.name, color)
    yield replace(places, hover=hover)
    bounded = [k for k in shown if np.isfinite(low[k]) and np.isfinite(high[k])]
    bars = [np.array([max(low[k], lower), high[k]]) for k in bounded]
    across = [np.array([heights[k], heights[k]]) for k in bounded]
    yield Line(joined(bars), joined(across), color=color, name=dots.name)


def _words(value: float, low: float, high: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return number(value)
    if np.isclose(value - low, high - value):
        return f"{number(value)} ± {number(high - value, 2)}"
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _limits(
    series: Sequence[Dots],
    samples: Sequence[Floats],
    limit: float | None,
    *,
    log: bool,
    zero: bool,
) -> tuple[float, float] | None:
    values = np.concatenate([dots.values for dots in series])
    if log:
        # Room for the word beyond the limit.
        bounded = [limit / 4, 8 * limit] if limit is not None else []
        ends = np.concatenate([dots.ends()[1] for dots in series])
        return log_limits(np.concatenate([values, ends, bounded, *samples]))
    if limit is None:
        both = [end for dots in series for end in dots.ends()]
        every = np.concatenate([values, *both, *samples, [0.0] if zero else []])
        return _wider(every[np.isfinite(every)])
    top = values[np.isfinite(values)].max(initial=0.0)
    return 0.0, float(max(1.5 * limit, 1.1 * top))


def _wider(values: Floats) -> tuple[float, float] | None:
    # An error bar that ends on the frame looks cut off.
    if not values.size or values.min() == values.max():
        return None
    low, high = float(values.min()), float(values.max())
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def _limit(
    limit: float, end: float, heights: tuple[float, float], sides: tuple[str, str]
) -> Iterator[Layer]:
    bottom, top = heights
    corners = [bottom, bottom, top, top, bottom]
    yield Area([limit, end, end, limit, limit], corners, style.BAND, opacity=0.6)
    yield Line([limit, limit], heights, width=1.1)
    for side, text in zip(("left", "right"), sides, strict=True):
        yield Note(text, limit, top + 0.3, side)  # type: ignore[arg-type]
