"""Surveys along a training: one for each checkpoint, on parallel planes and one grid."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lossatlas.arguments import public
from lossatlas.checks import check_list, check_path
from lossatlas.errors import ArgumentError, FileError
from lossatlas.io import load, remove_ledger
from lossatlas.landscape.buffers import Buffers
from lossatlas.landscape.checkpoints import plane_of, states_of
from lossatlas.landscape.plane import Plane, check_objective
from lossatlas.linalg.params import Params, add
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate
from lossatlas.surveys.result_cache import instruments_ledger
from lossatlas.surveys.results import Survey
from lossatlas.surveys.survey import survey
from lossatlas.weights.paired import PairedLosses


@public
def survey_along(
    objective: Objective,
    checkpoints: Sequence[Params],
    *,
    steps: Sequence[int] | None = None,
    folder: str | Path | None = None,
    **options: Any,
) -> Iterator[Survey]:
    r"""Survey every checkpoint of a training on parallel planes with one grid.

    The directions are the two principal ones of the trajectory. The map of checkpoint k is
    the plane through its weights,

    $$L_k(a, b) = L\big(w_k + (a - a_k) u + (b - b_k) v\big),$$

    where $(a_k, b_k)$ are its coordinates in the plane of the whole training. So the maps share
    axes, grid and path, and the same coordinate is the same place along both directions.

    Args:
        objective: model, loss, batches; its weights are put back after each survey.
        checkpoints: three or more points of the training, in order: parameters, or full state
            dicts.
        steps: how many updates each had seen; 0, 1, 2 ... by default.
        folder: where finished surveys are kept as `STEP.nc`. One that is there and was made of
            the same weights on the same grid is read and not made again; another survey is
            replaced.
        **options: of `survey`: `points`, `span`, `metrics`, `instruments`, `seed`, ...

    Returns:
        An iterator: a survey for each checkpoint, made when it is asked for.

    Raises:
        ArgumentError: fewer than three checkpoints, or steps of another number or order.
        StructureError: checkpoints of another model.
        FileError: a file `STEP.nc` that holds no survey.

    Examples:
        >>> import torch, lossatlas as la
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> objective = la.Objective(torch.nn.Linear(2, 1, bias=False), loss, [batch])
        >>> path = [{"weight": torch.tensor([w])} for w in ([3.0, 2.0], [2.0, 0.5], [1.0, 0.0])]
        >>> [round(found.loss.value, 2) for found in la.survey_along(objective, path, points=3)]
        [6.5, 2.12, 0.5]

    Source: the plane is that of Li et al., NeurIPS 2018, sec. 7.
    """
    check_objective(objective)
    check_list("checkpoints", checkpoints, "points of parameter space")
    numbers = _steps(steps, len(checkpoints))
    states = states_of(objective, checkpoints)
    common = plane_of(states)
    options.setdefault("span", "auto")
    if options["span"] == "auto":
        options["span"] = common.bounds
    home = None if folder is None else check_path("folder", folder)

    start = _Start(states[0])

    def each() -> Iterator[Survey]:
        for k, state in enumerate(states):
            plane = _parallel(common, state, k)
            with _holding(objective, state) as here:
                measured = _surveyed(here, plane, numbers[k], home, options, start=start)
            # Whoever takes it finds the model as it was.
            yield measured

    return each()


def _steps(steps: Sequence[int] | None, count: int) -> Sequence[int]:
    if steps is None:
        return range(count)
    numbers = list(steps)
    if len(numbers) != count or any(a >= b for a, b in pairwise(numbers)):
        raise ArgumentError(
            f"`steps` must be {count} growing numbers, one a checkpoint; got {numbers[:6]}."
        )
    return numbers


class _Start:
    """The losses of the first checkpoint, which every other one is compared with."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._sums: NDArray[np.float64] | None = None

    def change(self, objective: Objective) -> Estimate:
        """Loss at the weights minus that at the first checkpoint, on the same examples."""
        paired = PairedLosses(objective)
        if self._sums is None:
            self._sums = paired.sums(self._state.whole)
        here = paired.sums(objective.params)
        change = paired.difference(here, self._sums, _CHANGE, "loss")
        return replace(change, meaning=f"paired on the same {objective.unit}")


