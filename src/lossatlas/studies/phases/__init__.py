"""The load-temperature plane: five phases of training, told apart by their landscape."""

from lossatlas.arguments import guard_exports
from lossatlas.studies.phases.curve import Connection, bezier, connect, mode_connectivity
from lossatlas.studies.phases.result import (
    MEANING,
    OF_PAIRS,
    OF_SEEDS,
    PHASES,
    PhasePlane,
    Thresholds,
    ring,
)
from lossatlas.studies.phases.study import phase_plane

__all__ = [
    "MEANING",
    "OF_PAIRS",
    "OF_SEEDS",
    "PHASES",
    "Connection",
    "PhasePlane",
    "Thresholds",
    "bezier",
    "connect",
    "mode_connectivity",
    "phase_plane",
    "ring",
]

guard_exports(__name__)
