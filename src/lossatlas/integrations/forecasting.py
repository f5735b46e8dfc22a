"""What the forecast callbacks of all frameworks share."""

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
    """Feeds losses to a `LiveForecast` and reads it now and then.

    Attributes:
        readings: all readings so far, the latest last.

    Args:
        history: earlier runs at the same size and peak rate. Default none.
        law: the law for earlier runs. Default: the multi-power law.
        level: the share of final losses that the interval should cover. Default 0.9.
        every: read after so many recorded losses. Default 20.

    Raises:
        ArgumentError: `every` is not a whole number >= 1.
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
        """Start anew with the schedule of the run.

        Args:
            lr: the rate of every update.

        Raises:
            ArgumentError: fewer than two updates.
            DataError: values that are no rates.
        """
        self._live = LiveForecast(lr, history=self.history, law=self.law, level=self.level)
        self.readings.clear()
        self._recorded = 0

    def record(self, step: int, loss: float) -> LiveReading | None:
        """Take in a loss.

        Args:
            step: updates done.
            loss: the loss there.

        Returns:
            A reading after every `every`-th loss, else None.
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
