"""Putting a point into the model for the length of a call: swapped in, in place, or whole."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from lossatlas.errors import ModelError
from lossatlas.linalg.params import Params
from lossatlas.objective.gathered import gathers, whole_weights, without_sharding
from lossatlas.objective.in_place import WeightsInPlace, buffers_in_place
from lossatlas.objective.swap import swapped_in

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

T = TypeVar("T")
_IN_PLACE = (
    "the model's weights are moved in place (offloaded, compiled, in_place=True, or sharded "
    "without whole weights), and this takes derivatives through weights that are put into the "
    "model; values, maps, gradients and curvature matrices can be had, or measure a whole copy."
)


def run_at(objective: "Objective", params: Params, call: Callable[[], T]) -> T:
    """Run `call` while the model holds `params` and copies of its buffers."""
    if objective.placed is not None:
        with objective.monitored():
            return _run_in_place(objective, objective.placed, params, call)
    if objective.needs_gradients:
        # The loss takes derivatives, maybe in the parameters.
        params = {
            name: value if value.requires_grad else value.detach().requires_grad_()
            for name, value in params.items()
        }
    written = objective.volatile.tensors
    if written:
        # The forward pass writes into them (`max_norm`), and they are the user's.
        params = {
            name: value.clone() if name in written else value for name, value in params.items()
        }
    with swapped_in(objective.model, params, objective.loss_modules):
        return _run_preserved(objective, call)


def run_with_whole_weights(objective: "Objective", params: Params, call: Callable[[], T]) -> T:
    """The same for a sharded model, with whole weights on this process."""
    others, idle = whole_weights(objective.model, params), objective.idle
    with without_sharding(objective.model):
        try:
            # Nothing is sent, so nobody waits.
            objective.idle = 0
            with swapped_in(objective.model, {**others, **params}, objective.loss_modules):
                return _run_preserved(objective, call)
        finally:
            objective.idle = idle


def _run_in_place(
    objective: "Objective", placed: WeightsInPlace, params: Params, call: Callable[[], T]
) -> T:
    if any(value.requires_grad for value in params.values()):
        if not gathers(objective):
            raise ModelError(_IN_PLACE)
        return run_with_whole_weights(objective, params, call)
    model = objective.model
    own = dict(model.named_parameters())
    moved = {name: value for name, value in params.items() if name in placed.slots}
    others = {name: value for name, value in params.items() if name not in moved}
    fixed = {name: value for name, value in others.items() if name in own}
    with ExitStack() as stack:
        stack.enter_context(buffers_in_place([model, *objective.loss_modules], others))
        if fixed:
            stack.enter_context(WeightsInPlace(model, fixed).moved_to(fixed))
        stack.enter_context(placed.moved_to(moved))
        return _run_preserved(objective, call)


def _run_preserved(objective: "Objective", call: Callable[[], T]) -> T:
    if not objective.volatile.matters:
        return call()
    with objective.preserved():
        return call()
