"""What the loss returns, and whether two passes agree; checked once, on construction."""

import random
import reprlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_hook

from lossatlas.errors import DataError, LossError, StochasticError
from lossatlas.objective.additivity import depends_on_others, weighs_by_itself
from lossatlas.objective.batches import Batch, batch_size
from lossatlas.objective.firstlook import first_look
from lossatlas.objective.forward_cache import forward_cache
from lossatlas.objective.losses import Supervised, loss_remedy
from lossatlas.objective.sizes import Layout, check_guessed, layout_of
from lossatlas.objective.user_code import wrap_errors
from lossatlas.objective.weighted import (
    Measured,
    Weighted,
    check_pairs,
    check_weights,
    cut_off,
    pairs_of,
)

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

T = TypeVar("T")
# Kernels of one machine may sum in another order; beyond this it is another function.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Look:
    """What the loss gives at the present weights.

    Attributes:
        per_example: whether there is one number, or one pair, an example.
        weighted: whether examples have weights that differ.
        batches: how many there are.
        notes: what has to be known about its numbers, as sentences.
        seconds: of one walk; of the second one where there were two.
    """

    per_example: bool
    weighted: bool
    batches: int
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def check_loss(loss: object, batch: Batch) -> Measured:
    """Require a number, one number an example, or pairs of sums and weights."""
    wanted = "a loss must return a number or one number an example, shape (batch,)"
    if isinstance(loss, Weighted):
        return check_pairs(loss)
    if not isinstance(loss, Tensor):
        if isinstance(loss, float | int):
            return torch.tensor(float(loss), dtype=torch.float64)
        raise LossError(f"{wanted}; got {_described(loss)}.")
    if not loss.is_floating_point():
        raise LossError(f"{wanted}; got {loss.dtype}: return a floating-point tensor.")
    if loss.ndim > 1:
        raise LossError(
            f"{wanted}; got shape {tuple(loss.shape)} for a batch of {batch_size(batch)}: "
            "reduce it, as in losses.mean() or losses.flatten(1).mean(1)."
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


def validate_loss(objective: "Objective", *, twice: bool) -> Look:
    """Walk the data at the present weights, once or twice."""
    with torch.no_grad():
        with wrap_errors("`loss`", loss_remedy(objective.loss)):
            first, seconds = _timed(
                lambda: first_look(objective, lambda: _first_pass(objective))
            )
        known = len(first.pairs) == len(first.values)
        _check_means(objective, first)
        known = known and bool(first.pairs)
        weights = torch.cat([pairs.weights for pairs in first.pairs]) if known else None
        if twice:
            second, seconds = _timed(
                lambda: objective.with_params(
                    None, lambda: _second_pass(objective, known=known)
                )
            )
            before = [pairs.sums for pairs in first.pairs] if known else first.values
            differ = not _agree(before, second)
            if objective.somewhere(differ):
                if not differ:
                    raise StochasticError("two passes differ on another process.")
                again, same = (
                    objective.with_params(None, lambda: _pass_again(objective, known=known))
                    for _ in range(2)
                )
                is_random = _agree(again, same)
                raise StochasticError(_reason(objective, before, second, drawn=is_random))
        several = weights is None and len(first.values) > 1
        findings = [weighs_by_itself(objective)] if several else []
        if known or (objective.collective_ranks is not None and not first.values):
            findings = [depends_on_others(objective), _more_than_examples(objective, first)]
    notes, count = tuple(note for note in findings if note), len(first.values)
    if weights is None:
        return Look(
            per_example=False, weighted=False, batches=count, notes=notes, seconds=seconds
        )
    differ = len(weights) > 0 and bool((weights != weights[0]).any())
    weighted = differ or not all(first.plain)
    return Look(
        per_example=True, weighted=weighted, batches=count, notes=notes, seconds=seconds
    )


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def _more_than_examples(objective: "Objective", first: "_Pass") -> str | None:
    # Numbers of one example (tokens of a sequence) are not independent.
    if objective.size is not None or first.kinds != {"examples"}:
        return None
    for layout, pairs in zip(first.layouts, first.pairs, strict=True):
        size = layout.known or (layout.shapes[0][0] if layout.shapes else 0)
        if not 0 < size < len(pairs.sums):
            return None
    return (
        f"The loss gives {len(pairs.sums)} numbers for a batch of {size}, and each counts as "
        "an example of its own. Where several are of one example, such as tokens of a "
        "sequence, standard errors are too small: return la.Weighted(sums, weights), one pair "
        "an example."
    )


@dataclass(frozen=True)
class _Pass:
    # What the batches gave, on the CPU in float64; pairs of those where examples are known.
    values: list[Tensor] = field(default_factory=list)
    pairs: list[Weighted] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    # Whether sums by weights are the numbers that the loss gives for single examples.
    plain: list[bool] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)


