"""Choose the engine of a map by fixed rules, and only one that agrees with the plain loop."""

import copy
import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, AtlasError, ModelError
from lossatlas.landscape.engines import plain
from lossatlas.landscape.engines.batched import BatchedEngine
from lossatlas.landscape.engines.folded import FoldedEngine
from lossatlas.landscape.engines.in_place import InPlaceEngine
from lossatlas.landscape.engines.moves import check_moves
from lossatlas.landscape.engines.plain import PlainEngine, at_origin
from lossatlas.landscape.engines.recall import Unmoved
from lossatlas.landscape.engines.stacked import StackedEngine, obstacle
from lossatlas.landscape.engines.streaming import StreamingEngine
from lossatlas.landscape.engines.task import (
    Array,
    Engine,
    Known,
    Task,
    bytes_of,
    quantities_of,
)
from lossatlas.linalg.params import size
from lossatlas.memory import free_memory
from lossatlas.objective import Batch, Moments
from lossatlas.objective.additivity import kernel_rounding
from lossatlas.objective.batches import batch_size, cut
from lossatlas.objective.swap import swapped_in

logger = logging.getLogger(__name__)
EngineName = Literal["auto", "plain", "stacked", "batched", "folded", "streaming", "in_place"]
ENGINES: tuple[str, ...] = get_args(EngineName)
TOLERANCE = 1e-6
# Below this many parameters one product keeps a processor less busy than its call.
_SMALL = 300_000
# How much farther away points lie that must not change what others give.
_FAR = 8.0
# Batches on which a point that comes last is compared with itself alone.
_BATCHES = 2
# The share of their examples that is enough for it.
_CUT = 8
_UNSUPPORTED = (
    AtlasError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    UserWarning,
)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BUILD: dict[str, Callable[[Task], Engine]] = {
    "plain": PlainEngine,
    "stacked": StackedEngine,
    "batched": BatchedEngine,
    "folded": FoldedEngine,
    "streaming": StreamingEngine,
    "in_place": InPlaceEngine,
}


@dataclass(frozen=True)
class Choice:
    """A validated engine, and the values computed while choosing it.

    Attributes:
        engine: the engine.
        center: quantities at the origin, computed from the origin itself, as a row of engine
            output.
        seen: engine output at other points, by coordinates.
    """

    engine: Engine
    center: Array
    seen: Known = field(default_factory=dict)

    @property
    def known(self) -> Known:
        """Values that a map need not evaluate again."""
        return {**self.seen, (0.0,) * self.engine.task.plane.dimension: self.center}


def select(task: Task, name: str, corner: Array) -> Choice:
    """Select the engine; a fast one only if it equals the plain loop on this task.

    The rule: in_place if the objective requires it; streaming if several copies of the weights
    would take more than half of the free memory; folded for convolutional networks in eval
    mode; stacked for small multilayer perceptrons and batched for other small networks; plain
    otherwise.

    Args:
        task: what to evaluate.
        name: what the user asked for; "auto" for the rule.
        corner: a point to compare on beside the origin, shape (dimension,).

    Returns:
        The engine, with the quantities at the origin.

    Raises:
        UnknownNameError: no engine has this name.
        ArgumentError: the engine asked for cannot serve this task; the message says why.
        ModelError: the loss does not depend on the weights.
    """
    check_one_of("engine", name, ENGINES)
    if task.objective.placed is not None or name == "in_place":
        return _in_place(task.shared(), name, corner)
    ranks = task.objective.ranks
    if ranks is None:
        return _select(task, name, corner)
    alone = replace(task, objective=task.objective.sampled)
    engine_name = ranks.together(lambda: _select(alone, name, corner).engine.name)
    # Processes that would choose differently all take what serves everything.
    engine_name = engine_name if len(set(ranks.gather(engine_name))) == 1 else "plain"
    shared = task.shared()
    own = "plain" if task.objective.has_no_share else engine_name
    engine = ranks.together(lambda: build(shared, own))
    # All evaluate the same points together, whatever the size of their batches.
    engine.name, engine.chunk = engine_name, min(ranks.gather(engine.chunk))
    return Choice(engine, at_origin(shared)[0])


def _in_place(task: Task, name: str, corner: Array) -> Choice:
    if name not in {"auto", "in_place"}:
        raise ArgumentError(
            f'engine="{name}" cannot serve this model: its weights are moved in place, which '
            'engine="in_place" does; use engine="auto".'
        )
    engine = build(task, "in_place")
    look = engine.evaluate(np.stack([np.zeros_like(corner), corner]))
    if corner.any():
        if not _moves(engine, look, corner):
            first = next(iter(task.plane.origin))
            raise ModelError(
                f"the loss stays the same to the bit when '{first}' and the others move: the "
                "model reads weights of its own, or keeps what it once made of them; let it "
                "read them at every call, or move others by params=."
            )
        _check_alone(float(engine.evaluate(corner[None])[0, 0]), float(look[1, 0]))
    return Choice(engine, look[0])


