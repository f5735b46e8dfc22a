"""The laws: one formula a file, and their names on the command line."""

from lossatlas.arguments import guard_exports
from lossatlas.forecast.law import Law
from lossatlas.forecast.laws.annealing import AnnealingLaw
from lossatlas.forecast.laws.baselines import Baseline, LastLevel, LocalTrend
from lossatlas.forecast.laws.broken import BrokenPowerLaw, smoothed
from lossatlas.forecast.laws.linear import LinearLRLaw, PowerLaw
from lossatlas.forecast.laws.multipower import MultiPowerLaw
from lossatlas.forecast.laws.scaling import ChinchillaLaw, KaplanLaw, ShiftedPowerLaw, translate
from lossatlas.io.records import record

LAWS: dict[str, type[Law]] = {
    "multi-power": MultiPowerLaw,
    "annealing": AnnealingLaw,
    "linear-lr": LinearLRLaw,
    "power": PowerLaw,
    "broken-power": BrokenPowerLaw,
    "chinchilla": ChinchillaLaw,
    "kaplan": KaplanLaw,
    "shifted-power": ShiftedPowerLaw,
    "last-level": LastLevel,
    "local-trend": LocalTrend,
}
for _law in LAWS.values():
    record(_law)  # a stored fit holds its law

__all__ = [
    "LAWS",
    "AnnealingLaw",
    "Baseline",
    "BrokenPowerLaw",
    "ChinchillaLaw",
    "KaplanLaw",
    "LastLevel",
    "LinearLRLaw",
    "LocalTrend",
    "MultiPowerLaw",
    "PowerLaw",
    "ShiftedPowerLaw",
    "smoothed",
    "translate",
]

guard_exports(__name__)
