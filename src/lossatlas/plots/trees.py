"""Charts of merge trees: the tree, and the profile of nested basins."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lossatlas.plots import style
from lossatlas.plots.chart import Area, Axis, Chart, Floats, Layer, Line, Points, joined
from lossatlas.plots.grid import MOST_MINIMA, ON_EDGE, Tree, most_persistent
from lossatlas.plots.scale import Scale, spanning
from lossatlas.text import loss_title, number, surely, verdict

_STEPS = 100


def tree_chart(tree: Tree, *, scale: Scale | None = None, most: int = MOST_MINIMA) -> Chart:
    """A merge tree: minima at the bottom, the saddles at which they join above.

    Args:
        tree: the merge tree.
        scale: how losses are spread; straight by default.
        most: how many branches; the longest are drawn.

    Returns:
        The chart. Dark branches are certain, hollow where their minimum lies on the edge of
        the map and does not count; gray ones are within the error of the map.
    """
    scale = scale or spanning(tree.low, tree.high)
    drawn = branches(tree, most)
    layers: list[Layer] = []
    for kind in ((False, False), (False, True), (True, True), (True, False)):
        alike = [b for b in drawn if (b.is_certain, b.is_on_edge) == kind]
        if alike:
            layers += _branch_layers(alike, tree.threshold)
    hidden = len(tree) - len(drawn)
    note = f"; {hidden:,} shorter branches are not drawn" if hidden else ""
    ticks = [b.x for b in drawn], [str(b.minimum) for b in drawn]
    width = max(b.x for b in drawn)
    return Chart(
        "Merge tree",
        Axis(f"minima, by number{note}", limits=(-0.8, width + 0.8), ticks=ticks),
        Axis(loss_title(scale.is_log), scale),
        tuple(layers),
        size=(5.4, 4.0),
    )


@dataclass(frozen=True)
class Branch:
    """One branch of a merge tree: up from its minimum, then across to its parent.

    Attributes:
        minimum: number of its minimum.
        x: where it stands.
        low: loss at the minimum.
        high: loss where it ends; the highest of the map where it never does.
        parent_x: where its parent stands; None where it never ends.
        is_certain: whether it is known to be longer than the tree's threshold.
        is_on_edge: whether its minimum lies on the edge of the map, and is not counted.
    """

    minimum: int
    x: float
    low: float
    high: float
    parent_x: float | None
    is_certain: bool
    is_on_edge: bool = False


def branches(tree: Tree, most: int = MOST_MINIMA) -> list[Branch]:
    """Lay out a merge tree so that no two lines cross."""
    chosen = most_persistent(tree, most)
    place = {number: float(x) for x, number in enumerate(_order(tree, set(chosen.tolist())))}
    parent = {int(a): int(b) for a, b in zip(tree.ended, tree.into, strict=True)}
    level = dict(zip(tree.ended.tolist(), tree.saddle_values.tolist(), strict=True))
    certain, open_ones = tree.certain, tree.on_edge & ~tree.counted
    return [
        Branch(
            minimum=number,
            x=place[number],
            low=float(tree.minima_values[number]),
            high=level.get(number, tree.high),
            parent_x=place[parent[number]] if number in parent else None,
            is_certain=bool(certain[number]),
            is_on_edge=bool(open_ones[number]),
        )
        for number in chosen.tolist()
    ]


def _order(tree: Tree, chosen: set[int]) -> list[int]:
    # What has merged stays side by side, so a later line across passes above it. Children
    # go left and right in turn, which keeps the oldest branch near the middle.
    rows: dict[int, list[int]] = {number: [number] for number in sorted(chosen)}
    turns = dict.fromkeys(rows, 0)
    for ended, into in zip(tree.ended.tolist(), tree.into.tolist(), strict=True):
        if ended not in chosen:
            continue
        child = rows.pop(ended)
        rows[into] = rows[into] + child if turns[into] % 2 == 0 else child + rows[into]
        turns[into] += 1
    return [number for row in rows.values() for number in row]


def _branch_layers(drawn: list[Branch], threshold: float) -> Iterator[Layer]:
    certain, on_edge = drawn[0].is_certain, drawn[0].is_on_edge
    name = surely("basin", threshold) if certain else _unsure(threshold)
    color = style.BASIN if certain else style.FAINT
    ends = [branch.x if branch.parent_x is None else branch.parent_x for branch in drawn]
    yield Line(
        joined([np.array([b.x, b.x, end]) for b, end in zip(drawn, ends, strict=True)]),
        joined([np.array([b.low, b.high, b.high]) for b in drawn]),
        color=color,
        width=2.6 if certain else 1.4,
    )
    yield Points(
        [b.x for b in drawn],
        [b.low for b in drawn],
        color=style.PAPER if on_edge else color,
        edge=color,
        name=_edge_name(name, certain) if on_edge else name,
        hover=[_branch_text(branch, threshold) for branch in drawn],
    )


def _edge_name(name: str, certain: bool) -> str:
    return ON_EDGE if certain else f"{name}, on the edge"


def _unsure(threshold: float) -> str:
    return "certainty unknown" if np.isnan(threshold) else "within the error"


def _branch_text(branch: Branch, threshold: float) -> str:
    end = "never ends" if branch.parent_x is None else f"merges at {number(branch.high)}"
    judged = f"{ON_EDGE} of the map" if branch.is_on_edge else ""
    judged = judged or verdict(branch.is_certain, threshold)
    lines = [f"minimum {branch.minimum}", f"loss {number(branch.low)}, {end}", judged]
    return "\n".join(filter(None, lines))


def profile_chart(
    tree: Tree, values: Floats, *, scale: Scale | None = None, most: int = MOST_MINIMA
) -> Chart:
    """The topological profile: nested basins, as wide as they hold points.

    Args:
        tree: a merge tree.
        values: the map it was made of, of any dimension.
        scale: how losses are spread; straight by default.
        most: how many basins; the longest-lived are drawn.

    Returns:
        The chart: the share of the map's points to the right, loss upwards.
    """
    scale = scale or spanning(tree.low, tree.high)
    certain_name = surely("basin", tree.threshold)
    names = {0: _unsure(tree.threshold), 1: f"one {certain_name}"}
    layers = []
    for part in silhouettes(tree, values, most):
        left, right = part.center - part.widths / 2, part.center + part.widths / 2
        top = f"{number(100 * float(part.widths[-1]), 3)} % of the map"
        layers.append(
            Area(
                100 * np.concatenate([left, right[::-1]]),
                np.concatenate([part.levels, part.levels[::-1]]),
                profile_color(part.certain),
                edge=style.PAPER,
                name=names.get(part.certain, f"shared by {certain_name}s"),
                hover=f"basin of minimum {part.minimum}, {top} at loss "
                f"{number(part.levels[-1])}",
            )
        )
    return Chart(
        "Topological profile",
        Axis("share of the map's points (%)", limits=(0, 100)),
        Axis(loss_title(scale.is_log), scale),
        tuple(layers),
        size=(5.4, 4.0),
    )


@dataclass(frozen=True, eq=False)
class Silhouette:
    """One part of a topological profile: a basin between two of its saddles.

    Attributes:
        minimum: number of the deepest minimum in it.
        levels: ascending losses.
        center: middle of the part, as a share of the map's points.
        widths: share of the map's points that lie in the basin at or below each level.
        depth: saddles above it; 0 for the whole map.
        certain: how many certain minima it holds.
    """

    minimum: int
    levels: Floats
    center: float
    widths: Floats
    depth: int
    certain: int


@dataclass(eq=False)
class _Node:
    # A component of the sublevel sets, from `bottom` up to the saddle where it merges.
    minimum: int
    values: Floats
    bottom: float
    certain: int
    children: tuple["_Node", ...] = ()

    def width(self, level: float) -> int:
        return int(np.searchsorted(self.values, level, side="right"))


def silhouettes(tree: Tree, values: Floats, most: int = MOST_MINIMA) -> list[Silhouette]:
    """The topological profile: basins as silhouettes, as wide as they hold points."""
    total = int(np.count_nonzero(tree.basins >= 0))
    drawn: list[Silhouette] = []
    start = 0.0
    for root in _forest(tree, values, set(most_persistent(tree, most).tolist())):
        stack = [(root, start + root.values.size / 2, tree.high, 0)]
        start += root.values.size
        while stack:
            node, center, top, depth = stack.pop()
            levels, widths = _outline(node, top)
            drawn.append(
                Silhouette(
                    node.minimum, levels, center / total, widths / total, depth, node.certain
                )
            )
            stack += [(*child, node.bottom, depth + 1) for child in _side_by_side(node, center)]
    return drawn


def profile_color(certain: int) -> str:
    """Color of a part of a topological profile with so many certain minima."""
    return {0: style.FAINT, 1: style.FILL}.get(certain, style.SHARED)


def _forest(tree: Tree, values: Floats, chosen: set[int]) -> list[_Node]:
    home = np.arange(len(tree))
    # The last merge first: a basin that is not kept goes where its parent went.
    for ended, into in zip(tree.ended[::-1], tree.into[::-1], strict=True):
        if int(ended) not in chosen:
            home[ended] = home[into]
    labels = np.where(tree.basins >= 0, home[tree.basins], -1).ravel()
    flat = values.ravel()
    certain = tree.counted.astype(int)
    inside = {number: np.sort(flat[labels == number]) for number in sorted(chosen)}
    live = {
        number: _Node(number, held, float(held[0]), int(certain[number]))
        for number, held in inside.items()
    }
    merges = zip(tree.ended.tolist(), tree.into.tolist(), tree.saddle_values, strict=True)
    for ended, into, level in merges:
        if ended in chosen:
            pair = sorted((live[into], live.pop(ended)), key=lambda part: -part.width(level))
            merged = np.sort(np.concatenate([part.values for part in pair]))
            sure = sum(part.certain for part in pair)
            live[into] = _Node(into, merged, float(level), sure, tuple(pair))
    return list(live.values())


def _side_by_side(node: _Node, center: float) -> list[tuple[_Node, float]]:
    widths = [child.width(node.bottom) for child in node.children]
    left = center - sum(widths) / 2
    starts = np.cumsum([0, *widths])
    return [
        (child, float(left + start + width / 2))
        for child, start, width in zip(node.children, starts, widths, strict=False)
    ]


def _outline(node: _Node, top: float) -> tuple[Floats, Floats]:
    inner = np.unique(node.values[(node.values > node.bottom) & (node.values < top)])
    if inner.size:
        inner = inner[np.unique(np.linspace(0, inner.size - 1, _STEPS).astype(int))]
    levels = np.concatenate([[node.bottom], inner, [top]])
    return levels, np.searchsorted(node.values, levels, side="right").astype(np.float64)
