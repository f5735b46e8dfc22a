"""Two checkpoints on a page: the line between them, their maps, their diagrams."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style, web
from lossatlas.plots.interactive import ground_figure
from lossatlas.plots.interactive_others import line_figure
from lossatlas.plots.layouts import diagram_frame
from lossatlas.plots.matched import BasinMatch, bar_scale, bar_steps
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.text import number, safe, with_error
from lossatlas.topology import Diagram

Floats = NDArray[np.float64]
_TEXT = "%{text}<extra></extra>"
_COLORS = {"matched": style.SURE, "gone": style.PATH, "new": style.RIDGE}
_SYMBOLS = {"matched": "circle", "gone": "x", "new": "diamond"}
_NAMES = {"matched": "in both", "gone": "gone", "new": "new"}


def chord_figure(
    line: Landscape, *, names: tuple[str, str] = ("A", "B"), top: int | None = None
) -> go.Figure:
    """The loss from one checkpoint to another, with its band and the chord below it."""
    bare = _without_marks(line)
    figure = line_figure(bare)
    scale = scale_of(line.values)
    (x,) = line.axes
    chord = _chord(line)
    figure.add_scatter(
        x=x,
        y=scale.forward(chord),
        mode="lines",
        line={"color": style.MUTED, "width": 1.4, "dash": "dash"},
        text=[number(value) for value in chord.tolist()],
        hovertemplate="chord %{text}<extra></extra>",
        name="straight between the ends",
    )
    if top is not None:
        _add_rise(figure, line, chord, scale, top)
    for place, name in zip((x[0], x[-1]), names, strict=True):
        end = 0 if place == x[0] else -1
        figure.add_scatter(
            x=[place],
            y=scale.forward(line.values[[end]]),
            mode="markers+text",
            marker={"color": style.PATH, "size": 11, "line": {"color": "white", "width": 1}},
            text=[safe(name, 20)],
            textposition="top center",
            textfont={"size": 14, "color": style.PATH},
            hoverinfo="skip",
            showlegend=False,
            cliponaxis=False,
        )
    first, second = (safe(name, 20) for name in names)
    figure.update_xaxes(title_text=f"share of the way from {first} to {second}")
    return figure


def _without_marks(line: Landscape) -> Landscape:
    return replace(line, landmarks={}, landmark_residuals={}, landmark_values={})


def _chord(line: Landscape) -> Floats:
    (x,) = line.axes
    share = (x - x[0]) / (x[-1] - x[0])
    return np.asarray((1 - share) * line.values[0] + share * line.values[-1])


def _add_rise(
    figure: go.Figure, line: Landscape, chord: Floats, scale: Scale, top: int
) -> None:
    place, peak = float(line.axes[0][top]), float(line.values[top])
    figure.add_scatter(
        x=[place, place],
        y=scale.forward(np.array([chord[top], peak])),
        mode="lines",
        line={"color": style.PATH, "width": 2},
        hoverinfo="skip",
        name=f"barrier {number(peak - float(chord[top]), 3)}",
    )


def fate_figure(
    landscape: Landscape, marks: tuple[BasinMatch, BasinMatch], scale: Scale
) -> go.Figure:
    """A map from above with its basins named by what becomes of them in the other map."""
    figure = ground_figure(landscape, scale)
    for fate in marks:
        for certain, apart in product((False, True), (False, True)):
            rows = np.flatnonzero((fate.certain == certain) & (fate.apart == apart))
            if rows.size:
                _add_fate(figure, fate, rows)
    return figure


def _add_fate(figure: go.Figure, fate: BasinMatch, rows: NDArray[np.intp]) -> None:
    x, y = fate.points[rows].T
    certain, apart = bool(fate.certain[rows[0]]), bool(fate.apart[rows[0]])
    marker: dict[str, Any] = {
        "symbol": "square" if apart else _SYMBOLS[fate.kind],
        "size": 12 if certain else 7,
        "color": _COLORS[fate.kind] if certain else style.FAINT,
        "line": {"color": style.INK, "width": 1},
        "opacity": 1.0,
    }
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers+text" if certain or fate.kind == "matched" else "markers",
        marker=marker,
        text=[f"<b>{fate.labels[k]}</b>" if certain else fate.labels[k] for k in rows],
        textposition=[_side(point, fate.points) for point in fate.points[rows]],
        textfont={"size": 13 if certain else 10, "color": "#ffffff", "shadow": _SHADOW},
        customdata=[_mark_text(fate, k) for k in rows.tolist()],
        hovertemplate="%{customdata}<extra></extra>",
        name=fate_name(fate, int(rows[0])) + ("" if certain else ", uncertain"),
    )


def fate_name(fate: BasinMatch, k: int) -> str:
    """What became of a basin, in words."""
    return _NAMES[fate.kind] + (", elsewhere" if fate.apart[k] else "")


_SHADOW = "0 0 3px #1b2a33, 0 0 3px #1b2a33, 0 0 3px #1b2a33"


def _side(point: Floats, others: Floats) -> str:
    # Beside the mark, on the side that points away from the other marks.
    return "middle right" if point[0] <= float(np.median(others[:, 0])) else "middle left"


def _mark_text(fate: BasinMatch, k: int) -> str:
    value = with_error(float(fate.values[k]), float(fate.stderr[k]))
    lasts = number(float(fate.persistences[k]), 3)
    return f"basin {fate.labels[k]}, {fate_name(fate, k)}<br>loss {value}<br>lasts {lasts}"


def diagrams_figure(
    first: Diagram,
    second: Diagram,
    *,
    scale: Scale,
    names: tuple[str, str] = ("A", "B"),
) -> go.Figure:
    """The basins of two maps in one persistence diagram, with the steps between them."""
    scale = bar_scale(first, second, scale)
    frame = diagram_frame(first, scale)
    low, ceiling, high = scale.forward(np.array([frame.floor, frame.ceiling, frame.roof]))
    x = web.loss_axis(scale, "birth: loss where it appears", range=[low, high])
    y = web.loss_axis(scale, "death: loss where it merges", range=[low, high])
    figure = web.figure(
        470,
        xaxis=x | {"constrain": "domain"},
        yaxis=y | {"scaleanchor": "x", "constrain": "domain"},
    )
    _add_band(figure, max(first.threshold, second.threshold), frame.steps(), scale)
    thin = {"color": style.FAINT, "width": 1}
    plain: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=[low, high], y=[low, high], line=thin, **plain)
    figure.add_scatter(
        x=[low, high], y=[ceiling, ceiling], line=thin | {"dash": "dash"}, **plain
    )
    font = {"size": 10, "color": style.MUTED}
    middle = (low + high) / 2
    figure.add_annotation(
        x=middle, y=ceiling, text="never ends", showarrow=False, yshift=9, font=font
    )
    _add_steps(figure, first, second, scale, ceiling)
    looks = zip((first, second), names, ("circle", "diamond"), strict=True)
    for (diagram, name, symbol), color in zip(looks, (style.BASIN, style.PATH), strict=True):
        _add_basins(figure, diagram, safe(name, 20), scale, (symbol, color, ceiling))
    return figure


def _add_band(figure: go.Figure, threshold: float, steps: Floats, scale: Scale) -> None:
    if threshold <= 0:
        return
    band = np.concatenate([steps, (steps + threshold)[::-1]])
    figure.add_scatter(
        x=scale.forward(np.concatenate([steps, steps[::-1]])),
        y=scale.forward(band),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=style.translucent(style.BAND, 0.75),
        hoverinfo="skip",
        name="within the error of a map",
    )


def _add_steps(
    figure: go.Figure, first: Diagram, second: Diagram, scale: Scale, ceiling: float
) -> None:
    starts, ends = bar_steps(first, second)
    if not len(starts):
        return
    gap = np.full(len(starts), np.nan)
    births, deaths = (
        scale.forward(np.stack([starts[:, k], ends[:, k], gap], axis=1).ravel()) for k in (0, 1)
    )
    figure.add_scatter(
        x=births,
        y=np.minimum(deaths, ceiling),
        mode="lines",
        line={"color": style.MUTED, "width": 1.2},
        hoverinfo="skip",
        name="matching",
    )


def _add_basins(
    figure: go.Figure,
    diagram: Diagram,
    name: str,
    scale: Scale,
    look: tuple[str, str, float],
) -> None:
    symbol, color, ceiling = look
    for certain in (False, True):
        rows = np.flatnonzero((diagram.dimensions == 0) & (diagram.certain == certain))
        if not rows.size:
            continue
        births, deaths = diagram.births[rows], diagram.deaths[rows]
        lives = zip(births.tolist(), deaths.tolist(), strict=True)
        figure.add_scatter(
            x=scale.forward(births),
            y=np.minimum(scale.forward(deaths), ceiling),
            mode="markers",
            marker={
                "color": color,
                "symbol": symbol if certain else f"{symbol}-open",
                "size": 10 if certain else 8,
                "opacity": 1.0,
            },
            text=[
                f"basin of {name}<br>born {number(b)}, dies {number(d)}<br>"
                f"lasts {number(d - b)}"
                for b, d in lives
            ],
            hovertemplate=_TEXT,
            name=f"basins of {name}" + ("" if certain else ", uncertain"),
        )
