"""Two maps of one grid side by side: which basin of one is which of the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots.grids import coordinates
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.topology import Diagram, MergeTree
from lossatlas.topology.matching import match_bars

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_PAIRS = 16
_MOST_BARS = 800
FATES = ("matched", "gone", "new")


@dataclass(frozen=True, eq=False)
class BasinMatch:
    """Minima of one map that share a fate, the longest-lived first.

    Attributes:
        kind: "matched", "gone" or "new".
        labels: "1", "2", ... alike on both maps where matched; "G1" gone, "N1" new.
        numbers: as the merge tree counts them.
        points: (k, dimensions) coordinates.
        values: loss there.
        stderr: its standard error, NaN where there is none.
        persistences: how long each basin lasts.
        certain: True where that is longer than the tree's threshold.
        apart: True where the partner of a matched minimum lies in another basin: the two end
            at the same pass, but not from the same place.
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


def fates(
    lands: tuple[Landscape, Landscape],
    trees: tuple[MergeTree, MergeTree],
    pairs: Ints,
    most: int = MOST_PAIRS,
) -> tuple[tuple[BasinMatch, BasinMatch], tuple[BasinMatch, BasinMatch]]:
    """What becomes of the basins of one map in the other."""
    lives = [tree.persistences for tree in trees]
    # A pair is as worth a look as the longer-lived of its two basins.
    worth = np.maximum(*(life[side] for life, side in zip(lives, pairs.T, strict=True)))
    order = np.argsort(-worth, kind="stable")
    matched = [(k, pairs[order][:most, k], "matched", len(pairs)) for k in (0, 1)]
    alone = []
    for k, kind in enumerate(FATES[1:]):
        rest = np.setdiff1d(np.arange(len(trees[k])), pairs[:, k])
        longest = rest[np.argsort(-lives[k][rest], kind="stable")]
        alone.append((k, longest[:most], kind, rest.size))
    apart = lie_apart(trees, pairs[order][:most])
    one, two = (
        tuple(
            _fate(lands[k], trees[k], chosen, kind, apart=apart, total=total)
            for k, chosen, kind, total in (matched[side], alone[side])
        )
        for side in (0, 1)
    )
    return (one[0], one[1]), (two[0], two[1])


def lie_apart(trees: tuple[MergeTree, MergeTree], pairs: Ints) -> NDArray[np.bool_]:
    """Which matched minima lie in basins of different places."""
    one, two = trees
    return np.array(
        [
            not (_runs_to(two, one.minima[i], j) or _runs_to(one, two.minima[j], i))
            for i, j in pairs
        ],
        dtype=np.bool_,
    )


def _runs_to(tree: MergeTree, point: int, minimum: int) -> bool:
    here = int(tree.basins.ravel()[point])
    if here < 0:
        return False
    climb = tree.barrier(here, int(minimum)) - float(tree.minima_values[here])
    # Where errors are unknown no climb is within them.
    return here == minimum or climb <= (0.0 if tree.why_unknown else tree.threshold)


def _fate(
    land: Landscape,
    tree: MergeTree,
    numbers: Ints,
    kind: str,
    *,
    apart: NDArray[np.bool_],
    total: int,
) -> BasinMatch:
    where, lives = tree.minima[numbers], tree.persistences[numbers]
    letter = {"matched": "", "gone": "G", "new": "N"}[kind]
    return BasinMatch(
        kind=kind,
        labels=tuple(f"{letter}{k + 1}" for k in range(numbers.size)),
        numbers=numbers,
        points=coordinates(land, where),
        values=land.values.ravel()[where],
        stderr=land.stderr.ravel()[where],
        persistences=lives,
        certain=tree.certain[numbers],
        apart=apart if kind == "matched" else np.zeros(numbers.size, dtype=np.bool_),
        total=total,
    )


def shared_scale(landscapes: Sequence[Landscape]) -> Scale:
    """One scale for several maps, so that one color is one loss."""
    return scale_of(np.concatenate([land.values.ravel() for land in landscapes]))


def bar_scale(first: Diagram, second: Diagram, scale: Scale) -> Scale:
    """The part of a scale on which the basins of two diagrams are born and die."""
    bars = np.concatenate([diagram.bars(0) for diagram in (first, second)])
    births = np.concatenate([d.births[d.dimensions == 0] for d in (first, second)])
    last = max(float(bars[:, 1].max(initial=-np.inf)), float(births.max(initial=-np.inf)))
    return replace(scale, high=last) if len(bars) and last > scale.low else scale


def bar_steps(first: Diagram, second: Diagram) -> tuple[Floats, Floats]:
    """From where to where the basins of one diagram move in the other."""
    bars = [diagram.bars(0, essential="keep") for diagram in (first, second)]
    if sum(map(len, bars)) > _MOST_BARS:
        return np.empty((0, 2)), np.empty((0, 2))
    found = match_bars(first, second, order=1.0)
    steps = [
        _step(found.first[i] if i >= 0 else None, found.second[j] if j >= 0 else None)
        for i, j in found.pairs.tolist()
    ]
    depths = [np.sort(part[np.isposinf(part[:, 1]), 0]) for part in bars]
    # Where walls part the maps differently, the deepest ones have no common number.
    steps += [
        (np.array([a, np.inf]), np.array([b, np.inf])) for a, b in zip(*depths, strict=False)
    ]
    starts, ends = (np.array([step[k] for step in steps]).reshape(-1, 2) for k in (0, 1))
    return starts, ends


def _step(a: Floats | None, b: Floats | None) -> tuple[Floats, Floats]:
    start = np.full(2, b.mean()) if a is None and b is not None else a
    end = np.full(2, a.mean()) if b is None and a is not None else b
    assert start is not None
    assert end is not None
    return start, end
