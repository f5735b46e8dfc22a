from dataclasses import replace

import numpy as np
import pytest

from lossatlas.curvature import InstrumentResult, Spectrum
from lossatlas.io import Provenance
from lossatlas.landscape.landscape import Landscape
from lossatlas.report.page import page_of
from lossatlas.report.readings import headline, reading
from lossatlas.report.sections.loss_map import read_center
from lossatlas.result import Estimate
from lossatlas.topology import merge_tree
from plots.sample_landscapes import line_map, refined_map, sample_map, with_trajectory
from report.sample_surveys import ALL, survey_of


def on_a_line(values, stderr=np.nan, **changes):
    """A survey of a hand-made line."""
    values = np.array(values, dtype=float)
    return survey_of(
        Landscape(
            values=values,
            stderr=np.where(np.isfinite(values), stderr, np.nan),
            axes=(np.arange(values.size, dtype=float),),
            labels=("step",),
            computed=np.ones(values.size, dtype=bool),
            count=1000,
            **changes,
        )
    )


def told(survey, *words):
    """What the map of a survey says with any of these words."""
    said = survey.landscape.sentences()
    return [sentence for sentence in said if any(word in sentence for word in words)]


def test_one_basin():
    found = on_a_line([3, 1, 0, 1, 3], 0.01)
    assert headline(found).startswith("One basin at this scale: from every point")
    assert found.tree.sentences()[0] == headline(found)


def test_all_basins_certain():
    found = on_a_line([3, 0, 2, 1, 3], 0.001)
    bound = found.tree.threshold
    sentences = found.tree.sentences()
    assert headline(found) == sentences[0]
    assert (
        sentences[0]
        == f"2 basins, all certain: each is deeper than the 95 % bound of {bound:.2g}."
    )
    assert "climb by 1 " in sentences[1]
    assert sentences[1].endswith(
        "leave the basin of minimum 1 for the deeper one of minimum 0."
    )


def test_a_minimum_on_the_edge_is_no_second_basin():
    found = on_a_line([3, 0, 2, 1], 0.001)
    words = (
        "One basin inside the map is certain; minimum 1 lies on its edge, where the loss may"
    )
    assert headline(found) == f"{words} go on falling, and is not counted."
    count, edge, climb = found.tree.sentences()
    assert count == headline(found)
    (sure,) = (each for each in found.tree.estimates() if each.name == "certain minima")
    assert sure.value == 1
    assert edge == "A wider span shows whether minimum 1 has a basin of its own."
    assert "climb by 1 " in climb
    card = page_of(found).questions[0]
    assert card.value == "yes, inside the map; minimum 1 lies on its edge, not counted"
    assert card.mark == ""
    assert int(found.tree.certain.sum()) == 2


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ([0, 1, 3], "none inside: the minimum lies on the edge"),
        ([0, 2, 1], "none certain inside the map; minima 0, 1 lie on its edge, not counted"),
        ([3, 0, 2, 0.5, 2, 1], "no: 2 inside the map; minimum 2 lies on its edge, not counted"),
        ([3, 0, 2, 0.5, 3], "no: 2 are certain"),
    ],
)
def test_basins_inside_the_map_are_counted_apart(values, answer):
    assert page_of(on_a_line(values, 0.001)).questions[0].value == answer


def test_a_periodic_axis_has_no_edge():
    tree = merge_tree(np.array([0.0, 2.0, 1.0, 2.0]), periodic=True)
    assert not tree.on_edge.any()
    assert merge_tree(np.array([0.0, 2.0, 1.0, 2.0])).on_edge.tolist() == [True, False]


def test_some_basins_certain():
    found = on_a_line([9, 0, 5, 1, 5, 4.99, 9], 0.02)
    assert headline(found) == found.tree.sentences()[0]
    assert headline(found) == (
        "2 basins are certain; the other minimum is within the error of the map (less deep "
        f"than the 95 % bound of {found.tree.threshold:.2g})."
    )


def test_only_the_deepest_is_certain():
    found = on_a_line([9, 0, 1, 0.9, 9], 0.2)
    assert headline(found).startswith("One basin is certain; the other minimum is within")
    several = on_a_line([9, 0, 1, 0.9, 1, 0.8, 9], 0.2)
    assert "every other minimum is within" in several.tree.sentences()[0]


