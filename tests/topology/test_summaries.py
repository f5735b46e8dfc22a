import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.integrate import dblquad

from lossatlas.errors import ArgumentError, DataError
from lossatlas.topology import persistence
from lossatlas.topology.curves import (
    betti_curve,
    euler_curve,
    persistence_image,
    persistence_landscape,
    silhouette,
)
from lossatlas.topology.distances import bottleneck, wasserstein
from lossatlas.topology.summaries import (
    amplitude,
    entropy,
    spread,
    statistics,
    total_persistence,
)

levels = st.integers(0, 9).map(float)
bar = st.tuples(levels, st.integers(1, 9)).map(lambda b: (b[0], b[0] + b[1]))
diagrams = st.lists(bar, max_size=6).map(lambda b: np.array(b).reshape(-1, 2))
fine = np.linspace(-1, 20, 85)


@given(diagrams)
def test_betti_curve_counts_and_its_area_is_the_total(bars):
    found = betti_curve(bars, fine)
    assert found.tolist() == [sum(b <= t < d for b, d in bars) for t in fine]
    assert betti_curve(bars, np.arange(0, 20) + 0.5).sum() == pytest.approx(
        total_persistence(bars)
    )


@given(
    arrays(
        np.float64,
        array_shapes(min_dims=1, max_dims=3, max_side=4),
        elements=st.one_of(levels, levels, st.just(np.nan)),
    ).filter(lambda f: np.isfinite(f).any()),
    st.sampled_from(["full", "axis"]),
)
def test_euler_curve_is_the_alternating_sum_of_the_betti_curves(f, connectivity):
    diagram = persistence(f, connectivity=connectivity, dimensions=(0, 1, 2))
    betti = [betti_curve(diagram, fine, dimension=k) for k in (0, 1, 2)]
    found = euler_curve(f, fine, connectivity=connectivity)
    assert found.tolist() == (betti[0] - betti[1] + betti[2]).tolist()


@given(diagrams, diagrams)
def test_landscapes_are_ordered_tame_and_stable(a, b):
    one, two = (persistence_landscape(x, fine, depth=4) for x in (a, b))
    assert (np.diff(one, axis=0) <= 0).all()
    assert (one >= 0).all()
    assert np.abs(np.diff(one, axis=1)).max() <= fine[1] - fine[0] + 1e-12
    assert np.abs(one - two).max() <= bottleneck(a, b) + 1e-9
    tents = sorted(([max(0, min(t - b, d - t)) for t in fine] for b, d in a), key=max)
    if len(tents) == 1:
        assert one[0].tolist() == tents[0]


@given(diagrams.filter(len), st.sampled_from([0.0, 1.0, 2.0]))
def test_silhouette_is_the_weighted_mean_of_tents(bars, power):
    weights = [(d - b) ** power for b, d in bars]
    wanted = [
        sum(w * max(0, min(t - b, d - t)) for w, (b, d) in zip(weights, bars, strict=True))
        / sum(weights)
        for t in fine
    ]
    np.testing.assert_allclose(silhouette(bars, fine, power=power), wanted, atol=1e-12)


@given(diagrams, st.floats(0.1, 9), st.floats(-5, 5))
def test_entropy_lies_between_its_bounds_and_ignores_shift_and_scale(bars, scale, shift):
    value = entropy(bars)
    assert -1e-12 <= value <= np.log(max(len(bars), 1)) + 1e-12
    assert entropy(scale * bars + shift) == pytest.approx(value)
    assert 0 <= entropy(bars, normalized=True) <= 1 + 1e-12
    if len(bars) == 1:
        assert value == entropy(bars, normalized=True) == 0.0


def test_entropy_of_equal_bars_counts_them():
    assert np.exp(entropy([[0, 1], [2, 3], [5, 6]])) == pytest.approx(3)
    assert entropy([[0, 1], [2, 3]], normalized=True) == pytest.approx(1)


