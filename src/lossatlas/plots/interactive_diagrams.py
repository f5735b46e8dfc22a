"""Topology on a page: persistence diagram, barcode, merge tree, profile, Betti curves."""

import numpy as np
import plotly.graph_objects as go

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style, web
from lossatlas.plots.layouts import (
    MOST_BARS,
    Bar,
    Branch,
    bar_groups,
    barcode,
    betti_curve,
    branches,
    diagram_frame,
)
from lossatlas.plots.marks import MOST_MINIMA
from lossatlas.plots.profile import profile_color, silhouettes
from lossatlas.plots.scale import Scale, spanning
from lossatlas.text import number, surely, verdict
from lossatlas.topology import Diagram, MergeTree

_TEXT = "%{text}<extra></extra>"
_SYMBOLS = ("circle", "triangle-up", "square")


def persistence_figure(diagram: Diagram, *, scale: Scale | None = None) -> go.Figure:
    """A persistence diagram with the band in which nothing is certain.

    Args:
        diagram: the diagram.
        scale: how losses are spread, as `scale_of(landscape.values)`; straight by default.

    Returns:
        The figure. Bars that never end stand on the dashed line at the top.
    """
    frame = diagram_frame(diagram, scale)
    spread = frame.scale
    low, ceiling, high = spread.forward(np.array([frame.floor, frame.ceiling, frame.roof]))
    x = web.loss_axis(spread, "birth: loss where it appears", range=[low, high])
    y = web.loss_axis(spread, "death: loss where it merges", range=[low, high])
    x |= {"constrain": "domain"}
    y |= {"scaleanchor": "x", "constrain": "domain"}
    figure = web.figure(470, xaxis=x, yaxis=y)
    if diagram.threshold > 0:
        steps = frame.steps()
        band = np.concatenate([steps, (steps + diagram.threshold)[::-1]])
        figure.add_scatter(
            x=spread.forward(np.concatenate([steps, steps[::-1]])),
            y=spread.forward(band),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=style.translucent(style.BAND, 0.75),
            hoverinfo="skip",
            name="within the error of the map",
        )
    plain = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
    thin = {"color": style.FAINT, "width": 1}
    figure.add_scatter(x=[low, high], y=[low, high], line=thin, **plain)
    if diagram.essential.any():
        dashed = thin | {"dash": "dash"}
        figure.add_scatter(x=[low, high], y=[ceiling, ceiling], line=dashed, **plain)
        font = {"size": 10, "color": style.MUTED}
        middle = (low + high) / 2
        figure.add_annotation(
            x=middle, y=ceiling, text="never ends", showarrow=False, yshift=9, font=font
        )
    _add_bars(figure, diagram, spread, ceiling)
    return figure


def _add_bars(figure: go.Figure, diagram: Diagram, scale: Scale, ceiling: float) -> None:
    heights = np.minimum(scale.forward(diagram.deaths), ceiling)
    for group in bar_groups(diagram):
        color = style.DIMENSION_COLORS[group.dimension]
        symbol = _SYMBOLS[group.dimension] + ("" if group.certain else "-open")
        figure.add_scatter(
            x=scale.forward(diagram.births[group.rows]),
            y=heights[group.rows],
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 9, "opacity": 1.0},
            text=[_bar_text(diagram, row) for row in group.rows.tolist()],
            hovertemplate=_TEXT,
            name=group.name,
        )


def _bar_text(diagram: Diagram, row: int) -> str:
    birth, death = float(diagram.births[row]), float(diagram.deaths[row])
    judged = verdict(bool(diagram.certain[row]), diagram.threshold)
    kind = style.DIMENSION_NAMES[diagram.dimensions[row]]
    life = f"born {number(birth)}, dies {number(death)}<br>lasts {number(death - birth)}"
    return "<br>".join(filter(None, [kind, life, _place(diagram, row), judged]))


def _place(diagram: Diagram, row: int) -> str:
    # Of a basin its minimum, of a ridge the top of the hill inside.
    is_ridge = diagram.dimensions[row] == 1
    place = (diagram.death_places if is_ridge else diagram.birth_places)[row]
    if not place.size or not np.isfinite(place).all():
        return ""
    where = ", ".join(number(float(coordinate), 3) for coordinate in place)
    return f"{'top' if is_ridge else 'minimum'} at ({where})"


