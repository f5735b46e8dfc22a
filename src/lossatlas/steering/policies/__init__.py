"""Policies: pure rules from readings to scales of the learning rate."""

from lossatlas.arguments import guard_exports
from lossatlas.steering.policies.edge import EdgePolicy
from lossatlas.steering.policies.growth import GrowthPolicy
from lossatlas.steering.policies.momo import MoMoPolicy
from lossatlas.steering.policies.noise import NoisePolicy
from lossatlas.steering.policies.plateau import PlateauCooldown
from lossatlas.steering.policies.regime import RegimePolicy

__all__ = [
    "GrowthPolicy",
    "EdgePolicy",
    "MoMoPolicy",
    "NoisePolicy",
    "PlateauCooldown",
    "RegimePolicy",
]

guard_exports(__name__)
