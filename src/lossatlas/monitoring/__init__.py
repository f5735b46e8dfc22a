"""Monitor a training run: instruments while it runs, loss spikes recorded and explained."""

from lossatlas.arguments import guard_exports
from lossatlas.monitoring.monitor import Monitor
from lossatlas.monitoring.monitor_log import MonitorLog
from lossatlas.monitoring.spike_report import CAUSES, SpikeReport, Trial
from lossatlas.monitoring.spikes import SpikeRecorder

__all__ = [
    # instruments while it runs
    "Monitor",
    "MonitorLog",
    # spikes
    "SpikeRecorder",
    "SpikeReport",
    "Trial",
    "CAUSES",
]

guard_exports(__name__)
