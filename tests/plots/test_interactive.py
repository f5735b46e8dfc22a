import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lossatlas.intervals import t_quantile
from lossatlas.plots import bars, canvas, maps, trees, web
from lossatlas.plots.chart import Axis, Chart, Line, Points
from lossatlas.plots.rows import Dots, rows_chart
from lossatlas.plots.scale import scale_of
from lossatlas.topology import merge_tree, persistence
from plots.sample_landscapes import box_map, line_map, refined_map, sample_map, with_trajectory


def drawn(make):
    return lambda *args, **options: web.draw(make(*args, **options))


surface_figure, contour_figure = drawn(maps.surface_chart), drawn(maps.contour_chart)
stderr_figure, line_figure = drawn(maps.stderr_chart), drawn(maps.line_chart)
box_figure, tree_figure = drawn(maps.box_chart), drawn(trees.tree_chart)
persistence_figure, barcode_figure = drawn(bars.persistence_chart), drawn(bars.barcode_chart)
betti_figure, profile_figure = drawn(bars.betti_chart), drawn(trees.profile_chart)


def trace(figure, name):
    return next(part for part in figure.data if part.name == name)


def names(figure):
    return [part.name for part in figure.data]


def test_the_surface_carries_the_loss_and_its_error():
    land = sample_map("himmelblau", 5, noise=1.0)
    surface = trace(surface_figure(land), "loss")
    scale = scale_of(land.values)
    np.testing.assert_allclose(surface.z, scale.forward(land.values))
    np.testing.assert_array_equal(surface.x[:, 0], land.axes[0])
    assert " ± " in surface.text[3][5]


def test_the_way_of_training_lies_on_the_surface():
    land = with_trajectory(sample_map(points=201))
    way = trace(surface_figure(land), "trajectory")
    x, y = land.landmarks["trajectory"].T
    bowl = 0.2 + x**2 + 0.5 * y**2
    lift = 0.012 * land.range
    np.testing.assert_allclose(way.z, bowl + lift, atol=2e-3)
    assert "12 % off the plane" in way.text[0].replace(
        "off the plane 12 %", "12 % off the plane"
    )
    assert "trajectory 1 of 25" in way.text[0]


def test_certain_branches_are_linked_over_their_passes():
    land = sample_map("double well", noise=0.001)
    tree = merge_tree(land)
    links = trace(surface_figure(land, tree=tree), "merge tree")
    saddle = np.unravel_index(tree.saddles[0], land.values.shape)
    where = land.axes[0][saddle[0]], land.axes[1][saddle[1]]
    assert any(np.allclose(point, where) for point in zip(links.x, links.y, strict=True))
    assert "merge tree" not in names(
        surface_figure(sample_map(), tree=merge_tree(sample_map()))
    )


def test_holes_stay_holes():
    land = sample_map(walls=True)
    contour = trace(contour_figure(land), "loss")
    assert np.isnan(np.asarray(contour.z, dtype=float)).sum() == (~land.finite).sum()
    assert not contour.connectgaps
    walls = trace(contour_figure(land), "not finite")
    assert walls.fillpattern.shape == "/"
    assert np.nanmax(np.asarray(walls.x, dtype=float)) == land.axes[0][-1]
    assert "not finite" not in names(contour_figure(sample_map()))


def test_interpolated_values_say_so():
    land = refined_map()
    contour = trace(contour_figure(land), "loss")
    assert contour.text[0][0].endswith("(interpolated)") is not land.computed[0, 0]
    assert contour.text[1][1].endswith("(interpolated)") is not land.computed[1, 1]
    assert len(trace(contour_figure(land), "computed point").x) == land.computed.sum()


def test_minima_say_how_long_they_last():
    land = sample_map("himmelblau", 5, 41, noise=1.0)
    figure = contour_figure(land, tree=merge_tree(land))
    sure = trace(figure, "certain minimum")
    assert len(sure.x) == 4
    assert "lasts ∞" in sure.customdata[0]
    assert sure.text[0] == "<b>0</b>"
    assert "lowest point" in names(contour_figure(land))
    assert "lowest point" not in names(contour_figure(land, quantity="accuracy"))


def test_a_figure_without_names_keeps_no_place_for_a_legend():
    one = [Dots("", np.array([1.0, 2.0]), np.full((2, 2), 0.1))]
    two = [Dots(name, np.array([1.0, 2.0]), np.full((2, 2), 0.1)) for name in ("a", "b")]
    bare, named = (web.draw(rows_chart(["x", "y"], s, "t", "loss")).layout for s in (one, two))
    assert named.margin.b - bare.margin.b == named.height - bare.height > 0


def test_both_maps_of_a_pair_have_one_frame():
    land = sample_map(noise=0.1)
    pair = contour_figure(land), stderr_figure(land)
    for part in ("margin", "height", "xaxis", "yaxis"):
        assert pair[0].layout[part] == pair[1].layout[part]


