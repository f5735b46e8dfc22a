"""Charts as data: axes and layers, drawn by `canvas` (matplotlib) and `web` (plotly).

All numbers are in the units of the data; sizes and widths are pixels of a page. Texts are raw:
the backends escape them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.scale import Scale

Floats = NDArray[np.float64]
_NEAR_EDGE = 0.06
Texts: TypeAlias = Sequence[str] | NDArray[np.object_]
Hover: TypeAlias = Texts | Literal["values"] | None


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: its title.
        scale: how losses are spread on it; None for plain numbers.
        limits: where it begins and ends; the data decide by default.
        ticks: places and their labels; empty for none, None for those of the backend.
        is_visible: whether its line and labels are drawn.
        has_grid: whether lines across the picture mark its ticks.
        is_whole: whether it counts things.
        is_log: whether plain numbers are spread by their logarithm.
        from_zero: whether it begins at zero.
        marks_zero: whether a line across the picture marks zero; of the second axis.
    """

    title: str = ""
    scale: Scale | None = None
    limits: tuple[float, float] | None = None
    ticks: tuple[Sequence[float], Sequence[str]] | None = None
    is_visible: bool = True
    has_grid: bool = False
    is_whole: bool = False
    is_log: bool = False
    from_zero: bool = False
    marks_zero: bool = False


@dataclass(frozen=True, eq=False)
class Line:
    """A line; NaN interrupts it.

    Attributes:
        x: coordinates.
        y: coordinates.
        z: heights, in a picture of three dimensions.
        color: of the line.
        width: of the line.
        dash: 0 for a solid line, 1 to 3 for dashes, dots and both.
        opacity: 1 covers what lies below.
        is_steps: whether it holds each value up to the next point.
        marks: size of the dots on its points; 0 for none.
        name: for the legend; empty for none.
        hover: what each point says, lines parted by newlines; "values" for its coordinates,
            None for nothing.
    """

    x: Any
    y: Any
    z: Any = None
    color: str = style.INK
    width: float = 1.5
    dash: int = 0
    opacity: float = 1.0
    is_steps: bool = False
    marks: float = 0.0
    name: str = ""
    hover: Hover = None


@dataclass(frozen=True, eq=False)
class Points:
    """Markers of one style.

    Attributes:
        x: coordinates.
        y: coordinates.
        z: heights, in a picture of three dimensions.
        color: of the marks; "" leaves them hollow.
        edge: color of their edge.
        symbol: "circle", "square", "diamond", "star", "x", "triangle-up", "triangle-down" or
            "triangle-right".
        size: of the marks.
        name: for the legend; empty for none.
        hover: what each point says, as for a line.
        labels: a word beside each.
        label_color: of these words; white ones get a shadow.
        is_bold: whether the words are bold.
    """

    x: Any
    y: Any
    z: Any = None
    color: str = style.INK
    edge: str = "#ffffff"
    symbol: str = "circle"
    size: float = 9.0
    name: str = ""
    hover: Hover = None
    labels: Texts | None = None
    label_color: str = style.MUTED
    is_bold: bool = False


@dataclass(frozen=True, eq=False)
class Area:
    """Polygons, separated by NaN.

    Attributes:
        x: coordinates of their corners.
        y: coordinates of their corners.
        color: of the inside.
        opacity: 1 covers what lies below.
        edge: color of the border; empty for none.
        is_hatched: whether the inside is hatched.
        name: for the legend.
        hover: what it says.
    """

    x: Any
    y: Any
    color: str
    opacity: float = 1.0
    edge: str = ""
    is_hatched: bool = False
    name: str = ""
    hover: str = ""


@dataclass(frozen=True, eq=False)
class Field:
    """Values on a grid, seen from above.

    Attributes:
        x: coordinates along the first axis, or borders of cells.
        y: coordinates along the second.
        z: values, indexed [x, y]; NaN leaves a hole.
        scale: how values become colors.
        colors: from low to high.
        title: of the color bar.
        hover: what each point says.
        quantity: what the values are.
        is_cells: draw cells of one color each instead of contours.
    """

    x: Floats
    y: Floats
    z: Floats
    scale: Scale
    colors: tuple[str, ...]
    title: str
    hover: NDArray[np.object_]
    quantity: str = "loss"
    is_cells: bool = False


