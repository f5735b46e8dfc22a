from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.intervals import t_quantile
from lossatlas.plots import canvas, maps, style
from lossatlas.plots.grid import landmarks
from lossatlas.plots.rows import Dots, rows_chart
from lossatlas.plots.scale import scale_of
from lossatlas.plots.trees import tree_chart
from lossatlas.topology import merge_tree
from plots.paper_boxes import faults
from plots.sample_landscapes import box_map, line_map, refined_map, sample_map, with_trajectory


def plot_contour(land, *, tree=None, ax=None):
    return canvas.draw(maps.contour_chart(land, tree=tree), ax)


def plot_stderr(land, *, ax=None):
    return canvas.draw(maps.stderr_chart(land), ax)


def plot_surface(land, *, tree=None, ax=None):
    return canvas.draw(maps.surface_chart(land, tree=tree), ax)


def plot_line(land, *, ax=None):
    return canvas.draw(maps.line_chart(land), ax)


DRAWN = {
    "contour": lambda ax=None: plot_contour(sample_map(), ax=ax),
    "stderr": lambda ax=None: plot_stderr(sample_map(noise=0.1), ax=ax),
    "line": lambda ax=None: plot_line(line_map(), ax=ax),
}


@pytest.fixture(autouse=True)
def _close():
    plt.close("all")
    yield
    plt.close("all")


def line_named(ax, name):
    return next(line for line in ax.lines if line.get_label() == name)


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_land_on_the_axes_they_are_given(name):
    _, ax = plt.subplots()
    before = plt.get_fignums()
    assert DRAWN[name](ax) is ax
    assert plt.get_fignums() == before
    assert DRAWN[name]() is not ax


@pytest.mark.parametrize("name", DRAWN)
def test_settings_of_matplotlib_are_left_as_they_were(name):
    before = dict(mpl.rcParams)
    DRAWN[name]()
    assert dict(mpl.rcParams) == before


def test_contours_lie_at_the_levels_of_the_scale():
    land = sample_map("himmelblau", 5)
    ax = plot_contour(land)
    levels = ax.collections[0].levels
    np.testing.assert_array_equal(levels, scale_of(land.values).levels())
    assert "log above the lowest" in ax.figure.axes[-1].get_ylabel()


def test_the_way_of_training_is_where_it_went():
    land = with_trajectory(sample_map())
    ax = plot_contour(land)
    way = land.landmarks["trajectory"]
    np.testing.assert_array_equal(line_named(ax, "trajectory").get_xydata(), way)
    assert ax.get_xlabel() == "random 1 [direction lengths]"


def test_certain_minima_and_dips_look_different():
    land = sample_map("himmelblau", 5, 61, noise=1.0)
    tree = merge_tree(land)
    ax = plot_contour(land, tree=tree)
    sure = line_named(ax, "certain minimum")
    dips = line_named(ax, "minimum within the error")
    assert len(sure.get_xdata()) == 4
    assert len(sure.get_xdata()) + len(dips.get_xdata()) == len(tree)
    assert sure.get_markerfacecolor() != dips.get_markerfacecolor()
    assert len([text for text in ax.texts if text.get_text().isdigit()]) == 4


