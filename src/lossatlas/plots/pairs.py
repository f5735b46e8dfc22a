"""Pictures of two maps side by side: the line between, matched basins, both diagrams."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.plots import style
from lossatlas.plots.bars import Bars, diagram_frame, frame_chart, frame_layers
from lossatlas.plots.chart import Axis, Chart, Layer, Line, Points, band, curve, joined
from lossatlas.plots.grid import Floats, Grid, Ints, Tree, coordinates
from lossatlas.plots.maps import band_layers, colored, line_frame, map_chart
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.text import number, short, with_error

MOST_PAIRS = 16
_COLORS = {"matched": style.SURE, "gone": style.PATH, "new": style.RIDGE}
_SYMBOLS = {"matched": "circle", "gone": "x", "new": "diamond"}
_NAMES = {"matched": "in both", "gone": "gone", "new": "new"}


def line_chart(line: Grid, *, names: tuple[str, str], top: int | None = None) -> Chart:
    """The loss from one checkpoint to another, its band and the line between the ends.

    Args:
        line: the map of the line.
        names: of its two ends.
        top: index of the point that rises highest above that line, if one does.

    Returns:
        The chart.
    """
    (x,) = line.axes
    share = (x - x[0]) / (x[-1] - x[0])
    straight = (1 - share) * line.values[0] + share * line.values[-1]
    layers = [
        *band_layers(line),
        Line(
            x,
            straight,
            color=style.MUTED,
            width=1.4,
            dash=1,
            name="straight between the ends",
            hover=[f"straight line {number(value)}" for value in straight.tolist()],
        ),
    ]
    if top is not None:
        rise = np.array([straight[top], line.values[top]])
        name = f"barrier {number(float(np.diff(rise)[0]), 3)}"
        layers.append(Line([x[top]] * 2, rise, color=style.PATH, width=2, name=name))
    for end, name in zip((0, -1), names, strict=True):
        place = x[[end]], line.values[[end]]
        look = {"color": style.PATH, "label_color": style.PATH, "size": 11, "is_bold": True}
        layers.append(Points(*place, labels=[short(name)], **look))  # type: ignore[arg-type]
    first, second = map(short, names)
    return line_frame(line, f"share of the way from {first} to {second}", layers)


def rise_chart(at: Floats, rise: Floats, reach: Floats, *, names: tuple[str, str]) -> Chart:
    """How far the loss rises above the straight line, with its paired band.

    Args:
        at: shares of the way from the first to the second.
        rise: loss minus the straight line there.
        reach: half the width of its band; NaN where unknown.
        names: of the two ends.

    Returns:
        The chart; above zero a barrier stands.
    """
    has_band = np.isfinite(rise + reach)
    layers: list[Layer] = [Line([0.0, 1.0], [0.0, 0.0], color=style.MUTED, width=1.2, dash=1)]
    if has_band.any():
        x, y, e = at[has_band], rise[has_band], reach[has_band]
        layers.append(band(x, y - e, y + e, "95 % band, all points at once"))
    layers.append(curve(at, rise, "loss minus the straight line"))
    first, second = map(short, names)
    title = f"share of the way from {first} to {second}"
    return Chart(
        "Rise above the straight line",
        Axis(title, limits=(-0.02, 1.02)),
        Axis("rise of the loss", has_grid=True),
        tuple(layers),
        size=(6.0, 3.8),
    )


@dataclass(frozen=True, eq=False)
class BasinMatch:
    """Minima of one map that have the same kind of partner, the longest-lived first.

    Attributes:
        kind: "matched", "gone" or "new".
        labels: "1", "2", ... alike on both maps where matched; "G1" gone, "N1" new.
        numbers: as the merge tree counts them.
        points: (k, dimensions) coordinates.
        values: loss there.
        stderr: its standard error, NaN where there is none.
        persistences: how long each basin lasts.
        certain: True where that is longer than the tree's threshold, inside the map.
        apart: True where the partner of a matched minimum lies in another basin: the two end
            at the same saddle, but not from the same place.
        total: how many there are, drawn or not.
    """

    kind: str
    labels: tuple[str, ...]
    numbers: Ints
    points: Floats
    values: Floats
    stderr: Floats
    persistences: Floats
    certain: NDArray[np.bool_]
    apart: NDArray[np.bool_]
    total: int

    def kind_of(self, k: int) -> str:
        """What became of a basin, in words."""
        return _NAMES[self.kind] + (", elsewhere" if self.apart[k] else "")


Sides = tuple[tuple[BasinMatch, BasinMatch], tuple[BasinMatch, BasinMatch]]


def basin_matches(
    lands: tuple[Grid, Grid],
    trees: tuple[Tree, Tree],
    pairs: Ints,
    apart: NDArray[np.bool_],
    most: int = MOST_PAIRS,
) -> Sides:
    """What becomes of the basins of one map in the other.

    Args:
        lands: two maps of one grid.
        trees: their merge trees.
        pairs: (pairs, 2) numbers of minima that are one basin.
        apart: of each pair, whether its two minima lie in different places.
        most: how many of each kind are shown.

    Returns:
        Of each map its matched minima and those that have no partner.
    """
    lives = [tree.persistences for tree in trees]
    # A pair is as worth a look as the longer-lived of its two basins.
    worth = np.maximum(*(life[side] for life, side in zip(lives, pairs.T, strict=True)))
    order = np.argsort(-worth, kind="stable")[:most]
    sides = []
    for k, kind in enumerate(("gone", "new")):
        rest = np.setdiff1d(np.arange(len(trees[k])), pairs[:, k])
        longest = rest[np.argsort(-lives[k][rest], kind="stable")][:most]
        nowhere = np.zeros(longest.size, dtype=np.bool_)
        place = lands[k], trees[k]
        sides.append(
            (
                _match(place, pairs[order, k], "matched", apart[order], len(pairs)),
                _match(place, longest, kind, nowhere, rest.size),
            )
        )
    return sides[0], sides[1]


def _match(
    place: tuple[Grid, Tree], numbers: Ints, kind: str, apart: NDArray[np.bool_], total: int
) -> BasinMatch:
    land, tree = place
    at = tree.minima[numbers]
    letter = {"matched": "", "gone": "G", "new": "N"}[kind]
    return BasinMatch(
        kind=kind,
        labels=tuple(f"{letter}{k + 1}" for k in range(numbers.size)),
        numbers=numbers,
        points=coordinates(land, at),
        values=land.values.ravel()[at],
        stderr=land.stderr.ravel()[at],
        persistences=tree.persistences[numbers],
        certain=tree.counted[numbers],
        apart=apart,
        total=total,
    )


def matched_chart(
    grid: Grid, matches: tuple[BasinMatch, BasinMatch], scale: Scale, title: str
) -> Chart:
    """A map from above with its basins named by what becomes of them in the other map."""
    layers = colored(grid, scale)
    for match in matches:
        for certain in (False, True):
            for apart in (False, True):
                rows = np.flatnonzero((match.certain == certain) & (match.apart == apart))
                if rows.size:
                    layers.append(_matched_points(match, rows))
    return map_chart(grid, title, layers)


def _matched_points(match: BasinMatch, rows: NDArray[np.intp]) -> Layer:
    first = int(rows[0])
    certain = bool(match.certain[first])
    has_labels = certain or match.kind == "matched"
    x, y = match.points[rows].T
    return Points(
        x,
        y,
        color=_COLORS[match.kind] if certain else style.FAINT,
        edge=style.INK,
        symbol="square" if match.apart[first] else _SYMBOLS[match.kind],
        size=12 if certain else 7,
        name=match.kind_of(first) + ("" if certain else ", uncertain"),
        hover=[_match_text(match, k) for k in rows.tolist()],
        labels=[match.labels[k] for k in rows] if has_labels else None,
        label_color=style.PAPER,
        is_bold=certain,
    )


def _match_text(match: BasinMatch, k: int) -> str:
    value = with_error(float(match.values[k]), float(match.stderr[k]))
    lasts = number(float(match.persistences[k]), 3)
    return f"basin {match.labels[k]}, {match.kind_of(k)}\nloss {value}\nlasts {lasts}"


def shared_scale(grids: Sequence[Grid]) -> Scale:
    """One scale for several maps, so that one color is one loss."""
    return scale_of(np.concatenate([grid.values.ravel() for grid in grids]))


def diagrams_chart(
    first: Bars,
    second: Bars,
    steps: tuple[Floats, Floats],
    *,
    scale: Scale,
    names: tuple[str, str],
) -> Chart:
    """The basins of two maps in one persistence diagram, with the steps between them.

    Args:
        first: bars of the first map.
        second: bars of the second.
        steps: births and deaths from and to which basins move, two arrays (steps, 2).
        scale: how losses are spread.
        names: of the two maps.

    Returns:
        The chart.
    """
    frame = diagram_frame(first.low, first.high, _of_basins((first, second), scale))
    bound = max(first.threshold, second.threshold)
    layers = list(frame_layers(frame, bound, has_endless=True))
    layers += _steps(*steps, frame.ceiling)
    looks = ((first, "circle", style.BASIN), (second, "diamond", style.PATH))
    for (bars, symbol, color), name in zip(looks, names, strict=True):
        layers += _basins(bars, short(name), (symbol, color), frame.ceiling)
    return frame_chart(frame, "Both persistence diagrams", layers)


def _of_basins(diagrams: tuple[Bars, Bars], scale: Scale) -> Scale:
    # The part of a scale on which the basins are born and die.
    levels = [d.births[d.dimensions == 0] for d in diagrams]
    levels += [d.deaths[(d.dimensions == 0) & np.isfinite(d.deaths)] for d in diagrams]
    last = float(np.concatenate(levels).max(initial=-np.inf))
    some = any(deaths.size for deaths in levels[2:])
    return replace(scale, high=last) if some and last > scale.low else scale


def _steps(starts: Floats, ends: Floats, ceiling: float) -> Iterator[Layer]:
    if not len(starts):
        return
    births, deaths = (
        joined(list(np.minimum(np.stack([starts[:, k], ends[:, k]], axis=1), ceiling)))
        for k in (0, 1)
    )
    yield Line(births, deaths, color=style.MUTED, width=1.2, name="matching")


def _basins(bars: Bars, name: str, look: tuple[str, str], ceiling: float) -> Iterator[Layer]:
    symbol, color = look
    for certain in (False, True):
        rows = np.flatnonzero((bars.dimensions == 0) & (bars.certain == certain))
        if not rows.size:
            continue
        births, deaths = bars.births[rows], bars.deaths[rows]
        yield Points(
            births,
            np.minimum(deaths, ceiling),
            color=color if certain else "",
            edge=color,
            symbol=symbol,
            size=10 if certain else 8,
            name=f"basins of {name}" + ("" if certain else ", uncertain"),
            hover=[
                f"basin of {name}\nborn {number(b)}, dies {number(d)}\nlasts {number(d - b)}"
                for b, d in zip(births.tolist(), deaths.tolist(), strict=True)
            ],
        )


def matching_chart(first: Floats, second: Floats, steps: tuple[Floats, Floats]) -> Chart:
    """Two barcodes in one persistence diagram, with the steps from bar to bar.

    Args:
        first: (bars, 2) births and deaths.
        second: the same of the other.
        steps: from and to where bars move, two arrays (steps, 2).

    Returns:
        The chart.
    """
    levels = np.concatenate([first, second]).ravel()
    frame = diagram_frame(float(levels.min()), float(levels.max()))
    layers = [*frame_layers(frame, 0.0, has_endless=False), *_steps(*steps, frame.ceiling)]
    looks = ((first, "first", "circle", style.BASIN), (second, "second", "diamond", style.PATH))
    for bars, name, symbol, color in looks:
        texts = [f"{name}\nborn {number(b)}, dies {number(d)}" for b, d in bars.tolist()]
        x, y = bars.T
        layers.append(Points(x, y, None, color, color, symbol, name=name, hover=texts))
    return frame_chart(frame, "Matched bars", layers)
