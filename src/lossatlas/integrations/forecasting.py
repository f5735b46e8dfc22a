"""What the forecast callbacks of all frameworks share."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least
from lossatlas.forecast import Curve, LiveForecast, Reading
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
        interval: the share of final losses that the interval should cover. Default 0.9.
        every: read after so many recorded losses. Default 20.

    Raises:
        ArgumentError: `every` is not a whole number >= 1.
    """

    def __init__(
        self,
        history: Sequence[Curve] = (),
        *,
        law: Law | None = None,
        interval: float = 0.9,
        every: int = 20,
    ) -> None:
        check_at_least("every", every, 1)
        self.history, self.law, self.interval, self.every = history, law, interval, every
        self.readings: list[Reading] = []
        self._live: LiveForecast | None = None
        self._recorded = 0

    def begin(self, rates: Floats) -> None:
        """Start anew with the schedule of the run.

        Args:
            rates: the rate of every update.

        Raises:
            ArgumentError: fewer than two updates.
            DataError: values that are no rates.
        """
        self._live = LiveForecast(
            rates, history=self.history, law=self.law, interval=self.interval
        )
        self.readings.clear()
        self._recorded = 0

    def record(self, step: int, loss: float) -> Reading | None:
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
        _log.info("%s", sentence(reading))
        return reading


def sentence(reading: Reading) -> str:
    """A reading for a log.

    Args:
        reading: what to say.

    Returns:
        One line.
    """
    if np.isnan(reading.loss):
        return f"step {reading.step}: no forecast yet ({reading.reason})"
    band = f" [{reading.lower:.4f}, {reading.upper:.4f}]" if np.isfinite(reading.lower) else ""
    text = f"step {reading.step}: loss {reading.loss:.4f}{band} expected at {reading.steps}"
    if reading.reason:
        text += f" ({reading.reason})"
    if reading.spikes:
        text += f"; {len(reading.spikes)} spikes, the last at {reading.spikes[-1].step}"
    if reading.deceleration is not None:
        text += f"; progress slowed at step {reading.deceleration.step:.0f}"
    return text
