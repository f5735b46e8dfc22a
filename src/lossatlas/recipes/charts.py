"""Charts of runs: scores with their intervals, and curves over the updates."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.linalg.estimators import mean_of

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart, Layer

Array = NDArray[np.float64]
# Averages of a smoothed curve.
_WINDOWS = 60


def intervals_chart(
    names: Sequence[str], values: Sequence[Array], title: str, axis: str, *, zero: bool = False
) -> "Chart":
    """A row a name: every seed as a dot, their mean with its interval."""
    from lossatlas.plots.rows import Dots, rows_chart

    points = [row[np.isfinite(row)] for row in values]
    mean, low, high = np.array([_mean_interval(row) for row in points]).T
    dots = [Dots("mean", mean, np.stack([mean - low, high - mean]))]
    return rows_chart(names, dots, title, axis, samples=points, zero=zero)


def curves_chart(
    names: Sequence[str], traces: Sequence[Array], label: str, *, smooth: bool
) -> "Chart":
    """A line a name: the mean over its runs, and the band that holds all of them."""
    from lossatlas.plots.chart import Axis, Chart, Layer

    layers: list[Layer] = []
    for index, (name, trace) in enumerate(zip(names, traces, strict=True)):
        updates, values = np.arange(1, trace.shape[1] + 1), trace
        if smooth:
            updates, values = _window_means(trace)
        has_values = ~np.isnan(values).all(0)
        if has_values.any():
            layers += _curve(name, index, updates[has_values], values[:, has_values])
    y = Axis(label, is_log=True)
    return Chart(label.capitalize(), Axis("update"), y, tuple(layers), size=(5.4, 3.4))


def _curve(name: str, index: int, updates: NDArray[np.int64], values: Array) -> list["Layer"]:
    from lossatlas.plots import style
    from lossatlas.plots.chart import Area, Line

    color, dash = style.hue(index)
    layers: list[Layer] = []
    if len(values) > 1:
        low, high = np.nanmin(values, 0), np.nanmax(values, 0)
        outline = np.concatenate([updates, updates[::-1]])
        band = np.concatenate([high, low[::-1]])
        layers.append(Area(outline, band, color, opacity=0.15))
    mean = np.nanmean(values, 0)
    layers.append(
        Line(updates, mean, color=color, width=2, dash=dash, name=name, hover="values")
    )
    return layers


def _window_means(trace: Array) -> tuple[NDArray[np.int64], Array]:
    updates = trace.shape[1]
    width = max(updates // _WINDOWS, 1)
    starts = np.arange(0, updates, width)
    sums = np.add.reduceat(trace, starts, axis=1)
    ends = np.minimum(starts + width, updates)
    return ends, sums / (ends - starts)


def _mean_interval(values: Array) -> tuple[float, float, float]:
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = mean_of(values)
    return (mean.value, *mean.interval())
