import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.objective import Moments

finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=2, max_size=20), st.integers(1, 19), finite)
def test_sums_equal_numpy_wherever_they_are_cut(values, cut, offset):
    units = np.array(values) + offset
    moments = Moments()
    for part in (units[:cut], units[cut:]):
        if len(part):
            moments.add(part[None], 1.0)
    spread = units.std(ddof=1) / np.sqrt(len(units))
    assert moments.mean()[0, 0] == pytest.approx(units.mean(), abs=1e-6)
    assert moments.stderr()[0, 0] == pytest.approx(spread, rel=1e-6, abs=1e-6)


def test_a_large_mean_does_not_swallow_the_spread():
    moments = Moments()
    moments.add(1e8 + np.array([[0.0, 1.0, 2.0]]), 1.0)
    assert moments.stderr()[0, 0] == pytest.approx(1 / np.sqrt(3))


def test_one_unit_has_no_error_and_infinity_stays_infinity():
    moments = Moments(points=3)
    moments.add(np.array([[1.0], [np.inf], [np.nan]]), 1.0)
    mean = moments.mean()[:, 0]
    assert mean[0] == 1
    assert mean[1] == np.inf
    assert np.isnan(mean[2])
    assert np.isnan(moments.stderr()).all()
