import base64
import gzip
import json
import math
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lossatlas.errors import ArgumentError, FileError
from lossatlas.io import Provenance
from lossatlas.report import SECTIONS, Estimate, Section, Tile, render, write_report
from lossatlas.report import page as page_room
from lossatlas.text import unbroken
from plots.sample_landscapes import sample_map
from report.sample_surveys import ALL, himmelblau, line, noisy_bowl, survey_of

LIBRARY = page_room.packed_library


class Page(HTMLParser):
    """Elements, attributes and text of a page, scripts kept apart."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.words = [], [], [], []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def figures(self):
        return [json.loads(inflated(t)) for attrs, t in self.scripts if "data-for" in attrs]

    def packed(self, name):
        """What a script element of this id holds."""
        (text,) = [text for attrs, text in self.scripts if attrs.get("id") == name]
        return inflated(text)


def inflated(text):
    return gzip.decompress(base64.b64decode(text))


@pytest.fixture(autouse=True, scope="module")
def _small_library():
    # The library says nothing about our page and takes seconds to parse.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_room, "packed_library", lambda: "packed")
        yield


@pytest.fixture(scope="module")
def pages(_small_library):
    return {name: render(make()) for name, make in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_loaded_from_anywhere(pages, name):
    page = Page(pages[name])
    loading = [
        (tag, value)
        for tag, attribute, value in page.attributes
        if attribute in {"src", "srcset", "data", "action", "poster"}
        or (attribute == "href" and tag != "a")
    ]
    assert loading == [("link", "data:,")]
    assert not re.search(r"@import|url\(", pages[name].split("</style>")[0])
    (policy,) = [v for t, a, v in page.attributes if t == "meta" and "default-src" in str(v)]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def sections(survey):
    """What the instruments have to say; those that were not asked say nothing."""
    return [section for build in SECTIONS if (section := build(survey)) is not None]


def test_plotly_is_there_once_and_the_page_is_small(monkeypatch):
    monkeypatch.setattr(page_room, "packed_library", LIBRARY)
    page = render(himmelblau())
    assert b"plotly.js v" in Page(page).packed("library")
    assert len(page.encode()) < 1.6e6


@pytest.mark.parametrize("name", ALL)
def test_every_section_and_picture_is_on_the_page(pages, name):
    page = Page(pages[name])
    anchors = {value for _, attribute, value in page.attributes if attribute == "id"}
    assert {"start", "map", "topology", "sampling", "numbers", "provenance"} <= anchors
    assert {attrs["data-for"] for attrs, _ in page.scripts if "data-for" in attrs} <= anchors
    alternatives = [v for t, a, v in page.attributes if t == "div" and a == "aria-label"]
    assert len([v for v in alternatives if v]) >= len(page.figures) >= 5


def test_the_surface_of_a_plane_the_band_of_a_line_and_the_cuts_of_a_box(pages):
    def kinds(name):
        return [
            trace["type"] for figure in Page(pages[name]).figures for trace in figure["data"]
        ]

    assert {"surface", "contour", "heatmap"} <= set(kinds("himmelblau"))
    assert "surface" not in kinds("line")
    assert kinds("box").count("surface") == 3


def test_hostile_names_are_text_and_nothing_else(pages):
    page = Page(pages["hostile"])
    # Library, head, frame, and three scripts of our own.
    assert len(page.scripts) == len(page.figures) + 6
    assert "img" not in page.tags
    assert not [a for _, a, _ in page.attributes if a.startswith("on")]
    assert "alert(1)" in "".join(page.words)
    assert "49" not in re.findall(r"\{\{.*?\}\}", " ".join(page.words))
    assert "{{ 7*7 }}" in "".join(page.words)
    assert "\u202e" not in pages["hostile"]


def test_hostile_names_are_text_in_the_figures_too(pages):
    for figure in Page(pages["hostile"]).figures:
        decoded = json.dumps(figure)
        assert "<script" not in decoded
        assert "<img" not in decoded
        assert "%{x}$" not in decoded


def test_every_number_has_an_error_or_a_reason(pages):
    for make in ALL.values():
        numbers = [n for s in sections(make()) for n in s.estimates]
        assert len({number.name for number in numbers}) == len(numbers) >= 12
        assert all(math.isfinite(n.error) or n.why_no_error for n in numbers)
    bare = Section("more", "More", estimates=(Estimate(0.5, name="accuracy"),))
    with pytest.raises(ArgumentError, match=r"'accuracy'.*give the reason as `why_no_error`"):
        render(line(), sections=[lambda survey: bare])


def test_the_numbers_are_those_of_the_survey(pages):
    found = himmelblau()
    rows = {n.name: n for s in sections(found) for n in s.estimates}
    assert rows["loss at the weights"].value == found.loss.value
    assert rows["loss at the weights"].error == 0.01
    assert rows["lowest loss on the map"].value == found.landscape.values.min()
    assert rows["certainty threshold"].value == found.tree.threshold
    assert rows["mean rise to the first saddle, over all minima"].value == found.tree.smad()
    assert rows["minima"].value == len(found.tree)
    assert rows["points that are not finite"].value == 0


def test_a_map_without_errors_claims_no_certainty():
    found = survey_of(sample_map("double well"))
    names = [number.name for s in sections(found) for number in s.estimates]
    assert "certain minima" not in names
    assert not any(name.startswith("pass of") for name in names)
    words = " ".join(Page(render(found)).words)
    assert "which of them have certain basins is unknown" in words
    assert found.tree.why_unknown in words
    figures = json.dumps(Page(render(found)).figures)
    assert '"certain"' not in figures
    assert '"certain ' not in figures
    assert "certainty unknown" in figures
    assert "certainty unknown" in repr(found)


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    path = write_report(line(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    before = path.read_bytes()

    def broken(survey):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_report(line(), path, sections=[broken])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="was not written"):
        write_report(line(), tmp_path / "file" / "report.html")


def test_the_same_survey_gives_the_same_page():
    assert render(noisy_bowl()) == render(noisy_bowl())


def test_a_new_instrument_adds_a_section():
    def curvature_section(survey):
        top = Estimate(12.5, 0.25, name="top eigenvalue", meaning="sharpest curvature")
        return Section(
            "curvature",
            "Curvature",
            sentences=("The top eigenvalue is 12.5.",),
            tiles=(Tile("top eigenvalue", "12.5", "± 0.25"),),
            estimates=(top,),
        )

    def absent(survey):
        return None

    words = " ".join(
        Page(render(line(), sections=[*SECTIONS, curvature_section, absent])).words
    )
    for phrase in ("Curvature", "The top eigenvalue is 12.5.", "12.50", unbroken("± 0.25")):
        assert phrase in words
    with pytest.raises(ArgumentError, match="different keys; got 'map' twice"):
        render(line(), sections=[*SECTIONS, SECTIONS[0]])


def test_a_report_costs_little():
    render(line())
    found = himmelblau()
    started = time.process_time()
    render(found)
    assert time.process_time() - started < 3.0


def test_chance_and_untrained_weights_are_the_first_line():
    found = noisy_bowl()
    settings = {"chance": {"share": 0.1, "classes": 10}, "untrained": True}
    record = replace(found.provenance, settings=settings)
    poor = {"accuracy": Estimate(0.094, 0.01, samples=512, sample_unit="examples")}
    first, second = page_room.page_of(replace(found, metrics=poor, provenance=record)).alerts
    assert "untrained" in first
    assert "at chance: accuracy 0.094 ± 0.010" in second
    assert page_room.page_of(found).alerts == ()
    sure = replace(found, provenance=replace(record, settings={"chance": settings["chance"]}))
    assert page_room.page_of(sure).alerts == ()


def test_the_questions_have_answers_no_surer_than_the_errors():
    basins, arrival, *_, trust = page_room.page_of(himmelblau()).questions
    assert basins.value == "no: 4 are certain"
    assert arrival.value.endswith("lower nearby")
    assert trust.value.startswith("± ")
    unknown = page_room.page_of(survey_of(sample_map("double well"))).questions
    assert unknown[0].value == "2 minima, certainty unknown"
    assert unknown[1].value == "not known"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (Provenance(seed=3), "3"),
        (Provenance(settings={"seeds": 2}), "0 to 1, one a training"),
        (Provenance(settings={"seeds": 1}), "0"),
        (Provenance(), "none recorded"),
    ],
)
def test_no_page_says_that_nothing_was_random(record, said):
    words = " ".join(Page(render(replace(noisy_bowl(), provenance=record))).words)
    assert f"seed {said}" in words
    assert "nothing was random" not in words


def test_a_map_is_cited_for_the_directions_it_was_drawn_on():
    found = noisy_bowl()
    for kind, use in (("trajectory", "training trajectory"), ("given", "on a plane")):
        record = replace(found.landscape.provenance, settings={"plane": {"kind": kind}})
        land = replace(found.landscape, provenance=record)
        (cited,) = land.cited()
        assert use in cited.use
        assert "filter-normalized" not in cited.use


def test_provenance_is_on_the_page():
    words = " ".join(Page(render(noisy_bowl())).words)
    for phrase in ("0f3a9c", "77be01", "torch", "arxiv.org/abs/1712.09913"):
        assert phrase in words
