import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.errors import ArgumentError
from lossatlas.objective import Moments, Weighted, standard_errors

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


_UNITS = st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 9)), min_size=3, max_size=20)


def _skewness_by_hand(sums, weights):
    value = sum(sums) / sum(weights)
    residuals = [s - value * w for s, w in zip(sums, weights, strict=True)]
    squares = sum(e**2 for e in residuals)
    if squares < 1e-9:
        return None
    together = sum(e * w for e, w in zip(residuals, weights, strict=True)) / sum(weights)
    return sum(e**3 for e in residuals) / squares**1.5 - 3 * together / squares**0.5


@given(_UNITS, st.integers(1, 19), st.floats(-1e3, 1e3))
def test_skewness_of_a_ratio_is_that_of_its_residuals_wherever_sums_are_cut(units, cut, offset):
    weights = np.array([w for _, w in units], float)
    sums = np.array([v for v, _ in units]) + offset * weights
    wanted = _skewness_by_hand(sums.tolist(), weights.tolist())
    if wanted is None:
        return
    moments = Moments()
    for part in (slice(cut), slice(cut, None)):
        if len(sums[part]):
            moments.add_pairs(sums[part][None], weights[part][None])
    assert moments.skewness()[0, 0] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@given(_UNITS, st.integers(1, 19), st.floats(-1e3, 1e3))
def test_skewness_of_a_mean_is_that_of_its_units_wherever_sums_are_cut(units, cut, offset):
    values = np.array([float(v) for v, _ in units])
    wanted = _skewness_by_hand(values.tolist(), [1.0] * len(values))
    if wanted is None:
        return
    whole, row = Moments(), Moments()
    for part in (values[:cut] + offset, values[cut:] + offset):
        if len(part):
            whole.add(part[None], 1.0)
            row.add_batch([torch.tensor(part)], len(part), 0)
    for moments in (whole, row):
        assert moments.skewness()[0, 0] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@given(_UNITS)
def test_skewness_over_batch_means_counts_their_sizes(units):
    # One of k examples has a k-th of the variance of one, and a (k k)-th of the third moment.
    values, sizes = (np.array(column, float) for column in zip(*units, strict=True))
    moments = Moments()
    for value, size in units:
        moments.add(np.array([[float(value)]]), float(size))
    d = values - (values * sizes).sum() / sizes.sum()
    variance, third = (sizes * d**2).mean(), (sizes**2 * d**3).mean()
    if variance < 1e-9:
        return
    wanted = third / variance**1.5 / np.sqrt(sizes.sum())
    assert moments.skewness()[0, 0] == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_skewness_is_zero_where_it_is_unknown():
    moments = Moments(points=4)
    moments.add(np.array([[1.0, 2, 9], [1, 1, 1], [1, np.nan, 2], [1, np.inf, 2]]), 1.0)
    assert moments.skewness()[0, 0] > 0
    assert (moments.skewness()[1:] == 0).all()
    two = Moments()
    two.add_pairs(np.array([[1.0, 5.0]]), np.array([[1.0, 2.0]]))
    assert two.skewness()[0, 0] == 0


_ROW = st.lists(st.floats(-9, 9) | st.sampled_from([np.inf, np.nan]), min_size=1, max_size=9)
_LOSS = st.tuples(st.sampled_from(["mean", "examples", "pairs"]), _ROW)


def _measured(kind, row):
    values = torch.tensor(row)
    if kind == "mean":
        return values[0]
    return values if kind == "examples" else Weighted(values, torch.ones_like(values))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(_LOSS, min_size=1, max_size=2)), max_size=9)
)
def test_points_that_are_added_side_by_side_have_the_bits_of_one_after_another(entries):
    wanted, found = Moments(4, 2), Moments(4, 2)
    for point, losses in entries:
        measured = [_measured(*each) for each in losses]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(standard_errors, "_FEW", -1)
            wanted.add_batch(measured, 3.0, point)
        assert not wanted._waiting
        found.add_batch(measured, 3.0, point)
        for each in measured:
            for value in each if isinstance(each, Weighted) else [each]:
                # The model may write into what it gave.
                value.fill_(7.0)
    for name in ("mean", "stderr", "leverage", "effective", "skewness"):
        np.testing.assert_array_equal(getattr(found, name)(), getattr(wanted, name)(), name)
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value, name)


def test_rows_of_many_sizes_have_the_bits_of_one_after_another():
    source = torch.Generator().manual_seed(0)
    for units in (1, 2, 7, 8, 9, 127, 128, 129, 1000, 4096):
        rows = torch.randn(5, units, generator=source)
        wanted, found = Moments(5), Moments(5)
        for point, row in enumerate(rows):
            wanted._take([row], 1.0, point)
            found.add_batch([row], 1.0, point)
        assert len(found._waiting) == 5
        for name, value in vars(wanted).items():
            if name not in {"_waiting", "_numel"}:
                found.settle()
                np.testing.assert_array_equal(getattr(found, name), value, name)


@pytest.mark.parametrize("wrong", [{"points": 0}, {"quantities": -1}, {"points": 1.5}])
def test_sizes_are_whole_numbers_from_1(wrong):
    with pytest.raises(ArgumentError, match=f"`{next(iter(wrong))}` must be a whole number"):
        Moments(**wrong)