def pit_in_the_corner(dimension=2):
    """A bowl, and a deeper pit in the corner of the map."""
    land = {1: line_map, 2: sample_map, 3: box_map}[dimension]()
    far = [float(axis[-1]) for axis in land.axes]
    x = np.meshgrid(*land.axes, indexing="ij")
    bowl = sum(each**2 for each in x)
    pit = sum((each - end) ** 2 for each, end in zip(x, far, strict=True)) - 0.5
    values = np.minimum(bowl, pit)
    return replace(
        land, values=values, stderr=np.full(values.shape, 1e-3), computed=values < np.inf
    )


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_a_minimum_on_the_edge_is_hollow_and_never_counted(dimension):
    land = pit_in_the_corner(dimension)
    tree = merge_tree(land)
    assert tree.certain.tolist() == [True, True]
    assert tree.counted.tolist() == [False, True]
    assert tree.certain_count == 1
    chart = {1: maps.line_chart, 2: maps.contour_chart, 3: maps.box_chart}[dimension]
    drawn = [chart(land, tree=tree), tree_chart(tree)]
    if dimension == 2:
        drawn.append(maps.surface_chart(land, tree=tree))
    for picture in drawn:
        marks = {
            layer.name: layer
            for layer in picture.layers
            if hasattr(layer, "symbol") and layer.name
        }
        sure = marks.get("certain minimum") or marks["certain basin"]
        edge = marks["minimum on the edge"]
        assert len(sure.x) == len(edge.x) == 1
        assert edge.color == style.PAPER != sure.color
    counted = {each.name: each.value for each in tree.estimates()}
    assert counted["certain minima"] == 1
    assert "2 certain" not in " ".join(figure.alt for figure in tree.figures())
    texts = " ".join((*tree.sentences(), tree.headline()))
    assert "all certain" not in texts
    assert "2 basins are certain" not in texts


def test_one_minimum_on_the_edge_is_no_certain_basin_either():
    land = line_map()
    slope = replace(land, values=1.0 + land.axes[0] - land.axes[0][0])
    tree = merge_tree(slope)
    assert len(tree) == 1
    assert tree.certain_count == 0
    assert "leads to its edge" in tree.headline()


def test_without_a_tree_the_lowest_point_is_marked():
    land = sample_map("bowl")
    x, y = line_named(plot_contour(land), "lowest point").get_xydata()[0]
    assert (x, y) == land.minimum


def test_ground_without_a_loss_is_hatched_and_not_colored():
    land = sample_map(walls=True)
    ax = plot_contour(land)
    hatched = [p for p in ax.patches if p.get_hatch()]
    assert max(p.get_xy()[:, 0].max() for p in hatched) == land.axes[0][-1]
    assert not [p for p in plot_contour(sample_map()).patches if p.get_hatch()]


def test_a_map_without_any_loss_is_all_hatched():
    land = sample_map(values=np.full((31, 31), np.nan))
    ax = plot_contour(land)
    assert any(patch.get_hatch() for patch in ax.patches)
    assert not ax.collections


def test_computed_points_are_dotted_where_others_are_not():
    land = refined_map()
    dots = line_named(plot_contour(land), "computed point")
    assert len(dots.get_xdata()) == land.computed.sum()
    labels = [line.get_label() for line in plot_contour(sample_map()).lines]
    assert "computed point" not in labels


def test_the_error_map_shows_the_error_of_every_value():
    land = sample_map(noise=0.1)
    mesh = plot_stderr(land).collections[0]
    np.testing.assert_allclose(mesh.get_array().reshape(land.values.shape), land.stderr.T)
    assert mesh.norm.vmin == 0


def test_interpolated_points_show_the_error_of_their_neighbor():
    land = refined_map()
    shown = plot_stderr(land).collections[0].get_array().reshape(land.values.shape).T
    np.testing.assert_allclose(shown[land.computed], land.stderr[land.computed])
    assert np.isin(shown, land.stderr[land.computed]).all()


def test_a_map_without_errors_says_so():
    ax = plot_stderr(sample_map())
    assert any("no standard error" in text.get_text() for text in ax.texts)


def test_the_surface_stands_at_the_heights_of_the_scale():
    land = with_trajectory(sample_map("himmelblau", 5))
    ax = plot_surface(land, tree=merge_tree(land))
    bottom, top = scale_of(land.values).heights(2)
    low, high = ax.get_zlim()
    assert low <= bottom < top <= high
    assert line_named(ax, "trajectory").get_data_3d()[2].max() <= high
    assert [t.get_text() for t in ax.get_zticklabels()] == scale_of(land.values).ticks()[1]


def test_a_surface_wants_three_dimensions():
    _, ax = plt.subplots()
    with pytest.raises(ArgumentError, match="three-dimensional"):
        plot_surface(sample_map(), ax=ax)


