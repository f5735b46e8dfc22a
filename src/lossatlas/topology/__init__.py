"""Topology of scalar fields: basins, ridges, barriers, and which of them are real.

Receives arrays and knows no network.
"""

from lossatlas.topology.diagram import Diagram
from lossatlas.topology.filtration import Graph, checkpoints, graph
from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.persistence import persistence
from lossatlas.topology.scattered import scattered

__all__ = [
    "Diagram",
    "Graph",
    "MergeTree",
    "checkpoints",
    "graph",
    "merge_tree",
    "persistence",
    "scattered",
]
