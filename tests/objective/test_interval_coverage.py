"""A small version of docs/studies/coverage: intervals hold the truth as often as they say."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import lossatlas as la
from lossatlas.result import Estimate

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "studies" / "coverage"))

measure = pytest.importorskip("measure")
sys.path.pop(0)
sys.modules.pop("measure", None)


@pytest.mark.parametrize(
    ("case", "units"),
    [
        ("normal", 2),
        ("normal", 4),
        ("unequal batches", 3),
        ("class weights 1, 5, .2", 8),
        ("clustered tokens", 4),
        ("informative length", 16),
        ("gamma clusters", 8),
        ("documents", 16),
        ("exponential", 30),
    ],
)
def test_intervals_hold_the_truth(case, units):
    draw = measure.CASES[case]
    known = measure._MEANS.get(case)
    truth = known or measure.evaluate(draw, _rng(), 200_000).value
    found = measure.cover(draw, units, 400, truth)
    # Three standard errors of a share of 400.
    assert 0.95 - 0.035 <= found["coverage"] <= 0.95 + 0.035
    assert found["normal"] < found["coverage"]
    assert found["unknown"] == 0


def test_skewness_mends_more_than_it_spoils():
    truth = measure.evaluate(measure.CASES["cross-entropies"], _rng(), 200_000).value
    found = measure.cover(measure.CASES["cross-entropies"], 8, 400, truth)
    assert found["coverage"] > found["symmetric"] + 0.03
    assert found["width"] > 1.2
    even = measure.cover(measure.CASES["normal"], 8, 400, 1.0)
    assert even["symmetric"] - 0.01 < even["coverage"] < even["symmetric"] + 0.02
    assert even["width"] < 1.2


def test_an_interval_without_an_error_is_unknown():
    for found in (Estimate(1.0, samples=1), Estimate(1.0, 0.0, samples=1)):
        assert np.isnan(found.interval()).all()
    low, high = Estimate(1.0, 0.1, samples=10, effective=2.0).interval()
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 1.125) * 0.1, rel=1e-6)
    low, high = Estimate(1.0, 0.1, samples=2, effective=2.0).interval()
    assert high - low == pytest.approx(2 * 15.0 * 0.1, rel=1e-3)


def test_one_number_for_one_batch_has_an_unknown_error():
    objective = la.Objective(measure.Shift(), measure._mean, measure.batches(_rng(), 1)[1])
    found = objective.evaluate()
    assert np.isnan(found.stderr)
    assert np.isnan(found.interval()).all()
    assert found.why_no_error == "a spread needs two batches; there is one"


def _rng():
    return np.random.default_rng(0)
