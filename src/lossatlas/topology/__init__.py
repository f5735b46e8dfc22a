"""Topology of scalar fields: basins, loops, barriers, and which of them are real.

Receives arrays and knows no network. Code that needs torch is in `torch_layers` and `losses`,
code that needs scikit-learn in `transformer`; import these modules by name.
"""

from lossatlas.arguments import guard_exports
from lossatlas.topology.barriers import barrier_distance, barrier_matrix
from lossatlas.topology.basin_certainty import CertainBasins, certain_basins
from lossatlas.topology.basin_matching import BasinMatching, match_basins
from lossatlas.topology.curves import (
    betti_curve,
    euler_curve,
    persistence_image,
    persistence_landscape,
    silhouette,
)
from lossatlas.topology.diagram import Diagram
from lossatlas.topology.distances import bottleneck, sliced_wasserstein, wasserstein
from lossatlas.topology.filtration import Graph, checkpoints, graph
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.matching import Matching, match_bars
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.paired import replicate_maps
from lossatlas.topology.persistence import persistence
from lossatlas.topology.profile import Profile, Silhouette, profile
from lossatlas.topology.resolution import Resolution, resolution
from lossatlas.topology.rips import rips
from lossatlas.topology.scattered import scattered
from lossatlas.topology.simplification import flood_below, simplify
from lossatlas.topology.summaries import (
    amplitude,
    entropy,
    spread,
    statistics,
    total_persistence,
)

__all__ = [
    # barcodes and trees
    "Diagram",
    "MergeTree",
    "merge_tree",
    "persistence",
    "rips",
    # filtrations
    "Graph",
    "checkpoints",
    "graph",
    "scattered",
    # from a tree
    "Profile",
    "Silhouette",
    "barrier_matrix",
    "flood_below",
    "profile",
    "simplify",
    # certainty
    "CertainBasins",
    "Resolution",
    "certain_basins",
    "replicate_maps",
    "resolution",
    "spread",
    # barcodes as functions and numbers
    "amplitude",
    "betti_curve",
    "entropy",
    "euler_curve",
    "persistence_image",
    "persistence_landscape",
    "silhouette",
    "statistics",
    "total_persistence",
    # comparisons
    "BasinMatching",
    "Matching",
    "barrier_distance",
    "bottleneck",
    "match_bars",
    "match_basins",
    "sliced_wasserstein",
    "wasserstein",
]

guard_exports(__name__)