@dataclass(frozen=True, eq=False)
class Surface:
    """A surface in space.

    Attributes:
        x: coordinates, a grid.
        y: coordinates, a grid.
        z: heights, a grid; NaN leaves a hole.
        shade: values that become colors; the heights by default.
        scale: how they do.
        hover: what each point says.
        title: of the color bar.
        name: of the surface.
        is_flat: a plane cut through a body: no light falls on it, and it is translucent.
    """

    x: Floats
    y: Floats
    z: Floats
    scale: Scale
    hover: NDArray[np.object_]
    title: str
    shade: Floats | None = None
    name: str = "loss"
    is_flat: bool = False


@dataclass(frozen=True)
class Span:
    """A stretch of the first axis where there are no values."""

    low: float
    high: float
    text: str = ""


@dataclass(frozen=True)
class Note:
    """A small text next to a point, or in the center of the figure without one."""

    text: str
    x: float | None = None
    y: float | None = None
    side: Literal["above", "left", "right"] = "above"


Layer: TypeAlias = Line | Points | Area | Field | Surface | Span | Note


@dataclass(frozen=True, eq=False)
class Chart:
    """A picture.

    Attributes:
        title: its title; a page sets it above the picture.
        x: the first axis.
        y: the second.
        layers: what is drawn, from the bottom to the top.
        z: the third axis, of a picture in space.
        ratio: lengths of the three axes as drawn, in space.
        size: inches on paper.
        height: pixels on a page.
        aspect: "free", "square" (both axes alike), or "map" (equal steps where that fits).
        legend: where it stands on paper: a place of matplotlib, or "below".
    """

    title: str
    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    z: Axis | None = None
    ratio: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: tuple[float, float] = (5.4, 4.2)
    height: int = 430
    aspect: str = "free"
    legend: str = "best"


def backends(make: Callable[[], Chart]) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
    """Functions that draw a chart with matplotlib and plotly, building it on demand."""

    def still(ax: Any) -> Any:
        from lossatlas.plots.canvas import draw

        return draw(make(), ax)

    def page() -> Any:
        from lossatlas.plots.web import draw

        return draw(make())

    return still, page


def curve(x: Any, y: Any, name: str = "", color: str = style.BASIN, dash: int = 0) -> Line:
    """A line with its values as hover text."""
    return Line(x, y, color=color, width=1.7, dash=dash, name=name, hover="values")


def marks(
    x: Any, y: Any, name: str = "", color: str = style.BASIN, symbol: str = "circle"
) -> Points:
    """Markers of one color with their values as hover text."""
    look: dict[str, Any] = {"color": color, "edge": color, "size": 7.0, "symbol": symbol}
    return Points(x, y, name=name, hover="values", **look)


def dots(x: Any, y: Any, name: str = "", color: str = style.BASIN) -> Points:
    """Many small points, as of measured losses."""
    return replace(marks(x, y, name, color), size=2.5)


def band(x: Any, lower: Any, upper: Any, name: str) -> Area:
    """A shaded range around a curve."""
    x, lower, upper = (np.asarray(row) for row in (x, lower, upper))
    around, edge = np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])
    return Area(around, edge, style.SHARED, opacity=0.45, name=name)


def joined(parts: Sequence[Floats]) -> Floats:
    """Rows concatenated, separated by NaN."""
    gap = np.array([np.nan])
    pieces = [piece for part in parts for piece in (np.asarray(part, dtype=np.float64), gap)]
    return np.concatenate(pieces[:-1]) if pieces else np.empty(0)


def pieces(x: Any, y: Any) -> list[tuple[Floats, Floats]]:
    """The inverse of `joined`, for two rows."""
    x, y = (np.asarray(row, dtype=np.float64) for row in (x, y))
    ends = [-1, *np.flatnonzero(np.isnan(x)), x.size]
    cuts = [slice(a + 1, b) for a, b in pairwise(ends) if b > a + 1]
    return [(x[cut], y[cut]) for cut in cuts]


def near_edges(layer: Points, chart: Chart) -> list[tuple[bool, bool]]:
    """Whether each mark is at the right and the top edge, so that its word goes inward."""
    sides = []
    for places, axis in ((layer.x, chart.x), (layer.y, chart.y)):
        low, high = axis.limits or (0.0, np.inf)
        edge = high - _NEAR_EDGE * (high - low) if np.isfinite(high) else high
        sides.append((np.asarray(places) > edge).tolist())
    return list(zip(*sides, strict=True))
