"""Numbers of several trainings: rows with intervals, and traces with the band of all seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.plots import canvas, style, web
from lossatlas.text import number, safe

Floats = NDArray[np.float64]
_ROW = 34
_WINDOWS = 60


Interval = tuple[float, float, float]


def plot_intervals(
    names: Sequence[str],
    intervals: Sequence[Interval],
    points: Sequence[Floats],
    title: str,
    *,
    zero: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw one row a name: every seed as a dot, their mean with its interval.

    Args:
        names: what was compared.
        intervals: (mean, lower, upper) each; NaN bounds are not drawn.
        points: the single values of each.
        title: what runs along the axis, with its unit.
        zero: whether zero means no difference.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Examples:
        >>> from matplotlib import pyplot as plt
        >>> ax = plot_intervals(["adam"], [(0.9, 0.8, 1.0)], [np.ones(2)], "accuracy")
        >>> ax.get_xlabel()
        'accuracy'
        >>> plt.close(ax.figure)
    """
    ax = canvas.axes(ax, (5.4, 1.0 + 0.35 * len(names)))
    if zero:
        ax.axvline(0, color=style.FAINT, lw=1)
    rows = np.arange(len(names))
    for row, values in zip(rows, points, strict=True):
        ax.scatter(values, np.full(len(values), row), s=18, color=style.FILL, alpha=0.4, lw=0)
    mean, lower, upper = _rows_of(names, intervals)
    spread = np.nan_to_num(np.array([mean - lower, upper - mean]))
    ax.errorbar(mean, rows, xerr=spread, fmt="D", ms=5, color=style.BASIN, lw=1.4)
    ax.set_yticks(rows, names)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    ax.set_ylim(len(names) - 0.5, -0.5)
    canvas.name_axes(ax, "", title, "")
    return ax


def intervals_figure(
    names: Sequence[str],
    intervals: Sequence[Interval],
    points: Sequence[Floats],
    title: str,
    *,
    zero: bool = False,
) -> go.Figure:
    """The same for a page; the arguments are those of `plot_intervals`."""
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
    mean, lower, upper = _rows_of(names, intervals)
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


def plot_traces(
    names: Sequence[str],
    traces: Sequence[Floats],
    title: str,
    *,
    smooth: bool = False,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw one line a name: the mean over its trainings, and the band that holds all of them.

    Args:
        names: what was trained.
        traces: shape (trainings, updates) each; NaN where a training had ended.
        title: what runs up the axis.
        smooth: average over windows of a sixtieth of the training.
        log: draw heights logarithmically.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ArgumentError: not one trace a name.

    Examples:
        >>> from matplotlib import pyplot as plt
        >>> ax = plot_traces(["adam"], [np.array([[1.0, 0.5], [0.9, 0.4]])], "loss")
        >>> ax.lines[0].get_ydata()
        array([0.95, 0.45])
        >>> plt.close(ax.figure)
    """
    ax = canvas.axes(ax, (5.4, 3.4))
    for index, (name, trace) in enumerate(_checked(names, traces)):
        hue, dash = _look(index)
        update, mean, low, high = _band(trace, smooth=smooth)
        if len(trace) > 1:
            ax.fill_between(update, low, high, color=hue, alpha=0.15, lw=0)
        ax.plot(
            update,
            mean,
            color=hue,
            lw=1.4,
            ls={"dash": "--", "dot": ":"}.get(dash, "-"),
            label=name,
        )
    if log:
        ax.set_yscale("log")
    canvas.name_axes(ax, "", "update", title)
    canvas.legend(ax)
    return ax


def traces_figure(
    names: Sequence[str],
    traces: Sequence[Floats],
    title: str,
    *,
    smooth: bool = False,
    log: bool = False,
) -> go.Figure:
    """The same for a page; the arguments are those of `plot_traces`."""
    figure = web.figure(400)
    for index, (name, trace) in enumerate(_checked(names, traces)):
        hue, dash = _look(index)
        update, mean, low, high = _band(trace, smooth=smooth)
        if len(trace) > 1:
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
            y=mean,
            mode="lines",
            line={"color": hue, "width": 1.6, "dash": dash},
            hovertemplate="update %{x}: %{y:.4g}<extra></extra>",
            name=safe(name),
        )
    options: dict[str, Any] = {"type": "log", "exponentformat": "power"} if log else {}
    figure.update_layout(xaxis=web.axis("update"), yaxis=web.axis(title, **options))
    return figure


def _rows_of(names: Sequence[str], intervals: Sequence[Interval]) -> Floats:
    table = np.array(intervals, dtype=float).reshape(-1, 3)
    if len(table) != len(names):
        raise ArgumentError(
            f"`intervals` must be one (mean, lower, upper) a name; got {len(table)} for "
            f"{len(names)} names."
        )
    return np.asarray(table.T)


def _checked(names: Sequence[str], traces: Sequence[Floats]) -> list[tuple[str, Floats]]:
    if len(names) != len(traces):
        raise ArgumentError(
            f"`traces` must be one array a name; got {len(traces)} for {len(names)} names."
        )
    return list(zip(names, traces, strict=True))


def _look(index: int) -> tuple[str, str]:
    color, dash = style.hue(index)
    return color, web.DASHES[dash]


def _band(trace: Floats, *, smooth: bool) -> tuple[Any, Any, Any, Any]:
    update, values = _windows(trace) if smooth else (np.arange(1, trace.shape[1] + 1), trace)
    there = ~np.isnan(values).all(0)
    update, values = update[there], values[:, there]
    if not len(update):
        return update, update, update, update
    return (
        update,
        np.nanmean(values, axis=0),
        np.nanmin(values, axis=0),
        np.nanmax(values, axis=0),
    )


def _windows(trace: Floats) -> tuple[NDArray[np.int64], Floats]:
    updates = trace.shape[1]
    width = max(updates // _WINDOWS, 1)
    starts = np.arange(0, updates, width)
    sums = np.add.reduceat(trace, starts, axis=1)
    ends = np.minimum(starts + width, updates)
    return ends, sums / (ends - starts)
