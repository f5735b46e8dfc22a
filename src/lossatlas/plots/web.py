"""The plotly backend: figures, axes, color bars, and drawing of charts."""

from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lossatlas.plots import style
from lossatlas.plots.chart import (
    Area,
    Axis,
    Chart,
    Field,
    Hover,
    Line,
    Note,
    Points,
    Span,
    Surface,
    near_edges,
    pieces,
)
from lossatlas.plots.logs import log_limits, log_ticks
from lossatlas.plots.scale import Scale
from lossatlas.text import loss_title, safe

Options = dict[str, Any]

_MARGIN = {"l": 72, "r": 24, "t": 36, "b": 92}
# Pixels of a second row of a legend, and names that fit into one.
_LEGEND_ROW, _ONE_ROW = 22, 4
# Pixels below the title of the axis that a figure without a legend does not need.
_LEGEND_SPACE = 36
_FONT = {"family": style.WEB_FAMILY, "size": 12, "color": style.INK}


def figure(height: int = 430, **layout: Any) -> go.Figure:
    """An empty figure in the style of the library."""
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


DASHES = ("solid", "dash", "dot", "dashdot")
_TEXT = "%{text}<extra></extra>"
_MOST = 200
_LEVELS = 16
_ISOLINES = 10
_FEW = 10
_SIDES: dict[str, Options] = {
    "above": {"yshift": 9},
    "left": {"xanchor": "right", "xshift": -3},
    "right": {"xanchor": "left", "xshift": 3},
}
_SHADOW = f"0 0 3px {style.INK}, 0 0 3px {style.INK}, 0 0 3px {style.INK}"


def draw(chart: Chart) -> go.Figure:
    """Draw a chart, with external text escaped."""
    drawn = _space(chart, chart.z) if chart.z is not None else _flat(chart)
    for layer in chart.layers:
        _add(layer, drawn, chart)
    return drawn


def _flat(chart: Chart) -> go.Figure:
    x, y = (_axis(_ended(chart, side)) | _whole(chart, side) for side in "xy")
    layout: Options = {}
    height = chart.height
    names = {getattr(layer, "name", "") for layer in chart.layers} - {""}
    if chart.aspect != "map" and not names:
        layout = {"margin": _MARGIN | {"b": _MARGIN["b"] - _LEGEND_SPACE}}
        height -= _LEGEND_SPACE
    if chart.aspect == "square":
        x, y = x | {"constrain": "domain"}, y | {"scaleanchor": "x", "constrain": "domain"}
    if chart.aspect == "map" and chart.x.limits and chart.y.limits:
        slope = (chart.y.limits[1] - chart.y.limits[0]) / (
            chart.x.limits[1] - chart.x.limits[0]
        )
        if 1 / 3 <= slope <= 3:
            x, y = x | {"constrain": "domain"}, y | {"scaleanchor": "x", "constrain": "domain"}
        height = round(_MARGIN["t"] + _MARGIN["b"] + 350 * min(max(slope, 0.5), 1.2))
        # Maps side by side keep the same square, whatever their legends and color bars need.
        more = _LEGEND_ROW if len(names) > _ONE_ROW else 0
        height += more
        layout = {"margin": _MARGIN | {"r": 96, "b": _MARGIN["b"] + more, "autoexpand": False}}
    return figure(height, xaxis=x, yaxis=y, **layout)


def _axis(shown: Axis) -> Options:
    options: Options = {"showgrid": shown.has_grid, "visible": shown.is_visible}
    if shown.limits is not None:
        options["range"] = _heights(shown, shown.limits).tolist()
    if shown.ticks is not None:
        labels = [_lines(label) for label in shown.ticks[1]]
        options |= {"tickvals": list(shown.ticks[0]), "ticktext": labels, "showline": False}
    if shown.is_whole:
        options |= {"rangemode": "tozero", "tickformat": "d"}
    if shown.from_zero:
        options["rangemode"] = "tozero"
    if shown.is_log:
        options |= _log_axis(shown)
    if shown.marks_zero:
        options |= {"zeroline": True, "zerolinecolor": style.FAINT}
    title = safe(shown.title, 120)
    if shown.scale is None:
        return axis(title, **options)
    return axis(title, **ticks(shown.scale), **options)


def _ended(chart: Chart, side: str) -> Axis:
    # A logarithmic axis ends around its data: ticks of plotly's own lie on each other.
    shown: Axis = getattr(chart, side)
    if not shown.is_log or shown.limits is not None:
        return shown
    rows = [np.ravel(getattr(layer, side)) for layer in chart.layers if _has_points(layer)]
    return replace(shown, limits=log_limits(np.concatenate([*rows, np.empty(0)])))


def _has_points(layer: Any) -> bool:
    return isinstance(layer, Line | Points | Area)


