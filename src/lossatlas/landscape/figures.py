"""Figures of a map: a line, a plane, or a box with three slices."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import grid, maps
from lossatlas.plots.chart import backends
from lossatlas.plots.scale import scale_of
from lossatlas.result import Figure
from lossatlas.text import cut_off, distinct, number, surely

if TYPE_CHECKING:
    from lossatlas.landscape.landscape import Landscape

Array = NDArray[np.float64]

_MOST_METRICS = 4


def map_figures(land: "Landscape", tree: grid.Tree | None) -> tuple[Figure, ...]:
    """Figures of a map by its dimension; none above three."""
    draw = {1: _line_figures, 2: _plane_figures, 3: _box_figures}.get(land.values.ndim)
    return () if draw is None else draw(land, tree)


def _line_figures(land: "Landscape", tree: grid.Tree | None) -> tuple[Figure, ...]:
    return (
        Figure(
            "line",
            "Loss along the line",
            *backends(lambda: maps.line_chart(land, tree=tree)),
            "The band holds each value alone with 95 % probability." + _scale_note(land),
            f"Line plot of the loss. {_extremes(land)}",
            wide=True,
        ),
    )


def _plane_figures(land: "Landscape", tree: grid.Tree | None) -> tuple[Figure, ...]:
    names = [mark.name for mark in grid.landmarks(land)]
    marks = "".join(f", with the {cut_off(name, 40)} drawn on it" for name in names)
    surface = Figure(
        "surface",
        "Loss surface",
        *backends(lambda: maps.surface_chart(land, tree=tree)),
        f"Drag to turn, scroll to zoom; point at the surface to read a loss and its error."
        f"{_scale_note(land)}",
        f"Three-dimensional surface of the loss{marks}. {_extremes(land)}",
        wide=True,
    )
    contour = Figure(
        "contour",
        "From above",
        *backends(lambda: maps.contour_chart(land, tree=tree)),
        _mark_note(land, tree) + _nonfinite_note(land),
        f"Contour map of the loss{marks}. {_extremes(land)}",
    )
    return surface, contour, _error_figure(land), *_metric_figures(land)


def _metric_figures(land: "Landscape") -> tuple[Figure, ...]:
    return tuple(_metric_figure(land, name) for name in list(land.metrics)[:_MOST_METRICS])


def _metric_figure(land: "Landscape", name: str) -> Figure:
    blank = np.full(land.values.shape, np.nan)
    errors = land.metric_stderr.get(name, blank)
    metric = replace(land, values=land.metrics[name], stderr=errors)
    title = f"{cut_off(name, 40)} from above"
    caption = "A further metric at the same points; dark is high."
    if not land.computed.all():
        caption += (
            " Between the computed points (dots) it is interpolated, and its error is not "
            "measured, because points were chosen for the loss. adaptive=False computes all of "
            "them."
        )
    return Figure(
        name,
        title,
        *backends(lambda: maps.contour_chart(metric, quantity=name)),
        caption + _nonfinite_note(metric),
        f"Contour map of {cut_off(name, 40)}.",
    )


def _error_figure(land: "Landscape") -> Figure:
    has_error = grid.known_errors(land)
    if not has_error.any():
        caption, alt = "This map has no standard errors.", "An empty map: no errors are known."
    else:
        errors = land.stderr[has_error]
        low, high = float(errors.min()), float(errors.max())
        shown = (
            " to ".join(distinct(low, high, 2))
            if low < high
            else f"{number(low, 2)} everywhere"
        )
        caption = f"Uncertainty of each value: one standard error, {shown}."
        alt = f"Map of the standard error of the loss, {shown}."
        caption += _between(land, has_error)
    chart = backends(lambda: maps.stderr_chart(land))
    return Figure("stderr", "Standard error", *chart, caption, alt)


def _between(land: "Landscape", has_error: NDArray[np.bool_]) -> str:
    if land.computed.all():
        return ""
    if (has_error == land.finite).all():
        return " Between computed points it includes the expected error of interpolation."
    return " Interpolated points show the error of the nearest computed one."


def _box_figures(land: "Landscape", tree: grid.Tree | None) -> tuple[Figure, ...]:
    figure = Figure(
        "box",
        "Slices of the box",
        *backends(lambda: maps.box_chart(land, tree=tree)),
        "Three planes through the lowest point. Drag to turn." + _scale_note(land),
        f"Three orthogonal planes colored by the loss. {_extremes(land)}",
        wide=True,
    )
    flat = [_cut_figure(land, axis) for axis in range(3)]
    return (figure, *flat, _error_figure(land.cut(2)))


def _cut_figure(land: "Landscape", axis: int) -> Figure:
    plane = land.cut(axis)
    return Figure(
        f"plane {axis + 1}",
        f"Plane at {cut_off(land.labels[axis], 30)} = {number(land.minimum[axis], 3)}",
        *backends(lambda: maps.contour_chart(plane)),
        "Through the lowest point." + _nonfinite_note(land),
        f"Contour map of one plane of the box. {_extremes(plane)}",
    )


def _mark_note(land: "Landscape", tree: grid.Tree | None) -> str:
    marks = grid.landmarks(land)
    start = "The star stands at the origin. " if any(m.is_center for m in marks) else ""
    if any(mark.is_path for mark in marks):
        start = "The path of training ends at the star. "
    if tree is None:
        return f"{start}The lowest point is yellow."
    if np.isnan(tree.threshold):
        return f"{start}Minima are gray: it is unknown which are certain."
    minima = grid.marked_minima(land, tree)
    which = surely("minima", tree.threshold).capitalize()
    edge = ", those on the edge of the map hollow" if minima.on_edge.any() else ""
    is_sure = minima.certain.all()
    unsure = "" if is_sure else ", those within the error gray"
    return f"{start}{which} are yellow{edge}{unsure}."


def _scale_note(land: "Landscape") -> str:
    scale = maps.line_scale(land) if land.values.ndim == 1 else scale_of(land.values)
    if not scale.is_log:
        return ""
    # In a box heights are a direction.
    what = {1: "Heights are", 3: "Colors are"}.get(land.values.ndim, "Heights and colors are")
    return f" {what} logarithmic above the lowest loss."


def _nonfinite_note(land: "Landscape") -> str:
    return "" if land.finite.all() else " Hatched: the loss is not finite there."


def _extremes(land: "Landscape") -> str:
    if not land.finite.any():
        return "No value is finite."
    coordinates = ", ".join(number(coordinate, 3) for coordinate in land.minimum)
    low, high = (number(float(land.values.flat[k]), 3) for k in (land.lowest, land.highest))
    return f"Lowest loss {low} at ({coordinates}), highest {high}."
