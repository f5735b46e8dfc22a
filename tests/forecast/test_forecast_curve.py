import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast import Curve, points


@pytest.mark.parametrize(
    ("step", "loss", "message"),
    [
        ([], [], "at least two points"),
        ([1], [2.0], "at least two points"),
        ([[1, 2]], [[2.0, 1.0]], "one dimension"),
        (
            [1, 2, 3],
            [2.0, float("nan"), 1.0],
            "1 of 3 values are not, the first \\(nan\\) at step 2",
        ),
        ([1, 2, 3], [2.0, -1.0, float("inf")], "2 of 3 values"),
        ([1, 3, 2], [3.0, 2.0, 1.0], "falls back from 3 at row 2"),
        ([1, 2, 2], [3.0, 2.0, 1.0], "repeats 2 at row 2"),
        ([1, 2.5, 3], [3.0, 2.0, 1.0], "whole numbers"),
        ([-1, 2, 3], [3.0, 2.0, 1.0], "whole numbers >= 0"),
        ([1, 2, 3], [2.0, 2.0, 2.0], "is 2 at every step"),
    ],
)
def test_bad_curves_are_named(step, loss, message):
    with pytest.raises(DataError, match=message):
        Curve(step, loss)


def test_lengths_must_agree():
    with pytest.raises(ArgumentError, match=r"one value a step \(3\); got shape \(2,\)"):
        Curve([1, 2, 3], [2.0, 1.0])
    with pytest.raises(ArgumentError, match="`size` of curve 'a' must be one number or 3"):
        Curve([1, 2, 3], [3.0, 2.0, 1.0], size=[1.0, 2.0], name="a")


@pytest.mark.parametrize(
    "bad", [[1e-3, float("nan"), 1e-3], [-1e-3, 1e-3, 1e-3], [0.0, 0.0, 0.0]]
)
def test_rates_must_be_rates(bad):
    with pytest.raises(DataError, match="finite, >= 0 and somewhere > 0"):
        Curve([10, 20, 30], [3.0, 2.0, 1.0], bad)


def test_rates_must_cover_the_steps():
    with pytest.raises(ArgumentError, match="does not cover the steps"):
        Curve([10, 20, 30], [3.0, 2.0, 1.0], np.ones(29))


def test_logged_rates_are_interpolated_and_said_so():
    curve = Curve([2, 4, 6], [3.0, 2.0, 1.0], [1.0, 3.0, 1.0])
    np.testing.assert_allclose(curve.lr, [1, 1, 2, 3, 2, 1])
    assert "2 updates between the logged ones interpolated" in curve.notes[0]
    assert "first logged rate assumed for the 1 update before it" in curve.notes[1]


def test_a_warm_up_before_the_first_log_is_a_ramp():
    curve = Curve([4, 6], [3.0, 2.0], [8.0, 8.0], warmup=4)
    np.testing.assert_allclose(curve.lr, [2, 4, 6, 8, 8, 8])
    assert any("warm-up of 4" in note for note in curve.notes)


def test_a_log_that_begins_within_the_warm_up_begins_below_the_peak():
    curve = Curve([4, 8, 12], [3.0, 2.0, 1.0], [4.0, 8.0, 10.0], warmup=10)
    np.testing.assert_allclose(curve.lr, [*range(1, 11), 10, 10])
    said = "rates of the 3 updates before the first logged one, at step 4, taken from a linear"
    assert any(said in note for note in curve.notes)
    assert "2 losses within the warm-up of 10 updates left out of fits" in curve.notes
    assert curve.select([1, 2]).notes == curve.notes
    bare = curve.without_rates()
    assert (bare.warmup, bare.notes) == (10, curve.notes[-1:])
    late = Curve([40, 50], [2.0, 1.0], [1.0, 1.0], warmup=10)
    assert not any("losses within" in note for note in late.notes)


def test_a_number_is_a_constant_rate():
    np.testing.assert_allclose(Curve([1, 5], [2.0, 1.0], 0.1).lr, np.full(5, 0.1))


@given(st.integers(2, 60), st.integers(2, 80), st.integers(0, 2**32 - 1))
def test_thinning_keeps_the_mean_log_loss(n, most, seed):
    rng = np.random.default_rng(seed)
    curve = Curve(np.cumsum(rng.integers(1, 5, n)), rng.uniform(1, 3, n))
    thin = curve.thinned(most)
    assert len(thin.step) == min(n, most)
    counts = np.diff(np.linspace(0, n, most + 1).astype(int)) if n > most else np.ones(n)
    assert counts @ np.log(thin.loss) == pytest.approx(np.log(curve.loss).sum())


def test_until_cuts_points_and_schedule():
    curve = Curve([10, 20, 30], [3.0, 2.0, 1.0], np.linspace(1, 0.1, 30), name="a", group="g")
    part = curve.until(25)
    assert part.step.tolist() == [10, 20]
    assert part.lr.size == 20
    assert (part.name, part.group) == ("a", "g")


def test_points_number_their_rows():
    curve = points([3.0, 2.0], size=[1e6, 1e7], tokens=[1e9, 1e9])
    assert curve.step.tolist() == [1, 2]
    assert curve.size.tolist() == [1e6, 1e7]
