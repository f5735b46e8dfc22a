from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import ndtri

from lossatlas.topology import betti_curve, certain_basins, merge_tree, persistence

levels = st.integers(0, 9).map(float)
connectivities = st.sampled_from(["full", "axis"])


@dataclass(frozen=True)
class Map:
    values: np.ndarray
    stderr: np.ndarray
    interpolation_error: float = 0.0
    computed: np.ndarray | None = None

    @property
    def axes(self):
        return tuple(np.arange(float(n)) for n in self.values.shape)


def quantile(points, confidence=0.95):
    return -ndtri((1 - confidence ** (1 / points)) / 2)


@st.composite
def banded(draw):
    shape = draw(array_shapes(min_dims=1, max_dims=2, max_side=6))
    values = draw(arrays(np.float64, shape, elements=levels))
    error = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.5, 1.0, 3.0])))
    share = draw(
        arrays(np.float64, shape, elements=st.sampled_from([-1.0, -0.3, 0.0, 0.9, 1.0]))
    )
    return values, error, values + share * error


@given(banded(), connectivities)
def test_every_field_within_the_band_has_the_certain_basins(parts, connectivity):
    values, error, other = parts
    found = certain_basins(
        Map(values, error / quantile(values.size)), connectivity=connectivity
    )
    steps = np.arange(-4, 14, 0.25) + 0.1
    alive = (found.births[:, None] <= steps) & (steps < found.deaths[:, None])
    for field in (values, other):
        there = betti_curve(persistence(field, connectivity=connectivity), steps)
        assert (alive.sum(axis=0) <= there).all()


@given(
    arrays(np.float64, array_shapes(min_dims=1, max_dims=2, max_side=6), elements=levels),
    connectivities,
    st.sampled_from([0.0, 0.3, 1.1]),
)
def test_with_equal_errors_they_are_the_bars_above_the_threshold(f, connectivity, stderr):
    source = Map(f, np.full(f.shape, stderr), interpolation_error=0.05)
    diagram = persistence(source, connectivity=connectivity)
    sure = diagram.certain & (diagram.dimensions == 0)
    found = certain_basins(source, connectivity=connectivity)
    half = diagram.threshold / 2
    births, deaths = np.sort(diagram.births[sure] + half), np.sort(diagram.deaths[sure] - half)
    np.testing.assert_allclose(np.sort(found.births), births, atol=1e-12)
    np.testing.assert_allclose(np.sort(found.deaths), deaths, atol=1e-12)


def test_a_sharp_center_is_seen_through_a_blurred_rim():
    x = np.linspace(-3, 3, 61)
    f = np.minimum((x**2 - 1) ** 2, 4.0 + x**2)
    source = Map(f, 0.05 + 0.5 * (np.abs(x) > 2))
    diagram = persistence(source)
    assert diagram.certain.sum() == 1
    found = certain_basins(source)
    assert len(found) == 2
    np.testing.assert_allclose(np.sort(x[found.minima]), [-1.0, 1.0], atol=0.05)


def test_of_exact_values_every_basin_is_certain_and_walls_stay_walls():
    f = np.array([[3.0, 0.0, np.nan], [2.0, 5.0, 1.0]])
    found = certain_basins(f, connectivity="axis", error=0.0)
    tree = merge_tree(f, connectivity="axis")
    assert sorted(found.minima) == sorted(tree.minima)
    finite = found.deaths[np.isfinite(found.deaths)]
    np.testing.assert_allclose(np.sort(finite), tree.saddle_values)


def test_without_errors_no_basin_is_known_to_be_certain():
    f = np.array([3.0, 0.0, 2.0, 1.0])
    for source in (f, Map(f, np.full(4, np.nan)), Map(f, np.array([0.1, np.nan, 0.1, 0.1]))):
        found = certain_basins(source)
        assert len(found) == 0
        assert "error" in found.why_unknown


@dataclass(frozen=True)
class Carried(Map):
    count: int = 200
    leverage: np.ndarray | float | None = None


@pytest.mark.parametrize(("leverage", "wanted"), [(0.2, 2), (0.4, 1), (np.nan, 1), (None, 1)])
def test_where_few_examples_carry_a_point_the_largest_error_holds_everywhere(leverage, wanted):
    x = np.linspace(-3, 3, 61)
    f = np.minimum((x**2 - 1) ** 2, 4.0 + x**2)
    shares = None if leverage is None else np.where(np.arange(61) == 60, leverage, 0.01)
    source = Carried(f, 0.05 + 0.5 * (np.abs(x) > 2), leverage=shares)
    assert len(certain_basins(source)) == wanted
    assert persistence(source).certain.sum() == 1


def test_interpolated_points_take_the_error_of_their_neighbors():
    f = np.array([0.0, 1.0, 0.2, 9.0, 0.0])
    stderr = np.array([0.01, np.nan, 0.01, np.nan, 2.0])
    blurred = Map(f, stderr, computed=np.isfinite(stderr))
    assert len(certain_basins(blurred)) == 2
