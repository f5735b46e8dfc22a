"""Hugging Face: the predicted final loss while a `Trainer` runs, and a steered rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import MissingDependencyError
from lossatlas.forecast import Curve, from_torch
from lossatlas.forecast.law import Law
from lossatlas.integrations.forecasting import ForecastWatcher
from lossatlas.integrations.huggingface_steering import SteeringMixin

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