def test_the_error_map_shows_errors_or_says_there_are_none():
    land = sample_map(noise=0.1)
    np.testing.assert_allclose(stderr_figure(land).data[0].z, land.stderr.T)
    empty = stderr_figure(sample_map())
    assert not empty.data
    assert "no standard error" in empty.layout.annotations[0].text


def test_a_line_has_its_band_and_its_walls():
    land = line_map(noise=0.05, walls=True)
    figure = line_figure(land, tree=merge_tree(land))
    assert len(figure.layout.shapes) == 1
    band = trace(figure, "95 % band")
    scale = scale_of(land.values)
    losses = scale.inverse(np.asarray(band.y))
    half = len(losses) // 2
    np.testing.assert_allclose(
        losses[:half] - losses[: half - 1 : -1], 2 * t_quantile(0.95, land.count) * 0.05
    )


def test_a_box_is_cut_through_its_lowest_point():
    land = box_map()
    figure = box_figure(land, tree=merge_tree(land))
    planes = [part for part in figure.data if part.type == "surface"]
    assert len(planes) == 3
    assert {float(np.nanmin(plane.surfacecolor)) for plane in planes} == {land.values.min()}
    assert np.allclose(planes[0].x, land.minimum[0])


def test_bars_say_whether_they_are_certain():
    land = sample_map("himmelblau", 5, 41, noise=1.0)
    diagram = persistence(land)
    figure = persistence_figure(diagram, scale=scale_of(land.values))
    texts = [text for part in figure.data if part.text for text in part.text]
    assert len(texts) == len(diagram)
    assert sum(text.endswith("<br>certain") for text in texts) == diagram.certain.sum()
    assert "within the error of the map" in names(figure)
    assert all("<br>minimum at (" in t for t in texts if t.startswith("basins"))
    ended = [t for t in texts if t.startswith("loops") and "dies ∞" not in t]
    assert all("<br>top at (" in t for t in ended)
    exact = persistence_figure(persistence(sample_map()))
    assert "within the error of the map" not in names(exact)


def test_barcode_tree_profile_and_betti_draw_all_there_is():
    land = sample_map("himmelblau", 5, 41, noise=1.0)
    diagram, tree, scale = persistence(land), merge_tree(land), scale_of(land.values)
    rows = [y for p in barcode_figure(diagram, scale=scale).data for y in p.y if y == y]
    assert len(set(rows)) == len(diagram)
    marks = [p for p in tree_figure(tree, scale=scale).data if p.mode == "markers"]
    assert sum(len(part.x) for part in marks) == len(tree)
    profile = profile_figure(tree, land.values, scale=scale)
    assert max(max(part.x) for part in profile.data) == pytest.approx(100)
    assert names(betti_figure(diagram, scale=scale))[:2] == [
        "basins (H0), all",
        "basins (H0), certain",
    ]


def test_few_counts_have_ticks_at_whole_numbers():
    few = betti_figure(persistence(sample_map("bowl")))
    assert few.layout.yaxis.dtick == 1
    many = Chart("", Axis(), Axis(is_whole=True), (Line([0, 1], [0, 500]),))
    assert web.draw(many).layout.yaxis.dtick is None


def test_numbers_of_minima_in_corners_stand_inside():
    ends = Axis(limits=(0.0, 1.0))
    marks = Points([0.0, 1.0, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0], labels=list("0123"))
    drawn_marks = web.draw(Chart("", ends, ends, (marks,))).data[0]
    wanted = ("top right", "top left", "bottom left", "bottom right")
    assert drawn_marks.textposition == wanted
    notes = canvas.draw(Chart("", ends, ends, (marks,))).texts
    assert [(note.get_ha(), note.get_va()) for note in notes] == [
        ("left", "baseline"), ("right", "baseline"), ("right", "top"), ("left", "top"),
    ]  # fmt: skip
    plt.close("all")


def test_the_scene_of_a_surface_ends_above_the_legend():
    assert surface_figure(sample_map()).layout.scene.domain.y[0] >= 0.1


HOSTILE = "<img src=x onerror=alert(1)><a href='javascript:alert(2)'>%{x}</a>$a$"


def test_no_label_becomes_markup_or_a_placeholder():
    land = sample_map(labels=(HOSTILE, HOSTILE), noise=0.1, unit=HOSTILE)
    marks = {HOSTILE: np.zeros((1, 2))}
    values = {HOSTILE: np.zeros(1)}
    land = type(land)(
        **{
            **{name: getattr(land, name) for name in land.__dataclass_fields__},
            "landmarks": marks,
            "landmark_residuals": values,
            "landmark_values": values,
        }
    )
    for figure in (
        surface_figure(land),
        contour_figure(land, quantity=HOSTILE),
        stderr_figure(land),
    ):
        text = json.dumps(figure.to_plotly_json(), default=str)
        for fragment in ("<img", "<a ", "$a$"):
            assert fragment not in text
        # The hover template of a map has its own two placeholders for coordinates.
        assert "%{x}" not in text
