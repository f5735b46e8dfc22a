"""Lightning: callbacks that forecast the loss, steer the learning rate and average weights."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, from_torch
from lossatlas.forecast.law import Law
from lossatlas.integrations.forecasting import ForecastWatcher
from lossatlas.integrations.lightning_base import (
    LossCallback,
    forward_of,
    lightning_callback,
    muted,
)
from lossatlas.integrations.lightning_monitoring import MonitorCallback, SpikeCallback
from lossatlas.integrations.trackers import Reporter
from lossatlas.objective import Batch
from lossatlas.objective.batches import split
from lossatlas.steering import DecisionLog, LandscapeLR, PolynomialAverage, sub_batch
from lossatlas.steering.probe import Closure
from lossatlas.steering.reading import Policy
from lossatlas.steering.statistics import Forward, check_statistics

__all__ = [
    "AverageCallback",
    "ForecastCallback",
    "MonitorCallback",
    "SpikeCallback",
    "SteeringCallback",
]
Floats = NDArray[np.float64]


class ForecastCallback(lightning_callback()):  # type: ignore[misc]
    """Forecasts the final training loss from batch losses.

    It does not affect training: results are bitwise equal to those without it. Forecasts are
    stored in `readings` and sent to the logger "lossatlas.forecast" and, with `log`, to the
    logger of the module.

    Attributes:
        watcher: collects losses and computes forecasts.

    Args:
        history: earlier runs at the same size and peak rate. Default none: the forecast then
            ignores a decay still to come.
        law: the law for earlier runs. Default: the multi-power law.
        level: coverage of the interval for the final loss. Default 0.9.
        window: number of updates whose losses are averaged to one point. Default 20.
        every: number of points between readings. Default 10.
        log: whether to call `pl_module.log("forecast/final_loss", ...)`. Default True.

    Raises:
        ArgumentError: a number is out of range.
    """

    def __init__(
        self,
        history: Sequence[Curve] = (),
        *,
        law: Law | None = None,
        level: float = 0.9,
        window: int = 20,
        every: int = 10,
        log: bool = True,
    ) -> None:
        super().__init__()
        check_at_least("window", window, 1)
        self.watcher = ForecastWatcher(history, law=law, level=level, every=every)
        self.window, self.log = window, log
        self._sum: Any = 0.0
        self._count = 0
        self._done = 0

    @property
    def readings(self) -> list[Any]:
        """All readings so far, latest last."""
        return self.watcher.readings

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Read the schedule from a copy of the scheduler.

        Args:
            trainer: the Lightning trainer.
            pl_module: not used.

        Raises:
            ArgumentError: the length of training is unknown, or the scheduler needs a metric.
        """
        total = trainer.estimated_stepping_batches
        if not math.isfinite(total) or total < 2:
            raise ArgumentError(
                "`trainer` must have a known number of updates to forecast the end; got "
                f"{total}; set max_steps or max_epochs."
            )
        done = int(trainer.global_step)
        ahead = _ahead(trainer, int(total) - done)
        self.watcher.begin(np.concatenate([np.full(done, ahead[0]), ahead]))
        self._sum, self._count, self._done = 0.0, 0, done

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss of a batch.

        Args:
            trainer: the Lightning trainer.
            pl_module: module that logs the forecast.
            outputs: output of `training_step`: the loss, or a mapping that contains it.
            batch: not used.
            batch_idx: not used.
        """
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        # Summed where it is: reading it on every batch would wait for the device.
        self._sum = self._sum + loss.detach()
        self._count += 1
        step = int(trainer.global_step)
        if step - self._done < self.window:
            return
        reading = self.watcher.record(step, float(self._sum) / self._count)
        self._sum, self._count, self._done = 0.0, 0, step
        if reading is not None and self.log and math.isfinite(reading.loss):
            pl_module.log("forecast/final_loss", reading.loss)


def _ahead(trainer: Any, steps: int) -> Floats:
    configs = list(trainer.lr_scheduler_configs)
    if not configs:
        return np.full(steps, float(trainer.optimizers[0].param_groups[0]["lr"]))
    config = configs[0]
    per_epoch = max(trainer.num_training_batches // trainer.accumulate_grad_batches, 1)
    hold = config.frequency * (per_epoch if config.interval == "epoch" else 1)
    return np.repeat(from_torch(config.scheduler, math.ceil(steps / hold)), hold)[:steps]


Loss = Callable[[Any, Batch], Tensor]


class SteeringCallback(LossCallback):
    """Steers the learning rate of a module with one optimizer, on top of its scheduler.

    It makes the same decisions as a plain loop with the same settings. Checkpoints store its
    state.

    Attributes:
        controller: the `LandscapeLR`; None before training.

    Args:
        policy: the decision policy; `RegimePolicy()` by default.
        loss: loss(module, batch), one number or one per example. By default `training_step` of
            the module with muted logging, whose errors come from antithetic pairs.
        examples: number of examples of a batch used by a probe. Default 24.
        tracker: anything accepted by `as_tracker`; receives new decisions.
        log: whether to call `pl_module.log_dict` with scale and rate at decisions. Default
            False.
        **settings: as for `LandscapeLR`.

    Raises:
        ArgumentError: `tracker` is not a tracker.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        loss: Loss | None = None,
        examples: int = 24,
        tracker: Any = None,
        log: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.policy, self.loss, self.examples, self.log = policy, loss, examples, log
        self.settings = settings
        self.controller: LandscapeLR | None = None
        self._reporter = None if tracker is None else Reporter(tracker)
        self._kept: Mapping[str, Any] | None = None
        self._done = 0

    @property
    def decisions(self) -> DecisionLog:
        """The decisions so far."""
        return DecisionLog(()) if self.controller is None else self.controller.log

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take over the learning rate of the optimizer, and its scheduler if there is one.

        Args:
            trainer: the Lightning trainer.
            pl_module: not used.

        Raises:
            ArgumentError: not exactly one optimizer.
        """
        if len(trainer.optimizers) != 1:
            raise ArgumentError(
                f"the module must have one optimizer to be steered; it has "
                f"{len(trainer.optimizers)}: use LandscapeLR in manual optimization."
            )
        configs = list(trainer.lr_scheduler_configs)
        config = configs[0] if configs else None
        every = config is not None and _every_update(config)
        self.controller = LandscapeLR(
            trainer.optimizers[0],
            self.policy,
            scheduler=None if config is None else config.scheduler,
            per_epoch=config is not None and not every,
            **self.settings,
        )
        if config is not None:
            config.scheduler = _Stepped(self.controller, within=every)
        if self._kept is not None:
            self.controller.load_state_dict(dict(self._kept))
        self.taken_loss()
        self._done = int(trainer.global_step)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Pass the loss to the controller.

        Args:
            trainer: not used.
            pl_module: not used.
            optimizer: not used.
        """
        loss = self.taken_loss()
        if self.controller is not None and loss is not None:
            self.controller.observe(loss)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step the controller after every update.

        Args:
            trainer: the Lightning trainer.
            pl_module: module that the closure runs.
            outputs: not used.
            batch: batch, part of which the probe uses.
            batch_idx: for `training_step`.
        """
        controller, step = self.controller, int(trainer.global_step)
        if controller is None or step == self._done:
            return
        self._done, before = step, len(controller.log)
        with trainer.precision_plugin.forward_context():
            controller.step(self._closure(pl_module, batch, batch_idx))
        if self._reporter is not None:
            self._reporter.report(controller)
        if self.log and len(controller.log) > before:
            pl_module.log_dict(
                {"steering/scale": controller.scales[0], "steering/rate": _rate(controller)}
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Restore the scheduler.

        Args:
            trainer: the Lightning trainer.
            pl_module: not used.
        """
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, _Stepped):
                config.scheduler = config.scheduler.inner

    def state_dict(self) -> dict[str, Any]:
        """State of the controller, for checkpoints.

        Returns:
            "controller"; empty before training.
        """
        return {} if self.controller is None else {"controller": self.controller.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store a state until training starts.

        Args:
            state_dict: output of `state_dict`.
        """
        self._kept = state_dict.get("controller")

    def _closure(self, module: Any, batch: Batch, index: int) -> Closure:
        if self.loss is not None:
            return sub_batch(module, self.loss, batch, self.examples)

        def closure() -> Tensor:
            with muted(module):
                output = module.training_step(split(batch, self.examples)[0], index)
            loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
            return loss

        return closure


class AverageCallback(lightning_callback()):  # type: ignore[misc]
    """Averages the weights of a module; validation and test use the average.

    Values logged by validation during training are those of the average. The module and its
    checkpoints keep the training weights, also after training; `average.best(score)` then
    selects a member of the bank, and inside `with average.swapped():` the module has its
    weights, for evaluation or saving. Updates skipped by mixed precision do not count.
    Checkpoints store the averages.

    Attributes:
        average: the `PolynomialAverage`; None before training.

    Args:
        gamma: see `PolynomialAverage`. Default (4, 16, 64).
        every: updates between two averaged ones; see `PolynomialAverage`. Default None.
        batches: number of training batches for re-estimating BatchNorm statistics. Default 20.
        forward: forward(module, batch) for these. By default the module is called on a tensor,
            on the first entry of a tuple, or with the entries of a mapping; a module without
            `forward` runs its `training_step` without gradients and with muted logging (its
            `validation_step` with manual optimization). It is tested on the first batch.
        validate: whether validation and test use the average. Default True.

    Raises:
        ArgumentError: a number is out of range; when training starts: there are several
            optimizers, or the module has BatchNorm but neither a `forward` nor a step to run.

    Examples:
        averaging = AverageCallback()
        trainer = Trainer(callbacks=[averaging])
        trainer.fit(module, data)
        with averaging.average.swapped():
            torch.save(module.state_dict(), "averaged.pt")
    """

    def __init__(
        self,
        gamma: float | Sequence[float] = (4.0, 16.0, 64.0),
        *,
        every: int | None = None,
        batches: int = 20,
        forward: Forward | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__()
        check_at_least("batches", batches, 1)
        self.gamma, self.every, self.batches = gamma, every, batches
        self.forward, self.validate = forward, validate
        self.average: PolynomialAverage | None = None
        self._kept: Mapping[str, Any] | None = None
        self._shown = ExitStack()
        self._handle: Any = None
        self._is_tried = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start averaging, or continue from a checkpoint.

        Args:
            trainer: the Lightning trainer.
            pl_module: module to average.

        Raises:
            ArgumentError: not exactly one optimizer.
        """
        if len(trainer.optimizers) != 1:
            raise ArgumentError(
                "the module must have one optimizer to be averaged; it has "
                f"{len(trainer.optimizers)}: use PolynomialAverage in manual optimization."
            )
        loader = trainer.train_dataloader
        self.average = PolynomialAverage(
            pl_module,
            self.gamma,
            every=self.every,
            batches=_FirstBatches(loader, self.batches),
            forward=self.forward or forward_of(pl_module),
        )
        self._is_tried = False
        if self._kept is not None:
            self.average.load_state_dict(self._kept)
        self._handle = self.average.follow(trainer.optimizers[0])

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Test the pass that re-estimates statistics, before training.

        Args:
            trainer: trainer that determines the precision.
            pl_module: module to average.
            batch: first batch of training.
            batch_idx: not used.

        Raises:
            ArgumentError: the pass fails on the batch.
        """
        if self._is_tried or self.average is None:
            return
        self._is_tried = True
        with trainer.precision_plugin.forward_context():
            check_statistics(pl_module, [batch], self.average.forward)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop averaging.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        if self._handle is not None:
            self._handle.remove()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Swap in the average.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        if self.validate and self.average is not None and self.average.count:
            self._shown.enter_context(self.average.swapped())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Restore the training weights.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        self._shown.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Restore the training weights.

        Args:
            trainer: not used.
            pl_module: not used.
            exception: not used.
        """
        self._shown.close()

    on_test_start = on_validation_start
    on_test_end = on_validation_end

    def state_dict(self) -> dict[str, Any]:
        """State of the averages, for checkpoints.

        Returns:
            "average"; empty before training.
        """
        if self.average is None:
            return {}
        shown = self.average.is_swapped
        self._shown.close()
        state = {"average": self.average.state_dict()}
        if shown:
            self._shown.enter_context(self.average.swapped())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store a state until training starts.

        Args:
            state_dict: output of `state_dict`.
        """
        self._kept = state_dict.get("average")


class _FirstBatches:
    """The first batches of a loader, iterated from the start each time."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader, self.count = loader, count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.count)


class _Stepped:
    """Stands where Lightning steps a scheduler, and steps it on its own rates."""

    def __init__(self, controller: LandscapeLR, *, within: bool) -> None:
        self.controller, self.within = controller, within
        self.inner: Any = controller.scheduler

    def step(self, metric: Any = None) -> None:
        if not self.within:
            self.controller.step_scheduler(metric)

    def state_dict(self) -> Any:
        return self.inner.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.inner.load_state_dict(state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)


def _every_update(config: Any) -> bool:
    often = config.interval == "step" and config.frequency == 1
    return often and not config.reduce_on_plateau


def _rate(controller: LandscapeLR) -> float:
    return float(controller.get_last_lr()[0])
