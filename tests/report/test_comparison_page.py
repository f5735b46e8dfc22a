import json
import re
from dataclasses import replace

import numpy as np
import pytest

from lossatlas import io
from lossatlas.plots.pairs import shared_scale
from lossatlas.report import page as page_room
from lossatlas.report import render, write_report
from lossatlas.report.comparison import comparison_page
from lossatlas.result import Estimate
from lossatlas.text import unbroken
from lossatlas.topology import merge_tree, persistence
from lossatlas.weights import Excess
from lossatlas.weights.barrier import Recalibration
from lossatlas.weights.paired import EQUAL
from plots.sample_landscapes import sample_map
from report.sample_comparisons import comparison_of, hostile, valleys, way
from report.test_report_browser import BROWSER, drive
from report.test_write_report import LIBRARY, Page


@pytest.fixture(autouse=True, scope="module")
def _small_library():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_room, "packed_library", lambda: "packed")
        yield


def view(height, stderr=0.01, barrier_stderr=0.02):
    land = sample_map(noise=0.02)
    return comparison_of(land, land, way(height, stderr), stderr=barrier_stderr)


def test_the_headline_is_plain_and_no_surer_than_the_errors():
    sure = "The loss barrier on the straight line is 0.400 ± 0.020."
    assert view(0.4).headline() == sure
    none = "No barrier on the straight line: the loss is below the linear interpolation"
    assert view(-0.1, barrier_stderr=0.0001).headline().startswith(none)
    unsure = "No barrier on the straight line beyond the error: at most 0.07 at any of 19"
    assert view(0.02).headline().startswith(unsure)
    assert "its error is unknown" in view(0.4, np.nan, np.nan).headline()
    broken = way()
    broken.values[9] = np.inf
    land = sample_map(noise=0.02)
    assert "not finite" in comparison_of(land, land, broken).headline()


def test_the_reading_says_which_is_lower_and_what_became_of_the_basins():
    words = " ".join(valleys().sentences())
    assert "A is lower by 0.1, more than the errors allow" in words
    assert "50 % of the way, by 0.4" in words
    assert "The maps around A and B have 2 and 3 basins: 2 are matched by shape" in words
    assert "0 are only around A and 1 is only around B" in words
    assert "0 around A and 1 around B are certain" in words
    equal = " ".join(view(0.4, stderr=0.2).sentences())
    assert "equal within their errors" in equal
    dip = " ".join(view(-0.15).sentences())
    assert "lower than at both ends" in dip


def test_a_dip_is_praised_only_where_it_is_more_than_its_error():
    found = view(-0.15)
    gap = Estimate(0.0, 0.001, samples=100)
    sure = replace(found, difference=gap).sentences()
    assert any("an average of the two may serve better" in text for text in sure)
    unsure = replace(found, difference=replace(gap, stderr=1.0)).sentences()
    assert not any("average of the two" in text for text in unsure)
    (unknown,) = (text for text in found.sentences() if "lower than at both ends" in text)
    assert "not known" in unknown


def test_which_file_is_which_is_said_at_the_head():
    found = valleys()
    settings = {"first": "run/step_160.pt", "second": "run/step_200.pt"}
    named = replace(found, provenance=io.Provenance(settings=settings))
    words = "A = run/step_160.pt, B = run/step_200.pt"
    assert named.sentences()[0] == f"{words}."
    assert comparison_page(named).subtitle == words
    assert words in " ".join(Page(render(named)).words)
    bare = replace(found, provenance=io.Provenance())
    assert bare.sentences()[0].startswith("The loss is")
    assert comparison_page(bare).subtitle == ""


def test_a_line_without_a_barrier_has_no_zero_with_an_error():
    found = view(-0.1, barrier_stderr=0.0)
    row = next(row for row in found.rows() if row[0] == "barrier")
    assert "none seen" in " ".join(row)
    assert "± 0" not in " ".join(row)
    (tile,) = (
        t for s in comparison_page(found).sections for t in s.tiles if t.label == "barrier"
    )
    assert tile.value == "none seen"


def test_the_page_has_the_line_both_maps_and_every_number():
    page = Page(render(valleys()))
    kinds = [[trace["type"] for trace in figure["data"]] for figure in page.figures]
    assert len(kinds) == 5
    assert sum("contour" in kind for kind in kinds) == 2
    maps = [f["data"][0] for f in page.figures if f["data"][0]["type"] == "contour"]
    assert maps[0]["zmin"] == maps[1]["zmin"]
    assert maps[0]["zmax"] == maps[1]["zmax"]
    words = " ".join(page.words)
    for phrase in ("Comparison of two checkpoints", "bottleneck distance", "77be01", "N1"):
        assert phrase in words
    numbers = [n for section in comparison_page(valleys()).sections for n in section.estimates]
    assert len({number.name for number in numbers}) == len(numbers) >= 20
    assert all(np.isfinite(n.error) or n.why_no_error for n in numbers)