def _check_means(objective: "Objective", first: _Pass) -> None:
    known = len(first.pairs) == len(first.values)
    if not first.values:
        # A share without data: the others tell.
        return
    if {"mean", "pairs"} <= first.kinds:
        raise LossError(
            "a loss must return la.Weighted for every batch or for none; got a mean for some."
        )
    if known and not any(bool(pairs.weights.any()) for pairs in first.pairs):
        raise DataError(
            "nothing counts: the weights of all examples are 0 (every target is ignored, or of "
            "a class of weight 0); check the targets."
        )
    if objective.size is None and not known:
        check_guessed(first.layouts)


def _second_pass(objective: "Objective", *, known: bool) -> list[Tensor]:
    # Every pass starts from the same global random state, which a measurement leaves as it
    # was. Moved on, it shows whatever depends on it.
    torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    return _pass_again(objective, known=known)


def _pass_again(objective: "Objective", *, known: bool) -> list[Tensor]:
    # From the random state of the first: what differs still is no random draw.
    losses = []
    for batch in objective.iter_batches():
        pairs = _examples(objective, batch) if known else None
        value = _value(_call(objective, batch)) if pairs is None else pairs.sums
        if not objective.idling:
            losses.append(value.cpu().double())
    return losses


def _first_pass(objective: "Objective") -> _Pass:
    seen = _Pass()
    for batch in objective.iter_batches():
        with forward_cache(objective.model):
            given = _call(objective, batch)
            if objective.idling:
                continue
            seen.kinds.add(_kind(given))
            seen.layouts.append(layout_of(batch))
            if objective.size is not None:
                objective.size_of(batch)
            value = _value(given)
            seen.values.append(value.cpu().double())
            pairs = _examples(objective, batch, given)
            if pairs is not None and not len(pairs.sums):
                # An empty batch has a name; a selection of no examples is none.
                objective.size_of(batch)
            if pairs is not None and _agrees(objective, pairs, value):
                seen.pairs.append(Weighted(*(part.cpu().double() for part in pairs)))
                check_weights(seen.pairs[-1].weights.numpy())
                seen.plain.append(_is_plain(objective, batch, seen.pairs[-1]))
    return seen


def _is_plain(objective: "Objective", batch: Batch, pairs: Weighted) -> bool:
    if not isinstance(objective.loss, Supervised):
        return bool((pairs.weights == 1).all())
    losses = objective.loss.per_example(objective.model, batch)
    if losses is None:
        return False
    each, rounding = pairs.sums / pairs.weights, _rounding(losses)
    return bool(torch.allclose(losses.cpu().double(), each, rtol=rounding, equal_nan=True))


def _rounding(value: Tensor) -> float:
    # Criteria round to the type of the outputs, once an element and once for the mean.
    return max(TOLERANCE, 4 * torch.finfo(value.dtype).eps)


def _kind(given: Measured) -> str:
    return "pairs" if isinstance(given, Weighted) else "examples" if given.ndim else "mean"


def _value(given: Measured) -> Tensor:
    return given.sums if isinstance(given, Weighted) else given


def _examples(
    objective: "Objective", batch: Batch, given: Measured | None = None
) -> Weighted | None:
    # Pairs of the examples, as far as the loss can give them.
    loss = objective.loss
    if isinstance(loss, Supervised):
        pairs = loss.pairs(objective.model, objective.handed(batch))
        if pairs is not None and _fits(objective, batch, pairs):
            return check_pairs(pairs)
    given = _call(objective, batch) if given is None else given
    if isinstance(given, Tensor) and not given.ndim:
        return None
    return pairs_of(given)


def _fits(objective: "Objective", batch: Batch, pairs: Weighted) -> bool:
    # Where `size=` says another number than axis 0 of the targets, axis 0 is not examples.
    if objective.size is None:
        return True
    return objective.size_of(batch) in {len(pairs.sums), float(pairs.weights.sum())}


def _call(objective: "Objective", batch: Batch) -> Measured:
    with torch.set_grad_enabled(objective.needs_gradients):
        given = cut_off(objective.loss(objective.model, objective.handed(batch)))
    given = check_loss(given, batch)
    if isinstance(given, Tensor) and given.shape == (1,) and objective.size_of(batch) > 1:
        raise LossError(
            "a loss must return a number or one number an example, shape (batch,); got shape "
            f"(1,) for a batch of {objective.size_of(batch):g}: return a mean as a number, as "
            "loss.squeeze(), and one example that counts as la.Weighted(sums, weights)."
        )
    return given


def _agrees(objective: "Objective", pairs: Weighted, value: Tensor) -> bool:
    # Pairs of examples must give the loss: a criterion may weigh in ways that are not known.
    loss = objective.loss
    if not isinstance(loss, Supervised) or value.ndim:
        return True
    total, weight = pairs.sums.double().sum(), pairs.weights.double().sum()
    mean = total if loss.reduction == "sum" else total / weight
    return bool(torch.isclose(mean, value.double(), rtol=_rounding(value), equal_nan=True))


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
                "anew each time; pass list(loader) to freeze one pass (of a long stream "
                "list(itertools.islice(loader, 64))), or shuffle=False."
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
        objective.with_params(None, lambda: _call(objective, next(objective.iter_batches())))
    finally:
        handle.remove()
    return list(active)
