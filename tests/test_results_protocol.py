"""What every result that users are given can do: one sample a class, many promises.

A new result adds a line to `SAMPLES`: its class and a function that makes a small one.
"""

import inspect
import json

import numpy as np
import pytest
from matplotlib import pyplot as plt

import lossatlas as la
from lossatlas import topology
from lossatlas.landscape.mapping import MapPlan
from lossatlas.landscape.span import SpanSuggestion
from lossatlas.result import Result
from lossatlas.surveys import Comparison
from plots.sample_landscapes import box_map, line_map, refined_map, sample_map, with_trajectory
from report.sample_comparisons import valleys

FIELD = sample_map("double well", points=15, noise=0.01)
SAMPLES = {
    "Landscape": lambda: with_trajectory(refined_map()),
    "Landscape of a line": line_map,
    "Landscape of a box": lambda: box_map(7),
    "Landscape without errors": lambda: sample_map(points=9, walls=True),
    "MapPlan": lambda: MapPlan("plain", 961, 2**20),
    "SpanSuggestion": lambda: SpanSuggestion(0.5, 1.2, "the loss rises by 1.2.", 9),
    "Comparison": valleys,
    "Diagram": lambda: topology.persistence(FIELD),
    "MergeTree": lambda: topology.merge_tree(FIELD),
    "Resolution": lambda: topology.resolution(FIELD),
    "CertainBasins": lambda: topology.certain_basins(FIELD),
    "Profile": lambda: topology.profile(FIELD),
    "Matching": lambda: topology.match_bars([[0.0, 2.0]], [[0.5, 2.0], [1.0, 1.1]]),
    "BasinMatching": lambda: topology.match_basins(FIELD, sample_map(points=15)),
}


@pytest.fixture(params=SAMPLES)
def found(request):
    yield SAMPLES[request.param]()
    plt.close("all")


def test_its_text_is_short(found):
    assert len(repr(found)) <= 400
    assert repr(found).count("\n") <= 4
    assert repr(found).startswith(f"<{type(found).__name__}: ")


def test_it_comes_back_from_its_file(found, tmp_path):
    back = la.load(found.save(tmp_path / "result.nc"))
    assert back == found
    assert repr(back) == repr(found)
    assert [f.name for f in back.figures()] == [f.name for f in found.figures()]
    assert back.sentences() == found.sentences()


def test_its_numbers_have_errors_or_reasons(found):
    names = [estimate.name for estimate in found.estimates()]
    assert names
    assert len(set(names)) == len(names)
    for estimate in found.estimates():
        assert np.isfinite(estimate.error) or estimate.why_no_error, estimate
    assert list(found.to_frame()["name"]) == names
    json.dumps(found.to_dict(), allow_nan=False)


def test_its_sentences_are_sentences(found):
    for sentence in found.sentences():
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith(".")
        assert "nan" not in sentence.lower().split()


def test_every_picture_is_drawn_by_both_backends(found):
    names = [figure.name for figure in found.figures()]
    assert len(set(names)) == len(names)
    for figure in found.figures():
        assert figure.title
        assert figure.caption.endswith(".")
        assert figure.alt.endswith(".")
        assert found.plot(figure.name).figure is not None
        assert found.plot(figure.name, backend="plotly").layout.height
        plt.close("all")


def test_notebooks_show_its_sentences_numbers_and_first_picture(found):
    page = found._repr_html_()
    assert type(found).__name__ in page
    assert ("<img" in page) == bool(found.figures())
    assert "<table>" in page


def test_every_result_of_the_map_rooms_has_a_sample():
    rooms = [vars(topology).values(), (la.Landscape, MapPlan, SpanSuggestion, Comparison)]
    results = {
        value.__name__
        for room in rooms
        for value in room
        if inspect.isclass(value) and issubclass(value, Result)
    }
    assert results <= set(SAMPLES)
