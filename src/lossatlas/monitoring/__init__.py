"""Watching a training: instruments while it runs, spikes recorded and explained."""

from lossatlas.arguments import guard_exports
from lossatlas.monitoring.spike_report import CAUSES, SpikeReport, Trial
from lossatlas.monitoring.spikes import SpikeRecorder

__all__ = ["SpikeRecorder", "SpikeReport", "Trial", "CAUSES"]

guard_exports(__name__)
