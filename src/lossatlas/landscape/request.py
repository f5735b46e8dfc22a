"""A requested map: its grid, its identity, and how it is filled."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.io import Provenance, run_identity
from lossatlas.landscape.adaptive import WORST, Refined, first_points, refine
from lossatlas.landscape.engines import Choice, Task, select
from lossatlas.landscape.engines.choice import EngineName
from lossatlas.landscape.engines.task import Known
from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.points import Points
from lossatlas.landscape.span import Ranges
from lossatlas.memory import free_memory
from lossatlas.objective.point import tracks_statistics
from lossatlas.rng import derive_seed
from lossatlas.text import byte_size

Array = NDArray[np.float64]
NO_STATISTICS = (
    "The checkpoints have no running statistics, so those of the model are used at every "
    'point: pass full state dicts (model.state_dict()), or mode="recalibrated".'
)
ESTIMATED_ANEW = (
    "Running statistics were re-estimated from these data for all weights (mode recalibrated), "
    "so losses differ from those with the statistics stored in checkpoints."
)
OF_THE_BATCH = "Normalization layers used the statistics of each batch (mode train)."
_MOVING = (
    "Running statistics are interpolated between the checkpoints: they are exact at the "
    "checkpoints and only approximate in between, so a barrier may come from them; "
    'mode="recalibrated" re-estimates them.'
)
_ROUGH = "The loss is too rough to interpolate within the tolerance; every point was computed."
# Where along a range a point is compared on.
_PLACE = 0.297
# What a provenance says elsewhere.
_ELSEWHERE = {"model fingerprint", "data fingerprint", "plane", "lossatlas", "torch", "numpy"}


@dataclass(frozen=True)
class Request:
    """A requested map, validated.

    Attributes:
        task: the task to evaluate.
        ranges: one (low, high) per direction.
        points: points along each direction.
        adaptive: whether smooth parts may be interpolated.
        tolerance: their allowed error, as a share of the range.
    """

    task: Task
    ranges: Ranges
    points: int
    adaptive: bool
    tolerance: float

    @property
    def axes(self) -> tuple[Array, ...]:
        """Coordinates along each direction."""
        return tuple(_axis(low, high, self.points) for low, high in self.ranges)

    def start(self, engine: EngineName) -> Choice:
        """Choose an engine and evaluate the origin."""
        return checked_center(select(self.task, engine, self._corner(engine)))

    def _corner(self, engine: EngineName) -> Array:
        if self.task.objective.placed is None and engine != "in_place":
            # A point of the map: what is seen there need not be evaluated again.
            return self._early_point()
        # No row of a grid, so that a model which is level at special places shows it moves.
        low, high = (np.array(side) for side in zip(*self.ranges, strict=True))
        return np.asarray(low + _PLACE * (high - low))

    def _early_point(self) -> Array:
        # One with which the map begins, and on no axis where there is such a one.
        if self.adaptive:
            indices = np.argwhere(first_points(self._shape, self._seed))
            points = np.stack(
                [axis[k] for axis, k in zip(self.axes, indices.T, strict=True)], 1
            )
            off = np.abs(indices - _PLACE * (self.points - 1)).sum(axis=1)
            off[(points == 0).any(axis=1)] = np.inf
            if np.isfinite(off).any():
                return np.asarray(points[off.argmin()])
        return np.array([_beside_origin(axis) for axis in self.axes])

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.points,) * len(self.ranges)

    @property
    def _seed(self) -> int:
        return derive_seed("held out", self.points, len(self.ranges))

    def measured(self, chosen: Choice) -> str:
        """What a loss and metrics return: functions have no name to compare, values have."""
        corner = chosen.engine.evaluate(np.array([[high for _, high in self.ranges]]))
        return np.concatenate([chosen.center, corner[0]]).tobytes().hex()

    def identity(self, engine: str) -> dict[str, Any]:
        """Everything that identifies a run."""
        model, data = self.task.objective.fingerprint()
        settings = {
            "plane": self.task.plane.fingerprint(
                origin=model if self._starts_at_model else None
            ),
            "ranges": self.ranges,
            "points": self.points,
            "quantities": self.task.quantities,
            "columns": "means, errors, leverage, count",
            "mode": self.task.objective.mode,
            "engine": engine,
            "adaptive": self.adaptive,
            "tolerance": self.tolerance,
        }
        identity = run_identity("map_plane", settings, model=model, data=data)
        ranks = self.task.objective.ranks
        if ranks is not None:
            remedy = "give all processes the same plane, seed, span and points"
            ranks.check_same("the maps that are asked for", identity, remedy)
        return identity

    @property
    def _starts_at_model(self) -> bool:
        # Whether the digest of the model is that of the origin: the same bits under its names.
        origin, live = self.task.plane.origin, self.task.objective.live
        if any(True for _ in self.task.objective.model.buffers()) or [*origin] != [*live]:
            return False
        return origin is live or all(map(_is_same, origin.values(), live.values()))

    def fill(self, source: Points, evaluated: Known) -> Refined:
        """Make the map.

        Args:
            source: evaluates points.
            evaluated: coordinates -> values evaluated before, including the origin.

        Returns:
            The map.
        """
        axes, shape = self.axes, self._shape
        columns = len(next(iter(evaluated.values())))
        at = [{value: k for k, value in enumerate(axis.tolist())} for axis in axes]
        first = [
            tuple(column[value] for column, value in zip(at, point, strict=True))
            for point in evaluated
            if all(value in column for column, value in zip(at, point, strict=True))
        ]

        def evaluate(indices: NDArray[np.intp]) -> Array:
            coordinates = np.stack(
                [axis[k] for axis, k in zip(axes, indices.T, strict=True)], 1
            )
            values, new = np.empty((len(indices), columns)), np.ones(len(indices), dtype=bool)
            for point, row in evaluated.items():
                matches = (coordinates == point).all(axis=1)
                values[matches], new[matches] = row, False
            source.skip(len(indices) - int(np.count_nonzero(new)))
            if new.any():
                values[new] = source(coordinates[new])
            return values

        if self.adaptive:
            # Leverage and counts are read where points were computed.
            return refine(
                evaluate,
                shape,
                columns,
                self._requested_error,
                noise=_half_errors,
                seed=self._seed,
                first=first,
                exact=2,
            )
        indices = np.argwhere(np.ones(shape, dtype=bool))
        values = evaluate(indices).reshape(*shape, columns)
        return Refined(values, np.ones(shape, dtype=bool), 0.0, 0.0, np.zeros(shape), 0)

    def _requested_error(self, evaluated: Array) -> float:
        # Not a number as long as no loss is finite: then every point is computed.
        losses = evaluated[np.isfinite(evaluated[:, 0]), 0]
        return self.tolerance * float(np.ptp(losses)) if losses.size else math.nan

    def landscape(
        self, refined: Refined, source: Points, run: dict[str, Any], seconds: float
    ) -> Landscape:
        """The result."""
        task, plane = self.task, self.task.plane
        names, values = task.quantities, refined.values
        errors = _all_errors(refined, len(names))
        leverage = np.where(refined.computed, values[..., -2], np.nan)
        counts = values[refined.computed][:, -1]
        settings = {k: v for k, v in run.items() if k not in _ELSEWHERE}
        return Landscape(
            values=values[..., 0],
            stderr=errors[..., 0],
            axes=self.axes,
            labels=plane.labels,
            computed=refined.computed,
            interpolation_error=refined.error,
            interpolation_rms=refined.rms,
            held_out=refined.held_out,
            metrics={name: values[..., k] for k, name in enumerate(names) if k},
            metric_stderr={name: errors[..., k] for k, name in enumerate(names) if k},
            landmarks=plane.landmarks,
            landmark_residuals=plane.residuals,
            landmark_values={k: np.full(len(v), np.nan) for k, v in plane.landmarks.items()},
            unit=task.objective.unit,
            count=int(counts[np.isfinite(counts)].max(initial=0.0)),
            leverage=leverage,
            rounding=_rounding(values[..., 0], task),
            engine=str(run["engine"]),
            evaluations=int(refined.computed.sum()),
            memory=source.memory + grid_memory(task, self.points),
            seconds=seconds,
            notes=(
                *_notes(values[..., 0], task),
                *self._of_refinement(refined),
                *source.notes,
            ),
            provenance=Provenance(
                seed=plane.recipe.get("seed"),
                settings=settings | {"plane": dict(plane.recipe)},
                model=run["model fingerprint"],
                data=run["data fingerprint"],
            ),
        )

    def _of_refinement(self, refined: Refined) -> tuple[str, ...]:
        if refined.rough:
            return (_ROUGH,)
        evaluated = refined.values[refined.computed]
        requested, floor = (
            self._requested_error(evaluated),
            float(_half_errors(evaluated[:, :-2]).max()),
        )
        coarse = refined.rms > requested or refined.error > WORST * requested
        if not (coarse and floor > requested):
            return ()
        return (
            f"Where half the sampling error (at most {floor:.2g}) exceeds the tolerance "
            f"({requested:.2g}), points were computed only until interpolated losses were "
            f"accurate to that: their error is up to {refined.error:.2g}, and "
            f"{refined.rms:.2g} root mean square.",
        )


def checked_center(chosen: Choice) -> Choice:
    """Require a finite loss at the center."""
    if not math.isfinite(chosen.center[0]):
        raise NonFiniteError(
            f"the loss at the center is {chosen.center[0]}, so it cannot be mapped; load "
            "finite weights, or check objective.example_losses()."
        )
    return chosen


def grid_memory(task: Task, points: int) -> int:
    """Bytes of the grid, about: values and errors, the mask, and the parts copied from them."""
    quantities = len(task.quantities)
    floats = (2 * quantities + 2) + (quantities + 1)
    return math.prod([int(points)] * task.plane.dimension) * (8 * floats + 1)


def check_fits(task: Task, points: int) -> None:
    """Refuse a grid that is larger than the free memory."""
    needed, free = grid_memory(task, points), free_memory(torch.device("cpu"))
    if free is None or needed <= free:
        return
    grid = " x ".join([f"{points:,}"] * task.plane.dimension)
    raise ArgumentError(
        f"`points`: a grid of {grid} points needs about {byte_size(needed)}, but only "
        f"{byte_size(free)} are free; use fewer points."
    )


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    alike = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return alike and a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


def _beside_origin(axis: Array) -> float:
    position = round(_PLACE * (len(axis) - 1))
    if axis[position]:
        return float(axis[position])
    return float(axis[position - 1] if position else axis[position + 1])


def _axis(low: float, high: float, points: int) -> Array:
    axis = np.linspace(low, high, points)
    # Rounding must not push the middle of a symmetric range off the origin.
    return np.where(np.abs(axis) < 1e-12 * (high - low), 0.0, axis)


def _all_errors(refined: Refined, quantities: int) -> Array:
    # Of sampling and of interpolation; of metrics the latter is not measured.
    errors = np.maximum(refined.values[..., quantities : 2 * quantities], 0.0)
    errors[..., 0] = np.hypot(errors[..., 0], refined.doubt)
    errors[~refined.computed, 1:] = np.nan
    return errors


def _half_errors(values: Array) -> Array:
    # Interpolation need not be finer than half the sampling error of the same point: the loss
    # is known to a hundredth near the weights and to a unit at the rim.
    errors = values[..., values.shape[-1] // 2]
    return np.asarray(0.5 * np.maximum(np.nan_to_num(errors), 0.0))


def _rounding(values: Array, task: Task) -> float:
    # A loss is rounded as the weights are, whatever holds the means.
    eps = max(torch.finfo(value.dtype).eps for value in task.like.values())
    return eps / 2 * float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _notes(values: Array, task: Task) -> tuple[str, ...]:
    notes = [*task.plane.notes(), *task.objective.notes]
    if values.size > 1 and (values == values.flat[0]).all():
        notes.append("The loss is bitwise equal at every point.")
    lost = int((~np.isfinite(values)).sum())
    if lost:
        notes.append(f"{lost} of {values.size} points have no finite loss; they are left out.")
    if task.objective.unit == "batches":
        notes.append(
            "Standard errors come from the spread over batches, because the loss returns only "
            "batch means."
        )
    return (*notes, *_buffer_notes(task))


def _buffer_notes(task: Task) -> list[str]:
    objective, plane = task.objective, task.plane
    if not tracks_statistics(objective.model):
        return []
    if objective.mode != "eval":
        return [ESTIMATED_ANEW if objective.mode == "recalibrated" else OF_THE_BATCH]
    if plane.buffers is None:
        through = plane.recipe.get("kind") in {"checkpoints", "trajectory"}
        return [NO_STATISTICS] if through else []
    return [_MOVING] if plane.buffers.directions else []
