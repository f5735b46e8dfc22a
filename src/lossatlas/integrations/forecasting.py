"""Shared code of the forecast callbacks."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least
from lossatlas.forecast import Curve, LiveForecast, LiveReading
from lossatlas.forecast.law import Law

Floats = NDArray[np.float64]
_log = logging.getLogger("lossatlas.forecast")


class ForecastWatcher:
    """Feeds losses to a `LiveForecast` and reads it periodically.

    Attributes:
        readings: all readings so far, latest last.

    Args:
        history: earlier runs at the same size and peak rate. Default none.
        law: the law for earlier runs. Default: the multi-power law.
        level: the share of final losses that the interval should cover. Default 0.9.
        every: number of recorded losses between readings. Default 20.

    Raises:
        ArgumentError: `every` is not an integer >= 1.
    """

    def __init__(
        self,
        history: Sequence[Curve] = (),
        *,
        law: Law | None = None,
        level: float = 0.9,
        every: int = 20,
    ) -> None:
        check_at_least("every", every, 1)
        self.history, self.law, self.level, self.every = history, law, level, every
        self.readings: list[LiveReading] = []
        self._live: LiveForecast | None = None
        self._recorded = 0

    def begin(self, lr: Floats) -> None:
        """Restart with the schedule of the run.

        Args:
            lr: learning rate of every update.

        Raises:
            ArgumentError: there are fewer than two updates.
            DataError: the values are not learning rates.
        """
        self._live = LiveForecast(lr, history=self.history, law=self.law, level=self.level)
        self.readings.clear()
        self._recorded = 0

    def record(self, step: int, loss: float) -> LiveReading | None:
        """Record a loss.

        Args:
            step: number of updates.
            loss: the loss at this step.

        Returns:
            A reading after every `every`-th loss, otherwise None.
        """
        if self._live is None or step < 1:
            return None
        self._live.update(step, loss)
        self._recorded += 1
        if self._recorded % self.every:
            return None
        reading = self._live.read()
        self.readings.append(reading)
        _log.info("%s", " ".join(reading.sentences()))
        return reading
