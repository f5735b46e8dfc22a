"""Curves with bands, and differences with intervals: drawn from arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.text import safe

Floats = NDArray[np.float64]
_COLORS = (style.BASIN, style.PATH, style.RIDGE, style.MUTED)


@dataclass(frozen=True, eq=False)
class Curve:
    """Values along an axis, with a band.

    Attributes:
        name: what it is.
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
        name: what it is.
        value: the number.
        low: lower end of the interval, NaN where unknown.
        high: upper end.
    """

    name: str
    value: float
    low: float
    high: float


def draw_curves(
    curves: Sequence[Curve],
    *,
    ax: Any = None,
    title: str,
    x: str,
    y: str,
    is_log: bool = False,
    lines: bool = True,
) -> Any:
    """Curves with bands on matplotlib axes; `lines=False` leaves the points alone."""
    from lossatlas.plots import canvas

    ax = canvas.axes(ax)
    for color, curve in zip(_COLORS, curves, strict=False):
        band = np.nan_to_num(curve.band)
        if lines:
            low, high = curve.values - band, curve.values + band
            ax.fill_between(curve.at, low, high, color=color, alpha=0.2, linewidth=0)
            ax.plot(curve.at, curve.values, color=color, marker="o", ms=3, label=curve.name)
        else:
            ax.errorbar(curve.at, curve.values, band, color=color, fmt="o", ms=4, lw=1,
                        label=curve.name)  # fmt: skip
    ax.axhline(0, color=style.FAINT, linewidth=0.8, zorder=0)
    if is_log:
        ax.set_xscale("log")
    canvas.name_axes(ax, title, x, y)
    if len(curves) > 1:
        canvas.legend(ax)
    return ax


def web_curves(
    curves: Sequence[Curve], *, x: str, y: str, is_log: bool = False, lines: bool = True
) -> Any:
    """The same as a plotly figure."""
    import plotly.graph_objects as go

    from lossatlas.plots import web

    figure = web.figure(
        xaxis=web.axis(x, type="log" if is_log else "linear"),
        yaxis=web.axis(y, zeroline=True, zerolinecolor=style.FAINT),
        showlegend=len(curves) > 1,
    )
    for color, curve in zip(_COLORS, curves, strict=False):
        band = np.nan_to_num(curve.band)
        if lines:
            around = np.concatenate([curve.values + band, (curve.values - band)[::-1]])
            figure.add_trace(
                go.Scatter(
                    x=np.concatenate([curve.at, curve.at[::-1]]), y=around, fill="toself",
                    fillcolor=style.translucent(color, 0.2), line={"width": 0},
                    hoverinfo="skip", showlegend=False,
                )
            )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=curve.at, y=curve.values, name=safe(curve.name),
                mode="lines+markers" if lines else "markers", marker={"color": color},
                error_y=None if lines else {"array": band, "color": color},
            )
        )  # fmt: skip
    return figure


def draw_differences(
    differences: Sequence[Difference], *, ax: Any = None, title: str, x: str
) -> Any:
    """Numbers with intervals, one below another, on matplotlib axes."""
    from lossatlas.plots import canvas

    ax = canvas.axes(ax, size=(5.4, 1.2 + 0.3 * len(differences)))
    for row, shown in enumerate(differences):
        ax.plot([shown.low, shown.high], [row, row], color=style.BASIN, linewidth=1.5)
        ax.plot([shown.value], [row], "o", color=style.BASIN, ms=5)
    ax.axvline(0, color=style.FAINT, linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(differences)), [shown.name for shown in differences])
    ax.set_ylim(len(differences) - 0.5, -0.5)
    canvas.name_axes(ax, title, x, "")
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    return ax


def web_differences(differences: Sequence[Difference], *, x: str) -> Any:
    """The same as a plotly figure."""
    import plotly.graph_objects as go

    from lossatlas.plots import web

    names = [safe(shown.name) for shown in differences]
    values = np.array([shown.value for shown in differences])
    ends = np.array([(shown.low, shown.high) for shown in differences]).reshape(-1, 2)
    figure = web.figure(
        height=140 + 34 * len(differences),
        xaxis=web.axis(x, zeroline=True, zerolinecolor=style.FAINT),
        yaxis=web.axis("", autorange="reversed", type="category"),
        showlegend=False,
    )
    spread = {
        "array": np.nan_to_num(ends[:, 1] - values),
        "arrayminus": np.nan_to_num(values - ends[:, 0]),
        "color": style.BASIN,
    }
    figure.add_trace(
        go.Scatter(
            x=values, y=names, mode="markers", error_x=spread,
            marker={"color": style.BASIN, "size": 9},
        )
    )  # fmt: skip
    return figure
