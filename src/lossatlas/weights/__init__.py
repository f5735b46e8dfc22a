"""Weights: what checkpoints have to do with each other."""

from lossatlas.arguments import guard_exports
from lossatlas.weights.align import Alignment, align
from lossatlas.weights.choose import Choice, choose
from lossatlas.weights.connect import Connection, connect
from lossatlas.weights.merge import (
    Conflict,
    Merge,
    MergeComparison,
    Soup,
    compare_merges,
    merge,
    soup,
)
from lossatlas.weights.methods import METHODS
from lossatlas.weights.places import Place
from lossatlas.weights.spectra import MatrixSpectrum, WeightSpectra, weight_spectra
from lossatlas.weights.symmetries import Group, Move, Symmetries, symmetries

__all__ = [
    # symmetries and alignment
    "Symmetries",
    "Group",
    "Move",
    "Place",
    "symmetries",
    "Alignment",
    "align",
    # paths
    "Connection",
    "connect",
    # merging
    "METHODS",
    "Merge",
    "Conflict",
    "merge",
    "MergeComparison",
    "compare_merges",
    "Soup",
    "soup",
    # one of several
    "Choice",
    "choose",
    # one checkpoint alone
    "WeightSpectra",
    "MatrixSpectrum",
    "weight_spectra",
]

guard_exports(__name__)
