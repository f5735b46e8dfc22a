"""Planes through two, three or four checkpoints, or through a whole trajectory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.arguments import public
from lossatlas.checks import check_at_least, check_list, check_real, check_same_structure
from lossatlas.errors import ArgumentError, NonFiniteError, StructureError
from lossatlas.landscape.buffers import between, split_statistics
from lossatlas.landscape.plane import Plane, plane
from lossatlas.linalg.params import Params, add, dot, multiply, norm, subtract
from lossatlas.objective import Objective
from lossatlas.objective.point import State, placed_as, split_state

Array = NDArray[np.float64]
_MARGIN = 0.5


@public
def plane_through(*checkpoints: Params) -> Plane:
    """Line through two checkpoints, plane through three, or box through four.

    The first checkpoint is the origin and the second lies at coordinate 1 of the first
    direction. Directions are orthogonal and of equal length, so the picture is not distorted.

    Full state dicts are supported: running statistics are interpolated linearly with the
    weights, so the loss at each checkpoint is exact. They do not affect lengths or angles.
    Between checkpoints the statistics are only approximate; an objective with
    mode="recalibrated" re-estimates them.

    Args:
        *checkpoints: two to four points with the same names and shapes: parameters, or
            `model.state_dict()`. Their tensors may be on different devices.

    Returns:
        The plane, with the landmark "checkpoints" and bounds that contain all of them.

    Raises:
        ArgumentError: there are fewer than two or more than four points, or they are equal or
            collinear.
        NonFiniteError: a checkpoint holds NaN or inf.
        StructureError: names or shapes differ.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> points = [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]
        >>> a, b, c = ({"w": torch.tensor([point])} for point in points)
        >>> plane = la.plane_through(a, b, c)
        >>> plane.dimension, plane.landmarks["checkpoints"].shape
        (2, (3, 2))
    """
    if not 2 <= len(checkpoints) <= 4:
        raise ArgumentError(f"pass two to four checkpoints; got {len(checkpoints)}.")
    points, statistics = split_statistics(_together(checkpoints))
    return through(points, statistics)


def through(points: Sequence[Params], buffers: Sequence[Params]) -> Plane:
    """Plane through checkpoints with separate parameters and buffers."""
    origin, *others = points
    for other in others:
        check_same_structure(checkpoint=other, origin=origin)
        check_real(other)
    axes: list[Params] = []
    for number, other in enumerate(others, 2):
        axes.append(_orthogonal_step(subtract(other, origin), axes, number))
    labels = [f"towards checkpoint {k + 2}" for k in range(len(axes))]
    bare = plane(origin, *axes, labels=labels)
    return _with_landmarks(bare, "checkpoints", points, buffers, 0)


@public
def trajectory_plane(checkpoints: Sequence[Params], *, dimension: int = 2) -> Plane:
    """Plane that best fits a trajectory: principal directions around its last point.

    Args:
        checkpoints: at least `dimension` + 1 points of one model in training order: parameters,
            or `model.state_dict()`. If the plane contains all checkpoints, running statistics
            are interpolated with their weights; otherwise all points of the plane use those of
            the last checkpoint.
        dimension: 1, 2 or 3.

    Returns:
        The plane through the last checkpoint along unit principal directions, with the landmark
        "trajectory". Its residuals are the distances of the checkpoints from the plane: the
        loss shown at a projected checkpoint is not the loss of the checkpoint.

    Raises:
        ArgumentError: there are too few checkpoints, all are equal, or `dimension` is not 1 to
            3.
        NonFiniteError: a checkpoint holds NaN or inf.
        StructureError: names or shapes differ.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> points = [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]
        >>> a, b, c = ({"w": torch.tensor([point])} for point in points)
        >>> la.trajectory_plane([c, b, a]).dimension
        2

    Source: Li et al., NeurIPS 2018, sec. 7 (differences to the last iterate, uncentered).
    """
    check_list("checkpoints", checkpoints, "points of parameter space")
    _check_enough(dimension, len(checkpoints))
    return along(*split_statistics(_together(checkpoints)), dimension)


def _together(points: Sequence[Params]) -> list[Params]:
    # Weights of the model on a card, and others that were read on the host.
    first, *others = points
    if not isinstance(first, Mapping) or not all(isinstance(p, Mapping) for p in others):
        return list(points)
    return [first, *(placed_as(point, first) for point in others)]


def states_of(
    objective: Objective,
    checkpoints: Sequence[Params],
    *,
    mode: str | None = None,
    names: Sequence[str] = (),
) -> list[State]:
    """Split the checkpoints of an objective's model into parameters and buffers."""
    called = names or [f"checkpoint {number}" for number in range(1, len(checkpoints) + 1)]
    shared_names: set[str] = set()

    def split(name: str, point: Params) -> State:
        expected, reads = objective.shapes, mode or objective.mode
        try:
            return split_state(objective.model, reads, expected, point, shared_names)
        except StructureError as error:
            if not names:
                raise
            raise StructureError(f"`{name}` does not fit: {error}") from None

    points = [*zip(called, checkpoints, strict=True)]
    states = [split(*pair) for pair in points]
    # What equals the model's in one of them belongs to it where another differs.
    shared_names.update(*(state.buffers for state in states))
    states = [split(*pair) for pair in points] if shared_names else states
    for (name, _), state in zip(points, states, strict=True):
        missing = sorted(shared_names - state.buffers.keys())
        if missing:
            raise StructureError(
                f"{name} has no '{missing[0]}' but another does; pass full state dicts "
                "(model.state_dict()) for all, or parameters for all."
            )
    return states


