import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lossatlas.plots.scale import Scale, scale_of, spanning
from plots.sample_landscapes import sample_map

losses = arrays(
    np.float64, st.integers(2, 40), elements=st.floats(-1e6, 1e6).map(lambda v: round(v, 6))
)


@given(losses)
def test_heights_rise_with_the_loss_and_come_back(values):
    scale = scale_of(values)
    ordered = np.sort(values)
    heights = scale.forward(ordered)
    assert (np.diff(heights) >= 0).all()
    np.testing.assert_allclose(scale.inverse(heights), ordered, rtol=1e-9, atol=1e-6)


@given(losses)
def test_levels_ascend_from_the_lowest_to_the_highest(values):
    scale = scale_of(values)
    levels = scale.levels()
    assert (np.diff(levels) > 0).all()
    assert levels[0] == scale.low <= values.min()
    assert levels[-1] == scale.high >= values.max()


@given(losses)
def test_ticks_lie_within_and_have_a_label_each(values):
    scale = scale_of(values)
    ticks, labels = scale.ticks()
    assert len(ticks) == len(labels) >= 1
    assert (np.diff(ticks) > 0).all()
    slack = 1e-6 * (scale.high - scale.low)
    assert (ticks >= scale.low - slack).all()
    assert (ticks <= scale.high + slack).all()


def test_a_bowl_is_drawn_straight_and_himmelblau_is_not():
    assert not scale_of(sample_map("bowl").values).is_log
    assert scale_of(sample_map("himmelblau", 5).values).is_log


def test_steep_contours_crowd_near_the_ground():
    levels = scale_of(sample_map("himmelblau", 5).values).levels()
    gaps = np.diff(levels)
    assert gaps[0] < 0.05 * gaps[-1]


def test_ticks_are_round():
    ticks, labels = Scale(0.0, 10.0).ticks()
    assert labels == ["0", "2", "4", "6", "8", "10"]
    assert ticks.tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("values", [np.full(5, 3.0), np.zeros(4), np.array([np.nan, 2.0])])
def test_a_constant_map_still_has_a_range(values):
    scale = scale_of(values)
    assert scale.low < np.nanmin(values) < scale.high


def test_what_is_not_finite_is_left_out():
    scale = scale_of(np.array([1.0, np.inf, 2.0, np.nan, -np.inf]))
    assert (scale.low, scale.high) == (1.0, 2.0)
    assert scale_of(np.array([np.nan])) == Scale(0.0, 1.0)
    assert spanning(1.0, 2.0) == Scale(1.0, 2.0)
