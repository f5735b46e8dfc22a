"""Findings with known numbers, as sentences, sections and rows of the page."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import lossatlas as la
from lossatlas.curvature import (
    GradientNoise,
    GroupSpectra,
    GroupSpectrum,
    InstrumentResult,
    LearningRate,
    SampleSizeCurve,
    Spectrum,
    Stability,
    WorstSharpness,
    instruments,
)
from lossatlas.io import Provenance
from lossatlas.report import SECTIONS, reading, render
from lossatlas.report.page import page_of
from lossatlas.report.sections.instruments import answer_of
from lossatlas.result import Estimate
from plots.sample_landscapes import sample_map
from report.sample_surveys import HOSTILE, survey_of


def edge(sharpness, threshold=2.0, bound=0.01, rule="descent"):
    return Stability(sharpness, bound, threshold, sharpness / threshold, rule, 20, reached=True)


def group(name, largest, smallest, note="", examples=40):
    length, total = Estimate(0.3, 0.01, samples=40), Estimate(5.0, 0.1, samples=12)
    bounds = {"largest_bound": 0.01, "smallest_bound": 0.01}
    return GroupSpectrum(
        name,
        examples,
        12,
        largest=largest,
        smallest=smallest,
        **bounds,
        trace=total,
        gradient_norm=length,
        products=30,
        note=note,
    )


def curve(enough):
    sizes = np.array([20.0, 40.0, 80.0])
    change = 1 / sizes**2
    return SampleSizeCurve(sizes, change, change / 10, enough, 35, None, 0.03, 0.1, 5)


def classes(*groups):
    return {"classes": GroupSpectra("class", groups)}


def layers(*groups):
    return {"layers": GroupSpectra("layer", groups)}


def survey_with(missing=None, **results):
    findings = {
        name: InstrumentResult(name, parts, (missing or {}).get(name, {}), 1.5)
        for name, parts in results.items()
    }
    for name, lost in (missing or {}).items():
        findings.setdefault(name, InstrumentResult(name, {}, lost))
    return survey_of(sample_map("himmelblau", 5, 15), findings=findings)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            edge(2.3),
            "learning rate x largest eigenvalue = 2.3: above the edge of stability (2)",
        ),
        (
            edge(0.5),
            "learning rate x largest eigenvalue = 0.5: below the edge of stability (2), at "
            "25 % of it",
        ),
        (edge(1.995), "at the edge of stability (2), within the error bound"),
        (edge(-0.5), "below the edge of stability (2), at 0 % of it"),
    ],
)
def test_the_rate_against_the_edge_in_words(found, words):
    survey = survey_with(stability={"descent": found})
    assert words in survey.findings["stability"].sentences()[0]
    assert words in " ".join(reading(survey))


@pytest.mark.parametrize(
    ("found", "answer", "mark"),
    [
        (edge(220.58), "yes: 110 times the edge for SGD without momentum", "alarm"),
        (edge(0.323), "no sign of it: 16 % of the edge for SGD without momentum", "sure"),
        (edge(1.995), "at the edge for SGD without momentum, within the error", "alarm"),
        (edge(math.nan), "not known", ""),
        (edge(80.0, 38.0, rule="adam"), "yes: 2.11 times the edge for Adam", "alarm"),
    ],
)
def test_whether_the_rate_is_too_high(found, answer, mark):
    assert LearningRate(descent=found).answer() == (answer, mark)
    card = next(
        each
        for each in page_of(survey_with(stability={"descent": found})).questions
        if each.question == "Is my learning rate too high?"
    )
    assert (card.value, card.mark) == (answer, mark)


def test_a_rate_that_is_known_stands_beside_the_one_at_the_edge():
    low, high = (replace(edge(value), lr=value) for value in (0.5, 4.0))
    assert low.answer() == (
        "no sign of it: 0.5 is below the edge, 2 for SGD without momentum",
        "sure",
    )
    assert high.answer() == ("yes: 4 is above the edge, 2 for SGD without momentum", "alarm")
    assert low.sentences()[0].endswith("at these weights rates up to 2 are stable.")
    assert "at a learning rate of 4, " in high.sentences()[0]


@pytest.mark.parametrize("share", [0.5, 0.95, 0.997, 0.99996, 1.00004, 1.003, 1.3])
@pytest.mark.parametrize("lr", [0.001037, 3.5137, 0.1, 999.6, 1234.5, 3.3e-7])
@pytest.mark.parametrize("threshold", [2.0, 2 * 1.9 / 2.8, 13.5714])
def test_a_rate_and_its_edge_never_contradict_each_other(share, lr, threshold):
    def read(text):
        return float(text.replace(",", ""))

    found = replace(edge(share * threshold, threshold, bound=1e-6 * threshold), lr=lr)
    answer, sentence = found.answer()[0], found.sentences()[0]
    rate, side, highest = re.fullmatch(
        r"(?:no sign of it|yes): (\S+) is (below|above) the edge, (\S+) "
        "for SGD without momentum",
        answer,
    ).groups()
    assert side == ("below" if share < 1 else "above")
    assert (read(rate) < read(highest)) == (share < 1)
    assert (read(rate) > read(highest)) == (share > 1)
    # Never above the edge, and close to it.
    assert 0.9 * lr / share < read(highest) <= lr / share * (1 + 1e-11)
    value, limit = re.search(
        r"eigenvalue = (\S+): \w+ the edge of stability \((\S+?)\)", sentence
    ).groups()
    assert (read(value) < read(limit)) == (share < 1)
    if share < 1:
        assert f"rates up to {highest} are stable" in sentence
        assert read(re.search(r"at (\S+) % of it", sentence).group(1)) < 100
    alone = replace(found, lr=math.nan).answer()[0]
    figure = re.search(r": (\S+) (%|times)", alone)
    assert (read(figure.group(1)) / (100 if figure.group(2) == "%" else 1) < 1) == (share < 1)


def test_the_rate_at_the_edge_is_rounded_down():
    found = replace(edge(1.0), lr=4.793 / 2)
    assert found.sentences()[0].endswith("rates up to 4.79 are stable.")
    close = replace(edge(0.997 * 2, bound=0.001), lr=3.52)
    assert close.answer()[0] == (
        "no sign of it: 3.52 is below the edge, 3.53 for SGD without momentum"
    )


def test_the_ratio_with_adam_says_when_it_holds():
    both = LearningRate(descent=edge(0.5), adam=edge(18.0, 38.0, rule="adam"))
    first, second, third = both.sentences()
    assert first.startswith(
        "For SGD without momentum, learning rate x largest eigenvalue = 0.5"
    )
    assert second.startswith("For Adam, learning rate x largest eigenvalue = 18")
    assert "assumes that its second moments have converged" in third


def test_an_unknown_optimizer_is_answered_for_both_and_a_known_one_alone():
    low, adam = replace(edge(0.5), lr=0.5), replace(edge(76.0, 38.0, rule="adam"), lr=0.5)
    both = LearningRate(descent=low, adam=adam)
    assert both.answer() == (
        "SGD without momentum: no sign of it (the edge is 2); Adam: yes (the edge is 0.25)",
        "",
    )
    agreed = LearningRate(descent=edge(0.5), adam=edge(19.0, 38.0, rule="adam"))
    assert agreed.answer() == (
        "SGD without momentum: no sign of it (25 % of the edge); "
        "Adam: no sign of it (50 % of the edge)",
        "sure",
    )
    given = LearningRate(low, adam, optimizer=adam)
    assert given.answer() == ("yes: 0.5 is above the edge, 0.25 for Adam", "alarm")


def ends(top, bottom, bound):
    one, size = np.array([top]), np.array([bound])
    low = np.array([bottom])
    found = Spectrum(one, low, size, size, 9, True, None, (), (), 12, 0, Provenance())
    return found.answer()


def test_how_sharp_and_whether_downhill_are_both_answered():
    assert ends(1.4567, -0.01325, 1e-4) == (
        "curvature up to 1.457; slightly downhill somewhere (\N{MINUS SIGN}0.013)",
        "sure",
    )
    start, low = "curvature up to 1.457", "\N{MINUS SIGN}0.5"
    assert ends(1.4567, -0.5, 1e-4) == (f"{start}; downhill somewhere ({low})", "sure")
    assert ends(1.4567, -5e-5, 1e-4) == (f"{start}; nowhere downhill beyond the error", "")
    assert ends(1.4567, 0.1, 1e-4) == (f"{start}; nowhere downhill", "sure")


def test_no_question_that_wants_a_word_is_answered_by_a_number():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    inputs, labels = torch.randn(96, 3), torch.arange(96) % 3
    loss = la.supervised(torch.nn.functional.cross_entropy)
    objective = la.Objective(model, loss, [(inputs, labels)])
    wordy = ("Is ", "Do ", "Does ", "Can ", "Have ", "Which ")
    asked = [tool.name for tool in instruments() if tool.question.startswith(wordy)]
    found = la.survey(objective, points=3, span=0.3, instruments=asked, lr=0.1)
    for each in found.findings.values():
        words, _ = answer_of(each)
        assert not each.results or re.search("[a-z]{2}", words), each.about.question


def test_the_nearest_to_a_saddle_is_named():
    groups = (group("a", 4.0, -0.1), group("b", 1.0, -0.5), group("c", 3.0, 0.2))
    words = " ".join(survey_with(classes=classes(*groups)).sentences())
    assert "sharpest class is a: largest eigenvalue 4.000 ± 0.010" in words
    assert "nearest to a saddle is b: its lowest eigenvalue is negative, 0.5 times" in words
    (alone,) = layers(group("a", 1.0, -1.0)).values()
    assert alone.sentences() == ()


def test_a_gradient_beside_its_noise():
    norm, lost = Estimate(0.4, 0.1, samples=9), Estimate(math.inf, math.nan, why_no_error="x")
    noise = GradientNoise(norm, norm, Estimate(60.0, 9.0, samples=9), 0.1, "examples")
    (words,) = noise.sentences()
    assert "4 times what sampling alone would give" in words
    assert "noise scale is 60.0 ± 9.0 examples" in words
    (words,) = GradientNoise(norm, norm, lost, 0.5, "examples").sentences()
    assert "at rest as far as these examples can tell" in words


def test_gradient_and_noise_scale_are_judged_apart():
    # A gradient may exceed its noise while the scale is not known: the answer says both.
    def noise(error, scale_error):
        norm, scale = (
            Estimate(0.32, error, samples=400),
            Estimate(889.3, scale_error, samples=20),
        )
        return GradientNoise(norm, norm, scale, 0.145, "examples")

    unknown = noise(0.061, 974.0)
    assert unknown.answer() == (
        "2.2 times its noise; the batch that pays off is not known",
        "",
    )
    (words,) = unknown.sentences()
    assert "2.2 times what sampling alone would give; the noise scale is not known" in words
    doubtful = noise(0.2, 974.0)
    assert doubtful.answer() == ("2.2 times its noise, within its error", "")
    assert "would give, which is within its error;" in doubtful.sentences()[0]
    assert noise(0.061, 90.0).answer()[1] == "sure"


def test_sample_sizes_in_words():
    assert "From 40 examples on" in curve(40).sentences()[0]
    assert "Even with 80 examples" in curve(None).sentences()[0]


def test_every_section_has_a_place_and_hostile_names_stay_text():
    groups = tuple(group(f"{HOSTILE}{k}", 1.0 + k, -0.5) for k in range(3))
    worst = WorstSharpness(Estimate(0.2, 0.01, samples=9), 0.1, 0.05, adaptive=False, ascents=9)
    page = render(
        survey_with(
            missing={"residual_gain": {"blocks": HOSTILE}, "sample_size": {"more": "too few"}},
            layers=layers(*groups),
            classes=classes(*groups),
            stability={"descent": edge(2.3), "adam": edge(50, 38.0, rule="adam")},
            sharpness={"worst": worst, "average": Estimate(0.1, 0.01, samples=20)},
            sample_size={"curve": curve(40)},
            representations={"rankme": Estimate(7.0, 0.2, samples=10)},
        )
    )
    for key in ("groups", "steps", "sharpness", "features", "unavailable"):
        assert re.search(rf'<(article|details) class="[a-z ]*" id="{key}', page)
    assert 'id="curvature' not in page
    assert "<img" not in page
    assert "alert(1)</script>" not in page
    assert "Not measured, with the reason below: Residual gain." in page
    assert re.search(r"<td>Sample size</td><td>more</td><td>too few</td>", page)
    assert re.search(r"worst-case sharpness</th>\s*<td class=\"value\">0.200</td>", page)


def test_a_survey_without_instruments_has_none_of_their_sections():
    plain = survey_of(sample_map())
    made = [section.key for build in SECTIONS if (section := build(plain)) is not None]
    assert made == ["map", "topology", "sampling"]


def test_parts_are_drawn_where_they_lie():
    groups = [group("a", 4.0, -0.1), group("b", 1.0, 0.5), group("lost", math.nan, math.nan)]

    def drawn(groups):
        # Dots of a series, then its error bars.
        return GroupSpectra("layer", tuple(groups)).plot(backend="plotly").data[::2]

    up, down = drawn(groups)
    assert (list(up.x), list(up.y)) == ([4.0, 1.0], [0, 1])
    assert (list(down.x), list(down.y)) == ([0.1], [0])
    ax = GroupSpectra("layer", tuple(groups)).plot()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert len(drawn([group(str(k), k + 1.0, 0.0) for k in range(60)])[0].x) == 40
    assert len(drawn([group(str(k), -1.0, -2.0) for k in range(3)])[1].x) == 3


def test_edges_and_curves_are_drawn_where_they_lie():
    both = LearningRate(descent=edge(1.0), adam=edge(76.0, 38.0))
    beyond, edge_line, dots, _ = both.plot(backend="plotly").data
    assert list(dots.x) == [0.5, 2.0]
    assert min(beyond.x) == edge_line.x[0] == 1.0
    assert both.plot().get_xscale() == "log"
    band, line, _ = curve(40).plot(backend="plotly").data
    np.testing.assert_allclose(line.y, 1 / line.x)
    assert len(band.x) == 6


def test_a_spectrum_is_drawn_down_to_where_smoothing_begins():
    model = torch.nn.Linear(3, 1, bias=False)
    batch = (torch.diag(torch.tensor([2.0, 1.0, 0.5])), torch.zeros(3, 1))
    objective = la.Objective(model, la.supervised(torch.nn.functional.mse_loss), [batch])
    found = la.spectrum(objective, top=3, bottom=1)
    figure = found.plot(backend="plotly")
    assert list(figure.data[-2].x) == pytest.approx([*found.bottom, *found.top])
    low, high = figure.layout.yaxis.range
    assert 6 < high - low < 8
    bottom, top = found.plot().get_ylim()
    assert (np.log10(bottom), np.log10(top)) == pytest.approx((low, high))