def test_the_band_of_a_line_is_as_wide_as_its_error():
    land = line_map(noise=0.05)
    ax = plot_line(land)
    vertices = next(p for p in ax.patches if p.get_label() == "95 % band").get_xy()
    at_zero = vertices[np.isclose(vertices[:, 0], 0.0, atol=1e-9), 1]
    assert np.isclose(at_zero.max() - at_zero.min(), 2 * t_quantile(0.95, land.count) * 0.05)


def test_walls_of_a_line_are_shaded():
    ax = plot_line(line_map(walls=True))
    assert any(patch.get_hatch() for patch in ax.patches)


@pytest.mark.parametrize(
    ("land", "names"),
    [
        (line_map(), ["line"]),
        (sample_map(), ["surface", "contour", "stderr"]),
        (box_map(), ["box", "plane 1", "plane 2", "plane 3", "stderr"]),
    ],
)
def test_a_picture_that_does_not_fit_names_those_that_do(land, names):
    assert [figure.name for figure in land.figures()] == names
    with pytest.raises(UnknownNameError, match=names[0]):
        land.plot("hills")


def test_a_cut_is_a_plane_of_the_box():
    land = box_map()
    plane = land.cut(1, at=0.4)
    index = np.abs(land.axes[1] - 0.4).argmin()
    np.testing.assert_array_equal(plane.values, land.values[:, index, :])
    assert plane.labels == ("random 1", "random 3")
    assert plot_contour(plane).get_ylabel().startswith("random 3")
    np.testing.assert_array_equal(land.cut(0).values.min(), land.values.min())
    with pytest.raises(ArgumentError, match="`axis` must be 0 to 2"):
        land.cut(3)


def test_a_star_stands_at_the_origin_of_maps_that_hold_it():
    def stars(land):
        lines = plot_contour(land).lines
        return [line for line in lines if line.get_label() == "origin"]

    (star,) = stars(sample_map())
    assert star.get_marker() == "*"
    np.testing.assert_array_equal(star.get_xydata(), [[0.0, 0.0]])
    aside = sample_map()
    aside = replace(aside, axes=tuple(axis + 10 for axis in aside.axes))
    assert not stars(aside)
    assert not stars(with_trajectory(sample_map()))
    box = box_map()
    assert len(stars(box.cut(1, at=0.0))) == 1
    # The nearest grid point to 0.4 is not zero: this plane does not hold the origin.
    assert not stars(box.cut(1, at=0.4))
    assert not landmarks(box.cut(1, at=0.4).cut(0, at=0.0))
    assert len(landmarks(line_map())) <= 1


def test_names_from_outside_are_never_mathematics():
    land = sample_map(labels=("$x$", "\\frac{1}"))
    ax = plot_contour(land)
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "$x$ [direction lengths]"
    assert not ax.xaxis.label.get_parse_math()


def test_a_line_whose_errors_hide_its_lowest_losses_is_straight():
    fall = np.geomspace(1e-4, 10, 20)
    line = line_map()
    steep = replace(
        line,
        values=np.concatenate([fall[::-1], fall]),
        stderr=np.full(40, 1e-6),
        axes=(np.linspace(-1, 1, 40),),
        computed=np.ones(40, dtype=bool),
    )
    for error, is_log in ((1e-6, True), (0.5, False)):
        figure = replace(steep, stderr=np.full(40, error)).figures()[0]
        assert ("Heights are logarithmic" in figure.caption) == is_log
        assert ("log above the lowest" in figure.plotly().layout.yaxis.title.text) == is_log


def test_a_box_says_that_its_colors_are_logarithmic_and_not_its_heights():
    land = box_map()
    box = replace(land, values=np.exp(3 * land.values))
    assert box.figures()[0].caption.endswith("Colors are logarithmic above the lowest loss.")


def test_a_legend_below_low_axes_leaves_their_title_free():
    names = ["largest eigenvalue", "lowest eigenvalue where it is negative"]
    series = [Dots(name, np.array([1.0, 2.0])) for name in names]
    ax = canvas.draw(rows_chart(["0", "1"], series, "Layers", "size of the eigenvalue"))
    assert faults(ax.figure) == []
