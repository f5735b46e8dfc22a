import math

import numpy as np
import pytest
from scipy import stats

from lossatlas.intervals import interval, t_quantile


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
