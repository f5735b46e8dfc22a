"""Survey: what a stretch of loss landscape is like, from several instruments at once."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas import store
from lossatlas.algebra.estimators import Estimate
from lossatlas.algebra.params import Params
from lossatlas.checks import check_one_of
from lossatlas.curvature import Spectrum, spectrum, trace
from lossatlas.executor import Executor
from lossatlas.landscape.checkpoints import trajectory_plane
from lossatlas.landscape.engines import Metric
from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.mapping import map_plane
from lossatlas.landscape.plane import Plane, check_door, random_plane
from lossatlas.landscape.points import Progress
from lossatlas.landscape.span import Span, suggest_span
from lossatlas.objective import Evaluation, Objective
from lossatlas.store import Provenance
from lossatlas.topology import (
    Diagram,
    MergeTree,
    Resolution,
    barrier_matrix,
    certain_basins,
    merge_tree,
    persistence,
    resolution,
    simplify,
)

Array = NDArray[np.float64]
PLANES = ("random", "checkpoints")


@store.kind("survey")
@dataclass(frozen=True, eq=False)
class Survey:
    """The findings of a survey; `lossatlas.write_report` shows them.

    Attributes:
        title: what was surveyed, as in "resnet20 on cifar10". Never trusted as HTML.
        loss: the loss at the weights themselves, with its sampling error.
        landscape: the map around them.
        diagram: persistence of the map's sublevel sets.
        tree: merge tree of the map.
        metrics: further numbers at the weights themselves (accuracy, ...), with their errors.
        spectrum: extreme eigenvalues and density of the Hessian; None where not asked for.
        trace: trace of the Hessian; None where not asked for.
        seconds: wall time of the whole survey.
        notes: what a reader should know, in sentences.
        provenance: seed, settings, fingerprints, versions.
    """

    title: str
    loss: Evaluation
    landscape: Landscape
    diagram: Diagram
    tree: MergeTree
    metrics: Mapping[str, Evaluation] = field(default_factory=dict)
    spectrum: Spectrum | None = None
    trace: Estimate | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def certain_basins(self) -> int:
        """How many basins the map's errors leave standing, judged place by place."""
        return len(certain_basins(self.landscape))

    @property
    def resolution(self) -> Resolution:
        """Basins counted under both rules of touching; unequal counts mean too few points."""
        return resolution(self.landscape)

    @property
    def barriers(self) -> Array:
        """Heights of the passes between the basins longer than the threshold, a matrix."""
        return barrier_matrix(simplify(self.tree))

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
        numbers = {"loss": self.loss, **{f"metric:{k}": v for k, v in self.metrics.items()}}
        own = {
            f"number/{k}": xr.Dataset(attrs={"name": name, **asdict(value)})
            for k, (name, value) in enumerate(numbers.items())
        }
        head = xr.Dataset(
            attrs={
                "title": self.title,
                "seconds": self.seconds,
                "notes": list(self.notes),
                "provenance": self.provenance.to_json(),
                "trace": json.dumps(None if self.trace is None else asdict(self.trace)),
            }
        )
        held = {part: getattr(self, part) for part in _PARTS}
        parts = {name: value.to_tree() for name, value in held.items() if value is not None}
        return {"survey": head} | own | store.nested(parts)

    @classmethod
    def from_tree(cls, tree: Mapping[str, xr.Dataset]) -> "Survey":
        """The inverse of `to_tree`.

        Args:
            tree: group name -> Dataset.

        Returns:
            An equal survey.
        """
        head = tree["survey"].attrs
        numbers = {
            str(data.attrs["name"]): _evaluation(data)
            for name, data in tree.items()
            if name.startswith("number/")
        }
        below = {part: store.below(tree, part) for part in _PARTS}
        parts = {part: _PARTS[part].from_tree(data) for part, data in below.items() if data}
        trace = json.loads(str(head["trace"]))
        notes = head["notes"]
        return cls(
            title=str(head["title"]),
            loss=numbers.pop("loss"),
            metrics={name.removeprefix("metric:"): value for name, value in numbers.items()},
            seconds=float(head["seconds"]),
            notes=(notes,) if isinstance(notes, str) else tuple(map(str, notes)),
            provenance=Provenance.from_json(str(head["provenance"])),
            trace=None if trace is None else Estimate(**trace),
            **parts,
        )


