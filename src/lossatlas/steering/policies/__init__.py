"""Policies: pure rules from readings to scales of the learning rate, and their registry."""

from collections.abc import Callable

from lossatlas.steering.policies.edge import EdgePolicy
from lossatlas.steering.policies.growth import GrowthPolicy
from lossatlas.steering.policies.momo import MoMoPolicy
from lossatlas.steering.policies.noise import NoisePolicy
from lossatlas.steering.policies.plateau import PlateauCooldown
from lossatlas.steering.policies.regime import RegimePolicy
from lossatlas.steering.reading import Policy

__all__ = [
    "POLICIES",
    "EdgePolicy",
    "GrowthPolicy",
    "MoMoPolicy",
    "NoisePolicy",
    "PlateauCooldown",
    "RegimePolicy",
]

#: Name in recipes and on the command line -> what makes the policy with its defaults.
POLICIES: dict[str, Callable[[], Policy]] = {
    "regime": RegimePolicy,
    "compat": lambda: RegimePolicy(compat="0.1.0"),
    "growth": GrowthPolicy,
    "momo": MoMoPolicy,
    "edge": EdgePolicy,
    "group-noise": NoisePolicy,
    "cooldown": PlateauCooldown,
}
