"""What the loss gives, and whether it gives the same twice: asked once, on construction."""

import random
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_hook

from lossatlas.errors import DataError, LossError, StochasticError
from lossatlas.objective.batches import Batch, batch_size, tensors
from lossatlas.objective.firstlook import first_look
from lossatlas.objective.foreign import named_failure
from lossatlas.objective.losses import Supervised, loss_remedy
from lossatlas.objective.memo import remembered_forward

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

# Kernels of one machine may sum in another order; beyond this it is another function.
TOLERANCE = 1e-5


def check_loss(loss: object, batch: Batch) -> Tensor:
    """Require a number, or one number for each example of the batch.

    Args:
        loss: what a loss returned.
        batch: what it was given.

    Returns:
        The loss as a tensor of shape () or (batch,).

    Raises:
        LossError: a matrix, a vector of another length, no tensor, or not a real number.
    """
    wanted = "a loss must return a number or one number an example, shape (batch,)"
    if not isinstance(loss, Tensor):
        if isinstance(loss, float | int):
            return torch.tensor(float(loss), dtype=torch.float64)
        raise LossError(f"{wanted}; got {_described(loss)}.")
    if not loss.is_floating_point():
        raise LossError(f"{wanted}; got {loss.dtype}: return a floating-point tensor.")
    if loss.ndim > 1 or (loss.ndim == 1 and loss.shape[0] != batch_size(batch)):
        raise LossError(
            f"{wanted}; got shape {tuple(loss.shape)} for a batch of {batch_size(batch)}: "
            "reduce it, as in losses.mean()."
        )
    return loss


def _described(loss: object) -> str:
    name = type(loss).__name__
    if isinstance(loss, Mapping) and loss:
        entries = ", ".join(reprlib.repr(key) for key in list(loss)[:4])
        wanted = "loss" if "loss" in loss else next(iter(loss))
        return f"{name} with {entries}: pick the entry, as in output[{wanted!r}]"
    if isinstance(loss, list | tuple) and loss:
        return f"{name} of {len(loss)}: pick the entry, as in output[0]"
    return name


def look_at_loss(objective: "Objective", *, twice: bool) -> bool:
    """Walk the data at the present weights, once or twice.

    Args:
        objective: under construction.
        twice: require a second pass to give the same.

    Returns:
        Whether there is one number an example.

    Raises:
        DataError: several batches, and one does not say how many examples it holds.
        LossError: the loss fails, or returns neither a number nor one number an example.
        StochasticError: the passes differ; the message names the likely reason.
    """
    with torch.no_grad():
        with named_failure("`loss`", loss_remedy(objective.loss)):
            means, examples = first_look(objective, lambda: _first_pass(objective))
        _check_weights(objective, len(means))
        known = len(examples) == len(means)
        if twice:
            first = examples if known else means
            second = objective.at(None, lambda: _second_pass(objective, known=known))
            if not _agree(first, second):
                again = objective.at(None, lambda: _third_pass(objective, known=known))
                drawn = _agree(first, again)
                raise StochasticError(_reason(objective, first, second, drawn=drawn))
    return known


def _check_weights(objective: "Objective", batches: int) -> None:
    if batches > 1 and any(objective.gathered(lambda b: next(tensors(b), None) is None)):
        raise DataError(
            "a batch holds no tensor that says how many examples it has; use tensors in "
            "tuples, lists, mappings or dataclasses, or put all data into one batch."
        )


def _second_pass(objective: "Objective", *, known: bool) -> list[Tensor]:
    # Every pass starts from the same global random state, which a measurement leaves as it
    # was. Moved on, it shows whatever depends on it.
    torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    measure = _examples if known else _call
    return [measure(objective, batch).cpu().double() for batch in objective.each_batch()]


def _third_pass(objective: "Objective", *, known: bool) -> list[Tensor]:
    # From the random state of the first: what differs still is no random draw.
    measure = _examples if known else _call
    return [measure(objective, batch).cpu().double() for batch in objective.each_batch()]


