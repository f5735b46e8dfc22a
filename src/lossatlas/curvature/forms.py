"""Quadratic forms of one batch: graphs that give products with a vector again and again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lossatlas.curvature.differentiable import UnreachedError, check_finite, check_graph
from lossatlas.errors import LossError
from lossatlas.guard import patched
from lossatlas.linalg.params import Params, norm
from lossatlas.objective import Batch, Objective, Total
from lossatlas.objective.batches import map_tensors, tensors
from lossatlas.rng import generator

Leaves = Mapping[str, Tensor]
Vectors = list[Tensor]
Form = Callable[[Vectors, bool], list[Tensor | None]]
Read = Callable[[], Vectors]
# Takes leaves, a batch and its number; gives the loss of the batch, and v -> (matrix of its
# mean) v.
Build = Callable[[Leaves, Batch, int], tuple[Total, Form]]


def hessian_form(
    objective: Objective, leaves: Leaves, batch: Batch, index: int
) -> tuple[Total, Form]:
    """The Hessian of the mean loss of a batch."""
    total, gradient = gradient_graph(objective, leaves, batch)
    if index == 0:
        check_graph(gradient)
    return total, of_gradient(gradient, leaves)


def gradient_graph(
    objective: Objective, leaves: Leaves, batch: Batch
) -> tuple[Total, tuple[Tensor | None, ...]]:
    """The gradient of the mean loss of a batch, with its graph."""
    points = list(leaves.values())
    total = objective.total(batch)
    mean = total.mean
    if not mean.requires_grad:
        raise UnreachedError
    gradient = torch.autograd.grad(mean, points, create_graph=True, allow_unused=True)
    if all(part is None for part in gradient):
        raise UnreachedError
    check_finite(dict(zip(leaves, gradient, strict=True)))
    return total, gradient


def of_gradient(gradient: Sequence[Tensor | None], leaves: Leaves) -> Form:
    """Products with the derivative of a gradient."""
    return _transposed(gradient, list(leaves.values()))


class PlacedLeaves(dict[str, Tensor]):
    """Parameters of a model whose outputs are differenced at weights that are moved in place.

    Args:
        objective: whose model holds them.
        leaves: name -> the parameter itself.
        point: the whole weights that they hold.
        step: how far differences go in the space of weights.
    """

    def __init__(
        self, objective: Objective, leaves: Leaves, point: Leaves, step: float
    ) -> None:
        super().__init__(leaves)
        self._local, self.point, self.step = objective.local, point, step

    def pushed(self, vector: Vectors, read: Read) -> Vectors:
        """The derivative of outputs along a vector, by central differences of outputs."""
        length = norm(dict(zip(self, vector, strict=True)))
        width = self.step / (length or 1.0)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                place = {
                    name: torch.add(self.point[name], part, alpha=sign * width)
                    for name, part in zip(self, vector, strict=True)
                }
                ends.append(self._local.swapped(place, read))
        return [(a - b).detach() / (2 * width) for a, b in zip(*ends, strict=True)]

    @property
    def sums(self) -> bool:
        """Whether what is pulled back is summed over the processes of a sharded model."""
        placed = self._local.placed
        return placed is not None and placed.sums

    def pulled(self, inner: Tensor, scale: float) -> list[Tensor | None]:
        """The derivative of a number, times a scale, summed over the processes of a model."""
        placed, ranks = self._local.placed, self._local.collective_ranks
        assert placed is not None
        # Scales within the backward pass stay within the range of any dtype.
        typical = scale if ranks is None else max(ranks.gather(scale))
        share = 0.0 if self._local.idling else scale / typical
        parts = placed.gradients(inner * share, ranks)
        ordered = [parts[name] for name in self]
        return [None if part is None else part * typical for part in ordered]


def sandwich_form(
    leaves: Leaves,
    read: Read,
    outputs: Vectors,
    middle: Form,
    index: int,
    *,
    scale: float = 1.0,
) -> Form:
    """J^T A J with J the Jacobian of outputs with respect to the leaves.

    Args:
        leaves: what the outputs are differentiated in.
        read: makes the outputs anew.
        outputs: with their graph.
        middle: u -> A u.
        index: number of the batch.
        scale: what the batch counts among those of all processes that hold pieces of a model;
            see `is_summed`.

    Returns:
        The map v -> J^T A J v.

    Raises:
        UnreachedError: the outputs do not depend on the leaves.
    """
    points = list(leaves.values())
    live = [place for place, value in enumerate(outputs) if value.requires_grad]
    if not live:
        raise UnreachedError
    if is_summed(leaves):
        return _summed(leaves, read, middle, scale)
    seen = [outputs[place] for place in live]
    backward = _transposed(seen, points)
    if isinstance(leaves, PlacedLeaves):
        forward = _differenced(leaves, read, live)
    else:
        forward = _forward(seen, points, index)

    def apply(vector: Vectors, keep: bool) -> list[Tensor | None]:
        pushed: list[Tensor] = [torch.zeros_like(value) for value in outputs]
        for place, part in zip(live, forward(vector, True), strict=True):
            if part is not None:
                pushed[place] = part
        weighed = middle(pushed, keep)
        covectors = [_or_zero(weighed[place], outputs[place]) for place in live]
        return backward(covectors, keep)

    return apply


def is_summed(leaves: Leaves) -> TypeGuard[PlacedLeaves]:
    """Whether forms give sums over processes, with all that batches count in them."""
    return isinstance(leaves, PlacedLeaves) and leaves.sums


def _summed(leaves: PlacedLeaves, read: Read, middle: Form, scale: float) -> Form:
    # A module of `fully_shard` gathers its weights for one pass: the backward pass is that of
    # the last forward pass, at the point itself.
    def apply(vector: Vectors, keep: bool) -> list[Tensor | None]:
        weighed = middle(leaves.pushed(vector, read), keep)
        products = (
            (_wide(value) * _or_zero(part, value).detach()).sum()
            for value, part in zip(read(), weighed, strict=True)
            if value.requires_grad
        )
        return leaves.pulled(reduce(torch.add, products), scale)

    return apply


def _wide(value: Tensor) -> Tensor:
    # Sums over outputs overflow half precision.
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _differenced(leaves: PlacedLeaves, read: Read, live: list[int]) -> Form:
    def forward(vector: Vectors, keep: bool) -> list[Tensor | None]:
        every = leaves.pushed(vector, read)
        return [every[place] for place in live]

    return forward


def _forward(seen: Vectors, points: Vectors, index: int) -> Form:
    # Differentiating the vector-Jacobian product in its vector gives the forward product.
    dummies = [torch.zeros_like(value, requires_grad=True) for value in seen]
    pulled = torch.autograd.grad(seen, points, dummies, create_graph=True, allow_unused=True)
    if all(part is None for part in pulled):
        raise UnreachedError
    if index == 0:
        check_graph(pulled)
    return _transposed(pulled, dummies)


def gauss_newton_form(
    objective: Objective, leaves: Leaves, batch: Batch, index: int
) -> tuple[Total, Form]:
    """J^T H J with H the Hessian of the batch's loss in the model's outputs."""
    total, outputs, middle = _criterion(objective, leaves, batch)
    if _is_zero(middle, outputs):
        raise UnreachedError(
            "the loss is linear in the model's outputs on every batch, so its Gauss-Newton "
            "matrix is zero and says nothing; let the model return logits (log_softmax and the "
            "loss belong into the criterion), or use hessian."
        )
    read = partial(read_outputs, objective, batch)
    return total, sandwich_form(leaves, read, outputs, middle, index, scale=total.scale)


def read_outputs(objective: Objective, batch: Batch) -> Vectors:
    """The same without the loss."""
    return model_outputs(objective, batch)[1]


def model_outputs(objective: Objective, batch: Batch) -> tuple[Total, list[Tensor]]:
    """What the model returns while the loss of a batch is computed."""
    total, calls = _recorded_calls(objective, batch)
    return total, _floating(calls)


def _recorded_calls(objective: Objective, batch: Batch) -> tuple[Total, list[Any]]:
    calls: list[Any] = []
    place = _called(objective)
    forward = getattr(objective.model, place)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        answer = forward(*args, **kwargs)
        # New containers: a loss may take entries out of those that it is given.
        calls.append(map_tensors(lambda value: value, answer))
        return answer

    with patched((objective.model, place, recorded)):
        total = objective.total(batch)
    return total, calls


def _called(objective: Objective) -> str:
    # `model.compile()` puts compiled code beside `forward`, and calls that.
    compiled = getattr(objective.model, "_compiled_call_impl", None)
    return "forward" if compiled is None else "_compiled_call_impl"


def _floating(calls: list[Any]) -> Vectors:
    vectors = [value for call in calls for value in tensors(call) if value.is_floating_point()]
    if any(torch._C._functorch.is_functorch_wrapped_tensor(value) for value in vectors):
        raise LossError(
            "the loss calls the model within a transform of torch.func (vmap, jacrev, jvp), so "
            "it is no function of its outputs alone; use curvature='hessian'."
        )
    if not vectors or any(value.ndim == 0 for value in vectors):
        reason = "is not called by the loss"
        if vectors:
            reason = "computes the loss itself, or another number beside its outputs"
        elif calls:
            reason = f"gives no tensors that are known (in a {type(calls[0]).__name__})"
        kind = LossError if calls else UnreachedError
        raise kind(
            f"the model {reason}, so the loss is not a function of its outputs; write "
            "loss(model, batch) as criterion(model(input), target), or use hessian."
        )
    return vectors


def _criterion(
    objective: Objective, leaves: Leaves, batch: Batch
) -> tuple[Total, Vectors, Form]:
    # The loss, the outputs of the model, and the Hessian of the loss in them.
    total, outputs, cuts, gradient = criterion_gradient(objective, leaves, batch)
    return total, outputs, _transposed(gradient, cuts)


def criterion_gradient(
    objective: Objective, leaves: Leaves, batch: Batch
) -> tuple[Total, Vectors, Vectors, tuple[Tensor | None, ...]]:
    """The gradient of the batch's loss in the model's outputs."""
    total, calls = _recorded_calls(objective, batch)
    outputs = _floating(calls)
    cuts = [value.detach().requires_grad_() for value in outputs]
    with _answering(objective, calls, cuts):
        mean = _read_again(objective, batch)
    if not mean.requires_grad:
        raise UnreachedError(
            "the loss does not read the model's outputs through differentiable operations; "
            "the Gauss-Newton matrix needs loss = criterion(model(input), target)."
        )
    slopes = torch.autograd.grad(
        mean, [*cuts, *leaves.values()], create_graph=True, allow_unused=True
    )
    gradient, beside = slopes[: len(cuts)], slopes[len(cuts) :]
    _check_nothing_beside(dict(zip(leaves, beside, strict=True)), leaves)
    check_finite({f"output {i}": value for i, value in enumerate(gradient)})
    return total, outputs, cuts, gradient


def _read_again(objective: Objective, batch: Batch) -> Tensor:
    # From the recorded outputs. What failed the first time has been named already.
    try:
        return objective.total(batch).mean
    except LossError as error:
        raise LossError(
            "the loss does more with the model's outputs than read them (derivatives of them, "
            "transforms of torch.func, changes in place), and is no function of them alone; "
            "use curvature='hessian'."
        ) from (error.__cause__ or error)


def _check_nothing_beside(slopes: Mapping[str, Tensor | None], leaves: Leaves) -> None:
    for name, slope in slopes.items():
        if slope is not None and _moves(slope, list(leaves.values())):
            raise LossError(
                f"the loss reads '{name}' beside the model's outputs (in a penalty on the "
                "weights, say), and the Gauss-Newton matrix would leave that out; use "
                "curvature='hessian', or take that term out of the loss."
            )


def _moves(slope: Tensor, points: Vectors) -> bool:
    # A slope of zero may still change: a squared weight at zero.
    if bool(slope.any()) or not slope.requires_grad:
        return bool(slope.any())
    bends = torch.autograd.grad(slope.sum(), points, retain_graph=True, allow_unused=True)
    return any(bend is not None and bool(bend.any()) for bend in bends)


@contextmanager
def _answering(objective: Objective, calls: list[Any], values: Vectors) -> Iterator[None]:
    # The model answers as recorded, with values in place of its outputs: what the loss reads
    # beside them, such as a term that the model keeps in an attribute, has its graph still.
    recorded, remaining = iter(calls), iter(values)

    def answer(*args: Any, **kwargs: Any) -> Any:
        return map_tensors(
            lambda value: next(remaining) if value.is_floating_point() else value,
            next(recorded),
        )

    with patched((objective.model, _called(objective), answer)):
        yield


def _transposed(outputs: Any, inputs: Vectors) -> Form:
    live = [
        index
        for index, value in enumerate(outputs)
        if value is not None and value.requires_grad
    ]
    seen = [outputs[index] for index in live]

    def apply(vector: Vectors, keep: bool) -> list[Tensor | None]:
        if not seen:
            return [None] * len(inputs)
        chosen = [vector[index] for index in live]
        return list(
            torch.autograd.grad(seen, inputs, chosen, retain_graph=keep, allow_unused=True)
        )

    return apply


def _is_zero(form: Form, like: Vectors) -> bool:
    drawn = generator(0, "look", device=like[0].device)
    probe = [
        torch.randn(v.shape, generator=drawn, dtype=v.dtype, device=v.device) for v in like
    ]
    return not any(part is not None and bool(part.any()) for part in form(probe, True))


def difference_step(point: Params) -> float:
    """How far central differences go, as a length in the space of weights."""
    fine = all(value.dtype.itemsize > 4 for value in point.values())
    return (1e-4 if fine else 1e-3) * (
        norm({n: value.detach() for n, value in point.items()}) or 1.0
    )


def _or_zero(value: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if value is None else value
