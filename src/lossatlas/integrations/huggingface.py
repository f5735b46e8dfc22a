"""Hugging Face: a callback that forecasts the loss, and a Trainer whose rate is steered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lossatlas.errors import ArgumentError, MissingDependencyError
from lossatlas.forecast import Curve, from_torch
from lossatlas.forecast.law import Law
from lossatlas.integrations.forecasting import ForecastWatcher
from lossatlas.integrations.trackers import Reporter
from lossatlas.objective.batches import split
from lossatlas.steering import DecisionLog, LandscapeLR
from lossatlas.steering.probe import Closure

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingDependencyError(
        "transformers is not installed; install lossatlas[hf] for Hugging Face callbacks."
    ) from error

__all__ = ["ForecastCallback", "SteeringMixin"]
Floats = NDArray[np.float64]


class ForecastCallback(TrainerCallback):
    """Forecasts the final training loss from what the Trainer logs.

    Only watches: training with it is bitwise the training without it. Forecasts go to
    `readings` and to the logger "lossatlas.forecast".

    Attributes:
        watcher: collects and reads.

    Args:
        history: earlier runs at the same size and peak rate (`read_trainer_state`). Default
            none: then a decay still to come is not in the forecast.
        law: the law for earlier runs. Default: the multi-power law.
        level: the share of final losses to cover. Default 0.9.
        every: read after so many logged losses. Default 20.

    Raises:
        ArgumentError: a number out of range.
    """

    def __init__(
        self,
        history: Sequence[Curve] = (),
        *,
        law: Law | None = None,
        level: float = 0.9,
        every: int = 20,
    ) -> None:
        self.watcher = ForecastWatcher(history, law=law, level=level, every=every)

    @property
    def readings(self) -> list[Any]:
        """All readings so far, the latest last."""
        return self.watcher.readings

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the schedule off a copy of the scheduler.

        Args:
            args: not used.
            state: of the Trainer.
            control: not used.
            **kwargs: holds `lr_scheduler`.

        Raises:
            ArgumentError: a scheduler that needs a metric has no schedule to read.
        """
        ahead = from_torch(kwargs["lr_scheduler"], state.max_steps - state.global_step)
        self.watcher.begin(np.concatenate([_past(state, ahead[0]), ahead]))

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take in a logged training loss.

        Args:
            args: not used.
            state: of the Trainer.
            control: not used.
            logs: what was logged.
            **kwargs: not used.
        """
        if state.is_world_process_zero and logs is not None and "loss" in logs:
            self.watcher.record(int(state.global_step), float(logs["loss"]))


# Rates before a resumed run, from its log.
def _past(state: Any, now: float) -> Floats:
    done = int(state.global_step)
    rated = [entry for entry in state.log_history if "learning_rate" in entry]
    if not rated:
        return np.full(done, now)
    step = [entry["step"] for entry in rated]
    rates = [entry["learning_rate"] for entry in rated]
    return np.asarray(np.interp(np.arange(done), step, rates))


class SteeringMixin:
    """Put before `Trainer` in a class: the scheduler becomes a `LandscapeLR` around it.

    It decides as a plain loop with the same settings does. Checkpoints hold its state as that
    of the scheduler, and `resume_from_checkpoint` goes on with it. A `LandscapeLR` that is
    given in `optimizers=` is taken as it is.

    Args:
        *args: of the Trainer.
        steering: settings of `LandscapeLR` by name.
        examples: of a batch that a probe reads. Default 24.
        tracker: anything that `as_tracker` takes; gets new decisions.
        **kwargs: of the Trainer.

    Examples:
        class SteeredTrainer(SteeringMixin, Trainer): ...

        trainer = SteeredTrainer(model=model, args=args, steering={"interval": 50})
    """

    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    compute_loss: Any
    compute_loss_context_manager: Any
    _prepare_inputs: Any

    def __init__(
        self,
        *args: Any,
        steering: Mapping[str, Any] | None = None,
        examples: int = 24,
        tracker: Any = None,
        **kwargs: Any,
    ) -> None:
        self.steering, self.examples = dict(steering or {}), examples
        self._reporter = None if tracker is None else Reporter(tracker)
        self._losses: list[Tensor] = []
        super().__init__(*args, **kwargs)

    @property
    def decisions(self) -> DecisionLog:
        """The decisions so far."""
        steered = isinstance(self.lr_scheduler, LandscapeLR)
        return self.lr_scheduler.log if steered else DecisionLog(())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's scheduler with a controller around it.

        Args:
            num_training_steps: as for the Trainer.
            optimizer: as for the Trainer.

        Returns:
            The controller.

        Raises:
            ArgumentError: a scheduler that waits for a metric.
        """
        if isinstance(self.lr_scheduler, LandscapeLR):
            return self.lr_scheduler
        steered = _bare(self.optimizer if optimizer is None else optimizer)
        inner = super().create_scheduler(num_training_steps, steered)  # type: ignore[misc]
        if isinstance(inner, ReduceLROnPlateau):
            raise ArgumentError(
                "`lr_scheduler_type` must not wait for a metric where the rate is steered; "
                "take another, or PlateauCooldown() as the policy."
            )
        self.lr_scheduler = LandscapeLR(steered, scheduler=inner, **self.steering)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """A step of the Trainer; the controller is shown its batch and its loss.

        Args:
            model: what is trained.
            inputs: the batch.
            *args: as for the Trainer.
            **kwargs: as for the Trainer.

        Returns:
            The loss.
        """
        controller = self.lr_scheduler
        if self._reporter is not None:
            self._reporter.report(controller)
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self._losses.append(loss)
        if self.accelerator.sync_gradients:
            controller.observe(torch.stack(self._losses).sum())
            controller.closure = self._closure(model, inputs)
            self._losses = []
        return loss

    def _closure(self, model: Any, inputs: Any) -> Closure:
        def closure() -> Tensor:
            part = self._prepare_inputs(split(inputs, self.examples)[0])
            with self.compute_loss_context_manager():
                loss: Tensor = self.compute_loss(model, part)
            return loss

        return closure


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    # Accelerate wraps optimizers; hooks belong to what really steps.
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
