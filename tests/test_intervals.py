import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lossatlas.intervals import few_units_note, interval, t_quantile
from lossatlas.result import Estimate, estimate_row


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_quantiles_are_those_of_students_t(level):
    counts = np.array([2, 3, 12, 30, 1000])
    assert t_quantile(level, counts) == pytest.approx(
        stats.t.ppf(0.5 + level / 2, counts - 1), rel=1e-12
    )


def test_one_unit_has_no_interval():
    assert np.isnan(t_quantile(0.95, [0, 1])).all()
    assert all(map(math.isnan, interval(1.0, 0.1, 1)))
    assert all(map(math.isnan, interval(1.0, math.nan, 10)))


def test_many_units_give_the_normal_interval():
    assert interval(0.0, 1.0, math.inf) == pytest.approx(stats.norm.interval(0.95))


@pytest.mark.parametrize("skewness", [-1.2, -0.2, 1e-9, 0.3, 2.5])
@pytest.mark.parametrize(("count", "effective"), [(2, 2), (4, 3.5), (6, 6), (30, 23.0)])
def test_ends_solve_the_transformation_of_hall(skewness, count, effective):
    level = 0.9
    ends = interval(5.0, 0.5, count, level, effective=effective, skewness=skewness)
    a = skewness / 3 * np.clip((effective - 2) / 4, 0, 1)
    degrees = min(effective - 1 + 1 / (4 * effective), count - 1)
    for end, tail in zip(ends, (0.95, 0.05), strict=True):
        t, q = (5.0 - end) / 0.5, stats.t.ppf(tail, degrees)
        q = math.copysign(max(abs(q), 7.0), q) if count == 2 else q
        is_shorter = abs(t) < abs(q)
        t = 2 * t - q if is_shorter else t
        assert t + a * t**2 + a**2 * t**3 / 3 + a / 2 == pytest.approx(q, rel=1e-5)
    long, short = (ends[1] - 5, 5 - ends[0]) if skewness > 0 else (5 - ends[0], ends[1] - 5)
    assert long >= short * (1 - 1e-12) > 0


def test_skewness_lengthens_the_side_of_the_rare_values_and_mirrors():
    low, high = interval(0.0, 1.0, 20, skewness=0.4)
    assert high > -low
    assert interval(0.0, 1.0, 20, skewness=-0.4) == pytest.approx((-high, -low))
    assert interval(0.0, 1.0, 2, skewness=0.7) == interval(0.0, 1.0, 2)
    assert interval(0.0, 1.0, 20, skewness=1e-7) == pytest.approx(interval(0.0, 1.0, 20))


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("ratio", [1.0, 1.2, 5.0])
def test_two_units_hold_the_center_of_any_symmetric_unimodal_distribution(level, ratio):
    # Two uniform variables of widths a and b: the worst mixtures, counted on a grid.
    line = (np.arange(2000) + 0.5) / 1000 - 1
    x, y = line[:, None], ratio * line
    low, high = interval(0.0, 1.0, 2, level)
    half = high * np.abs(x - y) / 2
    missed = np.mean(np.abs(x + y) / 2 > half)
    assert missed <= 1.25 * (1 - level) + 2e-3
    if ratio == 1 and level == 0.95:
        assert missed == pytest.approx(1.25 * (1 - level), abs=2e-3)
    assert low == -high
    assert high >= t_quantile(level, 2)


def test_few_units_are_named():
    assert "3 examples" in few_units_note(3, "examples")
    assert not any(few_units_note(n, "examples") for n in (0, 1, 8, 100))


def test_an_estimate_says_that_it_rests_on_few_units():
    few = Estimate(1.0, 0.1, samples=4, sample_unit="examples", name="loss")
    assert "4 examples" in few.caveat
    assert estimate_row(few)[2] == "± 0.10, from 4 examples only"
    for other in (replace(few, samples=8), replace(few, stderr=0.0), replace(few, bound=0.0)):
        assert not other.caveat
        assert "only" not in estimate_row(other)[2]
    # Probes of an estimator are no losses.
    assert not replace(few, sample_unit="probes").caveat


def test_a_mean_of_few_large_losses_says_so_and_how_many_would_do():
    skewed = Estimate(1.0, 0.1, samples=100, sample_unit="examples", skewness=0.4, name="loss")
    assert "dominated by few of 100 examples" in skewed.caveat
    assert "as skewed as these, 400 examples are enough" in skewed.caveat
    assert estimate_row(skewed)[2] == "± 0.10, dominated by few of 100 examples"
    for other in (replace(skewed, skewness=0.2), replace(skewed, sample_unit="probes")):
        assert other.caveat == ""
        assert estimate_row(other)[2] == "± 0.10"
