"""The page of a result that is neither a survey nor a comparison."""

import html

import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError
from lossatlas.io import Provenance
from lossatlas.report import render
from lossatlas.report.results import without_numbers
from lossatlas.text import unbroken
from lossatlas.weights import connect, factors, sensitivity, soup
from phrases import faults_of


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    batch = torch.randn(20, 3), torch.randint(2, (20,))
    return la.Objective(torch.nn.Sequential(*layers), la.supervised(F.cross_entropy), [batch])


def test_sentences_numbers_and_figures_of_any_result_are_on_its_page(task, tmp_path):
    ends = [{n: torch.randn_like(v) for n, v in task.params.items()} for _ in "ab"]
    found = connect(task, *ends)
    record = Provenance(seed=3, settings={"kind": "line"}, model="m0", data="d0")
    path = la.write_report(found, tmp_path / "a.html", title="<b>A</b>", provenance=record)
    page = path.read_text()
    assert "From A to B" in page
    assert unbroken(found.sentences()[0]) in page
    assert not faults_of(page.partition("<script")[0], is_page=True)
    assert "&lt;b&gt;A&lt;/b&gt;" in page
    assert "<b>A</b>" not in page
    assert "d0" in page
    assert all(reference.link in page for reference in found.references)
    for figure in found.figures():
        assert figure.title in page
    for made in (sensitivity(task, probes=2), factors(task)):
        assert unbroken(made.sentences()[0]) in render(made).replace("&#39;", "'")


def test_notes_are_told_once_on_a_page():
    layers = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(*layers)
    batch = torch.randn(20, 3), torch.randint(2, (20,))
    task = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    found = soup(task, model.state_dict(), model.state_dict())
    assert found.notes
    page = html.unescape(render(found))
    for sentence in found.sentences():
        assert page.count(unbroken(sentence)) == 1


def test_a_number_that_is_not_known_has_no_unit_on_a_page(task):
    page = render(factors(task, examples=0))
    assert "NaN" not in page.partition("<script")[0]
    assert "not known" in page
    assert "not known cosine" not in page
    assert "not compared: examples=0" in page


def test_what_is_no_result_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="must be a result"):
        la.write_report({"loss": 1.0}, tmp_path / "a.html")


@pytest.mark.parametrize(
    ("verdict", "heading"),
    [
        ("a.pt is the best (loss 1.2 ± 0.1).", "a.pt is the best (loss 1.2 ± 0.1)."),
        (
            "The best of 6 merges is ties (k=20) (loss 1.233 ± 0.040): below the base "
            "(difference -0.50 ± 0.02, interval [-0.54, -0.46]) and above a.pt (0.01 ± 0.02).",
            "The best of 6 merges is ties (k=20): below the base and above a.pt.",
        ),
    ],
)
def test_a_long_heading_leaves_intervals_to_the_sentence_below(verdict, heading):
    assert without_numbers(verdict) == heading
