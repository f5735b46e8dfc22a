"""Curvature part by part: a line for each layer or class, largest and smallest eigenvalue."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lossatlas.curvature import GroupSpectrum
from lossatlas.plots import canvas, style, web
from lossatlas.plots.logs import log_axis
from lossatlas.text import cut_off, number, safe

Floats = NDArray[np.float64]
MOST_PARTS = 40
_EIGENVALUE = "size of the eigenvalue (loss per squared weight)"
_UP, _DOWN = "largest eigenvalue", "lowest eigenvalue where it is negative, its size"


def plot_groups(groups: Sequence[GroupSpectrum], *, ax: Axes | None = None) -> Axes:
    """Draw the ends of the spectrum of each layer or class, on a logarithmic axis.

    Args:
        groups: as in `Spectrum.groups`.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; lines run from top to bottom in the order given.
    """
    names, ends = _ends(groups)
    ax = canvas.axes(ax, (5.4, 1.2 + 0.22 * len(names)))
    places = np.arange(len(names))
    for label, color, values, bounds in ends:
        live = values > 0
        ax.errorbar(
            values[live],
            places[live],
            xerr=bounds[live],
            fmt="o",
            ms=4,
            color=color,
            label=label,
        )
    ax.set_xscale("log")
    ax.set_yticks(places, [cut_off(name, 28) for name in names])
    ax.invert_yaxis()
    canvas.name_axes(ax, "Curvature part by part", _EIGENVALUE, "")
    canvas.legend(ax)
    return ax


def groups_figure(groups: Sequence[GroupSpectrum]) -> go.Figure:
    """The same for a page.

    Args:
        groups: as in `Spectrum.groups`.

    Returns:
        The figure; its height grows with the number of parts.
    """
    names, ends = _ends(groups)
    shown = [safe(name, 28) for name in names]
    figure = web.figure(176 + 20 * len(names), margin={"l": 72, "r": 24, "t": 40, "b": 96})
    for label, color, values, bounds in ends:
        live = values > 0
        texts = [f"{number(v)} ± {number(b, 2)}" for v, b in zip(values, bounds, strict=True)]
        figure.add_scatter(
            x=values[live],
            y=np.flatnonzero(live),
            error_x={"array": bounds[live], "color": color, "thickness": 1},
            mode="markers",
            marker={"color": color, "size": 8},
            text=np.array(texts, dtype=object)[live],
            hovertemplate="%{y}: %{text}<extra></extra>",
            name=label,
        )
    rows = list(range(len(names)))
    figure.update_layout(
        xaxis=log_axis(_EIGENVALUE, np.concatenate([values for _, _, values, _ in ends])),
        yaxis=web.axis(
            "", tickvals=rows, ticktext=shown, range=[len(names) - 0.5, -0.5], gridwidth=1
        ),
    )
    return figure


def _ends(
    groups: Sequence[GroupSpectrum],
) -> tuple[list[str], list[tuple[str, str, Floats, Floats]]]:
    known = [line for line in groups if np.isfinite(line.largest)]
    # The sharpest are kept where there are too many, in their order.
    least = sorted((line.largest for line in known), reverse=True)[:MOST_PARTS]
    kept = [line for line in known if line.largest >= min(least, default=0.0)][:MOST_PARTS]
    up, up_bounds, low, low_bounds = (
        np.array([getattr(line, key) for line in kept], dtype=np.float64)
        for key in ("largest", "largest_bound", "smallest", "smallest_bound")
    )
    return [line.name for line in kept], [
        (_UP, style.BASIN, up, up_bounds),
        (_DOWN, style.PATH, -low, low_bounds),
    ]
