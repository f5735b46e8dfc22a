"""Gray is within the error, hollow on the edge of the map: in every picture of minima."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lossatlas.plots import maps, style, trees
from lossatlas.plots.bars import persistence_chart
from lossatlas.plots.chart import Points
from lossatlas.topology import merge_tree, persistence
from plots.sample_landscapes import sample_map


def pit_in_the_corner(error):
    """A bowl, and a second minimum on the edge of the map."""
    land = sample_map(points=31, noise=0.0)
    x, y = np.meshgrid(*land.axes, indexing="ij")
    far = float(land.axes[0][-1])
    values = np.minimum(x**2 + y**2, 0.3 + (x - far) ** 2 + (y - far) ** 2)
    return replace(land, values=values, stderr=np.full(values.shape, error))


def marks_of(chart, kind):
    """Color and edge of the marks of a picture whose name says that they lie on the edge."""
    shown = [layer for layer in chart.layers if isinstance(layer, Points)]
    return [(each.color, each.edge) for each in shown if kind in each.name]


@pytest.mark.parametrize(
    ("error", "edge"),
    [(1e-3, style.SURE), (0.4, style.FAINT), (math.nan, style.FAINT)],
)
def test_a_minimum_on_the_edge_is_hollow_wherever_it_is_drawn(error, edge):
    land = pit_in_the_corner(error)
    tree, diagram = merge_tree(land), persistence(land)
    edge_of_bar = style.DIMENSION_COLORS[0] if edge == style.SURE else style.FAINT
    edge_of_branch = style.BASIN if edge == style.SURE else style.FAINT
    drawn = {
        "map": (maps.contour_chart(land, tree=tree), edge),
        "surface": (maps.surface_chart(land, tree=tree), edge),
        "tree": (trees.tree_chart(tree), edge_of_branch),
        "diagram": (persistence_chart(diagram, open_births=tree.open_births), edge_of_bar),
    }
    for name, (chart, color) in drawn.items():
        assert marks_of(chart, "on the edge") == [(style.PAPER, color)], name
