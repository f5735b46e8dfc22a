"""Topology of scalar fields: basins, ridges, barriers, and which of them are real.

Receives arrays and knows no network.
"""

from lossatlas.topology.flood import merge_tree
from lossatlas.topology.mergetree import MergeTree
from lossatlas.topology.persistence import Diagram, persistence

__all__ = ["Diagram", "MergeTree", "merge_tree", "persistence"]
