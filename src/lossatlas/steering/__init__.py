"""Steering: read the landscape, decide, scale the rate; penalties; averages and schedules.

`LandscapeLR` is the controller, `TopoAdamW` the drop-in with one inside. Policies are pure
rules from `Reading` to `Decision`; penalties live in `lossatlas.steering.penalties`.
"""

from lossatlas.arguments import guard_exports
from lossatlas.steering.averaged_optimizer import AveragedOptimizer, recipe
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.log import DecisionLog, DecisionRecord, replay
from lossatlas.steering.optimizers import TopoAdamW
from lossatlas.steering.policies import (
    POLICIES,
    EdgePolicy,
    GrowthPolicy,
    MoMoPolicy,
    NoisePolicy,
    PlateauCooldown,
    RegimePolicy,
)
from lossatlas.steering.polynomial_average import AverageChoice, PolynomialAverage
from lossatlas.steering.probe import ProbeGrid, ProbeReading, read_probe, sub_batch
from lossatlas.steering.range_test import RangeTest
from lossatlas.steering.reading import Decision, Policy, Reading
from lossatlas.steering.sam import SAM, sam_radius
from lossatlas.steering.schedules import WSD, WSDS
from lossatlas.steering.signals import layer_groups
from lossatlas.steering.simple_averages import EMA, LAWA
from lossatlas.steering.suggest_lr import suggest_lr
from lossatlas.steering.suggested_lr import SuggestedLR
from lossatlas.steering.updates import CautiousUpdates, InterpolatedGradients
from lossatlas.steering.weight_average import WeightAverage

__all__ = [
    # the recipe
    "recipe",
    "AveragedOptimizer",
    # the controller and the drop-in
    "LandscapeLR",
    "TopoAdamW",
    "layer_groups",
    # what it sees, what it did
    "ProbeGrid",
    "ProbeReading",
    "read_probe",
    "sub_batch",
    "Reading",
    "Decision",
    "DecisionRecord",
    "DecisionLog",
    "replay",
    # which rate to start with
    "suggest_lr",
    "SuggestedLR",
    "RangeTest",
    # policies
    "POLICIES",
    "Policy",
    "RegimePolicy",
    "GrowthPolicy",
    "EdgePolicy",
    "MoMoPolicy",
    "NoisePolicy",
    "PlateauCooldown",
    # averages
    "WeightAverage",
    "AverageChoice",
    "PolynomialAverage",
    "EMA",
    "LAWA",
    # updates
    "SAM",
    "sam_radius",
    "CautiousUpdates",
    "InterpolatedGradients",
    # schedules
    "WSD",
    "WSDS",
]

guard_exports(__name__)
