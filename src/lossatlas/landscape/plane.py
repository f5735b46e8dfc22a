"""Lines, planes and boxes in parameter space: an origin and one to three directions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.arguments import public
from lossatlas.arrays import as_float_array
from lossatlas.checks import (
    check_at_least,
    check_flag,
    check_list,
    check_real,
    check_same_structure,
    check_seed,
    shown,
)
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.executor import check_progress
from lossatlas.landscape.buffers import Buffers, is_statistic
from lossatlas.landscape.directions import Normalization, RandomDirection, zero_filters
from lossatlas.linalg.params import Params, add, dot, fingerprint, norm, subtract
from lossatlas.objective import Objective
from lossatlas.objective.names import padding_rows
from lossatlas.objective.point import (
    State,
    check_precision,
    fetched,
    on_devices_of,
    split_state,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """An origin with one to three directions, and landmarks near them.

    Attributes:
        origin: the point at coordinates zero.
        directions: one to three vectors; a coordinate of 1 is a step of one such vector.
        labels: name of each direction.
        landmarks: name -> coordinates of points of interest, shape (points, dimension).
        residuals: name -> distance of each landmark from the plane, as a share of the largest
            distance of a landmark from the origin; 0 means in the plane.
        bounds: range along each direction that contains all landmarks, or None.
        recipe: how it was built, as plain values.
        buffers: running statistics, other buffers and frozen parameters of its points; None if
            all points use those of the model.
    """

    origin: Params
    directions: tuple[Params, ...]
    labels: tuple[str, ...]
    landmarks: Mapping[str, Array] = field(default_factory=dict)
    residuals: Mapping[str, Array] = field(default_factory=dict)
    bounds: tuple[tuple[float, float], ...] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    buffers: Buffers | None = None

    @property
    def dimension(self) -> int:
        """Number of directions."""
        return len(self.directions)

    def point(self, coordinates: Sequence[float]) -> Params:
        """Weights at given coordinates: origin + a * u + b * v + ...

        Args:
            coordinates: one number per direction.

        Returns:
            New tensors, including the buffers of the point if the plane has buffers.

        Raises:
            ArgumentError: there is not one finite number per direction.
        """
        steps = _checked_coordinates(coordinates, self.dimension)
        here: Params = self.origin
        for step, direction in zip(steps, self.directions, strict=True):
            here = add(here, direction, scale=step)
        return here if self.buffers is None else {**here, **self.buffers.at(steps)}

    def project(self, points: Sequence[Params]) -> tuple[Array, Array]:
        """Project points onto the plane.

        Args:
            points: points with the names and shapes of the origin; buffers are ignored.

        Returns:
            (coordinates, residuals), of shapes (points, dimension) and (points,). A residual is
            the distance to the plane as a share of the largest distance to the origin.

        Raises:
            StructureError: a point has other names or shapes.
        """
        check_list("points", points, "points of parameter space")
        gram = np.array([[dot(a, b) for b in self.directions] for a in self.directions])
        rows = [self._project(point, gram) for point in points]
        coordinates = np.array([row for row, *_ in rows]).reshape(len(rows), self.dimension)
        off, distance = (np.array([row[k] for row in rows]) for k in (1, 2))
        return coordinates, off / max(distance.max(initial=0.0), np.finfo(float).tiny)

    def _project(self, point: Params, gram: Array) -> tuple[Array, float, float]:
        point = self._without_buffers(point)
        check_same_structure(point=point, origin=self.origin)
        offset = subtract(point, self.origin)
        products = np.array([dot(offset, direction) for direction in self.directions])
        coordinates = np.linalg.solve(gram, products)
        distance = norm(offset)
        inside = max(0.0, float(coordinates @ products))
        return coordinates, math.sqrt(max(0.0, distance**2 - inside)), distance

    def _without_buffers(self, point: Params) -> Params:
        if not isinstance(point, Mapping):
            return point
        beside = {} if self.buffers is None else self.buffers.origin
        return {
            name: value
            for name, value in point.items()
            if name in self.origin or not (name in beside or is_statistic(name))
        }

    def notes(self) -> tuple[str, ...]:
        """Remarks on the directions.

        Returns:
            Sentences naming the tensors that do not move, and those whose zero filters move by
            the scale of their layer.
        """
        drawn = [d for d in self.directions if isinstance(d, RandomDirection)]
        notes = []
        scaled = [d for d in drawn if d.normalization != "none"]
        lent = (
            zero_filters(self.origin, biases=scaled[0].biases, still=scaled[0].still)
            if scaled
            else ()
        )
        if lent:
            notes.append(
                "Zero filters have no norm, so they move by that of their layer: "
                f"{_list(lent)}."
            )
        rows = [f"row {row} of {name}" for d in drawn[:1] for name, row in d.still.items()]
        if rows:
            notes.append(
                f"These rows do not move, as in training (`padding_idx`): {_list(rows)}."
            )
        still = [
            name
            for name in self.origin
            if not drawn and not any(bool(d[name].any()) for d in self.directions)
        ]
        if still:
            notes.append(f"These tensors do not move along any direction: {_list(still)}.")
        return tuple(notes)

    def fingerprint(self, *, origin: str | None = None) -> str:
        """Digest of the origin and the directions.

        Args:
            origin: digest of the origin, if already computed.

        Returns:
            Hexadecimal digits; directions drawn on demand are represented by their recipe.
        """
        parts = [
            str(dict(self.recipe)) if isinstance(d, RandomDirection) else fingerprint(d)
            for d in self.directions
        ]
        origin_buffers = [] if self.buffers is None else [self.buffers.fingerprint()]
        return "-".join([origin or fingerprint(self.origin), *parts, *origin_buffers])


@public
def plane(origin: Params, *directions: Params, labels: Sequence[str] | None = None) -> Plane:
    """Line, plane or box spanned by given directions.

    Args:
        origin: the point at coordinates zero; referenced, not copied.
        *directions: one to three vectors with the names and shapes of the origin.
        labels: name of each direction; "direction 1", ... by default.

    Returns:
        The plane.

    Raises:
        ArgumentError: there are no or more than three directions, or some are zero or parallel.
        NonFiniteError: a direction contains NaN or inf.
        StructureError: names or shapes differ from the origin.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> line = la.plane({"w": torch.zeros(1, 2)}, {"w": torch.ones(1, 2)})
        >>> line.dimension, line.point([0.5])["w"]
        (1, tensor([[0.5000, 0.5000]]))
    """
    if not 1 <= len(directions) <= 3:
        raise ArgumentError(f"a plane needs 1 to 3 directions; got {len(directions)}.")
    if labels is not None and (isinstance(labels, str) or len(labels) != len(directions)):
        raise ArgumentError(
            f"`labels` must name each of {len(directions)} directions; got {labels!r}."
        )
    for direction in directions:
        check_same_structure(direction=direction, origin=origin)
        check_real(direction)
    if labels is not None:
        check_list("labels", labels, "strings")
        if len(labels) != len(directions) or not all(isinstance(n, str) for n in labels):
            raise ArgumentError(
                f"`labels` must be one string per direction; got {len(labels)} labels for "
                f"{len(directions)} directions."
            )
    _check_directions(directions)
    named = labels or [f"direction {k + 1}" for k in range(len(directions))]
    return Plane(origin, directions, tuple(named), recipe={"kind": "given"})


@public
def random_plane(
    objective: Objective,
    *,
    origin: Params | None = None,
    seed: int = 0,
    dimension: int = 2,
    normalization: Normalization = "filter",
    biases: bool = False,
) -> Plane:
    """Random line, plane or box through the current weights.

    Args:
        objective: the objective whose parameters move.
        origin: another origin, with its buffers if it is a full state dict; by default the
            current weights, read live and not copied. The directions are scaled to its filters.
        seed: any integer; the same seed gives the same directions.
        dimension: 1, 2 or 3.
        normalization: "filter" (a step of 1 moves each filter by its norm), "layer", or "none".
            Zero filters and layers have no norm: they move by the scale of their layer or
            module, which is noted in the map. Rows at the `padding_idx` of an embedding, which
            training does not change, stay fixed.
        biases: whether biases and norm scales move too; fixed by default.

    Returns:
        The plane; its directions are drawn on demand and need no memory.

    Raises:
        ArgumentError: `dimension` is not 1 to 3, or nothing would move.
        StructureError: the origin belongs to another model.
        UnknownNameError: an unknown normalization.

    Examples:
        >>> import torch
        >>> import lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> batch = torch.eye(2), torch.ones(2, 1)
        >>> mse = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, mse, [batch])
        >>> la.random_plane(objective, dimension=2, seed=0).labels
        ('random direction 1', 'random direction 2')

    Source: Li et al., NeurIPS 2018, sec. 4, arXiv:1712.09913.
    """
    check_objective(objective)
    check_at_least("dimension", dimension, 1)
    if dimension > 3:
        raise ArgumentError(f"`dimension` must be 1, 2 or 3; got {dimension}.")
    check_seed("seed", seed)
    check_flag("biases", biases)
    state = State(objective.live) if origin is None else objective.split(origin)
    weights = state.params
    rows = padding_rows(objective.model, tied=False)
    still = {name: row for name, row in rows.items() if name in weights}
    directions = tuple(
        RandomDirection(weights, seed, axis, normalization, biases=biases, still=still)
        for axis in range(dimension)
    )
    if not _moves(weights, biases=biases, scaled=normalization != "none"):
        raise ArgumentError(
            "the random direction is zero: all weights that may move are zero, biases or norm "
            'scales; pass biases=True, or normalization="none".'
        )
    recipe = {
        "kind": "random",
        "seed": seed,
        "normalization": normalization,
        "biases": biases,
        "dimension": dimension,
    } | ({"still": still} if still else {})
    labels = tuple(f"random direction {axis + 1}" for axis in range(dimension))
    origin_buffers = Buffers(state.buffers) if state.buffers else None
    return Plane(weights, directions, labels, recipe=recipe, buffers=origin_buffers)


def check_objective(objective: object, plane: object = None, progress: object = None) -> None:
    """Check the objective and plane given to an instrument."""
    if not isinstance(objective, Objective):
        raise ArgumentError(
            f"`objective` must be a lossatlas.Objective; got {type(objective).__name__}: "
            "make one with Objective(model, loss, batches)."
        )
    if plane is not None:
        if not isinstance(plane, Plane):
            raise ArgumentError(
                f"`plane` must be a Plane; got {type(plane).__name__}: make one with "
                "random_plane(objective), plane(origin, u, v) or trajectory_plane(checkpoints)."
            )
        prepare_plane(objective, plane)
    check_progress(progress)


def prepare_plane(objective: Objective, plane: Plane) -> Plane:
    """A plane whose origin holds what the objective moves, and whose buffers are all read."""
    if plane.origin is objective.live:
        return plane
    expected, before = objective.shapes, plane.buffers
    if plane.origin.keys() == expected.keys() and before is None:
        check_same_structure(plane=plane.origin, objective=expected)
        check_precision(plane.origin, expected)
        return _placed(objective, plane)
    origin_buffers = {} if before is None else before.origin
    extra = [name for name in plane.origin if name not in expected]
    moved = {n for n in extra if any(bool(d[n].any()) for d in plane.directions)}
    point = {**plane.origin, **origin_buffers}
    state = split_state(objective.model, objective.mode, expected, point, keep=moved)
    beside = [name for name in state.buffers if name not in origin_buffers]
    lines = [{n: v for n, v in d.items() if n in state.params} for d in plane.directions]
    moving = tuple({n: d[n] for n in beside} for d in plane.directions) if beside else ()
    remaining = (
        None
        if before is None
        else before.only([n for n in origin_buffers if n in state.buffers])
    )
    own_buffers = Buffers({n: plane.origin[n] for n in beside}, moving)
    merged = own_buffers if remaining is None else remaining.joined(own_buffers)
    changed = state.params.keys() != plane.origin.keys()
    prepared = replace(
        plane,
        origin=state.params if changed else plane.origin,
        directions=tuple(lines) if changed else plane.directions,
        buffers=merged if merged.origin else None,
    )
    return _placed(objective, prepared)


def _placed(objective: Objective, plane: Plane) -> Plane:
    # Checkpoints are often read on the host. What is drawn is drawn where its weights are.
    def here(point: Params) -> Params:
        if not isinstance(point, RandomDirection):
            return fetched(on_devices_of(objective.model, point))
        weights = here(point.weights)
        return point if weights is point.weights else point.scaled_to(weights)

    origin, *lines = map(here, (plane.origin, *plane.directions))
    if origin is plane.origin and all(map(is_, lines, plane.directions)):
        return plane
    return replace(plane, origin=origin, directions=tuple(lines))


def _checked_coordinates(coordinates: object, dimension: int) -> list[float]:
    flat = as_float_array("coordinates", coordinates)
    if flat.shape != (dimension,) or not np.isfinite(flat).all():
        raise ArgumentError(
            f"`coordinates` must be {dimension} finite numbers, one per direction; "
            f"got {shown(coordinates)}."
        )
    return [float(value) for value in flat]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _moves(weights: Params, *, biases: bool, scaled: bool) -> bool:
    return any(
        (biases or value.ndim > 1) and (not scaled or bool(value.any()))
        for value in weights.values()
    )


def _check_directions(directions: tuple[Params, ...]) -> None:
    lengths = [norm(direction) for direction in directions]
    for number, length in enumerate(lengths, 1):
        if not math.isfinite(length):
            raise NonFiniteError(
                f"direction {number} contains NaN or inf; fix it before mapping."
            )
        if length == 0:
            raise ArgumentError(f"direction {number} is zero; there is no line along it.")
    unit = np.array(
        [
            [dot(a, b) / (x * y) for b, y in zip(directions, lengths, strict=True)]
            for a, x in zip(directions, lengths, strict=True)
        ]
    )
    if np.linalg.eigvalsh(unit).min() < 1e-9:
        raise ArgumentError("the directions are parallel or dependent; pass independent ones.")
