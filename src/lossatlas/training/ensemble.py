"""Train many small networks of one architecture together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_one_of, check_same_structure, is_number
from lossatlas.errors import ArgumentError, ModelError
from lossatlas.guard import preserved_modes, preserved_rng
from lossatlas.linalg.params import Params
from lossatlas.training.cohort import Cohort, CohortRun
from lossatlas.training.criteria import Criterion, Loss, as_loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.optimizers import OPTIMIZERS
from lossatlas.training.plan import Data, count_steps, kept_steps, make_plan, task_of
from lossatlas.training.rules import SGD, AdamW, Rule
from lossatlas.training.schedules import Schedule, build_schedule

PerMember = float | Sequence[float]
# More at once gains little: call overhead is already amortized.
TOGETHER = 50


@dataclass(frozen=True, eq=False)
class EnsembleRun:
    """Result of training many networks.

    Attributes:
        losses: loss of each batch before its update, float64, shape (updates, members); NaN
            after a member has diverged.
        rates: learning rates, shape (updates, members).
        states: parameters and buffers at the end, each of shape (members, ...). A diverged
            member stays at its last point.
        checkpoints: parameters and buffers at `checkpoint_steps`, stacked in the same way.
        checkpoint_steps: number of updates before each checkpoint.
        diverged_at: first update at which the loss or the weights of each member were not
            finite, int64, shape (members,); -1 if there is none.
        seconds: wall time.
    """

    losses: np.ndarray[Any, np.dtype[np.float64]]
    rates: np.ndarray[Any, np.dtype[np.float64]]
    states: dict[str, Tensor]
    checkpoints: tuple[dict[str, Tensor], ...]
    checkpoint_steps: tuple[int, ...]
    diverged_at: np.ndarray[Any, np.dtype[np.int64]]
    seconds: float

    def __len__(self) -> int:
        """Number of members.

        Returns:
            Their number.
        """
        return len(self.diverged_at)

    def member(self, index: int) -> dict[str, Tensor]:
        """Parameters and buffers of one member at the end, for `model.load_state_dict`.

        Args:
            index: number of the member.

        Returns:
            name -> view.
        """
        return {name: value[index] for name, value in self.states.items()}


def train_ensemble(
    model: nn.Module,
    data: Data,
    loss: str | Criterion | Loss | None = None,
    *,
    initial: Sequence[Params],
    epochs: int | None = None,
    steps: int | None = None,
    optimizer: str = "sgd",
    lr: PerMember | None = None,
    weight_decay: PerMember | None = None,
    momentum: float = 0.9,
    orders: int | Sequence[int] = 0,
    batch_size: int = 32,
    schedule: str | Schedule = "constant",
    keep: int | Sequence[int] = 0,
    together: int = TOGETHER,
) -> EnsembleRun:
    """Train many networks together; each result equals that of `train`, up to rounding.

    Args:
        model: the architecture; its weights are not changed. Its buffers are the initial
            buffers of all members. With BatchNorm each member has its own running statistics.
        data: a `Dataset`, reshuffled every epoch, or batches, used in their order.
        loss: a name for `build_loss`, a criterion built by it, or `loss(model, batch)`. None
            selects by task: "mse" for a regression, otherwise "cross_entropy".
        initial: initial trainable parameters of each member.
        epochs: passes over the data; pass either this or `steps`.
        steps: number of updates.
        optimizer: "sgd" or "adamw".
        lr: learning rate, one for all or one per member; by default 0.1 for "sgd", 0.001 for
            "adamw".
        weight_decay: one for all or one per member; by default 0 for "sgd", 0.01 for "adamw".
        momentum: momentum of "sgd".
        orders: seeds of the data order, one for all or one per member. A member with order s
            gets the batches of `train(..., seed=s)`.
        batch_size: examples per batch, if `data` is a data set.
        schedule: "constant", "cosine" or a function (step, steps) -> share of the rate.
        keep: number of checkpoints to keep, evenly spaced from start to end, or their steps.
        together: number of members computed at once; limits the memory.

    Returns:
        Losses, final states and checkpoints of all members. A member whose loss becomes
        non-finite stops and is listed in `diverged_at`; the others continue.

    Raises:
        ArgumentError: settings are invalid, or not one per member.
        UnknownNameError: the loss, optimizer or schedule is unknown (the message gives the
            nearest match).
        StructureError: the initial parameters do not match the model.
        DataError: there are no batches.
        LossError: model, loss and batches do not match.
        ModelError: there is nothing to train.
    """
    began = time.perf_counter()
    _check_initial(model, initial)
    members = len(initial)
    check_at_least("together", together, 1)
    plan = make_plan(data, batch_size, next(model.parameters()).device)
    total = count_steps(plan, epochs, steps)
    rates = _rates(optimizer, lr, members, build_schedule(schedule), total)
    default = OPTIMIZERS[optimizer][1].get("weight_decay", 0.0)
    decay = _each("weight_decay", default if weight_decay is None else weight_decay, members)
    seeds = _orders(orders, members, data)
    keeping, measure = kept_steps(keep, total), as_loss(loss, task_of(data))
    runs = []
    with preserved_modes(model), preserved_rng():
        model.train()
        for first in range(0, members, together):
            part = slice(first, first + together)
            cohort = Cohort.start(model, initial[part], seeds[part], rates[:, part])
            rule = _rule(optimizer, decay[part], momentum, cohort.weights)
            runs.append(cohort.run(plan, measure, rule, keeping))
    joined = CohortRun.join(runs)
    return EnsembleRun(
        joined.losses.numpy(),
        rates.numpy(),
        joined.states,
        tuple(joined.kept[step] for step in keeping),
        keeping,
        joined.diverged_at.numpy(),
        time.perf_counter() - began,
    )


def _check_initial(model: nn.Module, initial: Sequence[Params]) -> None:
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ModelError(
            f"{type(model).__name__} has no trainable parameters; unfreeze some to train it."
        )
    if not isinstance(initial, Sequence) or not initial:
        raise ArgumentError(
            "`initial` must be a list with the initial parameters of each member; "
            f"got an empty or invalid {type(initial).__name__}."
        )
    for start in initial:
        check_same_structure(model=trainable, initial=start)


def _rates(
    optimizer: str, lr: PerMember | None, members: int, share: Schedule, total: int
) -> Tensor:
    check_one_of("optimizer", optimizer, ("sgd", "adamw"))
    base = _each("lr", OPTIMIZERS[optimizer][1]["lr"] if lr is None else lr, members)
    if not bool((base > 0).all()):
        raise ArgumentError(f"`lr` must be above 0 for every member; got {lr!r}.")
    shares = torch.tensor([share(step, total) for step in range(total)], dtype=torch.float64)
    return shares[:, None] * base


def _each(argument: str, value: PerMember, members: int) -> Tensor:
    numbers = [value] * members if isinstance(value, int | float) else list(value)
    if len(numbers) != members or not all(is_number(number) for number in numbers):
        raise ArgumentError(
            f"`{argument}` must be a number or {members} numbers, one per member; got "
            f"{value!r}."
        )
    each = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    if not bool((each.isfinite() & (each >= 0)).all()):
        raise ArgumentError(f"`{argument}` must be finite and not below 0; got {value!r}.")
    return each


def _orders(orders: int | Sequence[int], members: int, data: Data) -> list[int]:
    seeds = [orders] * members if isinstance(orders, int) else list(orders)
    if len(seeds) != members:
        raise ArgumentError(
            f"`orders` must be one seed or {members} seeds, one per member; got {len(seeds)}."
        )
    if len(set(seeds)) > 1 and not isinstance(data, Dataset):
        raise ArgumentError(
            "`orders` must be one number if `data` is a list of batches; pass a Dataset to "
            "shuffle it for each member."
        )
    return seeds


def _rule(optimizer: str, decay: Tensor, momentum: float, weights: Params) -> Rule:
    first = next(iter(weights.values()))
    fitting = decay.to(first)
    return SGD(fitting, momentum) if optimizer == "sgd" else AdamW(fitting)
