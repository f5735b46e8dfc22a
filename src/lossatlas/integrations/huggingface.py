"""Hugging Face: callbacks for forecasts and averages, and Trainer mix-ins for steering."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, from_torch
from lossatlas.forecast.law import Law
from lossatlas.integrations.forecasting import ForecastWatcher
from lossatlas.integrations.huggingface_base import (
    LossCallback,
    TrainerCallback,
    bare_optimizer,
    kept_file,
    written_folder,
)
from lossatlas.integrations.huggingface_monitoring import MonitorCallback, SpikeMixin
from lossatlas.integrations.trackers import Reporter
from lossatlas.objective.batches import split
from lossatlas.steering import DecisionLog, LandscapeLR, PolynomialAverage
from lossatlas.steering.probe import Closure
from lossatlas.steering.statistics import Forward
from lossatlas.training.checkpoints import save_weights

__all__ = [
    "AverageCallback",
    "AverageMixin",
    "ForecastCallback",
    "MonitorCallback",
    "SpikeMixin",
    "SteeringMixin",
]
Floats = NDArray[np.float64]


class ForecastCallback(LossCallback):
    """Forecasts the final training loss from the losses logged by the Trainer.

    It does not affect training: results are bitwise equal to those without it. Forecasts are
    stored in `readings` and sent to the logger "lossatlas.forecast".

    Attributes:
        watcher: collects losses and computes forecasts.

    Args:
        history: earlier runs at the same size and peak rate (`read_trainer_state`). Default
            none: the forecast then ignores a decay still to come.
        law: the law for earlier runs. Default: the multi-power law.
        level: coverage of the interval for the final loss. Default 0.9.
        every: number of logged losses between readings. Default 20.

    Raises:
        ArgumentError: a number is out of range.
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
        """All readings so far, latest last."""
        return self.watcher.readings

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the schedule from a copy of the scheduler.

        Args:
            args: not used.
            state: state of the Trainer.
            control: not used.
            **kwargs: includes `lr_scheduler`.

        Raises:
            ArgumentError: the scheduler needs a metric, so it has no schedule.
        """
        ahead = from_torch(kwargs["lr_scheduler"], state.max_steps - state.global_step)
        self.watcher.begin(np.concatenate([_past(state, ahead[0]), ahead]))

    def take_loss(self, state: Any, loss: float) -> None:
        """Update the forecast, on the first process.

        Args:
            state: state of the Trainer.
            loss: mean loss since the last call.
        """
        if state.is_world_process_zero:
            self.watcher.record(int(state.global_step), loss)


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
    """Mix-in for `Trainer` that wraps the scheduler in a `LandscapeLR`.

    It makes the same decisions as a plain loop with the same settings. Checkpoints store its
    state as that of the scheduler, and `resume_from_checkpoint` restores it. A `LandscapeLR`
    passed in `optimizers=` is used unchanged.

    Args:
        *args: arguments of the Trainer.
        steering: settings of `LandscapeLR` by name.
        examples: number of examples of a batch used by a probe. Default 24.
        tracker: anything accepted by `as_tracker`; receives new decisions.
        **kwargs: keyword arguments of the Trainer.

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
        """Wrap the scheduler of the Trainer in a controller.

        Args:
            num_training_steps: as for the Trainer.
            optimizer: as for the Trainer.

        Returns:
            The controller.

        Raises:
            ArgumentError: the scheduler needs a metric.
        """
        if isinstance(self.lr_scheduler, LandscapeLR):
            return self.lr_scheduler
        steered = bare_optimizer(self.optimizer if optimizer is None else optimizer)
        inner = super().create_scheduler(num_training_steps, steered)  # type: ignore[misc]
        if isinstance(inner, ReduceLROnPlateau):
            raise ArgumentError(
                "`lr_scheduler_type` must not need a metric if the rate is steered; use "
                "another one, or PlateauCooldown() as the policy."
            )
        self.lr_scheduler = LandscapeLR(steered, scheduler=inner, **self.steering)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """A training step of the Trainer; its batch and loss are passed to the controller.

        Args:
            model: the model in training.
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


AVERAGES = "weight_average.safetensors"


class AverageCallback(TrainerCallback):
    """Averages the weights of a Trainer's model.

    Updates skipped by mixed precision do not count. Checkpoints store the averages next to the
    weights (`weight_average.safetensors`), and `resume_from_checkpoint` restores them. After
    training, `average.best(score)` selects a member of the bank, and `with average.swapped():
    trainer.save_model(...)` saves it. `AverageMixin` makes the Trainer evaluate the average.

    Attributes:
        average: the `PolynomialAverage`; None before training.

    Args:
        gamma: see `PolynomialAverage`. Default (4, 16, 64).
        every: updates between two averaged ones; see `PolynomialAverage`. Default None.
        batches: batches to re-estimate BatchNorm statistics; transformers rarely have any.
        forward: forward(model, batch) for these; by default model(**batch).

    Raises:
        ArgumentError: a number is out of range.
    """

    def __init__(
        self,
        gamma: float | Sequence[float] = (4.0, 16.0, 64.0),
        *,
        every: int | None = None,
        batches: Iterable[Any] | None = None,
        forward: Forward | None = None,
    ) -> None:
        self._settings = {"every": every, "batches": batches, "forward": forward}
        self._gamma = gamma
        self.average: PolynomialAverage | None = None
        self._handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start averaging, or continue from a checkpoint.

        Args:
            args: of the Trainer.
            state: state of the Trainer.
            control: not used.
            **kwargs: includes `model` and `optimizer`.

        Raises:
            ArgumentError: the checkpoint of a resumed run has no averages.
        """
        model: nn.Module = kwargs["model"]
        self.average = PolynomialAverage(model, self._gamma, **self._settings)  # type: ignore[arg-type]
        if state.global_step:
            _load_average(self.average, kept_file(args, state, AVERAGES, "averages", self))
        self._handle = self.average.follow(bare_optimizer(kwargs["optimizer"]))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the averages next to the weights.

        Args:
            args: of the Trainer.
            state: state of the Trainer.
            control: not used.
            **kwargs: not used.
        """
        folder = written_folder(args, state)
        if self.average is not None and folder is not None:
            _save_average(self.average, folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop averaging.

        Args:
            args: not used.
            state: not used.
            control: not used.
            **kwargs: not used.
        """
        if self._handle is not None:
            self._handle.remove()


