"""Sharpness across widths: does the learning rate of a narrow network serve a wide one?"""

from lossatlas.arguments import guard_exports
from lossatlas.studies.widths.networks import FAMILIES, Family, ScaledLinear, scaled_mlp
from lossatlas.studies.widths.result import Transfer, WidthStudy
from lossatlas.studies.widths.study import RATES, sharpness_consistency

__all__ = [
    "FAMILIES",
    "RATES",
    "Family",
    "ScaledLinear",
    "Transfer",
    "WidthStudy",
    "scaled_mlp",
    "sharpness_consistency",
]

guard_exports(__name__)