def _moves(engine: Engine, look: Array, corner: Array) -> bool:
    # Directions may cancel at the corner: filters of one number move one way or the other.
    if not np.array_equal(look[0], look[1], equal_nan=True):
        return True
    elsewhere = engine.evaluate((corner * np.linspace(1, -1, len(corner)))[None])
    return not np.array_equal(look[0], elsewhere[0], equal_nan=True)


def _select(task: Task, name: str, corner: Array) -> Choice:
    candidates = _candidates(task) if name == "auto" else [name]
    if candidates == ["streaming"]:
        return _streaming(task, corner)
    if "stacked" in candidates or "batched" in candidates:
        # They hold the directions whole: the plain loop need not draw them for itself.
        task.corners()
    slow = PlainEngine(task)
    look = slow.first_look(corner)
    if corner.any():
        check_moves(task, look)
    points = np.stack([np.zeros_like(corner), corner])
    for candidate in candidates:
        if candidate == "plain":
            break
        choice = _agreeing(task, candidate, points, look, wanted=name)
        if not isinstance(choice, str):
            return choice
        if name != "auto":
            raise ArgumentError(
                f'engine="{name}" cannot serve this model ({choice}); use engine="auto".'
            )
        logger.info("engine %s left out: %s", candidate, choice)
    _check_plain(task, slow, corner)
    return Choice(slow, look[0], {tuple(corner.tolist()): look[1]})


def _streaming(task: Task, corner: Array) -> Choice:
    engine = build(task, "streaming")
    if not isinstance(engine, StreamingEngine):
        return Choice(engine, at_origin(task)[0])
    center = engine.look()
    copies = bytes_of(*task.plane.origin.values())
    if 2 * copies < (free_memory(task.objective.device) or 0):
        try:
            _check_same(task, engine, corner)
        except ModelError:
            # Passes that take turns may have disturbed one another.
            if not engine.go_alone():
                raise
            _check_same(task, engine, corner)
    return Choice(engine, center[0])


def _check_plain(task: Task, slow: PlainEngine, corner: Array) -> None:
    try:
        _check_same(task, slow, corner)
    except AtlasError:
        # Modules that answer from memory may have read what they were not given.
        if not task.unmoved.names:
            raise
        task.unmoved.take(Unmoved())
        slow.recall(task.unmoved)
        _check_same(task, slow, corner)


def _check_same(task: Task, engine: PlainEngine | StreamingEngine, corner: Array) -> None:
    # A point must not depend on the point evaluated before it. A few examples show it.
    few = list(islice(task.objective.iter_batches(), _BATCHES))
    try:
        parts = few if task.objective.unit == "batches" else list(map(_some_of, few))
        if _check_on(task, engine, corner, parts):
            return
    except _UNSUPPORTED:
        # Such batches cannot be cut, or the fault is not one of cutting.
        pass
    _check_on(task, engine, corner, few)