def barcode_figure(
    diagram: Diagram, *, scale: Scale | None = None, most: int = MOST_BARS
) -> go.Figure:
    """The longest bars of every degree; arrows for those that never end.

    Args:
        diagram: the diagram.
        scale: how losses are spread; straight by default.
        most: how many bars a degree.

    Returns:
        The figure, one row a bar.
    """
    bars, hidden = barcode(diagram, most)
    scale = scale or spanning(diagram.low, diagram.high)
    note = f"loss; {hidden:,} shorter bars are not drawn" if hidden else "loss"
    y = web.axis("", visible=False, range=[len(bars) - 0.3, -0.7])
    figure = web.figure(470, xaxis=web.loss_axis(scale, note), yaxis=y)
    looks = sorted({(bar.dimension, not bar.certain) for bar in bars})
    for dimension, uncertain in looks:
        color = style.translucent(style.DIMENSION_COLORS[dimension], 0.35 if uncertain else 1)
        rows = [
            (row, bar)
            for row, bar in enumerate(bars)
            if (bar.dimension, not bar.certain) == (dimension, uncertain)
        ]
        figure.add_scatter(
            x=scale.forward(np.array([v for _, b in rows for v in (b.birth, b.end, np.nan)])),
            y=[row for row, _ in rows for _ in range(3)],
            mode="lines",
            line={"color": color, "width": max(2, min(9, 260 // len(bars)))},
            text=[text for _, b in rows for text in [_bar_text(diagram, b.index)] * 3],
            hovertemplate=_TEXT,
            name=style.DIMENSION_NAMES[dimension] + (", uncertain" if uncertain else ""),
        )
    _add_arrows(figure, bars, scale)
    return figure


def _add_arrows(figure: go.Figure, bars: list[Bar], scale: Scale) -> None:
    endless = [(row, bar) for row, bar in enumerate(bars) if bar.essential]
    if not endless:
        return
    figure.add_scatter(
        x=scale.forward(np.array([bar.end for _, bar in endless])),
        y=[row for row, _ in endless],
        mode="markers",
        marker={
            "symbol": "triangle-right",
            "size": 13,
            "color": [style.DIMENSION_COLORS[bar.dimension] for _, bar in endless],
            "opacity": 1.0,
        },
        hoverinfo="skip",
        name="never ends",
        cliponaxis=False,
    )


def tree_figure(
    tree: MergeTree, *, scale: Scale | None = None, most: int = MOST_MINIMA
) -> go.Figure:
    """A merge tree: minima at the bottom, the passes over which they join above.

    Args:
        tree: the merge tree.
        scale: how losses are spread; straight by default.
        most: how many branches; the longest are drawn.

    Returns:
        The figure. Dark branches are certain, gray ones are within the error of the map.
    """
    scale = scale or spanning(tree.low, tree.high)
    drawn = branches(tree, most)
    hidden = len(tree) - len(drawn)
    note = f"; {hidden:,} shorter branches are not drawn" if hidden else ""
    ticks = {"tickvals": [b.x for b in drawn], "ticktext": [str(b.minimum) for b in drawn]}
    x = web.axis(f"minima, by number{note}", showgrid=False, showline=False, **ticks)
    x |= {"range": [-0.8, max(b.x for b in drawn) + 0.8]}
    figure = web.figure(430, xaxis=x, yaxis=web.loss_axis(scale))
    for certain in (False, True):
        alike = [branch for branch in drawn if branch.certain == certain]
        if alike:
            _add_branches(figure, alike, scale, tree.threshold)
    return figure


def _add_branches(
    figure: go.Figure, drawn: list[Branch], scale: Scale, threshold: float
) -> None:
    certain = drawn[0].certain
    color = style.BASIN if certain else style.FAINT
    ends = [branch.x if branch.parent_x is None else branch.parent_x for branch in drawn]
    rows = list(zip(drawn, ends, strict=True))
    figure.add_scatter(
        x=[v for b, end in rows for v in (b.x, b.x, end, None)],
        y=scale.forward(np.array([v for b in drawn for v in (b.low, b.high, b.high, np.nan)])),
        mode="lines",
        line={"color": color, "width": 2.6 if certain else 1.4},
        hoverinfo="skip",
        showlegend=False,
    )
    face = color if certain else style.PAPER
    figure.add_scatter(
        x=[b.x for b in drawn],
        y=scale.forward(np.array([b.low for b in drawn])),
        mode="markers",
        marker={"size": 9, "color": face, "line": {"color": color, "width": 1.5}},
        text=[_branch_text(branch, threshold) for branch in drawn],
        hovertemplate=_TEXT,
        name=surely("basin", threshold) if certain else _unsure(threshold),
    )


def _unsure(threshold: float) -> str:
    return "certainty unknown" if np.isnan(threshold) else "within the error"


def _branch_text(branch: Branch, threshold: float) -> str:
    end = "never ends" if branch.parent_x is None else f"spills over at {number(branch.high)}"
    judged = verdict(branch.certain, threshold)
    lines = [f"minimum {branch.minimum}", f"loss {number(branch.low)}, {end}", judged]
    return "<br>".join(filter(None, lines))


def profile_figure(
    landscape: Landscape,
    tree: MergeTree,
    *,
    scale: Scale | None = None,
    most: int = MOST_MINIMA,
) -> go.Figure:
    """The topological profile: nested basins, as wide as they hold points.

    Args:
        landscape: a map of any dimension.
        tree: its merge tree.
        scale: how losses are spread; straight by default.
        most: how many basins; the longest-lived are drawn.

    Returns:
        The figure: the share of the map's points to the right, loss upwards.
    """
    scale = scale or spanning(tree.low, tree.high)
    x = web.axis("share of the map's points (%)", showgrid=False, range=[0, 100])
    figure = web.figure(430, xaxis=x, yaxis=web.loss_axis(scale))
    one = surely("basin", tree.threshold)
    names = {0: _unsure(tree.threshold), 1: f"one {one}"}
    shown: set[str] = set()
    for part in silhouettes(landscape, tree, most):
        name = names.get(part.certain, f"shared by {one}s")
        left, right = part.center - part.widths / 2, part.center + part.widths / 2
        top = f"{number(100 * float(part.widths[-1]), 3)} % of the map"
        figure.add_scatter(
            x=100 * np.concatenate([left, right[::-1]]),
            y=scale.forward(np.concatenate([part.levels, part.levels[::-1]])),
            mode="lines",
            line={"color": style.PAPER, "width": 0.8},
            fill="toself",
            fillcolor=profile_color(part.certain),
            hoveron="fills",
            text=f"basin of minimum {part.minimum}, {top} at loss {number(part.levels[-1])}",
            hoverinfo="text",
            name=name,
            legendgroup=name,
            showlegend=name not in shown,
        )
        shown.add(name)
    return figure


def betti_figure(diagram: Diagram, *, scale: Scale | None = None) -> go.Figure:
    """How many basins and ridges are alive at each level of the loss.

    Args:
        diagram: the diagram.
        scale: how losses are spread; straight by default.

    Returns:
        The figure: one step curve a degree, and a thin one where uncertain bars count too.
    """
    scale = scale or spanning(diagram.low, diagram.high)
    most = max((betti_curve(diagram, k)[1].max() for k in (0, 1)), default=1)
    step = {"dtick": 1} if most <= 8 else {}
    kinds, judged = {True: "certain", False: "all"}, diagram.threshold > 0
    y = web.axis("number alive at or below", rangemode="tozero", tickformat="d", **step)
    figure = web.figure(360, xaxis=web.loss_axis(scale), yaxis=y)
    for dimension in np.unique(diagram.dimensions).tolist():
        color, name = style.DIMENSION_COLORS[dimension], style.DIMENSION_NAMES[dimension]
        for certain, width in ((False, 1.0), (True, 2.6))[not judged :]:
            levels, alive = betti_curve(diagram, dimension, certain=certain)
            figure.add_scatter(
                x=scale.forward(levels),
                y=alive,
                mode="lines",
                line={"shape": "hv", "color": color, "width": width},
                opacity=1.0 if certain else 0.6,
                text=[number(level) for level in levels.tolist()],
                hovertemplate="%{y} from loss %{text} on<extra></extra>",
                name=f"{name}, {kinds[certain]}" if judged else name,
            )
    return figure
