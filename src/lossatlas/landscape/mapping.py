"""map_plane: from an objective and a plane to a Landscape."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from lossatlas.arguments import public
from lossatlas.checks import check_at_least, check_flag, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.executor import Executor, Progress, get_executor, show_progress
from lossatlas.executor.executors import ExecutorName
from lossatlas.executor.parcel import packed_size
from lossatlas.io import open_ledger
from lossatlas.landscape.engines import Choice, Metric, Task, select
from lossatlas.landscape.engines.choice import EngineName
from lossatlas.landscape.engines.task import Known
from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.plane import Plane, check_objective, settled
from lossatlas.landscape.points import Points, Work, check_executor
from lossatlas.landscape.request import Request, check_fits, checked_center, grid_memory
from lossatlas.landscape.span import START, Ranges, Span, narrowest, ranges, widen
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Result, quantity, result
from lossatlas.text import byte_size


@public
def map_plane(
    objective: Objective,
    plane: Plane,
    *,
    span: Span | Literal["auto"] = 1.0,
    points: int = 31,
    metrics: Mapping[str, Metric] | None = None,
    adaptive: bool = True,
    tolerance: float = 0.002,
    engine: EngineName = "auto",
    executor: ExecutorName | Executor = "serial",
    resume: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Landscape:
    """Map the loss on a line, plane or box of parameter space.

    Args:
        objective: what to map.
        plane: where; one to three directions.
        span: half the width in lengths of the directions, one (low, high) a direction, or
            "auto": the range that shows all landmarks of the plane, otherwise what
            `suggest_span` suggests; points that it evaluates are points of the map where they
            lie on its grid.
        points: points along each direction, at least 2. An odd number puts one on the origin.
        metrics: further quantities of the same pass, name -> function of (model, batch).
        adaptive: compute only what cannot be interpolated; False computes every point.
        tolerance: the root mean square error that interpolated points may have, as a share of
            the range of the loss; nowhere finer than half of the sampling error there (where
            that is what ends the refinement, `.notes` say so). The stated largest error may be
            four times as much. Points are computed until both hold and minima and extremes are
            computed points, or until every point is.
        engine: "auto", "plain", "stacked", "batched", "folded", "streaming" or "in_place"; all
            give the same numbers (1e-6 relative), "auto" takes the fastest that does on this
            model.
        executor: "serial", "joblib" (all cores), or an object with a `run` method.
        resume: a file that keeps finished chunks; a run that was killed goes on from it and
            gives the same bits.
        progress: called with (done, total, label) after every chunk; total is the number of
            points of the grid, and in the last call the number of points that were computed.
            True shows a bar.

    Returns:
        Values, standard errors, metrics; what was computed and what interpolated, and the
        error measured on the latter. Losses that are not finite stay in the map.

    Raises:
        ArgumentError: points, span, tolerance or metrics that cannot be served; a grid that
            does not fit in the free memory.
        ModelError: the model's outputs do not depend on the weights that move.
        NonFiniteError: the loss at the origin is not finite.
        ResumeError: the resume file is damaged or belongs to another run.
        StructureError: the plane is one of another model.
        UnknownNameError: an unknown engine or executor.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> batch = torch.eye(2), torch.ones(2, 1)
        >>> mse = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, mse, [batch])
        >>> land = la.map_plane(objective, la.random_plane(objective), points=5, span=0.5)
        >>> land.values.shape, land.labels
        ((5, 5), ('random direction 1', 'random direction 2'))

    Source: Li et al., NeurIPS 2018, arXiv:1712.09913 (the picture); the engines and the
        refinement are our own.
    """
    started = time.monotonic()
    check_at_least("points", points, 2)
    check_positive("tolerance", tolerance)
    check_flag("adaptive", adaptive)
    check_objective(objective, plane, progress)
    task = Task(objective, settled(objective, plane), _checked(metrics))
    check_fits(task, points)
    runner = get_executor(executor)
    check_executor(objective, runner)
    ranges, chosen, known = _look(task, span, engine)
    request = Request(task, ranges, points, adaptive, tolerance)
    chosen = request.start(engine) if chosen is None else chosen
    run = request.identity(chosen.engine.name)
    measured = {} if resume is None else {"measured": request.measured(chosen)}
    # One process keeps what is done, and tells the others.
    file = resume if objective.is_first else None
    with ExitStack() as stack:
        ledger = objective.together(
            lambda: stack.enter_context(open_ledger(file, run | measured))
        )
        tell = stack.enter_context(show_progress(progress))
        source = Points(
            Work.of(request.task, chosen.engine),
            chosen.engine,
            executor=runner,
            ledger=ledger,
            ranks=objective.ranks,
            progress=tell,
            most=points**plane.dimension,
            is_adaptive=adaptive,
        )
        refined = request.fill(source, {**known, **chosen.known})
        source.finish()
    return request.landscape(refined, source, run, seconds=time.monotonic() - started)


def _look(task: Task, span: object, engine: EngineName) -> tuple[Ranges, Choice | None, Known]:
    # The ranges; and an engine and what it has evaluated, where that was needed for them.
    if not (isinstance(span, str) and span == "auto"):
        return ranges(span, task.plane.dimension), None, {}
    if task.plane.bounds is not None:
        return ranges(task.plane.bounds, task.plane.dimension), None, {}
    chosen = checked_center(select(task, engine, np.full(task.plane.dimension, START)))
    found, seen = widen(chosen, narrowest(chosen))
    if not chosen.engine.independent:
        # What was seen beside other points has other bits.
        seen, chosen = {}, replace(chosen, seen={})
    return ranges(found.span, task.plane.dimension), chosen, seen


@result("map-plan")
class MapPlan(Result):
    """What a map will need, before it starts.

    Attributes:
        engine: how points will be evaluated.
        points: points of the full grid; an adaptive map evaluates fewer.
        memory: bytes beyond the model and the data, about: the engine, the grid, and what
            other processes hold.
        workers: processes that evaluate points.
        worker_memory: bytes that each of them holds, torch, model and data included; 0 where
            points are evaluated in this process.
        notes: that there are fewer workers than were asked for, and why.
    """

    engine: str
    points: int
    memory: int = quantity("bytes")
    workers: int = 1
    worker_memory: int = quantity("bytes", default=0)
    notes: tuple[str, ...] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """Points of the grid, and memory."""
        return (
            Estimate(self.points, why_no_error="a count, exact", name="points"),
            Estimate(self.memory, why_no_error="about", name="memory", unit="bytes"),
        )

    def sentences(self) -> tuple[str, ...]:
        """What the map will need."""
        workers = ""
        if self.worker_memory:
            each = byte_size(self.worker_memory)
            workers = f", of which {self.workers} processes hold {each} each"
        return (
            f"{self.points:,} points at most, by the engine '{self.engine}', with about "
            f"{byte_size(self.memory)} beyond the model and the data{workers}.",
            *self.notes,
        )


@public
def plan_map(
    objective: Objective,
    plane: Plane,
    *,
    points: int = 31,
    engine: EngineName = "auto",
    metrics: Mapping[str, Metric] | None = None,
    executor: ExecutorName | Executor = "serial",
) -> MapPlan:
    """Say what a map will need without making it.

    Args:
        objective: what to map.
        plane: where.
        points: points along each direction.
        engine: as for `map_plane`.
        metrics: as for `map_plane`; they may ask for another engine.
        executor: as for `map_plane`; each of its processes has model and data of its own.

    Returns:
        The engine, the number of points and the memory.

    Raises:
        ArgumentError: fewer than two points, more than fit in the free memory, metrics that
            are none, an engine that cannot serve the model, or more workers than fit.
        ModelError: the model's outputs do not depend on the weights that move.
        UnknownNameError: an unknown engine or executor.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> batch = torch.eye(2), torch.ones(2, 1)
        >>> mse = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, mse, [batch])
        >>> la.plan_map(objective, la.random_plane(objective), points=5).points
        25
    """
    check_at_least("points", points, 2)
    check_objective(objective, plane)
    task = Task(objective, settled(objective, plane), _checked(metrics))
    check_fits(task, points)
    runner = get_executor(executor)
    check_executor(objective, runner)
    chosen = select(task, engine, np.full(plane.dimension, 0.3)).engine
    memory = chosen.memory + grid_memory(task, points)
    count, plan = points**plane.dimension, getattr(runner, "plan", None)
    if plan is None:
        return MapPlan(chosen.name, count, memory)
    work = Work.of(task, chosen)
    parcel = packed_size(work)
    engine_plan = plan(parcel, work.memory)
    if engine_plan.each:
        # What is sent is made here first.
        memory += parcel + engine_plan.count * engine_plan.each
    notes = (engine_plan.note,) if engine_plan.note else ()
    return MapPlan(chosen.name, count, memory, engine_plan.count, engine_plan.each, notes)


def _checked(metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
    if not isinstance(metrics, Mapping | None):
        kind = type(metrics).__name__
        raise ArgumentError(
            f"`metrics` must map names to functions of (model, batch); got {kind}."
        )
    for name, metric in (metrics or {}).items():
        if not callable(metric) or name == "loss" or not isinstance(name, str):
            raise ArgumentError(
                "`metrics` must map names other than 'loss' to functions of (model, batch); "
                f"got {name!r}: {metric!r}."
            )
    return dict(metrics or {})
