"""The first pass over the data: what it changes is found, undone, and undone ever after."""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from lossatlas.errors import AtlasError, LossError
from lossatlas.objective.in_place import is_collective
from lossatlas.objective.state import Attributes, Volatile, WriteGuard
from lossatlas.rng import generator

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

logger = logging.getLogger(__name__)
T = TypeVar("T")
# How far the second point is, in root mean squares of each tensor.
_AWAY = 0.1


def first_look(objective: "Objective", walk: Callable[[], T]) -> T:
    """Walk the data once, with a watch on the model."""
    try:
        return _watched(objective, walk)
    except Exception as error:
        is_of_loss = isinstance(error, LossError) and error.__cause__ is not None
        if isinstance(error, AtlasError) and not is_of_loss:
            raise
        if objective.collective_ranks is not None:
            # The others wait in the pass that failed here.
            raise
        # Whatever the loss raised: some take derivatives, some run code that cannot be
        # watched, some want the model in train mode.
        for needs in (True, False):
            objective.needs_gradients = needs
            try:
                return _watched(objective, walk, watch=needs)
            except Exception as other:
                # The first error is the one to tell.
                logger.debug("the loss fails otherwise too: %r", other)
        if _works_in_train_mode(objective):
            raise LossError(_TRAIN_ONLY) from error
        raise error from error.__cause__


_TRAIN_ONLY = (
    "`loss` failed with the model in eval mode and works in train mode (detection models give "
    "their losses there only); switch it on within the loss, as in model.train() or "
    "model.training = True for the outermost module alone: modes come back afterwards."
)


def _works_in_train_mode(objective: "Objective") -> bool:
    def call() -> bool:
        for module in objective.model.modules():
            module.training = True
        batch = next(objective.iter_batches())
        given = objective.loss(objective.model, objective.handed(batch))
        return isinstance(given, Tensor | float)

    try:
        return objective.with_params(None, call)
    except Exception:
        # It fails there too, in whatever way.
        return False


def _watched(objective: "Objective", walk: Callable[[], T], *, watch: bool = True) -> T:
    attributes: Attributes | None = None
    rebound: dict[str, Tensor] = {}
    guard = objective.guard = WriteGuard()

    def run() -> tuple[T, Volatile]:
        nonlocal attributes
        attributes = Attributes(_named_holders(objective))
        guard.watch(_outside_buffers(objective, attributes))
        buffers = {n: value.clone() for n, value in _buffers(objective)}
        homes = _homes(objective)
        # What is compiled would run as if it were not, and be another function in its bits.
        with guard if watch and _can_be_watched(objective) else nullcontext():
            result = walk()
        names = attributes.changed()
        names += [n for n, value in _buffers(objective) if not _equal(value, buffers[n])]
        rebound.update(_moved_out(homes))
        contents = attributes.contents_changed()
        return result, Volatile(containers=contents, names=tuple(names))

    try:
        # At the weights as points are put in: without gradients, unless the loss takes them.
        here = objective.params if objective.placed is None else None
        result, volatile = objective.with_params(here, run)
    finally:
        objective.guard = None
        # By name: what was swapped in is an alias of the model's own.
        own = dict(objective.model.named_parameters())
        written = {n: own.get(n, value) for n, value in (guard.restore() | rebound).items()}
        if attributes is not None:
            attributes.restore()
    names = tuple(dict.fromkeys([*volatile.names, *written]))
    objective.volatile = volatile = replace(
        volatile, tensors=written, batches=guard.batches, names=names
    )
    if names:
        # Where moved parameters are written into, points are copies, so one is put in after
        # another.
        moved = not written.keys().isdisjoint(objective.names)
        objective.volatile = replace(volatile, matters=moved or _matters(objective))
    return result


def _homes(objective: "Objective") -> list[tuple[str, Tensor, Tensor]]:
    # Parameters with what they hold: an assignment to `.data` is no operation to be seen.
    swapped = dict(objective.model.named_parameters())
    return [(name, value, value.detach()) for name, value in swapped.items()]


def _moved_out(homes: list[tuple[str, Tensor, Tensor]]) -> dict[str, Tensor]:
    # Those that hold other memory now; they hold the former again.
    moved = {}
    for name, value, before in homes:
        if value.data_ptr() != before.data_ptr():
            value.data = before
            moved[name] = value
    return moved


def _can_be_watched(objective: "Objective") -> bool:
    # Compiled code is not looked into, and shards are gathered in ways of their own.
    return not is_collective(objective.model) and not any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in objective.model.modules()
    )


def _matters(objective: "Objective") -> bool:
    # Whether a point after another one is not what it is alone. The other one is off the
    # weights: a target that follows them is where they are.
    batch = objective.first_batch()
    before, there = _away(objective, _AWAY), _away(objective, -_AWAY)

    def value() -> float:
        return float(objective.total(batch).mean.detach())

    def after() -> float:
        value()
        return objective.swapped(there, value)

    try:
        with objective.session():
            alone = objective.swapped(there, value)
        with objective.session():
            later = objective.swapped(before, after)
    except LossError:
        return True
    both = math.isnan(alone) and math.isnan(later)
    return not (both or same_value(alone, later))


def same_value(a: float, b: float) -> bool:
    """Whether two values of the loss are one number up to rounding."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def _away(objective: "Objective", step: float) -> dict[str, Tensor]:
    return {name: perturbed(name, value, step) for name, value in objective.params.items()}


def perturbed(name: str, value: Tensor, scale: float) -> Tensor:
    """A tensor with a random change added, the same for the same name."""
    drawn = torch.randn(value.shape, generator=generator(0, "away", name), dtype=torch.float64)
    size = float(value.detach().abs().double().square().mean().sqrt()) or 0.1
    return value + (scale * size * drawn).to(value)


def _named_holders(objective: "Objective") -> dict[str, object]:
    names = {module: name for name, module in objective.model.named_modules()}
    return {
        names.get(holder, f"loss {place}") if isinstance(holder, nn.Module) else "loss": holder
        for place, holder in enumerate(objective.holders())
    }


def _outside_buffers(
    objective: "Objective", attributes: Attributes
) -> list[tuple[str, Tensor]]:
    named = list(objective.model.named_parameters())
    for index, module in enumerate(objective.loss_modules):
        named += [(f"loss {index}.{n}", value) for n, value in module.named_parameters()]
    return named + list(attributes.tensors.items())


def _buffers(objective: "Objective") -> list[tuple[str, Tensor]]:
    buffers = list(objective.model.named_buffers())
    for index, module in enumerate(objective.loss_modules):
        buffers += [(f"loss {index}.{n}", value) for n, value in module.named_buffers()]
    return buffers


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or bool(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()))
