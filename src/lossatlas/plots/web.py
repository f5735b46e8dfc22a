"""The plotly side of the style: empty figures, axes, color bars, hover texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style
from lossatlas.plots.marks import Mark
from lossatlas.plots.scale import Scale
from lossatlas.text import (
    axis_title,
    loss_title,
    number,
    percent,
    safe,
    short,
    with_error,
)

Floats = NDArray[np.float64]
Options = dict[str, Any]

_MARGIN = {"l": 72, "r": 24, "t": 36, "b": 92}
_FONT = {"family": style.WEB_FAMILY, "size": 12, "color": style.INK}


def figure(height: int = 430, **layout: Any) -> go.Figure:
    """An empty figure in the style of the house."""
    plain: Options = {
        "template": go.layout.Template(),
        "height": height,
        "font": _FONT,
        "paper_bgcolor": style.PAPER,
        "plot_bgcolor": style.PAPER,
        "margin": _MARGIN,
        "hoverlabel": {"font": {"family": style.WEB_FAMILY, "size": 12}, "align": "left"},
        "legend": legend(),
        "showlegend": True,
    }
    return go.Figure(layout=plain | layout)


def legend(**place: Any) -> Options:
    """A quiet legend below the plot."""
    plain: Options = {
        "orientation": "h",
        "x": 0.5,
        "xanchor": "center",
        "y": 0.0,
        "yanchor": "bottom",
        "yref": "container",
        "bgcolor": "rgba(255, 255, 255, 0)",
        "font": {"size": 11},
    }
    return plain | place


def axis(title: str, **options: Any) -> Options:
    """An axis."""
    plain: Options = {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "gridcolor": style.GRID,
        "linecolor": style.FAINT,
        "tickcolor": style.FAINT,
        "tickfont": {"size": 11, "color": style.MUTED},
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "showline": True,
        "automargin": True,
    }
    return plain | options


def loss_axis(scale: Scale, title: str = "loss", **options: Any) -> Options:
    """An axis of losses; the data on it are heights of the scale."""
    return axis(loss_title(scale.is_log, title), **ticks(scale), **options)


def map_axes(landscape: Landscape) -> Options:
    """The two axes of a map of a plane."""
    (left, *_, right), (low, *_, high) = landscape.axes
    titles = map(safe_axis_title, landscape.labels)
    x = axis(next(titles), showgrid=False, range=[left, right])
    y = axis(next(titles), showgrid=False, range=[low, high])
    slope = (high - low) / (right - left)
    if 1 / 3 <= slope <= 3:
        y |= {"scaleanchor": "x", "constrain": "domain"}
        x |= {"constrain": "domain"}
    height = _MARGIN["t"] + _MARGIN["b"] + 350 * min(max(slope, 0.5), 1.2)
    # Both maps of a pair keep the same square, whatever their legends and color bars need.
    margin = _MARGIN | {"r": 96, "autoexpand": False}
    return {"xaxis": x, "yaxis": y, "height": round(height), "margin": margin}


def safe_axis_title(label: object) -> str:
    """Title of an axis of a map as safe text."""
    return safe(axis_title(label), 80)


def space_axis(title: str, **options: Any) -> Options:
    """An axis of a three-dimensional scene."""
    plain: Options = {
        "title": {"text": title, "font": {"size": 12}},
        "gridcolor": "#d3dade",
        "showbackground": False,
        "zeroline": False,
        "showspikes": False,
        "tickfont": {"size": 11, "color": style.MUTED},
        "nticks": 6,
    }
    return plain | options


def scene(landscape: Landscape, z: Options, ratio: tuple[float, float, float]) -> Options:
    """A three-dimensional scene seen from a corner, a little from above."""
    x, y = (space_axis(safe(short(label))) for label in landscape.labels[:2])
    return {
        "xaxis": x,
        "yaxis": y,
        "zaxis": z,
        "aspectmode": "manual",
        "aspectratio": dict(zip("xyz", ratio, strict=True)),
        "camera": {
            "eye": {"x": 1.0, "y": -1.15, "z": 1.02},
            "center": {"x": 0.0, "y": 0.0, "z": -0.17},
        },
    }


def color_bar(title: str, scale: Scale | None = None, **options: Any) -> Options:
    """A thin color bar."""
    plain: Options = {
        "title": {"text": title, "side": "right", "font": {"size": 12}},
        "thickness": 12,
        "outlinewidth": 0,
        "len": 0.92,
        "xpad": 8,
        "tickfont": {"size": 11, "color": style.MUTED},
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": style.FAINT,
    }
    return plain | (ticks(scale) if scale is not None else {}) | options


def loss_bar(scale: Scale, quantity: str = "loss", **options: Any) -> Options:
    """The color bar of losses."""
    return color_bar(loss_title(scale.is_log, quantity), scale, **options)


def ticks(scale: Scale) -> Options:
    """Ticks at round losses."""
    losses, labels = scale.ticks()
    return {"tickvals": scale.forward(losses).tolist(), "ticktext": labels}


def hover_grid(landscape: Landscape) -> NDArray[np.object_]:
    """What each point of a map says of itself: its loss, the error, how it came about."""
    texts = [
        with_error(value, stderr) + ("" if computed else " (interpolated)")
        for value, stderr, computed in zip(
            landscape.values.ravel().tolist(),
            landscape.stderr.ravel().tolist(),
            landscape.computed.ravel().tolist(),
            strict=True,
        )
    ]
    return np.array(texts, dtype=object).reshape(landscape.values.shape)


def hover_mark(mark: Mark) -> list[str]:
    """What each point of a landmark says of itself."""
    rows = zip(mark.seen.tolist(), mark.ground.tolist(), mark.residual.tolist(), strict=True)
    return [
        "<br>".join([f"{safe(mark.name)} {step + 1} of {len(mark.points)}", *_facts(*row)])
        for step, row in enumerate(rows)
    ]


def _facts(seen: float, ground: float, residual: float) -> Sequence[str]:
    facts = {
        "loss there": number(seen) if np.isfinite(seen) else "",
        "map beneath": number(ground) if np.isfinite(ground) else "",
        "off the plane": percent(residual) if np.isfinite(residual) else "",
    }
    return [f"{name} {value}" for name, value in facts.items() if value]
