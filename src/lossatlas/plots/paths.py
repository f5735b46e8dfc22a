"""Charts of arrays: curves with bands, and differences with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.chart import Area, Axis, Chart, Layer, Line, Points, joined
from lossatlas.plots.rows import Dots, rows_chart

Floats = NDArray[np.float64]
_COLORS = (style.BASIN, style.PATH, style.RIDGE, style.MUTED)


@dataclass(frozen=True, eq=False)
class Curve:
    """Values along an axis, with a band.

    Attributes:
        name: name of the quantity.
        at: positions, shape (points,).
        values: shape (points,); gaps where they are not finite.
        band: half its width at each point, shape (points,); none where it is NaN.
    """

    name: str
    at: Floats
    values: Floats
    band: Floats


@dataclass(frozen=True, eq=False)
class Difference:
    """A number with an interval.

    Attributes:
        name: name of the quantity.
        value: the number.
        low: lower end of the interval, NaN where unknown.
        high: upper end.
    """

    name: str
    value: float
    low: float
    high: float


def curve_chart(curves: Sequence[Curve], title: str, x: Axis, y: str) -> Chart:
    """Curves with their bands, and a line at 0."""
    layers: list[Layer] = [_zero(curves)]
    several = len(curves) > 1
    for color, curve in zip(_COLORS, curves, strict=False):
        live = np.isfinite(curve.values)
        at, values, band = curve.at[live], curve.values[live], np.nan_to_num(curve.band[live])
        around = np.concatenate([values + band, (values - band)[::-1]])
        layers.append(Area(np.concatenate([at, at[::-1]]), around, color, opacity=0.2))
        shown = np.where(live, curve.values, np.nan)
        name = curve.name if several else ""
        layers.append(Line(curve.at, shown, color=color, marks=5, name=name))
    return Chart(title, x, Axis(y), tuple(layers))


def scatter_chart(points: Curve, title: str, x: str, y: str) -> Chart:
    """Points with error bars."""
    band = np.nan_to_num(points.band)
    ends = [np.array([v - b, v + b]) for v, b in zip(points.values, band, strict=True)]
    places = [np.array([at, at]) for at in points.at]
    layers = (
        Line(joined(places), joined(ends), color=style.BASIN),
        Points(points.at, points.values, color=style.BASIN),
    )
    return Chart(title, Axis(x), Axis(y), layers)


def difference_chart(differences: Sequence[Difference], title: str, x: str) -> Chart:
    """Numbers with intervals, in rows, and a line at 0."""
    values, low, high = np.array([[d.value, d.low, d.high] for d in differences]).T
    dots = Dots("", values, np.stack([values - low, high - values]))
    return rows_chart([shown.name for shown in differences], [dots], title, x, zero=True)


def _zero(curves: Sequence[Curve]) -> Line:
    at = np.concatenate([curve.at for curve in curves])
    return Line([at.min(), at.max()], [0.0, 0.0], color=style.FAINT, width=1)
