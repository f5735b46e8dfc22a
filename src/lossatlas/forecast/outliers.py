"""Points of a loss curve that are far from their neighbors."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AROUND = 11  # neighbors that show where the curve stands
GAUSS = 1.4826  # a median absolute deviation in standard deviations of a normal law
FAR_OFF = 8.0  # deviations from which on a point is a spike, as in `watch.spikes`
VISIBLE = 0.01  # of a log error: a point nearer than this to its neighbors hides no error


def outstanding(log: Floats) -> NDArray[np.bool_]:
    """Log errors far from their neighbors: spikes of the loss, or mistakes in the log."""
    if log.size < AROUND:
        return np.zeros(log.size, dtype=bool)
    padded = np.pad(log, AROUND // 2, constant_values=np.nan)
    level = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, AROUND), axis=1)
    noise = GAUSS * np.median(np.abs(np.diff(log))) / np.sqrt(2)
    return np.asarray(np.abs(log - level) > max(FAR_OFF * noise, VISIBLE))