def _surveyed(
    objective: Objective,
    plane: Plane,
    step: int,
    home: Path | None,
    options: Mapping[str, Any],
    *,
    start: _Start,
) -> Survey:
    place = None if home is None else home / f"{step:08d}.nc"
    settings: dict[str, Any] = {"step": step, "grid": plane.fingerprint()}
    settings |= {name: str(value) for name, value in options.items() if name in _DECIDES}
    kept = _kept(place, settings)
    if kept is not None:
        return kept
    ledger = None if place is None else place.with_suffix(".resume")
    measured = survey(objective, plane=plane, resume=ledger, **options)
    land = replace(measured.landscape, landmark_values={})
    record = replace(measured.provenance, settings={**measured.provenance.settings, **settings})
    change = start.change(objective)
    measured = replace(measured, landscape=land, provenance=record, change=change)
    if place is not None and ledger is not None:
        measured.save(place)
        for path in (ledger, instruments_ledger(ledger)):
            remove_ledger(path)
    return measured


_CHANGE = "loss at the weights minus that at the first checkpoint"
# What makes another survey of the same weights.
_DECIDES = frozenset(
    {"points", "span", "metrics", "connectivity", "min_share", "curvature", "instruments", "lr",
     "momentum", "seed", "adaptive", "tolerance"}
)  # fmt: skip


def _kept(place: Path | None, settings: Mapping[str, Any]) -> Survey | None:
    if place is None or not place.is_file():
        return None
    stored = load(place)
    if not isinstance(stored, Survey):
        raise FileError(
            f"'{place}' holds a {type(stored).__name__}, not a survey; give another folder, or "
            "move it away."
        )
    held = stored.provenance.settings
    return stored if all(held.get(name) == value for name, value in settings.items()) else None


def _parallel(common: Plane, state: State, k: int) -> Plane:
    # The plane through this checkpoint; coordinates are those of the common plane.
    at = common.landmarks["trajectory"][k]
    origin: Params = state.params
    for coordinate, direction in zip(at, common.directions, strict=True):
        origin = add(origin, direction, scale=-float(coordinate))
    buffers = Buffers(state.buffers) if state.buffers else None
    recipe = {**common.recipe, "kind": "along", "at": [float(c) for c in at]}
    return replace(common, origin=origin, buffers=buffers, recipe=recipe)


@contextmanager
def _holding(objective: Objective, state: State) -> Iterator[Objective]:
    # The weights in the model itself, for instruments that read them there.
    model, point = objective.model, state.whole
    before = {name: value.detach().clone() for name, value in _tensors(model, point)}
    try:
        _copy(model, point)
        yield Objective(
            model,
            objective.loss,
            objective.batches,
            mode=objective.mode,
            params=objective.names,
            check=objective.is_checked,
            size=objective.size,
            derivatives=objective.derivatives,
        )
    finally:
        _copy(model, before)


def _tensors(model: nn.Module, point: Params) -> Iterator[tuple[str, torch.Tensor]]:
    own: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    return ((name, own[name]) for name in point if name in own)


def _copy(model: nn.Module, point: Params) -> None:
    with torch.no_grad():
        for name, value in _tensors(model, point):
            value.copy_(point[name])


def weights_at(measured: Survey) -> NDArray[np.float64]:
    """Coordinates of the weights themselves on a map: zero, but along a training."""
    plane = measured.landscape.provenance.settings.get("plane")
    at = plane.get("at") if isinstance(plane, Mapping) else None
    return (
        np.zeros(measured.landscape.values.ndim) if at is None else np.asarray(at, np.float64)
    )
