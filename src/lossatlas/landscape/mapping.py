"""map_plane: compute a Landscape from an objective and a plane."""

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
from lossatlas.landscape.plane import Plane, check_objective, prepare_plane
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
    """Evaluate the loss on a grid of a line, plane or box in parameter space.

    Args:
        objective: the objective to map.
        plane: the line, plane or box, with one to three directions.
        span: half the width in lengths of the directions, one (low, high) per direction, or
            "auto": the range that contains all landmarks of the plane, otherwise the result of
            `suggest_span`, whose evaluations are reused where they lie on the grid.
        points: points along each direction, at least 2. An odd number puts one on the origin.
        metrics: additional quantities from the same forward pass, name -> function of (model,
            batch).
        adaptive: whether to compute only points that cannot be interpolated; False computes
            every point.
        tolerance: allowed root mean square error of interpolated points, as a share of the
            range of the loss, but nowhere finer than half the local sampling error (`.notes`
            states when this ended the refinement). The stated largest error may be four times
            as large. Points are computed until both bounds hold and all minima and extremes are
            computed points, or until every point is.
        engine: "auto", "plain", "stacked", "batched", "folded", "streaming" or "in_place"; all
            give the same numbers (to 1e-6 relative), and "auto" selects the fastest one that
            does so on this model.
        executor: "serial", "joblib" (all cores), or an object with a `run` method.
        resume: path of a file that stores finished chunks; an interrupted run continues from it
            with bitwise identical results.
        progress: function called with (done, total, label) after every chunk; total is the
            number of grid points, and in the last call the number of computed points. True
            shows a progress bar.

    Returns:
        Values, standard errors and metrics; which points were computed and which interpolated,
        and the interpolation error. Non-finite losses stay in the map.

    Raises:
        ArgumentError: `points`, `span`, `tolerance` or `metrics` is invalid, or the grid does
            not fit in the free memory.
        ModelError: the outputs of the model do not depend on the weights that move.
        NonFiniteError: the loss at the origin is not finite.
        ResumeError: the resume file is damaged or belongs to another run.
        StructureError: the plane belongs to another model.
        UnknownNameError: the engine or executor is unknown.

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

    Source: Li et al., NeurIPS 2018, arXiv:1712.09913 (the map); the engines and the refinement
    are original.
    """
    started = time.monotonic()
    check_at_least("points", points, 2)
    check_positive("tolerance", tolerance)
    check_flag("adaptive", adaptive)
    check_objective(objective, plane, progress)
    task = Task(objective, prepare_plane(objective, plane), _checked(metrics))
    check_fits(task, points)
    runner = get_executor(executor)
    check_executor(objective, runner)
    ranges, chosen, evaluated = _choose_ranges(task, span, engine)
    request = Request(task, ranges, points, adaptive, tolerance)
    chosen = request.start(engine) if chosen is None else chosen
    run = request.identity(chosen.engine.name)
    measured = {} if resume is None else {"measured": request.measured(chosen)}
    # One process stores finished chunks and informs the others.
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
            max_points=points**plane.dimension,
            is_adaptive=adaptive,
        )
        refined = request.fill(source, {**evaluated, **chosen.known})
        source.finish()
    return request.landscape(refined, source, run, seconds=time.monotonic() - started)


def _choose_ranges(
    task: Task, span: object, engine: EngineName
) -> tuple[Ranges, Choice | None, Known]:
    # The ranges; and an engine and what it has evaluated, where that was needed for them.
    if not (isinstance(span, str) and span == "auto"):
        return ranges(span, task.plane.dimension), None, {}
    if task.plane.bounds is not None:
        return ranges(task.plane.bounds, task.plane.dimension), None, {}
    chosen = checked_center(select(task, engine, np.full(task.plane.dimension, START)))
    suggestion, evaluations = widen(chosen, narrowest(chosen))
    if not chosen.engine.independent:
        # What was seen beside other points has other bits.
        evaluations, chosen = {}, replace(chosen, seen={})
    return ranges(suggestion.span, task.plane.dimension), chosen, evaluations


@result("map-plan")
class MapPlan(Result):
    """Planned engine, number of points and memory of a map.

    Attributes:
        engine: name of the engine.
        points: number of points of the full grid; an adaptive map evaluates fewer.
        memory: approximate bytes beyond the model and the data: the engine, the grid, and
            worker processes.
        workers: number of processes that evaluate points.
        worker_memory: bytes per worker, including torch, model and data; 0 if points are
            evaluated in this process.
        notes: whether and why there are fewer workers than requested.
    """

    engine: str
    points: int
    memory: int = quantity("bytes")
    workers: int = 1
    worker_memory: int = quantity("bytes", default=0)
    notes: tuple[str, ...] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """Number of grid points, and memory."""
        return (
            Estimate(self.points, why_no_error="a count, exact", name="points"),
            Estimate(self.memory, why_no_error="about", name="memory", unit="bytes"),
        )

    def sentences(self) -> tuple[str, ...]:
        """Points, engine and memory of the map."""
        workers = ""
        if self.worker_memory:
            per_worker = byte_size(self.worker_memory)
            workers = f", of which {self.workers} processes hold {per_worker} each"
        return (
            f"At most {self.points:,} points, engine '{self.engine}', about "
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
    """Estimate what a map needs without computing it.

    Args:
        objective: the objective to map.
        plane: the line, plane or box.
        points: points along each direction.
        engine: as for `map_plane`.
        metrics: as for `map_plane`; they may require another engine.
        executor: as for `map_plane`; each worker has its own copy of the model and the data.

    Returns:
        The engine, the number of points and the memory.

    Raises:
        ArgumentError: there are fewer than two points or more than fit in the free memory, the
            metrics are invalid, the engine does not support the model, or the workers do not
            fit.
        ModelError: the outputs of the model do not depend on the weights that move.
        UnknownNameError: the engine or executor is unknown.

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
    task = Task(objective, prepare_plane(objective, plane), _checked(metrics))
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
