"""`survey`: the loss around the weights of a network, seen by several instruments at once."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.optim import Optimizer

from lossatlas.checks import check_list, check_one_of, check_positive, check_text
from lossatlas.curvature.instrument import (
    Context,
    Instrument,
    InstrumentResult,
    Stage,
    chosen,
)
from lossatlas.curvature.optimizer_names import check_momentum
from lossatlas.curvature.selfcheck import check_before
from lossatlas.errors import ArgumentError
from lossatlas.executor import Executor, Progress, get_executor
from lossatlas.executor.executors import ExecutorName
from lossatlas.io import Provenance
from lossatlas.landscape.checkpoints import plane_of, states_of
from lossatlas.landscape.engines import Metric
from lossatlas.landscape.engines.choice import EngineName
from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.mapping import map_plane
from lossatlas.landscape.plane import Plane, check_objective, random_plane
from lossatlas.landscape.request import NO_STATISTICS
from lossatlas.landscape.span import Span
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.chance import chance_level
from lossatlas.objective.point import State, tracks_statistics
from lossatlas.surveys.axes import eigen_plane
from lossatlas.surveys.extremes import Extremes
from lossatlas.surveys.result_cache import keeper
from lossatlas.surveys.results import Survey
from lossatlas.surveys.statistics import recorded_statistics
from lossatlas.topology import merge_tree, persistence
from lossatlas.topology.certainty import MIN_SHARE, check_min_share
from lossatlas.topology.field import Connectivity

PLANES = ("random", "checkpoints", "eigen")


def survey(
    objective: Objective,
    *,
    plane: str | Plane | None = None,
    checkpoints: Sequence[Params] = (),
    span: Span | Literal["auto"] = "auto",
    points: int = 31,
    metrics: Mapping[str, Metric] | None = None,
    connectivity: Connectivity = "full",
    min_share: float | None = MIN_SHARE,
    curvature: bool = False,
    instruments: str | Sequence[str] = (),
    lr: float | None = None,
    optimizer: Optimizer | None = None,
    momentum: float | None = None,
    title: str | None = None,
    seed: int = 0,
    adaptive: bool = True,
    tolerance: float = 0.002,
    engine: EngineName = "auto",
    executor: ExecutorName | Executor = "serial",
    resume: str | Path | None = None,
    progress: Progress | bool | None = None,
    stage: Stage | None = None,
) -> Survey:
    """Survey the loss around the present weights: map, topology, and chosen instruments.

    Args:
        objective: what to survey.
        plane: "random", "checkpoints" (the plane that best holds `checkpoints`), "eigen" (the
            two sharpest directions of the Hessian), or a plane of your own. By default the
            checkpoints' plane where there are three or more.
        checkpoints: points of the training that led here, drawn on the map: parameters, or
            full state dicts, whose running statistics go with their weights.
        span: half the width of the map, one (low, high) a direction, or "auto": wide enough to
            show all checkpoints, or until the loss has risen.
        points: points along each direction.
        metrics: further quantities, name -> function of (model, batch).
        connectivity: which neighbors count for the topology, "full" or "axis".
        min_share: least share of the examples whose effects must not be missed for a basin
            to be certain, as for `persistence`; None or 0: no such rule.
        curvature: the same as the instrument "curvature".
        instruments: what else to measure at the weights: "all", or names of
            `lossatlas.curvature.instruments()`, in a sequence or with commas between them. One
            that cannot serve this objective leaves the reason in its finding.
        lr: a learning rate to compare with the curvature; adds the instrument "stability".
        optimizer: an optimizer of the model, with its state, for "stability".
        momentum: of the SGD that `lr` belongs to; by default `lr` is judged for SGD without
            momentum and for Adam. `optimizer` names any other.
        title: title of the report; the model's class by default.
        seed: of the random directions.
        adaptive: compute only what cannot be interpolated.
        tolerance: as for `map_plane`.
        engine: as for `map_plane`.
        executor: as for `map_plane`.
        resume: as for `map_plane`; findings are kept beside it, in a file of their own.
        progress: as for `map_plane`.
        stage: called with (title, done, total) before each instrument.

    Returns:
        Loss, map, persistence, merge tree and findings, each with its errors.

    Raises:
        ArgumentError: arguments that cannot be served.
        LossError: the plane is "eigen" and the loss is not twice differentiable.
        NonFiniteError: the loss at the present weights is not finite.
        ResumeError: a resume file is damaged or belongs to another run.
        StructureError: checkpoints of another model.
        UnknownNameError: an unknown plane, instrument, engine, executor or connectivity.

    Examples:
        >>> import torch, lossatlas as la
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> objective = la.Objective(torch.nn.Linear(2, 1), loss, [batch])
        >>> found = la.survey(objective, points=5, span=0.5, instruments="gradient")
        >>> sorted(found.findings)
        ['gradient']
    """
    started = time.monotonic()
    _check(objective, progress, title, checkpoints, executor, min_share=min_share, span=span)
    tools = _tools(instruments, curvature=curvature, lr=lr, momentum=momentum)
    states = states_of(objective, checkpoints)
    if tools or plane == "eigen":
        # Before anything rests on it; what fails becomes a note, and instruments' reasons.
        check_before(objective, "hessian")
    ground = _plane(objective, plane, states, seed)
    land = map_plane(
        objective,
        ground,
        span=span,
        points=points,
        metrics=metrics,
        adaptive=adaptive,
        tolerance=tolerance,
        engine=engine,
        executor=executor,
        resume=resume,
        progress=progress,
    )
    land = _with_values(land, objective, states)
    context = Context(objective, seed, lr, optimizer, _whole(states), {}, momentum)
    findings = _findings(context, tools, resume, stage)
    numbers, extremes = objective.evaluate_all(metrics or {}), Extremes(objective, ground, land)
    return Survey(
        title=title or type(objective.model).__name__,
        loss=numbers.pop("loss"),
        metrics=numbers,
        landscape=land,
        diagram=persistence(land, connectivity=connectivity, min_share=min_share),
        tree=merge_tree(land, connectivity=connectivity, min_share=min_share),
        findings=findings,
        seconds=time.monotonic() - started,
        notes=(*_failed(objective), *land.notes),
        checked=objective.checked,
        lowest=extremes.lowest(),
        loss_range=extremes.range(),
        provenance=_record(land, seed, _asked(tools, lr, momentum) | _facts(objective)),
    )


def _whole(states: Sequence[State]) -> tuple[Params, ...]:
    return tuple(state.whole for state in states)


def _asked(
    tools: Sequence[Instrument], lr: float | None, momentum: float | None
) -> dict[str, Any]:
    if not tools:
        return {}
    steps = {} if lr is None or momentum is None else {"momentum": momentum}
    return {"instruments": [tool.name for tool in tools], "lr": lr, **steps}


def _facts(objective: Objective) -> dict[str, Any]:
    return {**_guessing(objective), **recorded_statistics(objective)}


def _guessing(objective: Objective) -> dict[str, float | bool]:
    level = chance_level(objective)
    if level is None:
        return {}
    guessed = {"constant_is_guessed": True} if level.is_guessed else {}
    return {"constant_loss": level.constant, **guessed}


def _record(land: Landscape, seed: int, asked: Mapping[str, Any]) -> Provenance:
    made = land.provenance
    return replace(made, seed=seed, settings={**made.settings, **asked})


def _failed(objective: Objective) -> list[str]:
    return [f"{check.sentence}." for check in objective.checks.values() if check.failed]


def _check(
    objective: Any,
    progress: Any,
    title: Any,
    checkpoints: Any,
    executor: Any,
    *,
    min_share: Any,
    span: Any,
) -> None:
    check_objective(objective, progress=progress)
    if isinstance(span, str):
        check_one_of("span", span, ("auto",))
    check_min_share(min_share)
    check_text("title", title, optional=True)
    check_list("checkpoints", checkpoints, "points of parameter space")
    if not all(isinstance(point, Mapping) for point in checkpoints):
        raise ArgumentError(
            "`checkpoints` must be a list of points, each name -> tensor as in "
            f"`objective.params`; got {type(checkpoints).__name__}."
        )
    get_executor(executor)


def _tools(
    instruments: str | Sequence[str],
    *,
    curvature: bool,
    lr: float | None,
    momentum: float | None,
) -> tuple[Instrument, ...]:
    if momentum is not None:
        check_momentum(momentum)
    tools = chosen(instruments, curvature=curvature)
    if lr is None:
        return tools
    check_positive("lr", lr)
    return chosen([*(tool.name for tool in tools), "stability"])


def _findings(
    context: Context,
    tools: tuple[Instrument, ...],
    resume: str | Path | None,
    stage: Stage | None,
) -> dict[str, InstrumentResult]:
    if stage is not None and not callable(stage):
        raise ArgumentError(f"`stage` must be callable; got {type(stage).__name__}.")
    findings: dict[str, InstrumentResult] = {}
    if not tools:
        return findings
    context.findings = findings
    shared = {
        "seed": context.seed, "lr": context.lr, "momentum": context.momentum,
        "checkpoints": len(context.checkpoints),
    }  # fmt: skip
    with keeper(resume, context.objective, shared) as kept:
        for done, tool in enumerate(tools):
            if stage is not None:
                stage(tool.title, done, len(tools))
            findings[tool.name] = kept.keep(tool.name, partial(tool.run, context))
    return findings


def _plane(
    objective: Objective, plane: str | Plane | None, states: Sequence[State], seed: int
) -> Plane:
    if isinstance(plane, Plane):
        return _marked(plane, states)
    name = plane or ("checkpoints" if len(states) > 2 else "random")
    check_one_of("plane", name, PLANES)
    if name == "checkpoints":
        return plane_of(states)
    if name == "eigen":
        return _marked(eigen_plane(objective, seed=seed), states)
    return _marked(random_plane(objective, seed=seed), states)


def _marked(plane: Plane, states: Sequence[State]) -> Plane:
    if not states or plane.landmarks:
        return plane
    coordinates, residuals = plane.project([state.params for state in states])
    return replace(
        plane, landmarks={"trajectory": coordinates}, residuals={"trajectory": residuals}
    )


def _with_values(land: Landscape, objective: Objective, states: Sequence[State]) -> Landscape:
    if not states:
        return land
    values = np.array([objective.value(state.whole) for state in states])
    bare = objective.mode == "eval" and not any(state.buffers for state in states)
    missing = bare and tracks_statistics(objective.model) and NO_STATISTICS not in land.notes
    notes = (*land.notes, *([NO_STATISTICS] if missing else []))
    return replace(land, landmark_values=dict.fromkeys(land.landmarks, values), notes=notes)
