"""What is drawn upon a map on a page: walls, computed points, landmarks, minima, links."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style, web
from lossatlas.plots.grids import coordinates, ground, wall_boxes
from lossatlas.plots.marks import Mark, Minima, landmarks, marked_minima
from lossatlas.plots.scale import Scale
from lossatlas.text import number, safe, surely, with_error
from lossatlas.topology import MergeTree

_TEXT = "%{text}<extra></extra>"


def add_walls(figure: go.Figure, landscape: Landscape) -> None:
    """Hatch the ground where the loss is not finite."""
    boxes = wall_boxes(landscape)
    if not boxes:
        return
    x = [v for left, right, _, _ in boxes for v in (left, right, right, left, left, None)]
    y = [v for _, _, low, high in boxes for v in (low, low, high, high, low, None)]
    pattern = {"shape": "/", "fgcolor": style.FAINT, "bgcolor": style.WALL, "size": 7}
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillpattern=pattern,
        hoverinfo="skip",
        name="not finite",
    )


def add_computed(figure: go.Figure, landscape: Landscape) -> None:
    """Dot the computed points, where others are interpolated."""
    if landscape.computed.all():
        return
    i, j = np.nonzero(landscape.computed)
    marker = {"size": 2.5, "color": style.INK, "opacity": 0.55}
    figure.add_scatter(
        x=landscape.axes[0][i],
        y=landscape.axes[1][j],
        mode="markers",
        marker=marker,
        hoverinfo="skip",
        name="computed",
    )


def add_landmarks(figure: go.Figure, landscape: Landscape) -> None:
    """Draw the way of training as a line that ends at a star, other landmarks as diamonds."""
    for mark in landmarks(landscape):
        _add_mark(figure, mark)


def _add_mark(figure: go.Figure, mark: Mark) -> None:
    x, y = mark.points.T
    halo = {"color": "white", "width": 0.8}
    if mark.is_path:
        white = {"color": "rgba(255, 255, 255, 0.75)", "width": 4.5}
        figure.add_scatter(
            x=x, y=y, mode="lines", line=white, hoverinfo="skip", showlegend=False
        )
        sizes = [9.0, *[4.0] * (len(x) - 2), 15.0]
        symbols = ["square", *["circle"] * (len(x) - 2), "star"]
        marker = {"size": sizes, "symbol": symbols, "opacity": 1.0}
    else:
        size, symbol = (15, "star") if mark.is_center else (9, "diamond")
        marker = {"size": size, "symbol": symbol, "opacity": 1.0}
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers" if mark.is_path else "markers",
        line={"color": style.PATH, "width": 2.2},
        marker=marker | {"color": style.PATH, "line": halo},
        text=web.hover_mark(mark),
        hovertemplate=_TEXT,
        name=safe(mark.name),
    )


def add_landmarks_in_space(
    figure: go.Figure, landscape: Landscape, scale: Scale, lift: float
) -> None:
    """Draw the landmarks on the surface."""
    for mark in landmarks(landscape):
        _add_mark_in_space(figure, mark, scale, lift)


def _add_mark_in_space(figure: go.Figure, mark: Mark, scale: Scale, lift: float) -> None:
    x, y = mark.points.T
    figure.add_scatter3d(
        x=x,
        y=y,
        z=scale.forward(mark.ground) + lift,
        mode="lines+markers" if mark.is_path else "markers",
        line={"color": style.PATH, "width": 6},
        marker={"color": style.PATH, "size": 2.5 if mark.is_path else 5},
        text=web.hover_mark(mark),
        hovertemplate=_TEXT,
        name=safe(mark.name),
    )


def add_links(
    figure: go.Figure, landscape: Landscape, tree: MergeTree, scale: Scale, lift: float
) -> None:
    """Draw the certain branches of a merge tree on the surface."""
    sure = tree.certain[tree.ended]
    if not sure.any():
        return
    ends = (tree.minima[tree.ended], tree.saddles, tree.minima[tree.into])
    stops = [coordinates(landscape, points[sure]) for points in ends]
    share = np.linspace(0, 1, 25)[:, None]
    gap = np.full((1, 2), np.nan)
    lines = []
    for start, over, goal in zip(*stops, strict=True):
        lines += [start + share * (over - start), over + share * (goal - over), gap]
    x, y = np.concatenate(lines).T
    heights = scale.forward(ground(landscape, np.stack([x, y], axis=1))) + lift
    line = {"color": style.SURE, "width": 4}
    figure.add_scatter3d(
        x=x,
        y=y,
        z=heights,
        mode="lines",
        line=line,
        name="merge tree",
        hoverinfo="skip",
        connectgaps=False,
    )


def add_minima(figure: go.Figure, landscape: Landscape, tree: MergeTree | None) -> None:
    """Mark the minima on a map."""
    for name, look, chosen, minima in _minima_looks(landscape, tree):
        x, y = minima.points[chosen].T
        texts = _minima_texts(minima, chosen)
        figure.add_scatter(
            x=x, y=y, mode="markers", marker=look, text=texts, name=name, hovertemplate=_TEXT
        )


def add_minima_in_space(
    figure: go.Figure,
    landscape: Landscape,
    tree: MergeTree | None,
    scale: Scale,
    lift: float,
) -> None:
    """Mark the minima on the surface."""
    for name, look, chosen, minima in _minima_looks(landscape, tree):
        x, y = minima.points[chosen].T
        heights = scale.forward(minima.values[chosen]) + lift
        marker = look | {"size": 0.6 * look["size"]}
        texts = _minima_texts(minima, chosen)
        figure.add_scatter3d(
            x=x,
            y=y,
            z=heights,
            mode="markers",
            marker=marker,
            text=texts,
            name=name,
            hovertemplate=_TEXT,
        )


def _minima_looks(
    landscape: Landscape, tree: MergeTree | None
) -> list[tuple[str, dict[str, Any], NDArray[np.bool_], Minima]]:
    minima = marked_minima(landscape, tree)
    edge = {"color": style.INK, "width": 1}
    sure = surely("minimum", tree.threshold) if tree else "lowest point"
    looks = [
        (sure, style.SURE, 10, minima.certain),
        ("uncertain dip", style.FAINT, 6, ~minima.certain),
    ]
    return [
        (name, {"color": color, "size": size, "line": edge}, chosen, minima)
        for name, color, size, chosen in looks
        if chosen.any()
    ]


def _minima_texts(minima: Minima, chosen: NDArray[np.bool_]) -> list[str]:
    return [
        f"minimum {minima.numbers[k]}<br>loss {with_error(minima.values[k], minima.stderr[k])}"
        f"<br>lasts {number(minima.persistences[k])}"
        for k in np.flatnonzero(chosen)
    ]