def _log_axis(shown: Axis) -> Options:
    assert shown.limits is not None
    places, names = log_ticks(shown.limits)
    ends = np.log10(shown.limits).tolist()
    return {"type": "log", "range": ends, "tickvals": places, "ticktext": names}


def _whole(chart: Chart, side: str) -> Options:
    # Among few counts plotly would put a tick at every half.
    if not getattr(chart, side).is_whole:
        return {}
    counts = [
        getattr(layer, side) for layer in chart.layers if isinstance(layer, Line | Points)
    ]
    largest = max((float(np.nanmax(row)) for row in counts if np.size(row)), default=0.0)
    return {"dtick": 1} if largest <= _FEW else {}


def _space(chart: Chart, z: Axis) -> go.Figure:
    sides = {"xaxis": chart.x, "yaxis": chart.y, "zaxis": z}
    scene: Options = {
        # Tick labels of the lower corner stay above the legend.
        "domain": {"x": [0.0, 1.0], "y": [0.1, 1.0]},
        "aspectmode": "manual",
        "aspectratio": dict(zip("xyz", chart.ratio, strict=True)),
        "camera": {
            "eye": {"x": 1.12, "y": -1.33, "z": 1.17},
            "center": {"x": -0.05, "y": -0.04, "z": -0.22},
        },
    }
    for name, side in sides.items():
        marks = {} if side.scale is None else ticks(side.scale)
        scene[name] = space_axis(safe(side.title), **marks)
    return figure(chart.height, scene=scene, margin={"l": 0, "r": 0, "t": 0, "b": 24})


def _heights(shown: Axis, values: Any) -> Any:
    array = np.asarray(values, dtype=np.float64)
    return array if shown.scale is None else shown.scale.forward(array)


def _place(layer: Line | Points | Area, chart: Chart) -> Options:
    if getattr(layer, "z", None) is not None and chart.z is not None:
        return {"x": layer.x, "y": layer.y, "z": layer.z}  # type: ignore[union-attr]
    return {"x": _heights(chart.x, layer.x), "y": _heights(chart.y, layer.y)}


def _hover(texts: Hover) -> Options:
    if texts is None:
        return {"hoverinfo": "skip"}
    if isinstance(texts, str):
        return {}
    return {"text": [_lines(text) for text in texts], "hovertemplate": _TEXT}


def _lines(text: str) -> str:
    return "<br>".join(safe(line, _MOST) for line in text.split("\n"))


def _named(drawn: go.Figure, name: str) -> Options:
    # One legend entry per name.
    name = safe(name)
    is_new = bool(name) and all(part.name != name for part in drawn.data)
    return {"name": name, "legendgroup": name, "showlegend": is_new}


def _trace(drawn: go.Figure, is_space: bool, **options: Any) -> None:
    (drawn.add_scatter3d if is_space else drawn.add_scatter)(**options)


@singledispatch
def _add(layer: Any, drawn: go.Figure, chart: Chart) -> None:
    raise NotImplementedError(type(layer).__name__)


@_add.register
def _(layer: Line, drawn: go.Figure, chart: Chart) -> None:
    line: Options = {"color": layer.color, "width": layer.width}
    line |= {"dash": DASHES[layer.dash]} if layer.dash else {}
    line |= {"shape": "hv"} if layer.is_steps else {}
    marker = {"color": layer.color, "size": layer.marks}
    look: Options = {"mode": "lines", "line": line, "opacity": layer.opacity}
    look |= {"mode": "lines+markers", "marker": marker} if layer.marks else {}
    place, words = _place(layer, chart), _named(drawn, layer.name)
    _trace(drawn, layer.z is not None, **place, **look, **_hover(layer.hover), **words)


@_add.register
def _(layer: Points, drawn: go.Figure, chart: Chart) -> None:
    hollow = not layer.color
    is_space = layer.z is not None
    marker: Options = {
        "color": layer.edge if hollow else layer.color,
        # In space a mark is drawn larger than it says.
        "size": 0.6 * layer.size if is_space else layer.size,
        "symbol": layer.symbol + ("-open" if hollow else ""),
        "line": {"color": layer.edge, "width": 1 if layer.size > 4 else 0.6},
        "opacity": 1.0,
    }
    look: Options = {"mode": "markers", "marker": marker}
    look |= {} if is_space else {"cliponaxis": False}
    words = _hover(layer.hover)
    if layer.labels is not None:
        labels = [safe(label) for label in layer.labels]
        white = layer.label_color == style.PAPER
        font: Options = {"color": layer.label_color, "size": 13 if layer.is_bold else 11}
        look |= {"mode": "markers+text", "textposition": _beside(layer, chart)}
        look |= {"textfont": font | ({"shadow": _SHADOW} if white else {})}
        hover = words.pop("text", None)
        words |= {"text": [f"<b>{k}</b>" if layer.is_bold else k for k in labels]}
        if hover is not None:
            words |= {"customdata": hover, "hovertemplate": "%{customdata}<extra></extra>"}
    _trace(
        drawn, is_space, **_place(layer, chart), **look, **words, **_named(drawn, layer.name)
    )