@given(diagrams, st.sampled_from([1.0, 2.0]), st.sampled_from([1.0, 2.0, np.inf]))
def test_amplitude_is_the_distance_to_nothing(bars, order, ground):
    empty = np.empty((0, 2))
    wanted = wasserstein(bars, empty, order=order, ground=ground)
    assert amplitude(bars, order=order, ground=ground) == pytest.approx(wanted)
    assert amplitude(bars) == pytest.approx(bottleneck(bars, empty))


def test_image_pixels_are_integrals():
    bars = np.array([[0.2, 0.9], [0.5, 0.7]])
    image = persistence_image(
        bars, births=(0.0, 1.0), lengths=(0.0, 1.0), pixels=(2, 3), spread=0.3
    )

    def density(y, x):
        apart = [(d - b, (x - b) ** 2 + (y - (d - b)) ** 2) for b, d in bars]
        return sum(w * np.exp(-r / 0.18) / (0.18 * np.pi) for w, r in apart)

    wanted, _ = dblquad(density, 0.5, 1.0, 1 / 3, 2 / 3)
    assert image.shape == (2, 3)
    assert image[1, 1] == pytest.approx(wanted)


@given(diagrams)
def test_a_bar_near_the_diagonal_hardly_shows_in_the_image(bars):
    options = {"births": (0.0, 10.0), "lengths": (0.0, 10.0), "pixels": (4, 4)}
    more = np.vstack([bars, [[5.0, 5.0 + 1e-9]]])
    np.testing.assert_allclose(
        persistence_image(more, **options), persistence_image(bars, **options), atol=1e-9
    )


def test_statistics_say_what_they_say():
    numbers = statistics([[0, 4], [1, 3], [2, 3]])
    assert (numbers["count"], numbers["total"], numbers["runner_up"]) == (3, 7, 0.5)
    assert numbers["mean_birth"] == pytest.approx((0 * 4 + 1 * 2 + 2 * 1) / 7)
    assert (numbers["length_median"], numbers["length_max"], numbers["middle_max"]) == (
        2,
        4,
        2.5,
    )
    assert set(statistics([]).values()) == {0.0}
    assert total_persistence([[0, 4], [1, 3]], order=2) == 20


def test_rules_for_essential_bars_reach_the_summaries():
    diagram = persistence([3.0, 0.0, 2.0, 1.0, 3.0])
    assert total_persistence(diagram) == 1.0
    assert total_persistence(diagram, essential="cap") == 4.0
    assert total_persistence([[0.0, np.inf], [1.0, 2.0]], essential="cap") == 3.0
    with pytest.raises(ArgumentError, match="must give every bar an end"):
        entropy(diagram, essential="keep")


def test_the_spread_over_planes():
    found = spread([{"smad": 1.0}, {"smad": 3.0}])["smad"]
    assert (found.value, found.samples, found.name) == (2.0, 2, "smad")
    assert found.stderr == pytest.approx(1.0)
    alone = spread([{"smad": 1.0}])["smad"]
    assert np.isnan(alone.stderr)
    assert alone.why_no_error == "one plane"
    for bad in ([], [{"a": 1.0}, {"b": 1.0}]):
        with pytest.raises(DataError, match="same names"):
            spread(bad)


def test_bad_numbers_are_named():
    box = {"births": (0.0, 1.0), "lengths": (0.0, 1.0)}
    with pytest.raises(ArgumentError, match="pixels"):
        persistence_image([], **box, pixels=(0, 1))
    with pytest.raises(ArgumentError, match="spread"):
        persistence_image([], **box, spread=0.0)
    with pytest.raises(ArgumentError, match="lengths"):
        persistence_image([], births=(0.0, 1.0), lengths=(1.0, 1.0))
    with pytest.raises(ArgumentError, match="depth"):
        persistence_landscape([], fine, depth=0)
    with pytest.raises(ArgumentError, match="NaN"):
        betti_curve([[0.0, np.nan]], fine)


@pytest.mark.parametrize(
    "level", [np.ones(2), np.ma.masked_array([1.0, 2.0], [True, False]), [1.0], None]
)
def test_a_level_that_is_no_number_is_refused_by_name(level):
    with pytest.raises(ArgumentError, match="`essential` must be a word or a level"):
        entropy([[0.0, 1.0], [0.5, np.inf]], essential=level)
