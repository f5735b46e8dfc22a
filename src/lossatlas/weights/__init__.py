"""Weights: what checkpoints have to do with each other."""

from lossatlas.arguments import guard_exports
from lossatlas.weights.adapters import with_adapter
from lossatlas.weights.align import Alignment, align
from lossatlas.weights.align_cost import AlignmentCost, alignment_cost
from lossatlas.weights.align_many import JointAlignment, align_many
from lossatlas.weights.choose import Choice, choose
from lossatlas.weights.connect import connect
from lossatlas.weights.connection import Connection
from lossatlas.weights.edit import EditCurve, EditedLayer, edit_curve
from lossatlas.weights.excess import Excess
from lossatlas.weights.factors import Factors, factors
from lossatlas.weights.layer_factors import Factor, LayerFactors
from lossatlas.weights.merge import Conflict, Merge, merge
from lossatlas.weights.merge_comparison import MergeComparison, compare_merges
from lossatlas.weights.methods import METHODS
from lossatlas.weights.places import Place
from lossatlas.weights.repair import Repair, repair
from lossatlas.weights.sensitivity import LayerSensitivity, Sensitivity, sensitivity
from lossatlas.weights.soup import Soup, soup
from lossatlas.weights.spectra import MatrixSpectrum, WeightSpectra, weight_spectra
from lossatlas.weights.symmetries import Group, Move, Symmetries, symmetries
from lossatlas.weights.window import WindowFisher, window_fisher

__all__ = [
    # symmetries and alignment
    "Symmetries",
    "Group",
    "Move",
    "Place",
    "symmetries",
    "Alignment",
    "align",
    "AlignmentCost",
    "alignment_cost",
    "JointAlignment",
    "align_many",
    # paths
    "Connection",
    "Excess",
    "connect",
    "Repair",
    "repair",
    # merging
    "with_adapter",
    "METHODS",
    "Merge",
    "Conflict",
    "merge",
    "MergeComparison",
    "compare_merges",
    "Soup",
    "soup",
    # curvature of weights, and editing by it
    "Factors",
    "LayerFactors",
    "Factor",
    "factors",
    "EditCurve",
    "EditedLayer",
    "edit_curve",
    "WindowFisher",
    "window_fisher",
    "Sensitivity",
    "LayerSensitivity",
    "sensitivity",
    # one of several
    "Choice",
    "choose",
    # one checkpoint alone
    "WeightSpectra",
    "MatrixSpectrum",
    "weight_spectra",
]

guard_exports(__name__)
