"""Topology on paper: persistence diagram, barcode, merge tree, profile, Betti curves."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import canvas, style
from lossatlas.plots.layouts import (
    MOST_BARS,
    bar_groups,
    barcode,
    betti_curve,
    branches,
    diagram_frame,
)
from lossatlas.plots.marks import MOST_MINIMA
from lossatlas.plots.profile import profile_color, silhouettes
from lossatlas.plots.scale import Scale
from lossatlas.topology import Diagram, MergeTree

_MARKERS = "o^s"


def plot_persistence(
    diagram: Diagram, *, scale: Scale | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a persistence diagram with the band in which nothing is certain.

    Args:
        diagram: the diagram.
        scale: how losses are spread, as `scale_of(landscape.values)`; straight by default.
        ax: where to draw; a new figure by default.

    Returns:
        The axes. Bars that never end stand on the dashed line at the top.
    """
    ax = canvas.axes(ax, (4.8, 4.4))
    frame = diagram_frame(diagram, scale)
    ends = [frame.floor, frame.roof]
    if diagram.threshold > 0:
        steps = frame.steps()
        top = steps + diagram.threshold
        label = "within the error of the map"
        ax.fill_between(steps, steps, top, color=style.BAND, alpha=0.7, lw=0, label=label)
    ax.plot(ends, ends, color=style.FAINT, lw=0.8)
    if diagram.essential.any():
        ax.axhline(frame.ceiling, color=style.FAINT, lw=0.8, ls=(0, (4, 3)))
        canvas.note(ax, "never ends", (frame.steps(3)[1], frame.ceiling), (0, 3), ha="center")
    for group in bar_groups(diagram):
        color = style.DIMENSION_COLORS[group.dimension]
        births, deaths = diagram.births[group.rows], diagram.deaths[group.rows]
        ax.plot(
            births,
            np.minimum(deaths, frame.ceiling),
            _MARKERS[group.dimension],
            label=group.name,
            ms=5.5,
            mfc=color if group.certain else "none",
            mec=color,
        )
    canvas.use_scale(ax, scale, "xy")
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    ax.set_box_aspect(1)
    titles = "birth (loss where it appears)", "death (loss where it merges)"
    canvas.name_axes(ax, "Persistence diagram", *titles)
    canvas.legend(ax, loc="lower right")
    return ax


def plot_barcode(
    diagram: Diagram,
    *,
    scale: Scale | None = None,
    most: int = MOST_BARS,
    ax: Axes | None = None,
) -> Axes:
    """Draw the longest bars of every degree; arrows for those that never end.

    Args:
        diagram: the diagram.
        scale: how losses are spread; straight by default.
        most: how many bars a degree.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, one row a bar.
    """
    bars, hidden = barcode(diagram, most)
    ax = canvas.axes(ax, (5.4, 1.4 + 0.13 * len(bars)))
    for row, bar in enumerate(bars):
        color = style.DIMENSION_COLORS[bar.dimension]
        alpha = 1.0 if bar.certain else 0.35
        ax.hlines(row, bar.birth, bar.end, color=color, alpha=alpha, lw=3)
        if bar.essential:
            ax.plot(bar.end, row, ">", color=color, alpha=alpha, ms=5, clip_on=False)
    canvas.use_scale(ax, scale, "x")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.invert_yaxis()
    note = f"; {hidden:,} shorter bars are not drawn" if hidden else ""
    canvas.name_axes(ax, "Barcode", f"loss{note}", "")
    shown = sorted({bar.dimension for bar in bars})
    keys = [(style.DIMENSION_COLORS[k], 1.0, style.DIMENSION_NAMES[k]) for k in shown]
    if not all(bar.certain for bar in bars):
        faint = "paler: certainty unknown" if diagram.why_unknown else "paler: within the error"
        keys.append((style.MUTED, 0.4, faint))
    lines = [Line2D([], [], color=c, alpha=a, lw=3, label=name) for c, a, name in keys]
    if lines:
        ax.legend(
            handles=lines, frameon=False, fontsize=style.LABEL_SIZE - 1, loc="lower right"
        )
    return ax