def _some_of(batch: Batch) -> Batch:
    return cut(batch, 0, max(1, batch_size(batch) // _CUT))


def _check_on(
    task: Task, engine: PlainEngine | StreamingEngine, corner: Array, batches: list[Batch]
) -> bool:
    # Whether there was a finite loss to compare.
    small = copy.copy(engine)
    small.task = replace(task, objective=task.objective.part(batches))
    if isinstance(small, PlainEngine):
        small.recall(task.unmoved)
    points = np.stack([0.5 * corner, corner])
    look = small.evaluate(points)
    # Passes side by side disturb those that come before them as well.
    first = 0 if isinstance(engine, StreamingEngine) else 1
    alone = [small.task.objective.value(engine.weights(point)) for point in points[first:]]
    for value, row in zip(alone, look[first:], strict=True):
        _check_alone(value, float(row[0]))
    return bool(np.isfinite(alone).all())


def _check_alone(alone: float, later: float) -> None:
    if np.array_equal(alone, later, equal_nan=True) or not np.isfinite(alone):
        return
    if not abs(later - alone) <= TOLERANCE * max(abs(alone), 1e-30):
        raise ModelError(
            f"a point that is evaluated after another one has the loss {later:.6g}, and alone "
            f"{alone:.6g}: the model or the loss keeps something from call to call that is not "
            "found among its attributes and buffers; make the loss a fixed function of the "
            "weights."
        )


def choose(task: Task, name: str, corners: Array) -> str:
    """The name of the engine that `select` takes.

    Args:
        task: what to evaluate.
        name: what the user asked for; "auto" for the rule.
        corners: points, shape (points, dimension); the last one is compared on.

    Returns:
        A name for `build`.

    Raises:
        UnknownNameError: no engine has this name.
        ArgumentError: the engine asked for cannot serve this task; the message says why.
        ModelError: the loss does not depend on the weights.
    """
    return select(task, name, corners[-1]).engine.name


def build(task: Task, name: str) -> Engine:
    """Build an engine.

    Args:
        task: what to evaluate.
        name: what `choose` returned.

    Returns:
        The engine.

    Raises:
        UnknownNameError: no engine has this name.
        ArgumentError: the engine cannot serve buffers that change from point to point.
    """
    check_one_of("name", name, _BUILD)
    make = _BUILD[name]
    held = task.plane.buffers
    if held is None or name in {"plain", "in_place"}:
        return make(task)
    if held.directions:
        raise ArgumentError(
            "buffers change from point to point, which only the plain engine supports"
        )
    return HeldEngine(task, make)


class HeldEngine(Engine):
    """An engine during which the model has other buffers, the same at all points.

    Args:
        task: what to evaluate.
        make: builds the engine.
    """

    def __init__(self, task: Task, make: Callable[[Task], Engine]) -> None:
        self.task = task
        with self._held():
            self.inner = make(task)
        self.independent = self.inner.independent
        self.name, self.chunk, self.memory = (
            self.inner.name,
            self.inner.chunk,
            self.inner.memory,
        )

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points; see `Engine`."""
        with self._held():
            return self.inner.moments(coordinates)

    def _held(self) -> AbstractContextManager[None]:
        here = self.task.buffers_at(())
        return swapped_in(self.task.objective.model, here, ())


def _candidates(task: Task) -> list[str]:
    free = free_memory(task.objective.device)
    if free is not None and plain.memory(task) > free / 2:
        return ["streaming"]
    moving = task.plane.buffers is not None and task.plane.buffers.directions
    if moving or task.objective.volatile.matters:
        return []
    kinds = {value.dtype for value in task.plane.origin.values()} | task.objective.kinds
    coarse = any(torch.finfo(kind).bits < 32 for kind in kinds)
    if coarse or task.objective.mode == "recalibrated":
        # Half precision rounds by more than engines may differ.
        return []
    has_convolution = any(isinstance(m, _CONVS) for m in task.objective.model.modules())
    if has_convolution and task.objective.mode == "eval":
        return ["folded"]
    if not has_convolution and size(task.plane.origin) <= _SMALL:
        return ["stacked", "batched"]
    return []


def _agreeing(
    task: Task, name: str, points: Array, look: Array, *, wanted: str
) -> Choice | str:
    # The engine and what it gave at points where the plain loop has looked, or the reason why
    # not.
    against = _against(task, name)
    if against is not None:
        return against
    try:
        with warnings.catch_warnings():
            # vmap then loops over the points inside the operation: no gain, and noise.
            warnings.filterwarnings("error", message="There is a performance drop")
            engine = build(task, name)
            inner = engine.inner if isinstance(engine, HeldEngine) else engine
            if wanted == "auto" and isinstance(inner, BatchedEngine) and inner.drawback:
                return inner.drawback
            if isinstance(inner, StackedEngine):
                fast, worst = _in_company(engine, points, look)
            else:
                fast = engine.evaluate(points)
                worst = _difference(fast, look)
    except _UNSUPPORTED as error:
        # Whatever a model, loss or metric does that vmap or folding does not support shows
        # here, once: the plain loop has been at the same points without a fault.
        cause = error if error.__cause__ is None else error.__cause__
        return ": ".join([type(cause).__name__, *str(cause).splitlines()[:1]])
    if worst <= _tolerance(task):
        return Choice(
            engine, look[0], dict(zip(map(tuple, points.tolist()), fast, strict=True))
        )
    return f"it differs from the plain loop by {worst:.1e}"


def _tolerance(task: Task) -> float:
    # Kernels that round their inputs (TensorFloat-32) part engines further, but by far less
    # than that: means are taken over many products.
    like = next(iter(task.like.values()))
    value = torch.empty(0, dtype=like.dtype, device=task.objective.device)
    rounding = kernel_rounding(task.objective.model, value)
    coarse = rounding > torch.finfo(like.dtype).eps
    return max(TOLERANCE, rounding / 16) if coarse else TOLERANCE


def _in_company(engine: Engine, points: Array, look: Array) -> tuple[Array, float]:
    # Beside one point far away at a time: what is reduced over points would show. Points on
    # both sides at once would balance one another.
    far = _FAR * points[-1:]
    fast = engine.evaluate(np.concatenate([points, far]))[: len(points)]
    last = engine.evaluate(np.concatenate([points[-1:], -far]))[:1]
    return fast, max(_difference(fast, look), _difference(last, look[-1:]))


def _against(task: Task, name: str) -> str | None:
    # What rules an engine out before it is built.
    volatile, mode = task.objective.volatile, task.objective.mode
    if volatile.matters and name != "streaming":
        return f"a pass changes '{volatile.names[0]}', which every point must find as it was"
    if mode != "eval" and name == "folded":
        return f'it needs mode="eval", not "{mode}"'
    against = obstacle(task) if name == "stacked" else None
    if against is None and mode == "recalibrated":
        return 'mode="recalibrated" needs a pass over the data at every point'
    return against


def _difference(fast: Array, slow: Array) -> float:
    # Relative to the largest value of a quantity: a loss may pass through zero.
    means = slice(0, quantities_of(slow))
    a, b = fast[:, means], slow[:, means]
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.where(np.isfinite(b), b, 0.0)
    scale = np.maximum(np.abs(finite).max(axis=0), np.finfo(np.float32).tiny)
    return float((np.abs(np.where(np.isfinite(a), a, 0.0) - finite) / scale).max())