class AverageMixin:
    """Mix-in for `Trainer` that evaluates the average of its `AverageCallback`.

    Examples:
        class AveragedTrainer(AverageMixin, Trainer): ...

        trainer = AveragedTrainer(model=model, args=args, callbacks=[AverageCallback()])
    """

    callback_handler: Any

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The evaluation loop of the Trainer, on the average if there is one.

        Args:
            *args: as for the Trainer.
            **kwargs: as for the Trainer.

        Returns:
            The output of the Trainer.
        """
        for callback in self.callback_handler.callbacks:
            average = callback.average if isinstance(callback, AverageCallback) else None
            if average is not None and average.count and not average.is_swapped:
                with average.swapped():
                    return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
        return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]


def _save_average(average: PolynomialAverage, folder: Path) -> None:
    state = average.state_dict()
    members: dict[str, dict[str, Tensor]] = state.pop("averages")
    tensors = {f"{g}/{name}": t for g, m in members.items() for name, t in m.items()}
    save_weights(tensors, folder / AVERAGES)
    (folder / AVERAGES).with_suffix(".json").write_text(json.dumps(state))


def _load_average(average: PolynomialAverage, path: Path) -> None:
    from safetensors.torch import load_file

    members: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        gamma, _, name = key.partition("/")
        members.setdefault(gamma, {})[name] = value
    ordered = {f"{g:g}": members[f"{g:g}"] for g in average.gammas if f"{g:g}" in members}
    state = json.loads(path.with_suffix(".json").read_text())
    average.load_state_dict(state | {"averages": ordered})