def test_without_errors_nothing_is_called_certain():
    found = on_a_line([3, 0, 2, 1, 3])
    assert found.tree.sentences() == (
        "2 minima; which of them have certain basins is unknown: 5 of 5 values have no "
        "standard error.",
    )
    assert headline(found) == found.tree.sentences()[0]
    assert not any("all certain" in sentence for sentence in reading(found))


def test_a_flat_map_says_nothing():
    found = on_a_line([1.0, 1.01, 1.0, 1.01, 1.0], 1.0)
    assert headline(found).endswith("only the lowest basin, which every map has, is certain.")
    assert "range over 0.01, less than their 95 % bound" in found.tree.sentences()[0]
    assert (
        on_a_line([2, 2, 2]).tree.sentences()[0]
        == "The loss is the same everywhere on this map."
    )


def test_walls_part_the_map():
    found = on_a_line([1, 0, np.nan, 0, 1], 0.01)
    assert "Points without a finite loss split the map into 2 pieces." in found.tree.sentences()
    assert found.tree.parts == 2
    uncertain = on_a_line([1, 0, 0.9, 0.89, np.nan, 0, 1], 0.01)
    assert "Only the deepest basin of each piece is certain" in uncertain.tree.sentences()[0]


def ring(height, noise):
    x, y = np.meshgrid(np.linspace(-2, 2, 21), np.linspace(-2, 2, 21), indexing="ij")
    hill = height * np.exp(-4 * (x**2 + y**2)) + (x**2 + y**2 > 2) * (x**2 + y**2 - 2)
    land = sample_map(points=21)
    return survey_of(replace(land, values=hill, stderr=np.full(hill.shape, noise)))


def test_hills_ringed_by_lower_ground():
    assert (
        ring(1.0, 0.001)
        .diagram.sentences()[0]
        .startswith("1 hill has lower ground all around with certainty")
    )
    assert ring(1.0, 2.0).diagram.sentences() == (
        "1 hill with lower ground all around is within the error of the map.",
    )
    assert on_a_line([1, 0, 1], 0.1).diagram.sentences() == ()


def test_a_grid_that_is_too_coarse_says_so():
    # A diagonal valley one point wide: its cells touch at corners alone.
    values = np.ones((6, 6))
    values[np.arange(6), np.arange(6)] = 0.1 * np.arange(6)
    land = replace(sample_map(points=6), values=values, stderr=np.full((6, 6), 1e-3))
    found = survey_of(land)
    assert found.resolution.sentences()[0].startswith("The map is under-resolved: ")
    assert "1 and 6 basins" in found.resolution.sentences()[0]
    assert ALL["double well"]().resolution.sentences() == ()


@pytest.mark.parametrize(
    ("values", "stderr", "words"),
    [
        ([2, 1, 0.5, 1, 2], 0.01, "are the lowest point of the map"),
        (
            [2, 0.2, 0.5, 1, 2],
            0.001,
            "more than its error: this map holds points of lower loss",
        ),
        ([2, 0.4, 0.5, 1, 2], 0.5, "which is within the error of the map"),
        ([2, 0.4, 0.5, 1, 2], np.nan, "whether that is more than its error is not known"),
    ],
)
def test_the_weights_against_the_lowest_point(values, stderr, words):
    assert words in read_center(on_a_line(values, stderr))[0]


@pytest.mark.parametrize(
    ("ends", "answer", "words"),
    [
        ((-0.3, -0.1), "no: the map goes 0.2 lower (0.1 to 0.3)", "95 % interval [0.1, 0.3]"),
        (
            (-0.5, 0.1),
            "of this line, yes, within the error",
            "not distinguishable from the loss at the weights",
        ),
    ],
)
def test_the_weights_against_the_lowest_point_on_the_same_examples(ends, answer, words):
    # The map's own bound, far larger, is not asked.
    found = on_a_line([2, 0.3, 0.5, 1, 2], 0.5)
    gap = Estimate(-0.2, 0.02, samples=512, sample_unit="examples", ends=ends)
    card = page_of(replace(found, lowest=gap)).questions[1]
    assert card.value == answer
    assert words in card.sentences[0]
    assert "on the same examples" in card.sentences[0]


