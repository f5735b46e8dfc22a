from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import pyplot as plt

from lossatlas.plots.bars import bar_groups, betti_curve, diagram_frame, longest_bars
from lossatlas.plots.chart import Axis, Chart, backends, curve
from lossatlas.plots.grid import cell_edges
from lossatlas.plots.maps import contour_chart
from lossatlas.plots.scale import scale_of
from lossatlas.plots.trees import branches, profile_color, silhouettes
from lossatlas.topology import merge_tree, persistence
from plots.sample_landscapes import sample_map
from reference.plots_counts import alive_at, share_below

grids = arrays(
    np.float64,
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    elements=st.integers(0, 9).map(float) | st.just(np.nan),
).filter(lambda grid: np.isfinite(grid).any())


@given(grids, st.integers(1, 6))
def test_lines_of_a_merge_tree_never_cross(values, most):
    drawn = branches(merge_tree(values), most)
    assert len(drawn) == min(most, len(merge_tree(values)))
    assert len({branch.x for branch in drawn}) == len(drawn)
    for branch in drawn:
        if branch.parent_x is None:
            continue
        left, right = sorted((branch.x, branch.parent_x))
        for other in drawn:
            if left < other.x < right:
                assert not other.low < branch.high < other.high


@given(grids, st.integers(1, 6))
def test_parents_come_before_their_children(values, most):
    places = []
    for branch in branches(merge_tree(values), most):
        assert branch.parent_x is None or branch.parent_x in places
        places.append(branch.x)


@given(grids)
def test_betti_curves_count_the_living(values):
    diagram = persistence(values)
    for dimension in (0, 1):
        levels, alive = betti_curve(diagram, dimension)
        counted = [alive_at(diagram, dimension, level) for level in levels]
        assert alive.tolist() == counted


@given(grids)
def test_a_profile_holds_every_point_once(values):
    tree = merge_tree(values)
    parts = silhouettes(tree, values, most=len(tree))
    roots = [part for part in parts if part.depth == 0]
    assert np.isclose(sum(part.widths[-1] for part in roots), 1.0)
    if len(roots) == 1:
        for level, width in zip(roots[0].levels, roots[0].widths, strict=True):
            assert np.isclose(width, share_below(values, level))


@given(grids)
def test_basins_side_by_side_do_not_overlap(values):
    parts = silhouettes(merge_tree(values), values, most=5)
    for a in parts:
        for b in parts:
            apart = a.levels[0] >= b.levels[-1] or b.levels[0] >= a.levels[-1]
            if a is not b and not apart:
                gap = abs(a.center - b.center)
                # Drawn at one height, they are as wide as at that height.
                level = max(a.levels[0], b.levels[0])
                wide = [np.interp(level, p.levels, p.widths) for p in (a, b)]
                assert gap >= sum(wide) / 2 - 1e-9


def test_the_double_well_has_two_basins_below_one_trunk():
    land = sample_map("double well", points=41)
    parts = silhouettes(merge_tree(land), land.values)
    assert [part.depth for part in parts] == [0, 1, 1]
    trunk, *wells = parts
    assert np.isclose(sum(well.widths[-1] for well in wells), trunk.widths[0])
    assert len({profile_color(k) for k in (0, 1, 2)}) == 3
    assert profile_color(2) == profile_color(5)


def test_a_barcode_keeps_the_longest_and_counts_the_rest():
    diagram = persistence(np.random.default_rng(0).random((20, 20)))
    bars = longest_bars(diagram, most=3)
    assert diagram.dimensions[bars].tolist() == [0, 0, 0, 1, 1, 1]
    assert diagram.essential[bars[0]]
    for degree in (0, 1):
        lengths = diagram.lengths[diagram.dimensions == degree]
        shown = diagram.lengths[bars][diagram.dimensions[bars] == degree]
        assert sorted(shown) == sorted(lengths)[-3:]


def test_groups_hold_every_bar_once_and_name_the_uncertain():
    diagram = persistence(sample_map(noise=0.05))
    groups = bar_groups(diagram)
    rows = np.sort(np.concatenate([group.rows for group in groups]))
    assert rows.tolist() == list(range(len(diagram)))
    assert {group.is_certain for group in groups if "uncertain" in group.name} == {False}


def test_the_frame_leaves_room_for_endless_bars():
    land = sample_map("himmelblau", 5)
    for scale in (None, scale_of(land.values)):
        diagram = persistence(land)
        frame = diagram_frame(diagram.low, diagram.high, scale)
        assert frame.floor < land.values.min()
        assert land.values.max() < frame.ceiling < frame.roof
        assert (np.diff(frame.steps()) > 0).all()


def test_whatever_has_the_attributes_of_a_map_is_drawn():
    axis = np.linspace(-1, 1, 5)
    values = axis[:, None] ** 2 + axis**2
    grid = SimpleNamespace(
        values=values,
        stderr=np.full((5, 5), np.nan),
        axes=(axis, axis),
        labels=("x", "y"),
        computed=np.ones((5, 5), dtype=bool),
        unit="examples",
        count=0,
        landmarks={},
        landmark_values={},
        landmark_residuals={},
    )
    chart = contour_chart(grid)
    assert chart.layers[0].z.tolist() == values.tolist()
    assert [layer.name for layer in chart.layers[1:]] == ["lowest point", "origin"]


def test_cells_reach_half_way_to_their_neighbors():
    assert cell_edges(np.array([0.0, 1.0, 3.0])).tolist() == [-0.5, 0.5, 2.0, 4.0]
    assert cell_edges(np.array([2.0])).tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("top", "wanted"), [(2e-2, {"0.001", "0.002", "0.005", "0.01"}), (1e3, {"0.001", "1"})]
)
def test_ticks_of_a_logarithmic_axis_are_written_out(top, wanted):
    x = np.array([1.0, 2.0])
    chart = Chart("t", Axis("x"), Axis("rate", is_log=True), (curve(x, np.array([1e-3, top])),))
    drawn, shown = backends(lambda: chart)
    ax = drawn(None)
    ax.figure.canvas.draw()
    assert wanted <= {label.get_text() for label in ax.get_yticklabels()}
    plt.close(ax.figure)
    assert wanted <= set(shown().layout.yaxis.ticktext)


@pytest.mark.parametrize("decades", [2, 4, 7, 12])
def test_a_logarithmic_axis_of_a_page_has_few_ticks(decades):
    x = np.geomspace(1e-6, 10.0 ** (decades - 6), 20)
    chart = Chart("", Axis("rate", is_log=True), Axis("loss"), (curve(x, x),))
    axis = backends(lambda: chart)[1]().layout.xaxis
    assert 2 <= len(axis.tickvals) <= 16
    assert axis.range[0] < -6 < decades - 6 < axis.range[1]