_PARTS: dict[str, Any] = {
    "landscape": Landscape,
    "diagram": Diagram,
    "tree": MergeTree,
    "spectrum": Spectrum,
}


def survey(
    objective: Objective,
    *,
    plane: str | Plane | None = None,
    checkpoints: Sequence[Params] = (),
    span: str | Span = "auto",
    points: int = 31,
    metrics: Mapping[str, Metric] | None = None,
    connectivity: str = "full",
    curvature: bool = False,
    title: str | None = None,
    seed: int = 0,
    adaptive: bool = True,
    tolerance: float = 0.002,
    engine: str = "auto",
    executor: str | Executor = "serial",
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Survey the ground around the present weights.

    Args:
        objective: what to survey.
        plane: "random", "checkpoints" (the plane that best holds `checkpoints`), or a plane
            of your own. By default the checkpoints' plane where there are three or more.
        checkpoints: points of the training that led here, drawn on the map.
        span: half the width of the map, one (low, high) a direction, or "auto": wide enough to
            show all checkpoints, or until the loss has risen.
        points: points along each direction.
        metrics: further quantities, name -> function of (model, batch).
        connectivity: which neighbours count for the topology, "full" or "axis".
        curvature: also find the extreme eigenvalues, density and trace of the Hessian.
        title: what the report is headed with; the model's class by default.
        seed: of the random directions.
        adaptive: compute only what cannot be interpolated.
        tolerance: as for `map_plane`.
        engine: as for `map_plane`.
        executor: as for `map_plane`.
        resume: as for `map_plane`.
        progress: as for `map_plane`.

    Returns:
        Loss, map, persistence, merge tree and curvature, each with its errors.

    Raises:
        ArgumentError: arguments that cannot be served.
        NonFiniteError: the loss at the present weights is not finite.
        ResumeError: the resume file is damaged or belongs to another run.
        StructureError: checkpoints of another model.
        UnknownNameError: an unknown plane, engine, executor or connectivity.
    """
    started = time.monotonic()
    check_door(objective, progress=progress)
    ground = _plane(objective, plane, checkpoints, seed)
    land = map_plane(
        objective,
        ground,
        span=_span(objective, ground, span),
        points=points,
        metrics=metrics,
        adaptive=adaptive,
        tolerance=tolerance,
        engine=engine,
        executor=executor,
        resume=resume,
        progress=progress,
    )
    if checkpoints:
        land = _with_values(land, objective, checkpoints)
    numbers = objective.evaluate_all(metrics or {})
    return Survey(
        title=title or type(objective.model).__name__,
        loss=numbers.pop("loss"),
        metrics=numbers,
        landscape=land,
        diagram=persistence(land, connectivity=connectivity),
        tree=merge_tree(land, connectivity=connectivity),
        spectrum=spectrum(objective, seed=seed) if curvature else None,
        trace=trace(objective, seed=seed) if curvature else None,
        seconds=time.monotonic() - started,
        notes=land.notes,
        provenance=land.provenance,
    )


def _plane(
    objective: Objective, plane: str | Plane | None, checkpoints: Sequence[Params], seed: int
) -> Plane:
    if isinstance(plane, Plane):
        return _marked(plane, checkpoints)
    chosen = plane or ("checkpoints" if len(checkpoints) > 2 else "random")
    check_one_of("plane", chosen, PLANES)
    if chosen == "checkpoints":
        return trajectory_plane(checkpoints)
    return _marked(random_plane(objective, seed=seed), checkpoints)


def _marked(plane: Plane, checkpoints: Sequence[Params]) -> Plane:
    if not checkpoints or plane.landmarks:
        return plane
    coordinates, residuals = plane.project(checkpoints)
    return replace(
        plane, landmarks={"trajectory": coordinates}, residuals={"trajectory": residuals}
    )


def _span(objective: Objective, plane: Plane, span: str | Span) -> Span:
    if not isinstance(span, str):
        return span
    check_one_of("span", span, ("auto",))
    return plane.bounds or suggest_span(objective, plane).span


def _with_values(land: Landscape, objective: Objective, points: Sequence[Params]) -> Landscape:
    values = np.array([objective.value(point) for point in points])
    return replace(land, landmark_values=dict.fromkeys(land.landmarks, values))


def _evaluation(data: xr.Dataset) -> Evaluation:
    found = data.attrs
    return Evaluation(
        float(found["value"]), float(found["stderr"]), int(found["count"]), str(found["unit"])
    )
