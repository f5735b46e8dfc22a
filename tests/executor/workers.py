"""Pieces of work, and workers that are killed."""

import os
import signal
from pathlib import Path

import numpy as np

PIECES = [np.full((1, 1), float(number)) for number in range(6)]


def dying(marker: Path, every_time=False):
    """Work whose process is killed at piece 3, the first time or always."""

    def start():
        def work(piece):
            if piece[0, 0] == 3 and (every_time or not marker.exists()):
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return piece**2

        return work

    return start
