"""Weights: what checkpoints have to do with each other."""

from lossatlas.arguments import guard_exports
from lossatlas.weights.align import Alignment, align
from lossatlas.weights.connect import Connection, connect
from lossatlas.weights.places import Place
from lossatlas.weights.symmetries import Group, Move, Symmetries, symmetries

__all__ = [
    "Alignment",
    "Connection",
    "Group",
    "Move",
    "Place",
    "Symmetries",
    "align",
    "connect",
    "symmetries",
]

guard_exports(__name__)
