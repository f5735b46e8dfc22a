"""Curves over updates: points and lines, bands, steps and marked points, for both backends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from lossatlas.plots import canvas, style, web
from lossatlas.text import cut_off, safe

# Okabe and Ito: the order keeps neighbors apart for every common kind of color vision.
HUES = ("#00648c", "#d55e00", "#009e73", "#b3477d", "#56b4e9", "#8a6d00", "#1b2a33", "#9aa6ad")
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
WEB_DASHES = ("solid", "dash", "dot", "dashdot")
MARKERS = {"^": "triangle-up", "o": "circle", "v": "triangle-down", "x": "x"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Series:
    """One line of a chart, or one set of points.

    Attributes:
        x: (n,) places.
        y: (n,) heights.
        label: its name in the legend; none where it is empty.
        color: of line and points.
        kind: a line, small points, large marks, or a staircase that holds each height.
        dash: which of `DASHES`.
        marker: of marks: one of `MARKERS`.
        texts: (n,) what a page shows at each point, safe as markup; none by default.
    """

    x: ArrayLike
    y: ArrayLike
    label: str = ""
    color: str = style.BASIN
    kind: Literal["line", "points", "marks", "steps"] = "line"
    dash: int = 0
    marker: str = "o"
    texts: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Band:
    """A shaded range around a curve.

    Attributes:
        x: (n,) places.
        lower: (n,) lower ends.
        upper: (n,) upper ends.
        label: its name in the legend.
    """

    x: ArrayLike
    lower: ArrayLike
    upper: ArrayLike
    label: str


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart of curves, drawn alike by both backends.

    Attributes:
        title: its heading; pages leave it to their own heading.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        series: what is drawn, the first at the bottom.
        band: a shaded range behind all, if there is one.
        zero: whether a line marks zero.
        from_zero: whether the vertical axis begins at zero.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    band: Band | None = None
    zero: bool = False
    from_zero: bool = False
    log_x: bool = False
    log_y: bool = False


def hue(index: int) -> dict[str, Any]:
    """Color and dash of the curve of this number: no two of the first 32 are alike."""
    return {
        "color": HUES[index % len(HUES)],
        "dash": index // len(HUES) % len(DASHES),
    }


def draw_chart(chart: Chart, ax: Axes | None = None) -> Axes:
    """Draw a chart with matplotlib."""
    ax = canvas.axes(ax)
    if chart.zero:
        ax.axhline(0, color=style.FAINT, lw=0.8)
    if chart.band is not None:
        band = chart.band
        ax.fill_between(
            np.asarray(band.x), np.asarray(band.lower), np.asarray(band.upper),
            color=style.SHARED, alpha=0.45, lw=0, label=band.label,
        )  # fmt: skip
    for series in chart.series:
        _draw(ax, series)
    canvas.name_axes(ax, chart.title, chart.x, chart.y)
    for wanted, spread in ((chart.log_x, ax.set_xscale), (chart.log_y, ax.set_yscale)):
        if wanted:
            spread("log")
    if chart.from_zero:
        ax.set_ylim(bottom=0)
    canvas.legend(ax)
    return ax


def chart_figure(chart: Chart) -> go.Figure:
    """The same chart for a page."""
    figure = web.figure(400)
    if chart.band is not None:
        _add_band(figure, chart.band)
    for series in chart.series:
        _add(figure, series)
    axes = [
        web.axis(title, **({"type": "log"} if is_log else {}))
        for title, is_log in ((chart.x, chart.log_x), (chart.y, chart.log_y))
    ]
    if chart.from_zero:
        axes[1]["rangemode"] = "tozero"
    if chart.zero:
        axes[1] |= {"zeroline": True, "zerolinecolor": style.FAINT}
    return figure.update_layout(xaxis=axes[0], yaxis=axes[1])


def _draw(ax: Axes, series: Series) -> None:
    x, y = np.asarray(series.x), np.asarray(series.y)
    look: dict[str, Any] = {"color": series.color}
    look |= {"label": cut_off(series.label, 30)} if series.label else {}
    if series.kind == "marks":
        ax.scatter(x, y, s=16, marker=series.marker, zorder=3, **look)
    elif series.kind == "points":
        ax.plot(x, y, ".", ms=2.5, alpha=0.45, **look)
    elif series.kind == "steps":
        ax.step(x, y, where="post", lw=1.0, **look)
    else:
        ax.plot(x, y, lw=1.2, ls=DASHES[series.dash], **look)


def _add(figure: go.Figure, series: Series) -> None:
    look: dict[str, Any] = {"name": safe(series.label), "showlegend": bool(series.label)}
    if series.kind in {"marks", "points"}:
        size = 8 if series.kind == "marks" else 3
        symbol = MARKERS[series.marker]
        marker = {"color": series.color, "symbol": symbol, "size": size}
        look |= {"mode": "markers", "marker": marker}
    else:
        line = {"color": series.color, "width": 1.4, "dash": WEB_DASHES[series.dash]}
        line |= {"shape": "hv"} if series.kind == "steps" else {}
        look |= {"mode": "lines", "line": line}
    if series.texts is not None:
        look |= {"text": list(series.texts), "hovertemplate": "%{text}<extra></extra>"}
    figure.add_scatter(x=np.asarray(series.x), y=np.asarray(series.y), **look)


def _add_band(figure: go.Figure, band: Band) -> None:
    x = np.asarray(band.x)
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([np.asarray(band.upper), np.asarray(band.lower)[::-1]]),
        fill="toself", fillcolor=style.translucent(style.SHARED, 0.45), mode="lines",
        line={"width": 0}, hoverinfo="skip", name=safe(band.label),
    )  # fmt: skip
