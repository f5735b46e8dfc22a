"""Trainings side by side: scores with their intervals, and how loss and rate went."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.plots import style, web
from lossatlas.plots.curves import HUES
from lossatlas.text import number, safe

Floats = NDArray[np.float64]
_ROW = 34
_WINDOWS = 60


def intervals_figure(
    names: Sequence[str],
    intervals: Sequence[tuple[float, float, float]],
    points: Sequence[Floats],
    title: str,
    *,
    zero: bool = False,
) -> go.Figure:
    """One row a name: every pair or seed as a dot, their mean with its interval.

    Args:
        names: what was compared.
        intervals: (mean, lower, upper) each; NaN bounds are not drawn.
        points: the single values of each.
        title: what runs along the axis, with its unit.
        zero: whether zero means no difference.

    Returns:
        The figure.
    """
    figure = web.figure(120 + _ROW * len(names), showlegend=False)
    if zero:
        figure.add_vline(x=0, line={"color": style.FAINT, "width": 1})
    rows = [safe(name) for name in names]
    for row, values in zip(rows, points, strict=True):
        figure.add_scatter(
            x=values,
            y=[row] * len(values),
            mode="markers",
            marker={"color": style.FILL, "size": 9, "opacity": 0.4},
            hovertemplate="%{x:.4g}<extra></extra>",
        )
    mean, lower, upper = np.array(intervals, dtype=float).reshape(-1, 3).T
    figure.add_scatter(
        x=mean,
        y=rows,
        mode="markers",
        marker={"color": style.BASIN, "size": 10, "symbol": "diamond"},
        error_x={
            "array": upper - mean,
            "arrayminus": mean - lower,
            "color": style.BASIN,
            "thickness": 1.6,
        },
        text=[
            f"{number(m)} [{number(a)}, {number(b)}]"
            for m, a, b in zip(mean, lower, upper, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
    )
    figure.update_layout(
        xaxis=web.axis(title),
        yaxis=web.axis("", autorange="reversed", type="category"),
        margin={"l": 72, "r": 24, "t": 16, "b": 60},
    )
    return figure


def traces_figure(
    names: Sequence[str],
    traces: Sequence[Floats],
    title: str,
    *,
    smooth: bool = False,
    log: bool = False,
) -> go.Figure:
    """One line a name: the mean over its trainings, and the band that holds all of them.

    Args:
        names: what was trained.
        traces: shape (trainings, updates) each; NaN where a training had ended.
        title: what runs up the axis.
        smooth: average over windows of a sixtieth of the training.
        log: draw heights logarithmically.

    Returns:
        The figure.

    Raises:
        ArgumentError: not one trace a name.
    """
    if len(names) != len(traces):
        raise ArgumentError(
            f"`traces` must be one array a name; got {len(traces)} for {len(names)} names."
        )
    figure = web.figure(400)
    for index, (name, trace) in enumerate(zip(names, traces, strict=True)):
        hue = HUES[index % len(HUES)]
        update, values = (
            _windows(trace) if smooth else (np.arange(1, trace.shape[1] + 1), trace)
        )
        ended = np.isnan(values).all(0)
        update, values = update[~ended], values[:, ~ended]
        if len(values) > 1:
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            figure.add_scatter(
                x=np.concatenate([update, update[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                fill="toself",
                fillcolor=style.translucent(hue, 0.15),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
            )
        figure.add_scatter(
            x=update,
            y=np.nanmean(values, axis=0),
            mode="lines",
            line={"color": hue, "width": 1.6, "dash": ("solid", "dash", "dot")[index // 8 % 3]},
            hovertemplate="update %{x}: %{y:.4g}<extra></extra>",
            name=safe(name),
        )
    options: dict[str, Any] = {"type": "log", "exponentformat": "power"} if log else {}
    figure.update_layout(xaxis=web.axis("update"), yaxis=web.axis(title, **options))
    return figure


def _windows(trace: Floats) -> tuple[NDArray[np.int64], Floats]:
    updates = trace.shape[1]
    width = max(updates // _WINDOWS, 1)
    starts = np.arange(0, updates, width)
    sums = np.add.reduceat(trace, starts, axis=1)
    ends = np.minimum(starts + width, updates)
    return ends, sums / (ends - starts)
