"""Many small networks of one architecture trained at once."""

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
# More at once gains little: the cost of a call is spread already.
TOGETHER = 50


@dataclass(frozen=True, eq=False)
class EnsembleRun:
    """What the training of many networks leaves.

    Attributes:
        losses: of each batch before its update, float64, shape (updates, members); NaN after
            a member has diverged.
        rates: learning rates, shape (updates, members).
        states: parameters and buffers at the end, each of shape (members, ...). A member that
            diverged stays at its last point.
        checkpoints: parameters and buffers at `checkpoint_steps`, stacked alike.
        checkpoint_steps: updates done when each checkpoint was kept.
        diverged_at: the update at which the loss or the weights of each member were no longer
            finite, int64, shape (members,); -1 where they always were.
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
        """How many members there are.

        Returns:
            Their number.
        """
        return len(self.diverged_at)

    def member(self, index: int) -> dict[str, Tensor]:
        """Parameters and buffers of one member at the end, for `model.load_state_dict`.

        Args:
            index: which.

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
    """Train many networks at once; each as `train` would train it alone, within rounding.

    Args:
        model: the architecture; its weights stay as they are. Its buffers are where the
            members' buffers start. With BatchNorm each member has its own running statistics.
        data: a `Dataset`, shuffled anew for each epoch, or batches, walked in their order.
        loss: a name for `build_loss`, a criterion that it built, or `loss(model, batch)`. None
            takes what fits the data: "mse" for a regression, else "cross_entropy".
        initial: the trainable parameters of each member at the start.
        epochs: walks over the data; give this or `steps`.
        steps: updates.
        optimizer: "sgd" or "adamw".
        lr: learning rate, one for all or one a member; by default 0.1 for "sgd", 0.001 for
            "adamw".
        weight_decay: one for all or one a member; by default 0 for "sgd", 0.01 for "adamw".
        momentum: of "sgd".
        orders: seeds of the data order: one for all, or one a member. A member with order s
            sees the batches of `train(..., seed=s)`.
        batch_size: examples a batch, where `data` is a data set.
        schedule: "constant", "cosine" or a function (step, steps) -> share of the rate.
        keep: how many checkpoints to keep, evenly from start to end, or at which steps.
        together: members computed side by side; the others follow. Bounds the memory.

    Returns:
        Losses, final states and checkpoints of all members. A member whose loss is not finite
        stops there and is named in `diverged_at`; the others go on.

    Raises:
        ArgumentError: settings that cannot be, or not one a member.
        UnknownNameError: an unknown loss, optimizer or schedule (with the nearest match).
        StructureError: initial parameters that do not fit the model.
        DataError: no batches.
        LossError: model, loss and batches do not fit.
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
            f"got {type(initial).__name__} that is empty or no list."
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
            f"`{argument}` must be a number or {members} numbers, one a member; got {value!r}."
        )
    each = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    if not bool((each.isfinite() & (each >= 0)).all()):
        raise ArgumentError(f"`{argument}` must be finite and not below 0; got {value!r}.")
    return each


def _orders(orders: int | Sequence[int], members: int, data: Data) -> list[int]:
    seeds = [orders] * members if isinstance(orders, int) else list(orders)
    if len(seeds) != members:
        raise ArgumentError(
            f"`orders` must be one seed or {members} seeds, one a member; got {len(seeds)}."
        )
    if len(set(seeds)) > 1 and not isinstance(data, Dataset):
        raise ArgumentError(
            "`orders` must be one number where `data` is a list of batches; "
            "give a Dataset to shuffle it for each member."
        )
    return seeds


def _rule(optimizer: str, decay: Tensor, momentum: float, weights: Params) -> Rule:
    first = next(iter(weights.values()))
    fitting = decay.to(first)
    return SGD(fitting, momentum) if optimizer == "sgd" else AdamW(fitting)
