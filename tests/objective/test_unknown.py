"""The error of one number for one batch is unknown, and unknown is not zero downstream."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.plots.grid import error_band
from lossatlas.report import write_report


def _objective():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=generator)
    batch = torch.randn(40, 4, generator=generator), torch.randint(0, 3, (40,))
    return la.Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [batch])


@pytest.fixture(scope="module")
def surveyed():
    objective = _objective()
    return la.survey(objective, points=9, span=0.5)


def test_the_survey_says_that_the_error_is_unknown(surveyed, tmp_path):
    assert math.isnan(surveyed.loss.stderr)
    assert surveyed.loss.why_no_error == "a spread needs two batches; there is one"
    assert np.isnan(surveyed.landscape.stderr).all()
    assert "±" not in repr(surveyed).split("loss")[1].split(",")[0]
    page = write_report(surveyed, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a spread needs two batches" in page


def test_nothing_on_the_map_is_certain(surveyed):
    assert not np.asarray(surveyed.diagram.certain).any()
    assert not (np.asarray(surveyed.tree.persistences) > surveyed.tree.threshold).any()


def test_bands_are_left_out(surveyed):
    assert np.isnan(error_band(surveyed.landscape)[0]).all()


def test_a_comparison_does_not_judge_what_it_does_not_know():
    objective = _objective()
    first = {n: v.clone() for n, v in objective.params.items()}
    second = {n: 1.2 * v for n, v in first.items()}
    found = la.compare(objective, first, second, span=0.2, points=5)
    assert math.isnan(found.barrier.stderr)
    sentence = found.sentences()[0]
    assert "whether they differ by more than error is not known" in sentence
    if found.barrier.value > 0:
        assert "its error is not known" in found.headline()


def test_a_span_does_not_vouch_for_an_unknown_error():
    objective = _objective()
    found = la.suggest_span(objective, la.random_plane(objective), rise=1e9)
    assert "above its error" not in found.reason


def test_few_batches_take_wide_bands():
    objective = _objective()
    batch = objective.batches[0]
    halves = [tuple(part[k] for part in batch) for k in (slice(20), slice(20, 40))]
    two = la.Objective(objective.model, objective.loss, halves)
    land = la.map_plane(two, la.random_plane(two), points=3)
    assert land.count == 2
    widths, name = error_band(land)
    assert name == "95 % band"
    np.testing.assert_allclose(widths, 12.706 * land.stderr, rtol=1e-4)
