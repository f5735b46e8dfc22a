"""Predictors of the loss from the parameters, and what they cost beside true losses."""

from lossatlas.arguments import guard_exports
from lossatlas.studies.inits.surrogates.result import Surrogates
from lossatlas.studies.inits.surrogates.stage import KINDS, fit_surrogates

__all__ = ["KINDS", "Surrogates", "fit_surrogates"]

guard_exports(__name__)
