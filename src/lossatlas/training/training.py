"""The training loop used throughout the library."""

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
    """Information passed to a callback after an update.

    Attributes:
        step: number of updates so far, from 1.
        epoch: number of the epoch, from 0.
        loss: loss of the batch, before the update.
        batch: the batch.
        model: the model in training mode, with the gradient of the batch in `.grad`.
        optimizer: the optimizer after its step.
        scheduler: the learning-rate scheduler; None if `schedule` is None.
        closure: function that returns the loss of the same batch at the current weights, with
            its graph.
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
    """Result of a training run.

    Attributes:
        losses: loss of each batch before its update, float64, shape (updates,); NaN or infinite
            at the end of a diverged run.
        rates: learning rate of the first group at each update, shape (updates,).
        state: copies of parameters and buffers at the end.
        checkpoints: copies of the trainable parameters at `checkpoint_steps`, with the running
            statistics of normalization layers, if any.
        checkpoint_steps: number of updates before each checkpoint.
        diverged_at: first update at which the loss or the weights were not finite, or None.
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
    """Train a model in place; equal seeds give bitwise equal results.

    A non-finite loss ends the training and is reported instead of raised.

    Args:
        model: trained in place; train/eval modes of its submodules and global random states are
            restored.
        data: a `Dataset`, reshuffled every epoch, or batches, used in their order.
        loss: a name for `build_loss`, a criterion built by it, or `loss(model, batch)`, which
            returns a number or one number per example. None selects by task: "mse" for a
            regression, otherwise "cross_entropy".
        epochs: passes over the data; pass either this or `steps`.
        steps: number of updates.
        optimizer: "sgd" (momentum 0.9), "adam", "adamw", or a callable that returns one:
            `make(parameters)`, or `make(parameters, lr=lr)` if `lr` is given.
        lr: learning rate; by default 0.1 for "sgd", 0.001 for the others.
        batch_size: examples per batch, if `data` is a data set.
        seed: random seed of the data order and of dropout.
        schedule: "constant", "cosine" or a function (step, steps) -> share of the rate, through
            a `LambdaLR`. None leaves the rates unchanged, so a controller can set them.
        callback: function called with a `StepInfo` after every update; returning True ends the
            training.
        keep: number of checkpoints to keep, evenly spaced from start to end, or their steps; a
            run that ends early adds its last point.
        start: number of updates already done: training continues with the next batches and
            dropout masks. Model and optimizer must be in the same state as then (let
            `optimizer` return one with its state loaded); `steps` still counts from 0.

    Returns:
        Losses, rates, final state and checkpoints.

    Raises:
        ArgumentError: settings are invalid.
        UnknownNameError: the loss, optimizer or schedule is unknown (the message gives the
            nearest match).
        DataError: there are no batches.
        LossError: the model or the loss fails.
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
        with wrap_errors("`loss`", "check that model, loss and data match."):
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