def test_the_rise_with_its_paired_band_comes_first():
    found = view(0.4)
    picture = comparison_page(found).hero[0]
    assert picture.name == "rise"
    curve, band = (
        next(trace for trace in picture.plotly().data if word in (trace.name or ""))
        for word in ("minus the straight line", "band")
    )
    np.testing.assert_allclose(curve.y, found.excess.value)
    assert max(band.y) == pytest.approx(found.excess.value.max() + 2.5 * 0.02)
    unknown = view(0.4, np.nan, np.nan).figures()[0]
    assert not any("band" in (trace.name or "") for trace in unknown.plotly().data)


def test_closed_parts_say_what_they_hold_and_never_zero():
    words = " ".join(Page(render(valleys())).words)
    assert "1 figure, 1 table" in words
    assert "0 figures" not in words
    assert "0 tables" not in words


def test_a_distance_within_the_errors_says_how_large_it_may_be():
    found = view(0.4)
    assert 0 <= found.bottleneck <= found.depth_bound
    reach = f"{found.bottleneck + found.depth_bound:.2g}"
    row = next(row for row in found.rows() if row[0] == "bottleneck distance")
    assert f"errors of the maps could cause it; at most {reach}" in " ".join(row)
    assert f"it is at most {reach} (95 % for each map)" in found.distance_sentences()[0]


def test_ticks_of_a_line_reach_as_far_as_its_band():
    line = way(0.004, stderr=0.2)
    for figure in (view(0.004, stderr=0.2).figures()[1], line.figures()[0]):
        ticks = figure.plotly().layout.yaxis.tickvals
        assert min(ticks) < line.values.min() - 0.15
        assert max(ticks) > line.values.max() + 0.15


def test_matched_basins_have_one_number_and_lie_in_one_place():
    found = valleys()
    (both, gone), (both_too, new) = found.matches()
    assert both.labels == both_too.labels == ("1", "2")
    np.testing.assert_allclose(both.points, both_too.points, atol=0.25)
    assert not both.apart.any()
    assert (gone.total, new.total) == (0, 1)
    np.testing.assert_allclose(new.points[0], [0.0, 1.2], atol=0.25)
    values = np.concatenate([found.first.values, found.second.values])
    scale = shared_scale((found.first, found.second))
    assert (scale.low, scale.high) == (values.min(), values.max())


def test_hostile_names_are_text_and_nothing_else():
    page = Page(render(hostile()))
    assert len(page.scripts) == len(page.figures) + 4
    assert "img" not in page.tags
    assert not [a for _, a, _ in page.attributes if a.startswith("on")]
    assert "{{ 7*7 }}" in "".join(page.words)
    for figure in page.figures:
        decoded = json.dumps(figure)
        assert "<script" not in decoded
        assert "<img" not in decoded


def test_a_map_without_errors_claims_no_certainty():
    land = sample_map("double well")
    words = " ".join(Page(render(comparison_of(land, land, way()))).words)
    assert "Which of them are certain is unknown" in words
    assert "certain basins among" not in words


def test_a_winner_is_named_only_where_the_pairs_tell():
    def asked(gap, error):
        found = replace(valleys(), difference=Estimate(gap, error, samples=500))
        return found.line_sentences()[0], comparison_page(found).questions[0]

    sentence, card = asked(-0.05, 0.01)
    assert sentence.endswith("]: B is lower.")
    assert (card.value, card.mark) == ("B, by 0.050 ± 0.010", "sure")
    sentence, card = asked(0.01, 0.01)
    assert sentence.endswith(": indistinguishable.")
    assert card.value.startswith("indistinguishable")
    assert comparison_page(valleys()).questions[0].value == "no paired error"