def _beside(layer: Points, chart: Chart) -> str | list[str]:
    if layer.z is not None:
        return "top right"
    return [
        f"{'bottom' if top else 'top'} {'left' if right else 'right'}"
        for right, top in near_edges(layer, chart)
    ]


@_add.register
def _(layer: Area, drawn: go.Figure, chart: Chart) -> None:
    parts = pieces(layer.x, layer.y)
    if not parts:
        return
    place = _place(layer, chart)
    look: Options = {
        "mode": "lines",
        "line": {"width": 0.8, "color": layer.edge} if layer.edge else {"width": 0},
        "fill": "toself",
        "fillcolor": style.translucent(layer.color, layer.opacity),
    }
    if layer.is_hatched:
        pattern = {"shape": "/", "fgcolor": style.FAINT, "bgcolor": layer.color, "size": 7}
        look |= {"fillpattern": pattern}
    words: Options = {"hoverinfo": "skip"}
    if layer.hover:
        words = {"hoveron": "fills", "hoverinfo": "text", "text": _lines(layer.hover)}
    drawn.add_scatter(**place, **look, **words, **_named(drawn, layer.name))


@_add.register
def _(layer: Field, drawn: go.Figure, chart: Chart) -> None:
    bottom, top = layer.scale.heights(2)
    first, second = (safe(shown.title.split(" [")[0], 40) for shown in (chart.x, chart.y))
    place = f"<br>{first} %{{x:.3g}}<br>{second} %{{y:.3g}}<extra></extra>"
    look: Options = {
        "x": layer.x,
        "y": layer.y,
        "z": layer.scale.forward(layer.z).T,
        "zmin": bottom,
        "zmax": top,
        "colorscale": style.color_stops(layer.colors),
        "colorbar": color_bar(safe(layer.title), layer.scale),
        "text": layer.hover.T,
        "hovertemplate": f"{safe(layer.quantity, 40)} %{{text}}{place}",
        "name": safe(layer.quantity, 40),
        "showlegend": False,
    }
    if layer.is_cells:
        drawn.add_heatmap(**look)
        return
    drawn.add_contour(
        **look,
        contours={"start": bottom, "end": top, "size": (top - bottom) / _LEVELS},
        line={"color": "rgba(255, 255, 255, 0.5)", "width": 0.6, "smoothing": 0.6},
        connectgaps=False,
    )


@_add.register
def _(layer: Surface, drawn: go.Figure, chart: Chart) -> None:
    bottom, top = layer.scale.heights(2)
    shade = layer.z if layer.shade is None else layer.shade
    place = "" if layer.is_flat else "<br>%{x:.3g}, %{y:.3g}"
    has_bar = all(part.type != "surface" for part in drawn.data)
    bar = color_bar(safe(layer.title), layer.scale, len=0.62, x=0.98)
    look: Options = {"lighting": {"ambient": 0.95, "diffuse": 0.1, "specular": 0.0}}
    if not layer.is_flat:
        light = {"ambient": 0.72, "diffuse": 0.55, "specular": 0.06, "roughness": 0.9}
        look = {"lighting": light, "contours": {"z": _isolines(bottom, top)}}
    drawn.add_surface(
        x=layer.x,
        y=layer.y,
        z=layer.z,
        surfacecolor=shade,
        cmin=bottom,
        cmax=top,
        colorscale=style.color_stops(style.DEPTH),
        showscale=has_bar,
        colorbar=bar,
        opacity=0.92 if layer.is_flat else 1.0,
        text=layer.hover,
        hovertemplate=f"loss %{{text}}{place}<extra></extra>",
        name=safe(layer.name),
        **look,
    )


def _isolines(bottom: float, top: float) -> Options:
    step = (top - bottom) / _ISOLINES
    place = {"start": bottom + step, "end": top - step, "size": step}
    return {"show": True, "color": "#a9c3c4", "width": 1, "highlight": False} | place


@_add.register
def _(layer: Span, drawn: go.Figure, chart: Chart) -> None:
    words = {"annotation_text": safe(layer.text)} if layer.text else {}
    look = {"fillcolor": style.WALL, "line_width": 0, "layer": "below"}
    drawn.add_vrect(x0=layer.low, x1=layer.high, **look, **words)


@_add.register
def _(layer: Note, drawn: go.Figure, chart: Chart) -> None:
    font: Options = {"size": 10, "color": style.MUTED}
    if layer.x is None or layer.y is None:
        place: Options = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
        font["size"] = 14
    else:
        x, y = _heights(chart.x, layer.x), _heights(chart.y, layer.y)
        if chart.x.is_log:
            x = np.log10(x)
        place = {"x": float(x), "y": float(y), **_SIDES[layer.side]}
    drawn.add_annotation(text=safe(layer.text, _MOST), showarrow=False, font=font, **place)