def plot_tree(
    tree: MergeTree,
    *,
    scale: Scale | None = None,
    most: int = MOST_MINIMA,
    ax: Axes | None = None,
) -> Axes:
    """Draw a merge tree: minima at the bottom, the passes over which they join above.

    Args:
        tree: the merge tree.
        scale: how losses are spread; straight by default.
        most: how many branches; the longest are drawn.
        ax: where to draw; a new figure by default.

    Returns:
        The axes. Dark branches are certain, gray ones are within the error of the map.
    """
    ax = canvas.axes(ax, (5.4, 4.0))
    drawn = branches(tree, most)
    for branch in drawn:
        color = style.BASIN if branch.certain else style.FAINT
        end = branch.x if branch.parent_x is None else branch.parent_x
        path = [branch.x, branch.x, end], [branch.low, branch.high, branch.high]
        ax.plot(*path, color=color, lw=1.8 if branch.certain else 1.1, solid_joinstyle="round")
        face = style.BASIN if branch.certain else "white"
        ax.plot(branch.x, branch.low, "o", ms=5.5, mfc=face, mec=color, zorder=3)
        canvas.note(ax, str(branch.minimum), (branch.x, branch.low), (0, -13), ha="center")
    canvas.use_scale(ax, scale, "y")
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.margins(x=0.12, y=0.12)
    hidden = len(tree) - len(drawn)
    note = f"; {hidden:,} shorter branches are not drawn" if hidden else ""
    canvas.name_axes(ax, "Merge tree", f"minima, by number{note}", "loss")
    return ax


def plot_profile(
    landscape: Landscape,
    tree: MergeTree,
    *,
    scale: Scale | None = None,
    most: int = MOST_MINIMA,
    ax: Axes | None = None,
) -> Axes:
    """Draw the topological profile: nested basins, as wide as they hold points.

    Args:
        landscape: a map of any dimension.
        tree: its merge tree.
        scale: how losses are spread; straight by default.
        most: how many basins; the longest-lived are drawn.
        ax: where to draw; a new figure by default.

    Returns:
        The axes: the share of the map's points to the right, loss upwards.
    """
    ax = canvas.axes(ax, (5.4, 4.0))
    for part in silhouettes(landscape, tree, most):
        color = profile_color(part.certain)
        left, right = part.center - part.widths / 2, part.center + part.widths / 2
        ax.fill_betweenx(part.levels, 100 * left, 100 * right, color=color, lw=0)
        ax.plot(100 * left, part.levels, color="white", lw=0.7)
        ax.plot(100 * right, part.levels, color="white", lw=0.7)
    canvas.use_scale(ax, scale, "y")
    ax.set_xlim(0, 100)
    canvas.name_axes(ax, "Topological profile", "share of the map's points (%)", "loss")
    return ax


def plot_betti(diagram: Diagram, *, scale: Scale | None = None, ax: Axes | None = None) -> Axes:
    """Draw how many basins and ridges are alive at each level of the loss.

    Args:
        diagram: the diagram.
        scale: how losses are spread; straight by default.
        ax: where to draw; a new figure by default.

    Returns:
        The axes: one step curve a degree, and a thin one where uncertain bars count too.
    """
    ax = canvas.axes(ax, (5.4, 3.4))
    for dimension in np.unique(diagram.dimensions):
        color, name = style.DIMENSION_COLORS[dimension], style.DIMENSION_NAMES[dimension]
        levels, alive = betti_curve(diagram, dimension)
        judged = diagram.threshold > 0
        if judged:
            thin: dict[str, Any] = {"lw": 0.8, "alpha": 0.6, "label": f"{name}, all"}
            ax.step(levels, alive, where="post", color=color, **thin)
            levels, alive = betti_curve(diagram, dimension, certain=True)
        label = f"{name}, certain" if judged else name
        ax.step(levels, alive, where="post", color=color, lw=2.0, label=label)
    canvas.use_scale(ax, scale, "x")
    ax.grid(axis="y", color=style.GRID, lw=0.6)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    canvas.name_axes(ax, "Betti curves", "loss", "number alive at or below")
    canvas.legend(ax)
    return ax
