"""Comparing two checkpoints of one model, mapped along the same directions."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lossatlas.checks import check_path, check_seed, nearest
from lossatlas.errors import ArgumentError
from lossatlas.executor import Progress
from lossatlas.landscape.buffers import Buffers
from lossatlas.landscape.checkpoints import states_of, through
from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.mapping import map_plane
from lossatlas.landscape.plane import Plane, check_objective, random_plane
from lossatlas.landscape.request import NO_STATISTICS
from lossatlas.landscape.span import Span, suggest_span
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate
from lossatlas.surveys.comparison import Comparison
from lossatlas.topology import Diagram, persistence
from lossatlas.topology.basin_matching import BasinMatching, match_basins
from lossatlas.topology.certainty import MIN_SHARE, check_min_share
from lossatlas.topology.distances import bottleneck, wasserstein
from lossatlas.topology.field import Connectivity
from lossatlas.weights.connect import connect
from lossatlas.weights.paired import rounded_away
from lossatlas.weights.statistics import statistics_notes

_PARTS = ("first", "second", "path", "line")
_OPTIONS = ("adaptive", "tolerance", "engine", "executor", "metrics")


def compare(
    objective: Objective,
    first: Params,
    second: Params,
    *,
    span: str | Span = "auto",
    points: int = 31,
    connectivity: Connectivity = "full",
    min_share: float | None = MIN_SHARE,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Comparison:
    """Compare two checkpoints: their surroundings, and the line between them.

    Both maps run along the same random directions, scaled to the filters of the first
    checkpoint, over the same range: what differs is the ground, not the picture.

    Args:
        objective: the model, loss and data; the model's own weights do not matter.
        first: one point, names and shapes as in `objective.params`, or a full state dict:
            its running statistics then go with its weights, and are interpolated on the line.
        second: another.
        span: half the width of the maps, or "auto": wide enough for the first checkpoint.
        points: points along each direction.
        connectivity: which neighbors count for the topology.
        min_share: least share of the examples whose effects must not be missed for a basin
            to be certain, as for `persistence`; None or 0: no such rule.
        seed: of the random directions.
        resume: as for `map_plane`; each map keeps its chunks in a file of its own, see
            `comparison_ledgers`.
        progress: as for `map_plane`.
        **options: further options of `map_plane` (adaptive, tolerance, engine, executor).

    Returns:
        The maps, the line, its barrier, distances and matched basins.

    Raises:
        ArgumentError: arguments that cannot be served, or equal checkpoints.
        NonFiniteError: the loss at a checkpoint is not finite.
        ResumeError: a resume file is damaged or belongs to another run.
        StructureError: checkpoints of another model.
        UnknownNameError: an unknown engine, executor or connectivity.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> batch = torch.eye(2), torch.ones(2, 1)
        >>> mse = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, mse, [batch])
        >>> first = objective.params
        >>> second = {name: value + 1 for name, value in first.items()}
        >>> found = la.compare(objective, first, second, points=5, span=0.5)
        >>> found.line.axes[0][[0, -1]].tolist(), len(found.figures())
        ([0.0, 1.0], 5)
    """
    started = time.monotonic()
    check_objective(objective, progress=progress)
    _check_options(options, min_share, seed)
    ledgers = comparison_ledgers(resume) if resume is not None else [None] * len(_PARTS)
    states = states_of(objective, (first, second))
    line = map_plane(
        objective,
        through([s.params for s in states], [s.buffers for s in states]),
        span=[(0.0, 1.0)],
        points=points,
        resume=ledgers[-1],
        **options,
    )
    on_line: dict[str, Any] = {"points": max(points, 3), "seed": seed, "resume": ledgers[-2]}
    path = connect(objective, first, second, **on_line)
    around = random_plane(objective, origin=first, seed=seed)
    chosen = suggest_span(objective, around).span if isinstance(span, str) else span
    common: dict[str, Any] = {"span": chosen, "points": points, "progress": progress} | options
    lands = (
        map_plane(objective, _moved(around, state), resume=ledger, **common)
        for state, ledger in zip(states, ledgers[:2], strict=True)
    )
    maps = [_noted(land, line) for land in lands]
    diagrams = _diagrams(maps, connectivity, min_share)
    matching = _judged_as(diagrams, match_basins(*maps, connectivity=connectivity))
    return Comparison(
        first=maps[0],
        second=maps[1],
        line=line,
        diagrams=diagrams,
        matching=matching,
        excess=path.profile,
        bottleneck=bottleneck(*diagrams, essential="keep"),
        wasserstein=wasserstein(*diagrams, essential="keep"),
        difference=paired_difference(objective, states[0], states[1]),
        statistics=statistics_notes(objective, states, "points between"),
        anew=path.anew,
        seconds=time.monotonic() - started,
        provenance=maps[0].provenance,
    )


def _noted(land: Landscape, line: Landscape) -> Landscape:
    missing = [note for note in line.notes if note == NO_STATISTICS]
    return replace(land, notes=(*land.notes, *missing))


def _diagrams(
    maps: list[Landscape], connectivity: Connectivity, min_share: float | None
) -> tuple[Diagram, Diagram]:
    first, second = (
        persistence(land, connectivity=connectivity, min_share=min_share) for land in maps
    )
    return first, second


def _judged_as(diagrams: tuple[Diagram, Diagram], matching: BasinMatching) -> BasinMatching:
    # One judgment of what is certain, whatever share of the examples may be missed.
    first, second = (
        replace(tree, threshold=diagram.threshold, why_unknown=diagram.why_unknown)
        for tree, diagram in zip((matching.first, matching.second), diagrams, strict=True)
    )
    return replace(matching, first=first, second=second)


def _moved(plane: Plane, state: State) -> Plane:
    held = Buffers(state.buffers) if state.buffers else None
    return replace(plane, origin=state.params, buffers=held)


def _check_options(options: Mapping[str, Any], min_share: float | None, seed: int) -> None:
    check_min_share(min_share)
    check_seed("seed", seed)
    for name in options:
        if name not in _OPTIONS:
            raise ArgumentError(
                f"`{name}` is no option of compare{nearest(name, _OPTIONS)}; "
                f"known: {', '.join(_OPTIONS)}."
            )


def comparison_ledgers(resume: str | Path) -> list[Path]:
    """Where a comparison keeps what is finished while it runs."""
    return [Path(f"{check_path('resume', resume)}.{name}") for name in _PARTS]


def paired_difference(objective: Objective, first: State, second: State) -> Estimate | None:
    """Loss of the second point minus that of the first, example by example."""
    if objective.unit != "examples":
        return None
    one, two = (objective.example_losses(state.whole) for state in (first, second))
    gap = (two - one).numpy()
    stderr = float(gap.std(ddof=1)) / math.sqrt(gap.size) if gap.size > 1 else math.nan
    difference = Estimate(
        float(gap.mean()),
        stderr,
        samples=gap.size,
        sample_unit="examples",
        why_no_error=None if math.isfinite(stderr) else "one example has no spread",
        name="difference of the losses",
    )
    return rounded_away(objective, difference, float(max(one.abs().mean(), two.abs().mean())))
