"""Charts of barcodes: persistence diagram, barcode, Betti curves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.chart import Area, Axis, Chart, Layer, Line, Note, Points, joined
from lossatlas.plots.scale import Scale, spanning
from lossatlas.text import loss_title, number, verdict

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
MOST_BARS = 40
_SYMBOLS = ("circle", "triangle-up", "square")


class Bars(Protocol):
    """The attributes of a diagram that plots use, longest bars of each degree first."""

    @property
    def births(self) -> Floats:
        """Level at which each bar begins."""

    @property
    def deaths(self) -> Floats:
        """Level at which each bar ends; infinite if it never does."""

    @property
    def dimensions(self) -> Ints:
        """Its degree."""

    @property
    def certain(self) -> Bools:
        """Whether it is longer than the threshold."""

    @property
    def threshold(self) -> float:
        """Longest bar that errors of the map can cause; NaN if unknown."""

    @property
    def low(self) -> float:
        """Lowest value of the map."""

    @property
    def high(self) -> float:
        """Highest value."""

    @property
    def why_unknown(self) -> str:
        """Why it is unknown which bars are certain."""

    @property
    def birth_places(self) -> Floats:
        """Coordinates of the births; no columns if there are none."""

    @property
    def death_places(self) -> Floats:
        """Coordinates of the deaths."""

    def __len__(self) -> int: ...


def persistence_chart(
    bars: Bars, *, scale: Scale | None = None, open_births: Floats | None = None
) -> Chart:
    """A persistence diagram with the band in which nothing is certain.

    Args:
        bars: the bars.
        scale: how losses are spread; straight by default.
        open_births: births of basins whose minimum lies on the edge of the map.

    Returns:
        The chart: gray within the error, hollow on the edge. Bars that never end stand on the
        dashed line at the top.
    """
    frame = diagram_frame(bars.low, bars.high, scale)
    layers = [*frame_layers(frame, bars.threshold, has_endless=bool(_essential(bars).any()))]
    for group in bar_groups(bars):
        is_open = np.zeros(len(group.rows), dtype=np.bool_)
        if open_births is not None and group.dimension == 0:
            is_open = np.isin(bars.births[group.rows], open_births)
        for on_edge, rows in ((False, group.rows[~is_open]), (True, group.rows[is_open])):
            if rows.size:
                layers.append(_births_and_deaths(bars, group, rows, frame, on_edge=on_edge))
    return frame_chart(frame, "Persistence diagram", layers)


def _births_and_deaths(
    bars: Bars, group: "Group", rows: Ints, frame: "Frame", *, on_edge: bool
) -> Layer:
    color = style.DIMENSION_COLORS[group.dimension] if group.is_certain else style.FAINT
    return Points(
        bars.births[rows],
        np.minimum(bars.deaths[rows], frame.ceiling),
        color=style.PAPER if on_edge else color,
        edge=color,
        symbol=_SYMBOLS[group.dimension],
        name=f"{group.name}, on the edge" if on_edge else group.name,
        hover=[_bar_text(bars, row) for row in rows.tolist()],
    )


def _essential(bars: Bars) -> Bools:
    return np.isposinf(bars.deaths)


@dataclass(frozen=True)
class Frame:
    """Frame of a persistence diagram.

    Attributes:
        scale: how losses are spread on both sides.
        floor: where it begins, a little below the lowest loss.
        ceiling: where bars that never end are drawn, above the highest loss.
        roof: where it ends.
    """

    scale: Scale
    floor: float
    ceiling: float
    roof: float

    def steps(self, count: int = 60) -> Floats:
        """Losses from floor to roof, evenly spaced as drawn."""
        low, high = self.scale.forward(np.array([self.floor, self.roof]))
        return self.scale.inverse(np.linspace(low, high, count))


def diagram_frame(low: float, high: float, scale: Scale | None = None) -> Frame:
    """The square of a persistence diagram of values from `low` to `high`."""
    scale = scale or spanning(low, high)
    bottom, top = scale.heights(2)
    margin = 0.07 * (top - bottom)
    floor, ceiling, roof = scale.inverse(
        np.array([bottom - margin / 2, top + margin, top + 2 * margin])
    )
    return Frame(scale, float(floor), float(ceiling), float(roof))


def frame_layers(frame: Frame, threshold: float, *, has_endless: bool) -> Iterator[Layer]:
    """The band of the errors, the diagonal, and the line of what never ends."""
    steps = frame.steps()
    if threshold > 0:
        band = np.concatenate([steps, (steps + threshold)[::-1]])
        corners = np.concatenate([steps, steps[::-1]])
        name = "within the error of the map"
        yield Area(corners, band, style.BAND, opacity=0.75, name=name)
    ends = [frame.floor, frame.roof]
    yield Line(ends, ends, color=style.FAINT, width=1)
    if has_endless:
        yield Line(ends, [frame.ceiling] * 2, color=style.FAINT, width=1, dash=1)
        yield Note("never ends", float(frame.steps(3)[1]), frame.ceiling)


def frame_chart(frame: Frame, title: str, layers: list[Layer]) -> Chart:
    """A persistence diagram of some layers."""
    limits = (frame.floor, frame.roof)
    log = frame.scale.is_log
    return Chart(
        title,
        Axis(loss_title(log, "birth: loss where it appears"), frame.scale, limits),
        Axis(loss_title(log, "death: loss where it merges"), frame.scale, limits),
        tuple(layers),
        size=(4.8, 4.4),
        height=470,
        aspect="square",
        legend="lower right",
    )


@dataclass(frozen=True, eq=False)
class Group:
    """Bars of a diagram that look alike: their degree, certainty, rows, and a name."""

    dimension: int
    is_certain: bool
    rows: Ints
    name: str


def bar_groups(bars: Bars) -> list[Group]:
    """The bars of a diagram by degree and certainty."""
    groups = []
    unsure = ", certainty unknown" if bars.why_unknown else ", uncertain"
    for dimension in np.unique(bars.dimensions).tolist():
        for certain in (False, True):
            alike = (bars.dimensions == dimension) & (bars.certain == certain)
            name = style.DIMENSION_NAMES[dimension] + ("" if certain else unsure)
            if alike.any():
                groups.append(Group(dimension, certain, np.flatnonzero(alike), name))
    return groups


def _bar_text(bars: Bars, row: int) -> str:
    birth, death = float(bars.births[row]), float(bars.deaths[row])
    judged = verdict(bool(bars.certain[row]), bars.threshold)
    kind = style.DIMENSION_NAMES[bars.dimensions[row]]
    life = f"born {number(birth)}, dies {number(death)}\nlasts {number(death - birth)}"
    return "\n".join(filter(None, [kind, life, _place(bars, row), judged]))


def _place(bars: Bars, row: int) -> str:
    # Of a basin its minimum, of a loop the top of the hill inside.
    is_loop = bars.dimensions[row] == 1
    place = (bars.death_places if is_loop else bars.birth_places)[row]
    if not place.size or not np.isfinite(place).all():
        return ""
    at = ", ".join(number(float(coordinate), 3) for coordinate in place)
    return f"{'top' if is_loop else 'minimum'} at ({at})"


def barcode_chart(bars: Bars, *, scale: Scale | None = None, most: int = MOST_BARS) -> Chart:
    """The longest bars of every degree; arrows for those that never end.

    Args:
        bars: the bars.
        scale: how losses are spread; straight by default.
        most: maximum number of bars per degree.

    Returns:
        The chart, one row per bar.
    """
    shown = longest_bars(bars, most)
    rows = np.arange(shown.size)
    ends = np.minimum(bars.deaths[shown], bars.high)
    layers: list[Layer] = []
    for group in bar_groups(bars):
        mine = rows[np.isin(shown, group.rows)]
        if mine.size:
            layers.append(_bars_of(bars, group, mine, shown[mine]))
    endless = rows[_essential(bars)[shown]]
    if endless.size:
        arrows: dict[str, object] = {"symbol": "triangle-right", "name": "never ends"}
        look = {"color": style.INK, "edge": style.INK, "size": 8} | arrows
        layers.append(Points(ends[endless], endless, **look))  # type: ignore[arg-type]
    hidden = len(bars) - shown.size
    note = f"; {hidden:,} shorter bars are not drawn" if hidden else ""
    scale = scale or spanning(bars.low, bars.high)
    return Chart(
        "Barcode",
        Axis(loss_title(scale.is_log, f"loss: where a bar starts and ends{note}"), scale),
        Axis("basins and loops", limits=(shown.size - 0.3, -0.7), ticks=([], [])),
        tuple(layers),
        size=(5.4, 1.4 + 0.13 * shown.size),
        height=470,
        legend="lower right",
    )


def longest_bars(bars: Bars, most: int = MOST_BARS) -> Ints:
    """Indices of the longest bars of every degree."""
    first = np.searchsorted(bars.dimensions, bars.dimensions, side="left")
    return np.flatnonzero(np.arange(len(bars)) - first < most)


def _bars_of(bars: Bars, group: Group, rows: Ints, index: Ints) -> Layer:
    ends = np.minimum(bars.deaths[index], bars.high)
    births = bars.births[index]
    texts = [text for k in index.tolist() for text in [_bar_text(bars, k)] * 3]
    return Line(
        joined(list(np.stack([births, ends], axis=1))),
        joined(list(np.stack([rows, rows], axis=1))),
        color=style.DIMENSION_COLORS[group.dimension],
        width=4.3,
        opacity=1.0 if group.is_certain else 0.35,
        name=group.name,
        hover=texts[:-1],
    )


def betti_chart(bars: Bars, *, scale: Scale | None = None) -> Chart:
    """How many basins and loops are alive at each level of the loss.

    Args:
        bars: the bars.
        scale: how losses are spread; straight by default.

    Returns:
        The chart: one step curve per degree, and a thin one that includes uncertain bars.
    """
    scale = scale or spanning(bars.low, bars.high)
    judged = bars.threshold > 0
    layers = []
    for dimension in np.unique(bars.dimensions).tolist():
        name = style.DIMENSION_NAMES[dimension]
        for kind, width, opacity in (("all", 1.0, 0.6), ("certain", 2.6, 1.0))[not judged :]:
            only = judged and kind == "certain"
            levels, alive = betti_curve(bars, dimension, certain=only)
            layers.append(
                Line(
                    levels,
                    alive,
                    color=style.DIMENSION_COLORS[dimension],
                    width=width,
                    opacity=opacity,
                    is_steps=True,
                    name=f"{name}, {kind}" if judged else name,
                    hover=[
                        f"{number(k)} from loss {number(level)} on"
                        for k, level in zip(alive.tolist(), levels.tolist(), strict=True)
                    ],
                )
            )
    return Chart(
        "Betti curves",
        Axis(loss_title(scale.is_log), scale),
        Axis("basins and loops", has_grid=True, is_whole=True),
        tuple(layers),
        size=(5.4, 3.4),
        height=360,
    )


def betti_curve(bars: Bars, dimension: int, *, certain: bool = False) -> tuple[Floats, Floats]:
    """How many bars of one degree are alive from each level on.

    Args:
        bars: the bars.
        dimension: the degree.
        certain: whether to count only certain bars.

    Returns:
        Levels, from the lowest to the highest loss, and the count from each level on.
    """
    chosen = bars.dimensions == dimension
    chosen &= bars.certain if certain else True
    births, deaths = np.sort(bars.births[chosen]), np.sort(bars.deaths[chosen])
    ended = deaths[np.isfinite(deaths)]
    levels = np.unique(np.concatenate([[bars.low], births, ended, [bars.high]]))
    alive = np.searchsorted(births, levels, "right") - np.searchsorted(deaths, levels, "right")
    return levels, alive.astype(np.float64)