def _first_pass(objective: "Objective") -> tuple[list[Tensor], list[Tensor]]:
    means, examples = [], []
    for batch in objective.each_batch():
        with remembered_forward(objective.model):
            value = _call(objective, batch)
            means.append(value.cpu().double())
            if _examples_known(objective, batch, value):
                examples.append(_examples(objective, batch).cpu().double())
    return means, examples


def _examples(objective: "Objective", batch: Batch) -> Tensor:
    loss = objective.loss
    losses = None
    if isinstance(loss, Supervised):
        losses = loss.per_example(objective.model, objective.handed(batch))
    return _call(objective, batch) if losses is None else losses


def _call(objective: "Objective", batch: Batch) -> Tensor:
    with torch.set_grad_enabled(objective.needs_gradients):
        given = objective.loss(objective.model, objective.handed(batch))
    return (
        check_loss(given, batch).detach()
        if isinstance(given, Tensor)
        else check_loss(given, batch)
    )


def _examples_known(objective: "Objective", batch: Batch, value: Tensor) -> bool:
    # Example losses must average to the loss; class weights, say, break that.
    if value.ndim == 1:
        return True
    if not isinstance(objective.loss, Supervised):
        return False
    losses = objective.loss.per_example(objective.model, objective.handed(batch))
    if losses is None or losses.shape != (batch_size(batch),):
        return False
    mean = losses.double().mean()
    return bool(torch.isclose(mean, value.double(), rtol=TOLERANCE, equal_nan=True))


def _agree(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=TOLERANCE, equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )


def _reason(
    objective: "Objective", first: list[Tensor], second: list[Tensor], *, drawn: bool
) -> str:
    one, two = (
        torch.cat([value.reshape(-1) for value in values]) for values in (first, second)
    )
    differ = f"two passes over the same weights differ ({_apart(one, two)})"
    layers = _dropping(objective) if drawn else []
    if first and len(one) == len(two) and torch.allclose(one.mean(), two.mean(), rtol=1e-3):
        shuffled = torch.allclose(one.sort().values, two.sort().values, rtol=TOLERANCE)
        if shuffled or (drawn and not layers):
            return (
                f"{differ} in single batches: the data seem to come shuffled or augmented "
                "anew each time; pass list(loader) to freeze one pass, or shuffle=False."
            )
    if not drawn:
        return (
            f"{differ}, and so do two from the same random state: the loss depends on state "
            "that a call changes (a counter, a cache or a queue outside the model, a generator "
            "of its own, data that change); make it a fixed function of the weights."
        )
    name = (
        f"dropout ({', '.join(layers)})"
        if layers
        else ("F.dropout without training=self.training, noise, shuffling")
    )
    return (
        f"{differ}: {name} or another random draw is active even in eval mode; make the loss "
        "a fixed function of the weights."
    )


def _apart(one: Tensor, two: Tensor) -> str:
    # Shuffled data give the same mean; what differs is then single values.
    means = f"{one.mean():.6g}", f"{two.mean():.6g}"
    if means[0] != means[1] or len(one) != len(two):
        return f"{means[0]} and {means[1]}"
    differ = ~torch.isclose(one, two, rtol=TOLERANCE, equal_nan=True)
    at = int((one - two).abs().nan_to_num(torch.inf).where(differ, -1.0).argmax())
    return f"the mean is {means[0]} in both, value {at} is {one[at]:.6g} and {two[at]:.6g}"


def _dropping(objective: "Objective") -> list[str]:
    # Dropout layers that are active: in eval mode none is, unless the model says otherwise.
    names = {module: name for name, module in objective.model.named_modules()}
    active: dict[str, None] = {}

    def note(module: nn.Module, _inputs: object, _output: object) -> None:
        if isinstance(module, _DropoutNd) and module.training and module.p:
            active[names.get(module, type(module).__name__)] = None

    handle = register_module_forward_hook(note)
    try:
        objective.at(None, lambda: _call(objective, next(objective.each_batch())))
    finally:
        handle.remove()
    return list(active)
