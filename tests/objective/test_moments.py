import numpy as np
import pytest
import torch
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


@given(
    st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=20),
    st.integers(1, 19),
    st.floats(-1e3, 1e3),
)
def test_leverage_is_the_largest_share_of_the_variance_wherever_sums_are_cut(
    values, cut, offset
):
    units = np.array(values) + offset
    whole, row = Moments(), Moments()
    for part in (units[:cut], units[cut:]):
        if len(part):
            whole.add(part[None], 1.0)
            row.add_batch([torch.tensor(part)], len(part), 0)
    squares = (units - units.mean()) ** 2
    wanted = squares.max() / squares.sum() if np.ptp(np.array(values)) else 1.0
    for moments in (whole, row):
        assert moments.leverage()[0, 0] == pytest.approx(wanted, rel=1e-6)
        assert moments.effective()[0, 0] == len(units)


def test_leverage_is_whole_where_units_do_not_differ_and_unknown_where_not_finite():
    moments = Moments(points=3)
    moments.add(np.array([[2.0, 2.0], [np.inf, 1.0], [np.nan, 1.0]]), 1.0)
    np.testing.assert_array_equal(moments.leverage()[:, 0], [1.0, np.nan, np.nan])
    alone = Moments()
    alone.add(np.array([[2.0]]), 1.0)
    assert alone.leverage()[0, 0] == 1.0
    weighted = Moments()
    weighted.add(np.array([[0.0]]), 3.0)
    weighted.add(np.array([[1.0]]), 1.0)
    # A bound: the heaviest weight at the farthest unit.
    assert 0.75 <= weighted.leverage()[0, 0] <= 1.0


pair = st.tuples(st.integers(-9, 9).map(float), st.integers(1, 4).map(float))


@given(st.lists(pair, min_size=2, max_size=12), st.integers(1, 11))
def test_leverage_of_weighted_examples_is_an_upper_bound(pairs, cut):
    sums, weights = np.array(pairs).T
    moments = Moments()
    for part in (slice(None, cut), slice(cut, None)):
        if sums[part].size:
            moments.add_pairs(sums[part][None], weights[part][None])
    residuals = (sums - sums.sum() / weights.sum() * weights) ** 2
    found = moments.leverage()[0, 0]
    if residuals.sum() > 1e-9:
        assert found >= residuals.max() / residuals.sum() - 1e-9
        if np.ptp(weights) == 0:
            assert found == pytest.approx(residuals.max() / residuals.sum())
    assert 0 < found <= 1
