"""Maps on a page that are no planes: a line with its band, a box cut open."""

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style, web
from lossatlas.plots.grids import check_dimensions, error_band, nonfinite_spans
from lossatlas.plots.marks import Minima, landmarks, marked_minima
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.text import number, safe, short
from lossatlas.topology import MergeTree

Floats = NDArray[np.float64]


def line_figure(landscape: Landscape, *, tree: MergeTree | None = None) -> go.Figure:
    """A map of a line with its 95 % band.

    Args:
        landscape: a map along one direction.
        tree: its merge tree, to mark the minima; the lowest point alone without it.

    Returns:
        The figure; gray stretches are where the loss is not finite.

    Raises:
        ArgumentError: not a map of a line.
    """
    check_dimensions(landscape, 1)
    scale = scale_of(landscape.values)
    label = safe(landscape.labels[0], 40)
    (x,) = landscape.axes
    margin = 0.02 * (x[-1] - x[0])
    title, ends = web.safe_axis_title(landscape.labels[0]), [x[0] - margin, x[-1] + margin]
    x_axis = web.axis(title, showgrid=False, range=ends)
    figure = web.figure(430, xaxis=x_axis, yaxis=web.loss_axis(scale))
    losses = np.where(landscape.finite, landscape.values, np.nan)
    _add_band(figure, landscape, losses, scale)
    mode = "lines+markers" if x.size <= 201 else "lines"
    figure.add_scatter(
        x=x,
        y=scale.forward(losses),
        mode=mode,
        line={"color": style.BASIN, "width": 2.2},
        marker={"size": np.where(landscape.computed, 5, 0).tolist(), "color": style.BASIN},
        text=web.hover_grid(landscape),
        hovertemplate=f"loss %{{text}}<br>{label} %{{x:.4g}}<extra></extra>",
        name="loss (dots: computed)",
    )
    for left, right in nonfinite_spans(landscape):
        look = {"fillcolor": style.WALL, "line_width": 0, "layer": "below"}
        figure.add_vrect(x0=left, x1=right, annotation_text="not finite", **look)
    _add_points(figure, landscape, tree, scale)
    return figure


def _add_band(figure: go.Figure, landscape: Landscape, losses: Floats, scale: Scale) -> None:
    errors, name = error_band(landscape)
    known = np.isfinite(errors) & np.isfinite(losses)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
    for part, (start, stop) in enumerate(edges.reshape(-1, 2)):
        x, y, e = (array[start:stop] for array in (landscape.axes[0], losses, errors))
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=scale.forward(np.concatenate([y + e, (y - e)[::-1]])),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=style.translucent(style.BASIN, 0.18),
            hoverinfo="skip",
            name=name,
            showlegend=part == 0,
        )


def _add_points(
    figure: go.Figure, landscape: Landscape, tree: MergeTree | None, scale: Scale
) -> None:
    for mark in landmarks(landscape):
        figure.add_scatter(
            x=mark.points[:, 0],
            y=scale.forward(mark.ground),
            mode="markers",
            marker={"color": style.PATH, "size": 7},
            text=web.hover_mark(mark),
            hovertemplate="%{text}<extra></extra>",
            name=safe(mark.name),
        )
    minima = marked_minima(landscape, tree)
    colors = np.where(minima.certain, style.SURE, style.FAINT).tolist()
    figure.add_scatter(
        x=minima.points[:, 0],
        y=scale.forward(minima.values),
        mode="markers",
        marker={"color": colors, "size": 10, "line": {"color": style.INK, "width": 1}},
        text=[f"minimum {k}<br>lasts {number(v)}" for k, v in enumerate(minima.persistences)],
        hovertemplate="%{text}<extra></extra>",
        name=_minima_name(minima, tree),
    )


def box_figure(landscape: Landscape, *, tree: MergeTree | None = None) -> go.Figure:
    """A map of a box, cut open along three planes through its lowest point.

    Args:
        landscape: a map of three directions.
        tree: its merge tree, to mark the minima; the lowest point alone without it.

    Returns:
        The figure, to turn. `contour_figure(cut(landscape, axis))` shows one plane flat.

    Raises:
        ArgumentError: not a map of a box.
    """
    check_dimensions(landscape, 3)
    scale = scale_of(landscape.values)
    bottom, top = scale.heights(2)
    z = web.space_axis(safe(short(landscape.labels[2])))
    figure = web.figure(
        560,
        scene=web.scene(landscape, z, (0.88, 0.88, 0.88)),
        coloraxis={
            "cmin": bottom,
            "cmax": top,
            "colorscale": style.color_stops(style.DEPTH),
            "colorbar": web.loss_bar(scale, len=0.62, x=0.98),
        },
        margin={"l": 0, "r": 0, "t": 0, "b": 24},
    )
    heights = scale.forward(np.where(landscape.finite, landscape.values, np.nan))
    texts = web.hover_grid(landscape)
    for axis, place in enumerate(landscape.minimum):
        index = int(np.abs(landscape.axes[axis] - place).argmin())
        grids = np.meshgrid(*landscape.axes, indexing="ij")
        x, y, z_grid, shade, text = (
            np.take(array, index, axis) for array in (*grids, heights, texts)
        )
        figure.add_surface(
            x=x,
            y=y,
            z=np.where(np.isfinite(shade), z_grid, np.nan),
            surfacecolor=shade,
            coloraxis="coloraxis",
            text=text,
            hovertemplate="loss %{text}<extra></extra>",
            name=f"plane {axis + 1}",
            opacity=0.92,
            lighting={"ambient": 0.95, "diffuse": 0.1, "specular": 0.0},
        )
    _add_minima_in_box(figure, landscape, tree)
    return figure


def _add_minima_in_box(figure: go.Figure, landscape: Landscape, tree: MergeTree | None) -> None:
    minima = marked_minima(landscape, tree)
    x, y, z = minima.points.T
    colors = np.where(minima.certain, style.SURE, style.FAINT).tolist()
    losses = zip(minima.numbers, minima.values, minima.persistences, strict=True)
    figure.add_scatter3d(
        x=x,
        y=y,
        z=z,
        mode="markers",
        marker={"color": colors, "size": 8, "line": {"color": style.INK, "width": 1}},
        text=[f"minimum {k}<br>loss {number(v)}<br>lasts {number(p)}" for k, v, p in losses],
        hovertemplate="%{text}<extra></extra>",
        name=_minima_name(minima, tree),
    )


def _minima_name(minima: Minima, tree: MergeTree | None) -> str:
    if tree is None:
        return "lowest point"
    return "minimum" if minima.certain.all() else "minimum (gray: within the error)"
