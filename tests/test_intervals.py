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