def test_walls_and_notes_are_told_of_their_map(tmp_path):
    land, walled = sample_map(noise=0.02), sample_map(noise=0.02, walls=True, notes=("Odd.",))
    found = comparison_of(land, walled, way())
    text = write_report(found, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Around B: Odd." in text
    assert "of the map around B have no finite loss" in text
    assert render(found) == render(found)


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed")
def test_the_page_is_drawn_in_a_browser(monkeypatch, tmp_path):
    monkeypatch.setattr(page_room, "packed_library", LIBRARY)
    page = render(hostile())
    seen, asked, _ = drive(page, "await Page.all(); return root.dataset.drawn", tmp_path)
    assert seen["result"] == "5"
    assert (seen["errors"], seen["calls"], asked) == ([], 0, set())


def test_diagrams_and_trees_keep_their_confidence_on_disk(tmp_path):
    land = sample_map(noise=0.02)
    for result in (persistence(land, confidence=0.9), merge_tree(land, confidence=0.9)):
        back = io.load(io.save(result, tmp_path / "r.nc"))
        assert back.confidence == result.confidence == 0.9


def test_a_barrier_that_a_lower_point_proves_is_given_by_its_lower_end():
    # At the top the error reaches to zero, beside it, where errors are smaller, it does not.
    found = view(0.4)
    at = found.excess.at
    value, stderr = np.zeros(at.size), np.full(at.size, 1e-4)
    value[10], stderr[10], value[5] = 0.0070, 0.0037, 0.0010
    found = replace(found, excess=replace(found.excess, value=value, stderr=stderr))
    assert found.excess.is_certain
    assert not found.excess.is_top_certain
    assert found.excess.lower == pytest.approx(0.0010 - 2.5e-4)
    expected = "The loss barrier on the straight line is at least 0.00075."
    assert found.headline() == expected
    words = " ".join(found.line_sentences())
    assert "by 0.007 (the highest rise is from 0.00075 to 0.016, 95 %" in words
    assert "right to within" not in words
    page = comparison_page(found)
    assert page.questions[1].value == "yes: at least 0.00075"
    (shown,) = (t for s in page.sections for t in s.tiles if t.label == "barrier")
    assert "at least 0.00075" in shown.detail
    none = replace(found.excess, value=np.where(value == 0.0010, 0, value))
    unsure = replace(found, excess=none)
    assert unsure.headline().startswith("No barrier on the straight line beyond the error")
    assert comparison_page(unsure).questions[1].value == "none beyond the error"


def test_a_page_gives_the_barrier_with_statistics_measured_anew():
    at = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    low = Excess(at, np.array([0, 0.01, 0.002, 0.001, 0]), np.full(5, 0.01), 2.5, 1000)
    used = "interpolated running statistics"
    found = replace(view(0.4), anew=Recalibration(used, low))
    assert found.excess.is_certain
    assert found.verdict.is_certain is False
    expected = (
        f"The loss rises by 0.400 ± 0.020 on the straight line with {used}, and by "
        "0.010 ± 0.010 with statistics measured anew at 3 points: no barrier between the "
        "networks themselves beyond the error."
    )
    assert expected == found.headline() == found.line_sentences()[1]
    assert f"The loss on the line with {used} is highest" in found.line_sentences()[2]
    page = comparison_page(found)
    card = page.questions[1]
    assert (page.headline, card.value, card.mark) == (expected, "none beyond the error", "")
    first, second = (t for s in page.sections for t in s.tiles if "barrier" in t.label)
    assert first.detail == f"± 0.020 with {used}"
    assert (second.value, second.detail) == ("0.010", "± 0.010, within the error")
    assert not any("does not mean" in text for text in found.match_sentences())
    known = replace(low, value=low.value + 0.2 * (at * (1 - at)))
    both = replace(found, anew=Recalibration(used, known))
    assert comparison_page(both).questions[1].value.startswith("yes: 0.05")
    hidden = replace(found, anew=Recalibration(used, why_unknown="one row a batch"))
    page = comparison_page(hidden)
    assert page.questions[1].value == f"0.400 ± 0.020, {used}"
    assert page.headline.endswith("it is not known: one row a batch.")
    assert unbroken(expected) in render(found)


def test_losses_that_differ_by_rounding_are_called_equal():
    gap = Estimate(0.0, 0.0, samples=500, why_no_error=EQUAL)
    found = replace(valleys(), difference=gap)
    assert found.line_sentences()[0].endswith("the losses are equal up to rounding error.")
    assert comparison_page(found).questions[0].value == EQUAL
    (row,) = (row for row in found.rows() if row[0] == "difference of the losses")
    assert row[1:] == ("0 loss", EQUAL)
    assert not re.search(r"\b0 ± 0(?![.\d])", " ".join(found.sentences()))


def test_matched_basins_are_not_called_the_same_where_a_barrier_stands():
    def card(found):
        return comparison_page(found).questions[2]

    apart = card(view(0.4))
    assert "same basin" not in apart.question
    assert apart.value.endswith("only near B")
    assert "does not mean that the two checkpoints lie in one basin" in apart.sentences[1]
    assert len(card(view(-0.1)).sentences) == 1
