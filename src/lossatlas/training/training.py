"""One training loop, for every room that needs a trained network or a trajectory."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError, ModelError
from lossatlas.guard import preserved_modes, preserved_rng
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective import Batch
from lossatlas.objective.user_code import wrap_errors
from lossatlas.objective.weighted import batch_mean
from lossatlas.rng import derive_seed
from lossatlas.training.criteria import Criterion, Loss, as_loss
from lossatlas.training.optimizers import Optimizer, build_optimizer
from lossatlas.training.plan import (
    Data,
    Plan,
    copied,
    count_steps,
    kept_steps,
    make_plan,
    task_of,
)
from lossatlas.training.schedules import Schedule, build_schedule
from lossatlas.training.seeding import reseed


@dataclass(frozen=True)
class StepInfo:
    """What a callback sees after an update.

    Attributes:
        step: updates done so far, from 1.
        epoch: walks over the data begun before this one, from 0.
        loss: of the batch, before the update.
        batch: the batch.
        model: in training mode, with the gradient of the batch in `.grad`.
        optimizer: after its step.
        scheduler: the scheduler of the rates; None where `schedule` is None.
        closure: the loss of the same batch at the present weights, with its graph.
    """

    step: int
    epoch: int
    loss: float
    batch: Batch
    model: nn.Module
    optimizer: Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    closure: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """What a training leaves.

    Attributes:
        losses: of each batch before its update, float64, shape (updates,); NaN or infinite at
            the end of a run that diverged.
        rates: learning rate of the first group at each update, shape (updates,).
        state: parameters and buffers at the end, copies.
        checkpoints: the trainable parameters at `checkpoint_steps`, copies, with the running
            statistics of normalization layers where there are any.
        checkpoint_steps: updates done when each checkpoint was kept.
        diverged_at: the update at which loss or weights were no longer finite; None otherwise.
        seconds: wall time.
    """

    losses: np.ndarray[Any, np.dtype[np.float64]]
    rates: np.ndarray[Any, np.dtype[np.float64]]
    state: dict[str, Tensor]
    checkpoints: tuple[Params, ...]
    checkpoint_steps: tuple[int, ...]
    diverged_at: int | None
    seconds: float


@dataclass
class _Log:
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    diverged_at: int | None = None


def train(
    model: nn.Module,
    data: Data,
    loss: str | Criterion | Loss | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    optimizer: str | Callable[..., Optimizer] = "sgd",
    lr: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    schedule: str | Schedule | None = None,
    callback: Callable[[StepInfo], object] | None = None,
    keep: int | Sequence[int] = 0,
    start: int = 0,
) -> TrainingRun:
    """Train a model in place; the same seed gives the same bits.

    A loss that is not finite ends the training and is reported, not raised.

    Args:
        model: trained in place; train/eval of its submodules and the global random states come
            back as they were.
        data: a `Dataset`, shuffled anew for each epoch, or batches, walked in their order.
        loss: a name for `build_loss`, a criterion that it built, or `loss(model, batch)`, a
            number or one number an example. None takes what fits the data: "mse" for a
            regression, else "cross_entropy".
        epochs: walks over the data; give this or `steps`.
        steps: updates.
        optimizer: "sgd" (momentum 0.9), "adam", "adamw", or a callable that makes one:
            `make(parameters)`, `make(parameters, lr=lr)` where `lr` is given.
        lr: learning rate; by default 0.1 for "sgd", 0.001 for the others.
        batch_size: examples a batch, where `data` is a data set.
        seed: of the data order and of dropout.
        schedule: "constant", "cosine" or a function (step, steps) -> share of the rate, through
            a `LambdaLR`. None never writes the rates: a controller may.
        callback: called with a `StepInfo` after every update; returning True ends the training.
        keep: how many checkpoints to keep, evenly from start to end, or at which steps; a run
            that ends early adds its last point.
        start: updates that are done already: the training goes on with the batches and dropout
            masks that come next. Model and optimizer must be as they were (let `optimizer`
            make one and load its state); `steps` still counts from 0.

    Returns:
        Losses, rates, final state and checkpoints.

    Raises:
        ArgumentError: settings that cannot be.
        UnknownNameError: an unknown loss, optimizer or schedule (with the nearest match).
        DataError: no batches.
        LossError: model or loss fail.
        ModelError: there is nothing to train.
    """
    began = time.perf_counter()
    weights = _trainable(model)
    device = next(iter(weights.values())).device
    plan = make_plan(data, batch_size, device)
    total = count_steps(plan, epochs, steps)
    check_at_least("start", start, 0)
    made = build_optimizer(optimizer, weights.values(), lr)
    measure = as_loss(loss, task_of(data))
    loop = _Loop(model, measure, made, _scheduler(made, schedule, total, start), plan, seed)
    keeping = kept_steps(keep, total)
    log = _Log()
    with preserved_modes(model), preserved_rng(), torch.enable_grad():
        model.train()
        for tick in loop.run(start, total, log, keeping):
            if callback is not None and _stops(callback, tick):
                break
    arrived = _arrival(start, log, weights)
    if keeping and arrived < total:
        log.kept.setdefault(arrived, copied(weights | _statistics(model)))
    made.zero_grad(set_to_none=True)
    return TrainingRun(
        np.array(log.losses),
        np.array(log.rates),
        copied(model.state_dict()),
        tuple(log.kept.values()),
        tuple(log.kept),
        log.diverged_at,
        time.perf_counter() - began,
    )


def _stops(callback: Callable[[StepInfo], object], step: StepInfo) -> bool:
    with wrap_errors("`callback`", "it is called with one StepInfo.", ArgumentError):
        return callback(step) is True


@dataclass(frozen=True)
class _Loop:
    model: nn.Module
    loss: Loss
    optimizer: Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR | None
    plan: Plan
    seed: int

    def run(
        self, start: int, stop: int, log: _Log, keeping: Sequence[int]
    ) -> Iterator[StepInfo]:
        weights = _trainable(self.model)
        if start in keeping:
            log.kept[start] = copied(weights | _statistics(self.model))
        for step, batch in enumerate(self.plan.walk(self.seed, start, stop), start=start):
            tick = self._update(step, batch, log)
            if tick is None:
                return
            if step + 1 in keeping:
                log.kept[step + 1] = copied(weights | _statistics(self.model))
            yield tick

    def _update(self, step: int, batch: Batch, log: _Log) -> StepInfo | None:
        def closure() -> Tensor:
            return batch_mean(self.loss(self.model, batch))

        # A seed for each step makes dropout independent of what callbacks draw, and resumable.
        reseed(derive_seed(self.seed, "step", step), self._device())
        self.optimizer.zero_grad(set_to_none=True)
        with wrap_errors("`loss`", "check that model, loss and data fit."):
            value = closure()
        log.losses.append(value.item())
        log.rates.append(float(self.optimizer.param_groups[0]["lr"]))
        if not math.isfinite(log.losses[-1]):
            log.diverged_at = step
            return None
        torch.autograd.backward(value)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        epoch = step // self.plan.steps_per_epoch
        return StepInfo(
            step + 1,
            epoch,
            log.losses[-1],
            batch,
            self.model,
            self.optimizer,
            self.scheduler,
            closure,
        )

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {
        name: value for name, value in model.named_parameters() if value.requires_grad
    }
    if not weights:
        raise ModelError(
            f"{type(model).__name__} has no trainable parameters; unfreeze some to train it."
        )
    return weights


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {
        qualified_name(path, name): value
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        for name, value in module.named_buffers(recurse=False)
        if value.is_floating_point()
    }


def _scheduler(
    optimizer: Optimizer, schedule: str | Schedule | None, total: int, start: int
) -> torch.optim.lr_scheduler.LambdaLR | None:
    if schedule is None:
        return None
    share = build_schedule(schedule)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: share(step, total), last_epoch=start - 1
    )


def _arrival(start: int, log: _Log, weights: dict[str, Tensor]) -> int:
    if log.diverged_at is not None:
        return log.diverged_at
    done = start + len(log.losses)
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        log.diverged_at = done
    return done
