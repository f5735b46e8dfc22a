"""Charts of maps: planes as contours and surfaces, their errors; lines; slices of boxes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypedDict

import numpy as np

from lossatlas.plots import style
from lossatlas.plots.chart import (
    Area,
    Axis,
    Chart,
    Field,
    Layer,
    Line,
    Note,
    Points,
    Span,
    Surface,
)
from lossatlas.plots.grid import (
    ON_EDGE,
    UNSURE,
    UNSURE_ON_EDGE,
    Floats,
    Grid,
    Landmark,
    Minima,
    Tree,
    cell_edges,
    coordinates,
    error_band,
    finite_values,
    hover_grid,
    known_errors,
    landmarks,
    marked_minima,
    minimum_groups,
    nonfinite_boxes,
    nonfinite_spans,
    spread_errors,
    values_at,
)
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.text import axis_title, loss_title, short, surely

_UNSURE = {UNSURE, UNSURE_ON_EDGE}
_NUMBERED = 9
_LIFT = 0.012
_MOST_MARKED = 201


def contour_chart(
    grid: Grid, *, tree: Tree | None = None, quantity: str = "loss", scale: Scale | None = None
) -> Chart:
    """A map from above, with the path of training and the minima on it.

    Args:
        grid: a map of a plane.
        tree: its merge tree, to mark the minima; the lowest point alone without it.
        quantity: what the values are; minima are marked for a loss alone.
        scale: how values become colors; that of the map by default.

    Returns:
        The chart. Cells around points whose loss is not finite are hatched.
    """
    layers = [*_below(grid, scale or scale_of(grid.values), quantity)]
    if quantity == "loss":
        layers += _minima(marked_minima(grid, tree), tree)
    # The star of the weights lies on a minimum that they are at, and is larger.
    return map_chart(grid, quantity.capitalize(), [*layers, *_marks(grid)])


def colored(grid: Grid, scale: Scale) -> list[Layer]:
    """The map from above without anything marked on it but its landmarks."""
    return [*_below(grid, scale, "loss"), *_marks(grid)]


def map_chart(grid: Grid, title: str, layers: list[Layer]) -> Chart:
    """The frame of a map from above."""
    x, y = (
        Axis(axis_title(label), limits=(float(axis[0]), float(axis[-1])))
        for label, axis in zip(grid.labels, grid.axes, strict=True)
    )
    return Chart(title, x, y, tuple(layers), aspect="map", legend="below")


def _below(grid: Grid, scale: Scale, quantity: str) -> Iterator[Layer]:
    x, y = grid.axes
    yield Field(
        x,
        y,
        finite_values(grid),
        scale,
        style.DEPTH if quantity == "loss" else style.METRIC,
        loss_title(scale.is_log, quantity),
        hover_grid(grid),
        quantity,
    )
    yield from _hatched(grid)
    yield from _computed(grid)


def _hatched(grid: Grid) -> Iterator[Layer]:
    boxes = nonfinite_boxes(grid)
    if boxes:
        x = [v for left, right, _, _ in boxes for v in (left, right, right, left, left, np.nan)]
        y = [v for _, _, low, high in boxes for v in (low, low, high, high, low, np.nan)]
        yield Area(x[:-1], y[:-1], style.WALL, is_hatched=True, name="not finite")


def _computed(grid: Grid) -> Iterator[Layer]:
    if not grid.computed.all():
        x, y = (axis[k] for axis, k in zip(grid.axes, np.nonzero(grid.computed), strict=True))
        # Seen on dark and light colors, and on the page beyond the border.
        name = "computed point"
        yield Points(x, y, color=style.PAPER, edge=style.INK, size=3.5, name=name)


def _marks(grid: Grid) -> list[Layer]:
    return [layer for mark in landmarks(grid) for layer in _mark(mark)]


def _mark(mark: Landmark) -> Iterator[Layer]:
    x, y = mark.points.T
    texts = mark.texts()
    if not mark.is_path:
        symbol, size = ("star", 15.0) if mark.is_center else ("diamond", 9.0)
        look = {"color": style.PATH, "symbol": symbol, "size": size}
        yield Points(x, y, name=mark.name, hover=texts, **look)  # type: ignore[arg-type]
        return
    yield Line(x, y, color=style.PAPER, width=4.5, opacity=0.75)
    yield Line(x, y, color=style.PATH, width=2.2, marks=4, name=mark.name, hover=texts)
    for end, symbol, size, name in ((0, "square", 9.0, "start"), (-1, "star", 15.0, "end")):
        look = {"color": style.PATH, "symbol": symbol, "size": size, "name": name}
        yield Points(x[[end]], y[[end]], hover=[texts[end]], **look)  # type: ignore[arg-type]


def _minima(minima: Minima, tree: Tree | None, heights: Floats | None = None) -> list[Layer]:
    layers: list[Layer] = []
    sure = "lowest point" if tree is None else surely("minimum", tree.threshold)
    several = np.count_nonzero(minima.certain) > 1
    for name, chosen in minimum_groups(minima, sure):
        x, y = minima.points[chosen, 0], minima.points[chosen, 1]
        numbers = [str(k) for k in minima.numbers[chosen].tolist()]
        is_numbered = several and name not in _UNSURE and heights is None
        labels = [k if i < _NUMBERED else "" for i, k in enumerate(numbers)]
        layers.append(
            Points(
                x,
                y,
                z=None if heights is None else heights[chosen],
                **_look(name),
                name=name,
                hover=minima.texts(chosen),
                labels=labels if is_numbered else None,
                label_color=style.PAPER,
                is_bold=True,
            )
        )
    return layers


def _look(name: str) -> "Look":
    # Of a minimum: gray within the error; hollow on the edge of the map, where none counts.
    color, size = (style.FAINT, 6.0) if name in _UNSURE else (style.SURE, 10.0)
    if name in {ON_EDGE, UNSURE_ON_EDGE}:
        return {"color": style.PAPER, "edge": color, "size": size}
    return {"color": color, "edge": style.INK, "size": size}


class Look(TypedDict):
    """How marks are drawn."""

    color: str
    edge: str
    size: float


def stderr_chart(grid: Grid) -> Chart:
    """The standard error of every value; interpolated points show that of the nearest computed.

    Args:
        grid: a map of a plane.

    Returns:
        The chart; one without standard errors says so.
    """
    title = "Standard error of the loss"
    if not known_errors(grid).any():
        return map_chart(grid, title, [Note("no standard error is known")])
    errors = spread_errors(grid)
    top = max(float(np.nanmax(errors)), float(np.finfo(np.float64).tiny))
    x, y = map(cell_edges, grid.axes)
    shown = Field(
        x,
        y,
        errors,
        Scale(0.0, top),
        style.EMBER,
        f"standard error over {short(grid.unit)}",
        hover_grid(grid),
        is_cells=True,
    )
    return map_chart(grid, title, [shown, *_hatched(grid), *_computed(grid)])


def surface_chart(grid: Grid, *, tree: Tree | None = None) -> Chart:
    """A map as a surface, with the path of training and the minima on it.

    Args:
        grid: a map of a plane.
        tree: its merge tree: marks its minima, and links certain ones over their saddles.

    Returns:
        The chart. Heights are those of the scale; ticks and texts name losses.
    """
    scale = scale_of(grid.values)
    bottom, top = scale.heights(2)
    lift = _LIFT * (top - bottom)
    x, y = np.meshgrid(*grid.axes, indexing="ij")
    title = loss_title(scale.is_log)
    heights = scale.forward(finite_values(grid))
    layers: list[Layer] = [Surface(x, y, heights, scale, hover_grid(grid), title)]
    if tree is not None:
        layers += _links(grid, tree, scale, lift)
    for mark in landmarks(grid):
        layers.append(_mark_in_space(mark, scale.forward(mark.below) + lift))
    minima = marked_minima(grid, tree)
    layers += _minima(minima, tree, scale.forward(minima.values) + lift)
    ticks, labels = scale.ticks()
    z = Axis(title, scale, ticks=(scale.forward(ticks).tolist(), labels))
    first, second = (Axis(short(label)) for label in grid.labels)
    return Chart("Loss surface", first, second, tuple(layers), z, _sides(grid), (6.4, 5.2), 560)


def _sides(grid: Grid) -> tuple[float, float, float]:
    lengths = [float(axis[-1] - axis[0]) for axis in grid.axes]
    share = [max(length / max(lengths), 0.55) for length in lengths]
    # A narrow map may be longer and still fit the view.
    size = 1.3 * (1 / min(share)) ** 0.4
    return size * share[0], size * share[1], 0.66


def _mark_in_space(mark: Landmark, heights: Floats) -> Layer:
    x, y = mark.points.T
    texts = mark.texts()
    if not mark.is_path:
        return Points(x, y, heights, style.PATH, size=8, name=mark.name, hover=texts)
    return Line(x, y, heights, style.PATH, width=6, marks=2.5, name=mark.name, hover=texts)


def _links(grid: Grid, tree: Tree, scale: Scale, lift: float) -> Iterator[Layer]:
    sure = tree.certain[tree.ended]
    if not sure.any():
        return
    ends = (tree.minima[tree.ended], tree.saddles, tree.minima[tree.into])
    stops = [coordinates(grid, points[sure]) for points in ends]
    share = np.linspace(0, 1, 25)[:, None]
    gap = np.full((1, 2), np.nan)
    lines = []
    for start, over, goal in zip(*stops, strict=True):
        lines += [start + share * (over - start), over + share * (goal - over), gap]
    path = np.concatenate(lines)
    heights = scale.forward(values_at(grid, path)) + lift
    yield Line(path[:, 0], path[:, 1], heights, style.SURE, width=4, name="merge tree")


def line_chart(grid: Grid, *, tree: Tree | None = None) -> Chart:
    """A map of a line with its 95 % band.

    Args:
        grid: a map along one direction.
        tree: its merge tree, to mark the minima; the lowest point alone without it.

    Returns:
        The chart; hatched stretches are where the loss is not finite.
    """
    layers = [*band_layers(grid), *_points_on_line(grid, tree)]
    return line_frame(grid, axis_title(grid.labels[0]), layers)


def line_frame(grid: Grid, title: str, layers: list[Layer]) -> Chart:
    """The frame of a map of a line."""
    (x,) = grid.axes
    margin = 0.02 * float(x[-1] - x[0])
    scale = line_scale(grid)
    return Chart(
        "Loss along a line",
        Axis(title, limits=(float(x[0]) - margin, float(x[-1]) + margin)),
        Axis(loss_title(scale.is_log), scale, has_grid=True),
        tuple(layers),
        size=(6.0, 3.8),
    )


def line_scale(grid: Grid) -> Scale:
    """How losses of a line are spread: straight unless they are steep beyond their errors."""
    scale, (errors, _) = scale_of(grid.values), error_band(grid)
    reach = np.where(np.isfinite(errors), errors, 0.0)
    # A logarithm of what is smaller than the errors would show nothing but them.
    if scale.is_log and float(np.median(reach)) <= scale.soft:
        return scale
    scale = Scale(scale.low, scale.high)
    # Ticks reach as far as the band, not only as far as the losses.
    low, high = grid.values - reach, grid.values + reach
    has_band = np.isfinite(low + high)
    if not has_band.any():
        return scale
    return replace(
        scale,
        low=min(scale.low, float(low[has_band].min())),
        high=max(scale.high, float(high[has_band].max())),
    )


def band_layers(grid: Grid) -> list[Layer]:
    """The values of a line, their band, and where there are none."""
    (x,) = grid.axes
    losses = finite_values(grid)
    errors, name = error_band(grid)
    has_band = np.isfinite(errors) & np.isfinite(losses)
    layers: list[Layer] = [Span(*ends, "not finite") for ends in nonfinite_spans(grid)]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], has_band.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        along, y, e = (row[start:stop] for row in (x, losses, errors))
        corners = np.concatenate([along, along[::-1]]), np.concatenate([y + e, (y - e)[::-1]])
        layers.append(Area(*corners, style.BASIN, opacity=0.18, name=name))
    texts = hover_grid(grid)
    words = [f"loss {text}\nat {place:.4g}" for text, place in zip(texts, x, strict=True)]
    layers.append(Line(x, losses, color=style.BASIN, width=2.2, name="loss", hover=words))
    shown = grid.computed & np.isfinite(grid.values)
    if x.size <= _MOST_MARKED:
        dots = {"color": style.BASIN, "edge": style.BASIN, "name": "computed point"}
        layers.append(Points(x[shown], losses[shown], size=5, **dots))  # type: ignore[arg-type]
    return layers


def _points_on_line(grid: Grid, tree: Tree | None) -> Iterator[Layer]:
    for mark in landmarks(grid):
        look = {"color": style.PATH, "name": mark.name, "hover": mark.texts()}
        yield Points(mark.points[:, 0], mark.below, size=7, **look)  # type: ignore[arg-type]
    minima = marked_minima(grid, tree)
    yield from _minima_on_line(minima, tree)


def _minima_on_line(minima: Minima, tree: Tree | None) -> Iterator[Layer]:
    sure = "lowest point" if tree is None else surely("minimum", tree.threshold)
    for name, chosen in minimum_groups(minima, sure):
        yield Points(
            minima.points[chosen, 0],
            minima.values[chosen],
            name=name,
            hover=minima.texts(chosen),
            **_look(name),
        )


def box_chart(grid: Grid, *, tree: Tree | None = None) -> Chart:
    """A map of a box, as three slices through its lowest point.

    Args:
        grid: a map of three directions.
        tree: its merge tree, to mark the minima; the lowest point alone without it.

    Returns:
        The chart, in space.
    """
    scale = scale_of(grid.values)
    heights = scale.forward(finite_values(grid))
    arrays = (*np.meshgrid(*grid.axes, indexing="ij"), heights, hover_grid(grid))
    lowest = np.unravel_index(
        int(np.where(np.isfinite(grid.values), grid.values, np.inf).argmin()),
        grid.values.shape,
    )
    layers: list[Layer] = []
    for axis, index in enumerate(lowest):
        x, y, z, shade, texts = (np.take(array, index, axis) for array in arrays)
        layers.append(
            Surface(
                x,
                y,
                np.where(np.isfinite(shade), z, np.nan),
                scale,
                texts,
                loss_title(scale.is_log),
                shade=shade,
                name=f"plane {axis + 1}",
                is_flat=True,
            )
        )
    minima = marked_minima(grid, tree)
    layers += _minima(minima, tree, minima.points[:, 2])
    x_axis, y_axis, z_axis = (Axis(short(label)) for label in grid.labels)
    sides = (0.88, 0.88, 0.88)
    return Chart("Loss in a box", x_axis, y_axis, tuple(layers), z_axis, sides, (6.4, 5.2), 560)