def plane_of(states: Sequence[State], dimension: int = 2) -> Plane:
    """The plane of a trajectory; see `trajectory_plane`."""
    _check_enough(dimension, len(states))
    return along([s.params for s in states], [s.buffers for s in states], dimension)


def _check_enough(dimension: int, count: int) -> None:
    check_at_least("dimension", dimension, 1)
    if dimension > 3 or count <= dimension:
        raise ArgumentError(
            f"`dimension` must be 1 to 3 and below the number of checkpoints; "
            f"got dimension {dimension} and {count} checkpoints."
        )


def along(points: Sequence[Params], buffers: Sequence[Params], dimension: int) -> Plane:
    """Plane of a trajectory with separate parameters and buffers."""
    last = points[-1]
    for point in points:
        check_same_structure(checkpoint=point, origin=last)
        check_real(point)
    steps = [subtract(point, last) for point in points[:-1]]
    axes, shares = _principal(steps, dimension)
    labels = [
        f"PC {k + 1} ({100 * share:.0f} % of the trajectory)" for k, share in enumerate(shares)
    ]
    bare = plane(last, *axes, labels=labels)
    return _with_landmarks(bare, "trajectory", points, buffers, len(points) - 1)


def _principal(steps: list[dict[str, Tensor]], dimension: int) -> tuple[list[Params], Array]:
    # T checkpoints span at most T dimensions: their T x T products hold all there is to know.
    gram = np.array([[dot(a, b) for b in steps] for a in steps])
    if not np.isfinite(gram).all():
        raise NonFiniteError(
            "a checkpoint contains NaN or inf; leave it out of the trajectory."
        )
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:dimension], vectors[:, ::-1][:, :dimension]
    if values[-1] <= 1e-12 * max(values[0], 1e-300):
        raise ArgumentError(
            f"the checkpoints span fewer than {dimension} directions; pass more distinct "
            "checkpoints or a smaller dimension."
        )
    # The sign of an eigenvector is arbitrary: the first checkpoint gets positive coordinates.
    vectors = vectors * np.where(vectors[:1] < 0, -1.0, 1.0)
    axes = [_unit(_combination(steps, vectors[:, k])) for k in range(dimension)]
    return axes, values / np.trace(gram)


def _combination(steps: list[dict[str, Tensor]], weights: Array) -> Params:
    total: Params = multiply(steps[0], float(weights[0]))
    for step, weight in zip(steps[1:], weights[1:], strict=True):
        total = add(total, step, scale=float(weight))
    return total


def _unit(vector: Params) -> Params:
    return multiply(vector, 1.0 / norm(vector))


def _orthogonal_step(step: Params, axes: list[Params], number: int) -> Params:
    length = norm(step)
    for axis in axes:
        step = add(step, axis, scale=-dot(step, axis) / dot(axis, axis))
    if not np.isfinite(length):
        raise NonFiniteError(f"checkpoint {number} contains NaN or inf.")
    if norm(step) <= 1e-6 * length or length == 0:
        raise ArgumentError(
            f"checkpoint {number} equals or is collinear with earlier ones; pass points that "
            "span a plane."
        )
    return multiply(step, norm(axes[0]) / norm(step)) if axes else step


def _with_landmarks(
    bare: Plane, name: str, points: Sequence[Params], buffers: Sequence[Params], origin: int
) -> Plane:
    coordinates, residuals = bare.project(points)
    low, high = coordinates.min(0), coordinates.max(0)
    # One margin for all directions keeps a thin trajectory from filling the picture.
    margin = _MARGIN * float((high - low).max())
    bounds = tuple(
        (float(a) - margin, float(b) + margin) for a, b in zip(low, high, strict=True)
    )
    return replace(
        bare,
        landmarks={name: coordinates},
        residuals={name: residuals},
        bounds=bounds,
        recipe={"kind": name, "points": len(points)},
        buffers=between(buffers, coordinates, origin),
    )