def test_weights_that_are_the_lowest_point():
    found = replace(on_a_line([2, 1, 0.5, 1, 2], 0.01), lowest=Estimate(0.0, 0.0))
    card = page_of(found).questions[1]
    assert (card.value, card.mark) == ("of this line, yes", "sure")
    assert "is not known" in card.sentences[1]


@pytest.mark.parametrize(
    ("bottom", "bound", "answer", "mark"),
    [
        (-0.88, 0.01, "of this line, yes; but the loss curves downhill off it", "alarm"),
        (-0.02, 0.001, "of this line, yes; but the loss curves slightly downhill off it", ""),
        (-0.02, 0.1, "of this line, yes", ""),
        (0.2, 0.01, "yes", "sure"),
    ],
)
def test_weights_at_a_saddle_are_not_at_the_bottom(bottom, bound, answer, mark):
    ends, size = (np.array([1.0]), np.array([bottom])), np.array([bound])
    spectrum = Spectrum(*ends, size, size, 9, True, None, (), (), 12, 0, Provenance())
    curvature = InstrumentResult("curvature", {"spectrum": spectrum})
    found = on_a_line([2, 1, 0.5, 1, 2], 0.01)
    found = replace(found, lowest=Estimate(0.0, 0.0), findings={"curvature": curvature})
    card = page_of(found).questions[1]
    assert (card.value, card.mark) == (answer, mark)


def test_weights_between_points_of_the_grid_are_said_to_be():
    gap = Estimate(0.0143, 0.0092, samples=512, sample_unit="examples")
    card = page_of(replace(on_a_line([2, 1, 0.5, 1, 2], 0.01), lowest=gap)).questions[1]
    assert "lie between computed points; the lowest is 0.0143 ± 0.0092" in card.sentences[0]


@pytest.mark.parametrize(
    ("loss", "classes", "is_at_chance"),
    [
        (1.0986, 3, True),
        (1.085, 3, True),
        (0.9, 3, False),
        (10.85, 50257, True),
        (3.2, 50257, False),
    ],
)
def test_a_loss_of_equal_probabilities_is_chance(loss, classes, is_at_chance):
    found = on_a_line([2, 1, 0.5, 1, 2], 0.01)
    record = replace(found.provenance, settings={"classes": classes})
    found = replace(found, loss=Estimate(loss, 0.01, samples=64), provenance=record)
    said = page_of(found).alerts
    assert len(said) == is_at_chance
    assert not said or "that of equal probabilities" in said[0]


def test_weights_without_a_finite_loss():
    broken = replace(
        on_a_line([2, 1, 2], 0.1),
        loss=Estimate(np.nan, np.nan, samples=512, sample_unit="examples"),
    )
    assert read_center(broken) == ("The loss at the weights themselves is not finite.",)


def test_the_lowest_point_on_the_edge():
    assert "widen the span" in told(on_a_line([0, 1, 2], 0.1), "on the edge")[0]
    assert told(on_a_line([1, 0, 2], 0.1), "on the edge") == []


def with_guesses(values, computed, bound):
    survey = on_a_line(values, 0.01)
    land = replace(survey.landscape, computed=np.array(computed), interpolation_error=bound)
    return replace(survey, landscape=land)


def test_range_and_edge_rest_on_computed_points():
    computed = [False, True, True, True, True]
    # The interpolated end is below zero, where a loss cannot be.
    found = with_guesses([-0.4, 0.1, 0.5, 1, 2], computed, 0.5)
    assert told(found, "on the edge") == []
    start = "The computed losses on the map range from 0.1 to 2"
    assert told(found, "range from")[0].startswith(start)
    edge = [True, False, True, True, True]
    assert told(with_guesses([0.1, 0.05, 0.5, 1, 2], edge, 0.2), "on the edge")
    # Inside lies a point that is lower by more than interpolation may be off.
    assert told(with_guesses([0.1, -0.5, 0.5, 1, 2], edge, 0.2), "on the edge") == []


