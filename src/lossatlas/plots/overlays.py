"""What is drawn upon a map on paper: walls, computed points, landmarks, minima, the frame."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import canvas, style
from lossatlas.plots.grids import cell_edges
from lossatlas.plots.marks import Mark, landmarks, marked_minima
from lossatlas.plots.scale import Scale
from lossatlas.text import axis_title, cut_off, surely
from lossatlas.topology import MergeTree

_NUMBERED = 9


def hatch_walls(ax: Axes, landscape: Landscape) -> None:
    """Hatch the paper where the loss is not finite."""
    if landscape.finite.all():
        return
    left, right, low, high = extent(landscape)
    ax.add_patch(
        Rectangle(
            (left, low),
            right - left,
            high - low,
            facecolor=style.WALL,
            hatch="////",
            edgecolor=style.FAINT,
            linewidth=0,
            zorder=0,
            label="loss not finite",
        )
    )


def dot_computed(ax: Axes, landscape: Landscape) -> None:
    """Dot the computed points, where others are interpolated."""
    if landscape.computed.all():
        return
    i, j = np.nonzero(landscape.computed)
    x, y = landscape.axes[0][i], landscape.axes[1][j]
    ax.plot(x, y, ".", ms=1.6, color=style.INK, alpha=0.45, label="computed point", zorder=2)


def draw_landmarks(ax: Axes, landscape: Landscape) -> None:
    """Draw the way of training as a line that ends at a star, other landmarks as diamonds."""
    for mark in landmarks(landscape):
        if mark.is_path:
            _draw_path(ax, mark)
        else:
            shape, size = ("*", 11) if mark.is_center else ("D", 5)
            look: dict[str, Any] = {"ms": size, "mec": "white", "mew": 0.8, "zorder": 4}
            ax.plot(*mark.points.T, shape, color=style.PATH, label=cut_off(mark.name), **look)


def _draw_path(ax: Axes, mark: Mark) -> None:
    x, y = mark.points.T
    ax.plot(x, y, "-", color="white", lw=2.8, alpha=0.7, zorder=3)
    ax.plot(x, y, "-o", color=style.PATH, lw=1.5, ms=2.4, label=cut_off(mark.name), zorder=4)
    for place, marker in ((0, "s"), (-1, "*")):
        size = 5 if place == 0 else 11
        ax.plot(
            x[place],
            y[place],
            marker,
            color=style.PATH,
            ms=size,
            mec="white",
            mew=0.8,
            zorder=5,
        )


def draw_minima(ax: Axes, landscape: Landscape, tree: MergeTree | None) -> None:
    """Mark the minima: filled where certain, hollow where not."""
    minima = marked_minima(landscape, tree)
    for certain, face, name in (
        (True, style.SURE, surely("minimum", tree.threshold) if tree else "lowest point"),
        (False, style.FAINT, "minimum within the error"),
    ):
        chosen = minima.certain == certain
        if chosen.any():
            x, y = minima.points[chosen].T
            look: dict[str, Any] = {"ms": 6.5 if certain else 4, "mec": style.INK, "mew": 0.9}
            # Minima like the edge, and are drawn whole there.
            ax.plot(x, y, "o", mfc=face, label=name, zorder=6, clip_on=False, **look)
    if np.count_nonzero(minima.certain) > 1:
        sure = zip(minima.numbers[minima.certain], minima.points[minima.certain], strict=True)
        for number, point in list(sure)[:_NUMBERED]:
            canvas.note(ax, str(number), point, (5, 4), color="white", fontweight="bold")


def draw_in_space(
    axes: Any, landscape: Landscape, tree: MergeTree | None, scale: Scale
) -> None:
    """Draw landmarks and minima on a surface, a little above the ground."""
    bottom, top = scale.heights(2)
    lift = 0.01 * (top - bottom)
    for mark in landmarks(landscape):
        line = "-o" if mark.is_path else "o"
        look = {"ms": 2.5, "lw": 1.6, "color": style.PATH, "label": cut_off(mark.name)}
        axes.plot(*mark.points.T, scale.forward(mark.ground) + lift, line, zorder=5, **look)
    minima = marked_minima(landscape, tree)
    faces = [style.SURE if sure else style.FAINT for sure in minima.certain]
    heights = scale.forward(minima.values) + lift
    look = {"edgecolors": style.INK, "s": 22, "depthshade": False}
    axes.scatter(*minima.points.T, heights, c=faces, **look)


def frame_map(ax: Axes, landscape: Landscape, title: str, *, cells: bool = False) -> None:
    """Limits, aspect, titles and legend of a map."""
    left, right, low, high = extent(landscape, cells=cells)
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
    if 1 / 3 <= (right - left) / (high - low) <= 3:
        ax.set_aspect("equal")
    canvas.name_axes(ax, title, *map(axis_title, landscape.labels))
    canvas.legend(ax, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)


def extent(landscape: Landscape, *, cells: bool = True) -> tuple[float, float, float, float]:
    """Where a map begins and ends."""
    axes = [cell_edges(axis) if cells else axis for axis in landscape.axes]
    (left, *_, right), (low, *_, high) = axes
    return float(left), float(right), float(low), float(high)
