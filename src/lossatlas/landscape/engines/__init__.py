"""Engines that evaluate the points of a map; all give the same numbers."""

from lossatlas.arguments import guard_exports
from lossatlas.landscape.engines.choice import ENGINES, Choice, build, choose, select
from lossatlas.landscape.engines.task import Engine, Metric, Task

__all__ = [
    "ENGINES",
    "Choice",
    "Engine",
    "Metric",
    "Task",
    "build",
    "choose",
    "select",
]

guard_exports(__name__)
