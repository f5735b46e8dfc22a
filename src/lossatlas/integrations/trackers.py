"""Send decisions of a controller to experiment trackers; for readings see `la.Monitor`."""

import math
from typing import Any

from lossatlas.monitoring.trackers import (
    JsonLines,
    MLflow,
    TensorBoard,
    Tracker,
    Wandb,
    as_tracker,
)
from lossatlas.steering import DecisionRecord, LandscapeLR

__all__ = [
    "JsonLines",
    "MLflow",
    "Reporter",
    "TensorBoard",
    "Tracker",
    "Wandb",
    "as_tracker",
]
_MEASURED = ("loss", "sharpness", "variability", "persistence", "edge", "train_loss")


class Reporter:
    """Sends each decision of a controller to a tracker once.

    Args:
        tracker: as for `as_tracker`.
        prefix: prefix of every name. Default "steering/".

    Raises:
        ArgumentError: `tracker` is not a tracker.
    """

    def __init__(self, tracker: Any, prefix: str = "steering/") -> None:
        self.tracker, self.prefix = as_tracker(tracker), prefix
        self._sent = 0

    def report(self, controller: LandscapeLR) -> int:
        """Send new decisions.

        Args:
            controller: the controller.

        Returns:
            Number of decisions sent.
        """
        fresh = controller.log.records[self._sent :]
        for record in fresh:
            self.tracker.log(self._values(record), record.reading.step)
        self._sent += len(fresh)
        return len(fresh)

    def _values(self, record: DecisionRecord) -> dict[str, float]:
        values = {name: float(getattr(record.reading, name)) for name in _MEASURED}
        values |= {"scale": record.scales[0], "rate": record.lr[0]}
        values["failed"] = float(record.failed)
        return {self.prefix + name: v for name, v in values.items() if math.isfinite(v)}
