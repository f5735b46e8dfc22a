"""Maps on paper: contours, surfaces, lines, and the errors of all three."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lossatlas.errors import ArgumentError
from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import canvas, overlays, style
from lossatlas.plots.grids import (
    cell_edges,
    check_dimensions,
    error_band,
    known_errors,
    nonfinite_spans,
    spread_errors,
)
from lossatlas.plots.marks import landmarks
from lossatlas.plots.scale import scale_of
from lossatlas.text import axis_title, loss_title
from lossatlas.topology import MergeTree


def plot_contour(
    landscape: Landscape, *, tree: MergeTree | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a map from above: depths as colors and lines, the way of training upon it.

    Contours are logarithmic above the lowest loss where the map is steep. Where the loss is
    not finite the paper is hatched. Computed points are dotted where others are interpolated.

    Args:
        landscape: a map of a plane.
        tree: its merge tree, to mark the minima: filled where certain, hollow where not. The
            lowest point alone is marked without it.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, with data in units of the loss.

    Raises:
        ArgumentError: not a map of a plane.
    """
    check_dimensions(landscape, 2)
    ax = canvas.axes(ax)
    scale = scale_of(landscape.values)
    x, y = landscape.axes
    overlays.hatch_walls(ax, landscape)
    losses = np.ma.masked_invalid(landscape.values.T)
    if losses.count():
        levels, norm = scale.levels(), canvas.norm(scale)
        colors: dict[str, Any] = {"levels": levels, "norm": norm, "corner_mask": False}
        filled = ax.contourf(x, y, losses, cmap=canvas.color_map(style.DEPTH), **colors)
        ax.contour(x, y, losses, colors="white", linewidths=0.5, alpha=0.55, **colors)
        canvas.color_bar(ax, filled, scale, loss_title(scale.is_log))
    overlays.dot_computed(ax, landscape)
    overlays.draw_landmarks(ax, landscape)
    overlays.draw_minima(ax, landscape, tree)
    overlays.frame_map(ax, landscape, "Loss")
    return ax


def plot_stderr(landscape: Landscape, *, ax: Axes | None = None) -> Axes:
    """Draw how sure the map is: the standard error of every value.

    Interpolated points show the error of the nearest computed point.

    Args:
        landscape: a map of a plane.
        ax: where to draw; a new figure by default.

    Returns:
        The axes. Where the map has no standard errors they say so in words.

    Raises:
        ArgumentError: not a map of a plane.
    """
    check_dimensions(landscape, 2)
    ax = canvas.axes(ax)
    edges = [cell_edges(axis) for axis in landscape.axes]
    errors = spread_errors(landscape)
    if known_errors(landscape).any():
        overlays.hatch_walls(ax, landscape)
        top = max(float(np.nanmax(errors)), np.finfo(np.float64).tiny)
        shown = ax.pcolormesh(
            *edges,
            np.ma.masked_invalid(errors.T),
            cmap=canvas.color_map(style.EMBER),
            vmin=0.0,
            vmax=top,
            rasterized=True,
        )
        canvas.color_bar(ax, shown, None, f"standard error over {landscape.unit}")
        overlays.dot_computed(ax, landscape)
    else:
        text = "no standard error is known"
        ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color=style.MUTED)
    overlays.frame_map(ax, landscape, "Standard error of the loss", cells=True)
    return ax


def plot_surface(
    landscape: Landscape, *, tree: MergeTree | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a map as a mountain range with the way of training on it.

    Args:
        landscape: a map of a plane.
        tree: its merge tree, to mark the minima; the lowest point alone without it.
        ax: three-dimensional axes; a new figure by default.

    Returns:
        The axes. Heights are those of the scale; the ticks name losses.

    Raises:
        ArgumentError: not a map of a plane, or axes without a third dimension.
    """
    check_dimensions(landscape, 2)
    axes: Any = canvas.axes(ax, (6.4, 5.2), "3d")
    if axes.name != "3d":
        raise ArgumentError("`ax` must be three-dimensional; make it with projection='3d'.")
    scale = scale_of(landscape.values)
    heights = scale.forward(np.where(landscape.finite, landscape.values, np.nan))
    x, y = np.meshgrid(*landscape.axes, indexing="ij")
    bottom, top = scale.heights(2)
    axes.plot_surface(
        x,
        y,
        heights,
        cmap=canvas.color_map(style.DEPTH),
        vmin=bottom,
        vmax=top,
        rcount=80,
        ccount=80,
        linewidth=0,
        antialiased=True,
        alpha=0.95,
    )
    overlays.draw_in_space(axes, landscape, tree, scale)
    if scale.is_log:
        ticks, labels = scale.ticks()
        axes.set_zticks(scale.forward(ticks), labels=labels)
    canvas.name_axes(axes, "Loss surface", *map(axis_title, landscape.labels))
    axes.set_zlabel(loss_title(scale.is_log))
    axes.view_init(elev=32, azim=-56)
    return axes  # type: ignore[no-any-return]


def plot_line(landscape: Landscape, *, ax: Axes | None = None) -> Axes:
    """Draw a map of a line with its 95 % band.

    Args:
        landscape: a map along one direction.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ArgumentError: not a map of a line.
    """
    check_dimensions(landscape, 1)
    ax = canvas.axes(ax, (6.0, 3.8))
    (x,) = landscape.axes
    losses = np.where(landscape.finite, landscape.values, np.nan)
    errors, name = error_band(landscape)
    if np.isfinite(errors).any():
        band = {"color": style.BASIN, "alpha": 0.18, "linewidth": 0}
        ax.fill_between(x, losses - errors, losses + errors, label=name, **band)  # type: ignore[arg-type]
    ax.plot(x, losses, color=style.BASIN, lw=1.8, label="loss")
    computed = landscape.computed & landscape.finite
    ax.plot(x[computed], losses[computed], "o", ms=3, color=style.BASIN, label="computed")
    for left, right in nonfinite_spans(landscape):
        ax.axvspan(left, right, facecolor=style.WALL, hatch="////", edgecolor=style.FAINT, lw=0)
    for mark in landmarks(landscape):
        label = {"label": mark.name, "color": style.PATH}
        ax.plot(mark.points[:, 0], mark.ground, "o", ms=4, **label)  # type: ignore[arg-type]
    if scale_of(landscape.values).is_log and np.nanmin(losses) > 0:
        ax.set_yscale("log")
    ax.grid(axis="y", color=style.GRID, lw=0.6)
    canvas.name_axes(ax, "Loss along a line", axis_title(landscape.labels[0]), "loss")
    canvas.legend(ax)
    return ax
