"""Maps on a page: surface, contour and standard error, to turn and to ask."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style, web
from lossatlas.plots.grids import (
    cell_edges,
    check_dimensions,
    known_errors,
    spread_errors,
)
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.plots.web_overlays import (
    add_computed,
    add_landmarks,
    add_landmarks_in_space,
    add_links,
    add_minima,
    add_minima_in_space,
    add_walls,
)
from lossatlas.text import loss_title, safe
from lossatlas.topology import MergeTree

Floats = NDArray[np.float64]
_LIFT = 0.012
_CONTOURS = 16
_ISOLINES = 10


def surface_figure(landscape: Landscape, *, tree: MergeTree | None = None) -> go.Figure:
    """A map as a mountain range to turn, with the way of training and the minima upon it.

    Args:
        landscape: a map of a plane.
        tree: its merge tree: marks its minima, and links certain ones over their passes.

    Returns:
        The figure. Heights are those of the scale; ticks and hover texts name losses.

    Raises:
        ArgumentError: not a map of a plane.
    """
    check_dimensions(landscape, 2)
    scale = scale_of(landscape.values)
    bottom, top = scale.heights(2)
    z = web.space_axis(loss_title(scale.is_log), **web.ticks(scale))
    sides = _sides(landscape)
    figure = web.figure(
        560,
        scene=web.scene(landscape, z, sides),
        margin={"l": 0, "r": 0, "t": 0, "b": 24},
    )
    figure.add_surface(
        x=landscape.axes[0],
        y=landscape.axes[1],
        z=_heights(landscape, scale).T,
        cmin=bottom,
        cmax=top,
        colorscale=style.color_stops(style.DEPTH),
        colorbar=web.loss_bar(scale, len=0.62, x=0.98),
        contours={"z": _isolines(scale)},
        lighting={"ambient": 0.72, "diffuse": 0.55, "specular": 0.06, "roughness": 0.9},
        text=web.hover_grid(landscape).T,
        hovertemplate=_map_hover(landscape),
        name="loss",
    )
    lift = _LIFT * (top - bottom)
    if tree is not None:
        add_links(figure, landscape, tree, scale, lift)
    add_landmarks_in_space(figure, landscape, scale, lift)
    add_minima_in_space(figure, landscape, tree, scale, lift)
    return figure


def _sides(landscape: Landscape) -> tuple[float, float, float]:
    lengths = [float(axis[-1] - axis[0]) for axis in landscape.axes]
    longest = max(lengths)
    share = [max(length / longest, 0.55) for length in lengths]
    # A narrow map may be longer and still fit the view.
    size = 1.3 * (1 / min(share)) ** 0.4
    return size * share[0], size * share[1], 0.66


def _isolines(scale: Scale) -> dict[str, Any]:
    bottom, top = scale.heights(2)
    step = (top - bottom) / _ISOLINES
    color = "#a9c3c4"
    return {
        "show": True,
        "start": bottom + step,
        "end": top - step,
        "size": step,
        "color": color,
        "width": 1,
        "highlight": False,
    }


def _heights(landscape: Landscape, scale: Scale) -> Floats:
    return scale.forward(np.where(landscape.finite, landscape.values, np.nan))


def _map_hover(landscape: Landscape, quantity: str = "loss") -> str:
    first, second = (safe(label, 40) for label in landscape.labels)
    return f"{quantity} %{{text}}<br>{first} %{{x:.3g}}<br>{second} %{{y:.3g}}<extra></extra>"


def contour_figure(
    landscape: Landscape, *, tree: MergeTree | None = None, quantity: str = "loss"
) -> go.Figure:
    """A map from above, with the way of training and the minima upon it.

    Args:
        landscape: a map of a plane.
        tree: its merge tree, to mark the minima; the lowest point alone without it.
        quantity: what the values are; minima are marked for a loss alone.

    Returns:
        The figure; hover texts name each loss with its error. Where the loss is not finite
        the ground is hatched.

    Raises:
        ArgumentError: not a map of a plane.
    """
    figure = ground_figure(landscape, scale_of(landscape.values), quantity)
    if quantity == "loss":
        add_minima(figure, landscape, tree)
    return figure


def ground_figure(landscape: Landscape, scale: Scale, quantity: str = "loss") -> go.Figure:
    """A map from above without its minima, on a scale that several maps may share."""
    check_dimensions(landscape, 2)
    bottom, top = scale.heights(2)
    colors = style.DEPTH if quantity == "loss" else style.METRIC
    figure = web.figure(**web.map_axes(landscape))
    figure.add_contour(
        x=landscape.axes[0],
        y=landscape.axes[1],
        z=_heights(landscape, scale).T,
        zmin=bottom,
        zmax=top,
        colorscale=style.color_stops(colors),
        colorbar=web.loss_bar(scale, safe(quantity, 40)),
        contours={"start": bottom, "end": top, "size": (top - bottom) / _CONTOURS},
        line={"color": "rgba(255, 255, 255, 0.5)", "width": 0.6, "smoothing": 0.6},
        connectgaps=False,
        text=web.hover_grid(landscape).T,
        hovertemplate=_map_hover(landscape, safe(quantity, 40)),
        name=safe(quantity, 40),
    )
    add_walls(figure, landscape)
    add_computed(figure, landscape)
    add_landmarks(figure, landscape)
    return figure


def stderr_figure(landscape: Landscape) -> go.Figure:
    """How sure a map is: the standard error of every value.

    Args:
        landscape: a map of a plane.

    Returns:
        The figure. Interpolated points show the error of the nearest computed one; a map
        without standard errors says so in words.

    Raises:
        ArgumentError: not a map of a plane.
    """
    check_dimensions(landscape, 2)
    figure = web.figure(**web.map_axes(landscape))
    if not known_errors(landscape).any():
        figure.add_annotation(
            text="no standard error is known",
            showarrow=False,
            x=0.5,
            y=0.5,
            xref="paper",
            yref="paper",
            font={"color": style.MUTED, "size": 14},
        )
        return figure
    errors = spread_errors(landscape)
    figure.add_heatmap(
        x=cell_edges(landscape.axes[0]),
        y=cell_edges(landscape.axes[1]),
        z=errors.T,
        zmin=0.0,
        zmax=float(np.nanmax(errors)) or 1.0,
        colorscale=style.color_stops(style.EMBER),
        colorbar=web.color_bar(f"standard error over {safe(landscape.unit, 16)}"),
        text=web.hover_grid(landscape).T,
        hovertemplate=_map_hover(landscape),
        name="standard error",
        showlegend=False,
    )
    add_walls(figure, landscape)
    add_computed(figure, landscape)
    return figure
