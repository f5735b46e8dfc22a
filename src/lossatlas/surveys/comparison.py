"""Comparison: two checkpoints of one model, mapped along the same directions."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.checks import check_path, nearest
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
from lossatlas.store import Provenance
from lossatlas.topology import Diagram, persistence
from lossatlas.topology.basin_matching import match_basins
from lossatlas.topology.certainty import MIN_SHARE, check_min_share
from lossatlas.topology.distances import bottleneck, wasserstein


@store.kind("comparison")
@dataclass(frozen=True, eq=False)
class Comparison:
    """Two checkpoints side by side.

    Attributes:
        first: the map around the first checkpoint.
        second: the map around the second, along the same directions.
        line: the loss on the straight line from the first (0) to the second (1).
        diagrams: persistence of the two maps.
        barrier: how far the line rises above the straight line between its two ends, at most;
            0 where it never does (a linear mode connection).
        barrier_stderr: sampling error of the barrier, taking the three losses it comes from
            as independent: an upper bound where examples are shared.
        bottleneck: bottleneck distance of the basins of the two maps, in units of the loss;
            the deepest basins, which never end, are compared by their depths.
        wasserstein: 1-Wasserstein distance of the same, ground norm infinity.
        pairs: (pairs, 2) numbers of minima of the two merge trees that are one basin.
        gone: minima of the first map without a partner in the second.
        new: minima of the second map without a partner in the first.
        seconds: wall time.
        provenance: seed, settings, fingerprints, versions.
    """

    first: Landscape
    second: Landscape
    line: Landscape
    diagrams: tuple[Diagram, Diagram]
    barrier: float
    barrier_stderr: float
    bottleneck: float
    wasserstein: float
    pairs: NDArray[np.int64]
    gone: NDArray[np.int64]
    new: NDArray[np.int64]
    seconds: float = 0.0
    provenance: Provenance = field(default_factory=Provenance)

    def save(self, path: str | Path) -> Path:
        """Write everything to one netCDF file; `lossatlas.load` reads it back.

        Args:
            path: where, by convention `*.nc`.

        Returns:
            The path.

        Raises:
            FileError: the place cannot be written.
        """
        return store.save(self, path)

    def to_tree(self) -> dict[str, xr.Dataset]:
        """As groups for the store.

        Returns:
            Group name -> Dataset.
        """
        parts = {name: getattr(self, name).to_tree() for name in _MAPS}
        parts |= {f"diagram{k}": diagram.to_tree() for k, diagram in enumerate(self.diagrams)}
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        head = xr.Dataset(
            {
                "pairs": (("pair", "side"), self.pairs),
                "gone": ("lost", self.gone),
                "new": ("fresh", self.new),
            },
            attrs=numbers | {"provenance": self.provenance.to_json()},
        )
        return {"comparison": head} | store.nested(parts)

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Comparison":
        """The inverse of `to_tree`.

        Args:
            tree: group name -> Dataset.

        Returns:
            An equal comparison.
        """
        head = tree["comparison"]
        parts: dict[str, Any] = {
            name: Landscape.from_tree(store.below(tree, name)) for name in _MAPS
        }
        one, two = (Diagram.from_tree(store.below(tree, f"diagram{k}")) for k in (0, 1))
        parts |= {name: float(head.attrs[name]) for name in _NUMBERS}
        parts |= {name: head[name].to_numpy() for name in ("pairs", "gone", "new")}
        record = Provenance.from_json(str(head.attrs["provenance"]))
        return cls(diagrams=(one, two), provenance=record, **parts)


_MAPS = ("first", "second", "line")
_OPTIONS = ("adaptive", "tolerance", "engine", "executor", "metrics")
_NUMBERS = ("barrier", "barrier_stderr", "bottleneck", "wasserstein", "seconds")


def compare(
    objective: Objective,
    first: Params,
    second: Params,
    *,
    span: str | Span = "auto",
    points: int = 31,
    connectivity: str = "full",
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
    """
    started = time.monotonic()
    check_objective(objective, progress=progress)
    _check_options(options, min_share)
    ledgers = comparison_ledgers(resume) if resume is not None else [None] * len(_MAPS)
    states = states_of(objective, (first, second))
    line = map_plane(
        objective,
        through([s.params for s in states], [s.buffers for s in states]),
        span=[(0.0, 1.0)],
        points=points,
        resume=ledgers[-1],
        **options,
    )
    around = random_plane(objective, origin=first, seed=seed)
    chosen = suggest_span(objective, around).span if isinstance(span, str) else span
    common: dict[str, Any] = {"span": chosen, "points": points, "progress": progress} | options
    maps = [
        map_plane(objective, _moved(around, state), resume=ledger, **common)
        for state, ledger in zip(states, ledgers[:2], strict=True)
    ]
    if NO_STATISTICS in line.notes:
        maps = [replace(land, notes=(*land.notes, NO_STATISTICS)) for land in maps]
    diagrams = _diagrams(maps, connectivity, min_share)
    matching = match_basins(*maps, connectivity=connectivity)
    barrier, stderr = _barrier(line)
    return Comparison(
        first=maps[0],
        second=maps[1],
        line=line,
        diagrams=diagrams,
        barrier=barrier,
        barrier_stderr=stderr,
        bottleneck=bottleneck(*diagrams, essential="keep"),
        wasserstein=wasserstein(*diagrams, essential="keep"),
        pairs=matching.pairs,
        gone=matching.gone,
        new=matching.new,
        seconds=time.monotonic() - started,
        provenance=maps[0].provenance,
    )


def _diagrams(
    maps: list[Landscape], connectivity: str, min_share: float | None
) -> tuple[Diagram, Diagram]:
    first, second = (
        persistence(land, connectivity=connectivity, min_share=min_share) for land in maps
    )
    return first, second


def _moved(plane: Plane, state: State) -> Plane:
    held = Buffers(state.buffers) if state.buffers else None
    return replace(plane, origin=state.params, buffers=held)


def _check_options(options: Mapping[str, Any], min_share: float | None) -> None:
    check_min_share(min_share)
    for name in options:
        if name not in _OPTIONS:
            raise ArgumentError(
                f"`{name}` is no option of compare{nearest(name, _OPTIONS)}; "
                f"known: {', '.join(_OPTIONS)}."
            )


def comparison_ledgers(resume: str | Path) -> list[Path]:
    """Where a comparison keeps what is finished while it runs."""
    return [Path(f"{check_path('resume', resume)}.{name}") for name in _MAPS]


def _barrier(line: Landscape) -> tuple[float, float]:
    share = line.axes[0]
    chord = (1 - share) * line.values[0] + share * line.values[-1]
    excess = np.where(line.finite, line.values - chord, np.inf)
    top = int(np.nanargmax(excess))
    if excess[top] <= 0:
        return 0.0, float(np.hypot(line.stderr[0], line.stderr[-1]))
    parts = (line.stderr[top], (1 - share[top]) * line.stderr[0], share[top] * line.stderr[-1])
    return float(excess[top]), math.hypot(*map(float, parts))
