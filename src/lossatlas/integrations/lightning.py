"""Lightning: the predicted final loss while a `Trainer` runs, and a steered rate."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.forecast import Curve, from_torch
from lossatlas.forecast.law import Law
from lossatlas.integrations.base import lightning_callback
from lossatlas.integrations.forecasting import ForecastWatcher
from lossatlas.integrations.lightning_steering import SteeringCallback

__all__ = ["ForecastCallback", "SteeringCallback"]
Floats = NDArray[np.float64]


class ForecastCallback(lightning_callback()):  # type: ignore[misc]
    """Forecasts the final training loss from the losses of the batches.

    Only watches: training with it is bitwise the training without it. Forecasts go to
    `readings`, to the logger "lossatlas.forecast", and, with `log`, to the module's own logger.

    Attributes:
        watcher: collects and reads.

    Args:
        history: earlier runs at the same size and peak rate. Default none: then a decay still
            to come is not in the forecast.
        law: the law for earlier runs. Default: the multi-power law.
        level: the share of final losses to cover. Default 0.9.
        window: average the losses of so many updates into one point. Default 20.
        every: read after so many points. Default 10.
        log: also `pl_module.log("forecast/final_loss", ...)`. Default True.

    Raises:
        ArgumentError: a number out of range.
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
        """All readings so far, the latest last."""
        return self.watcher.readings

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Read the schedule off a copy of the scheduler.

        Args:
            trainer: the Lightning trainer.
            pl_module: not used.

        Raises:
            ArgumentError: training has no known end, or a scheduler that needs a metric.
        """
        total = trainer.estimated_stepping_batches
        if not math.isfinite(total) or total < 2:
            raise ArgumentError(
                f"`trainer` must know how many updates it will do to forecast the end; got "
                f"{total}; set max_steps or max_epochs."
            )
        done = int(trainer.global_step)
        ahead = _ahead(trainer, int(total) - done)
        self.watcher.begin(np.concatenate([np.full(done, ahead[0]), ahead]))
        self._sum, self._count, self._done = 0.0, 0, done

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the loss of a batch.

        Args:
            trainer: the Lightning trainer.
            pl_module: logs the forecast.
            outputs: what `training_step` returned: the loss, or a mapping that holds it.
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