def test_range_against_the_error():
    assert told(on_a_line([0, 1, 5], 0.5), "The losses on the map range") == [
        "The losses on the map range from 0 to 5; that range is 10 times the largest standard "
        "error."
    ]
    assert told(on_a_line([0, 1, 5]), "The losses on the map range") == [
        "The losses on the map range from 0 to 5."
    ]


def holes(rows, columns):
    land = sample_map(points=20)
    values = land.values.copy()
    values[rows, columns] = np.inf
    return survey_of(replace(land, values=values))


@pytest.mark.parametrize(
    ("rows", "columns", "where"),
    [
        (
            slice(-2, None),
            slice(0, 2),
            "in the corner where 'random 1' is greatest and 'random 2' is least",
        ),
        (slice(0, 1), slice(None), "along the side where 'random 1' is least"),
        (slice(9, 11), slice(9, 11), "inside the map"),
        (slice(None, None, 19), slice(None, None, 19), "scattered over the map"),
    ],
)
def test_where_the_loss_is_not_finite(rows, columns, where):
    found = holes(rows, columns)
    (sentence,) = told(found, "not finite")
    count = np.count_nonzero(~found.landscape.finite)
    assert sentence.startswith(f"{count} of 400 points are not finite, {where}; ")


def test_one_wall_is_singular_and_none_is_silent():
    assert told(holes(3, 4), "not finite")[0].startswith("1 of 400 points is not finite")
    assert told(survey_of(sample_map()), "not finite") == []


def test_a_trajectory_in_the_plane():
    found = survey_of(with_trajectory(sample_map(noise=0.01), residual=0.0))
    assert told(found, "trajectory") == ["The trajectory lies in this plane."]


def test_a_trajectory_off_the_plane_says_what_that_hides():
    found = survey_of(with_trajectory(sample_map(noise=0.01), residual=0.12))
    (sentence,) = told(found, "trajectory")
    assert sentence.startswith("The trajectory lies up to 12 % off this plane; the loss at its")
    assert "differs from that of the map by up to" in sentence
    far = survey_of(with_trajectory(sample_map(noise=0.01), residual=0.8))
    assert "so that the map shows its projection" in told(far, "trajectory")[0]


def test_points_outside_the_map_are_counted():
    land = with_trajectory(sample_map())
    way = land.landmarks["trajectory"].copy()
    way[:3] += 100
    found = survey_of(replace(land, landmarks={"trajectory": way}))
    assert told(found, "trajectory")[-1] == (
        "3 of the 25 points of the trajectory lie outside the map."
    )


def test_errors_or_the_reason_for_none():
    assert told(survey_of(line_map(noise=0.03)), "standard error of", "no standard errors")[
        0
    ] == (
        "The losses on the map have a standard error of 0.03 (median; at most 0.03), from "
        "1,000 examples."
    )
    one = survey_of(sample_map(count=1, unit="batches"))
    assert (
        "a spread needs two batches; there is one"
        in told(one, "standard error of", "no standard errors")[0]
    )
    assert (
        "none was estimated"
        in told(survey_of(sample_map()), "standard error of", "no standard errors")[0]
    )


def test_what_was_interpolated_and_how_well():
    assert told(survey_of(sample_map()), "computed") == ["All 961 points were computed."]
    (sentence,) = told(survey_of(refined_map()), "points were computed")
    assert sentence.startswith(
        "196 of 1,681 points were computed and the rest interpolated. Each"
    )
    assert "Each of 300 computed points was also predicted from the others" in sentence
    assert "at most 0.006 (0.14 % of the range, 95 % confidence)" in sentence
    unmeasured = survey_of(replace(refined_map(), held_out=0))
    assert told(unmeasured, "points were computed")[0].endswith(
        "the error of the interpolation was not measured."
    )


@pytest.mark.parametrize("name", ALL)
def test_every_reading_is_made_of_sentences(name):
    found = ALL[name]()
    for sentence in [headline(found), *reading(found)]:
        assert sentence.endswith(".")
        assert "nan" not in sentence.lower().split()
