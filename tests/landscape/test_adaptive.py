from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.landscape.adaptive import refine
from lossatlas.landscape.interpolant import corrected, interpolate, levels, smooth


def himmelblau(x, y):
    return (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2


def refined(function, points=81, reach=5.0, dimension=2, tolerance=0.002):
    """The refined map, the full map, and how many points the former asked for."""
    line = np.linspace(-reach, reach, points)
    asked = []

    def evaluate(places):
        asked.append(places)
        values = function(*line[places].T)
        return np.stack([values, np.ones(len(places))], 1)

    def target(known):
        finite = known[np.isfinite(known[:, 0]), 0]
        return tolerance * np.ptp(finite)

    found = refine(evaluate, (points,) * dimension, 2, target)
    full = function(*np.meshgrid(*[line] * dimension, indexing="ij"))
    every = np.concatenate(asked)
    assert len(np.unique(every, axis=0)) == len(every)
    assert found.computed.sum() == len(every)
    return found, full


@pytest.mark.parametrize(
    ("function", "reach", "share"),
    [
        (himmelblau, 5.0, 0.03),
        (lambda x, y: (x * x - 1) ** 2 + y * y, 2.0, 0.03),
        (lambda x, y: np.exp(np.abs(x) + y), 3.0, 0.2),
        (lambda x, y: 1 / (1 + 20 * (x * x + y * y)), 5.0, 0.35),
        (lambda x, y: np.abs(x) + np.abs(y - 0.3), 5.0, 0.5),
    ],
    ids=["himmelblau", "double well", "kinked wall", "spike", "two kinks"],
)
def test_the_map_is_right_where_it_was_not_computed(function, reach, share):
    found, full = refined(function, reach=reach)
    errors = np.abs(found.values[..., 0] - full)[~found.computed] / np.ptp(full)
    assert np.sqrt(np.mean(errors**2)) < 0.004
    assert errors.max() < 0.03
    assert found.rms / np.ptp(full) < 0.006
    assert found.error / np.ptp(full) < 0.016
    assert found.computed.mean() < share
    assert found.held_out >= 20
    np.testing.assert_array_equal(
        found.values[..., 0][found.computed], full[found.computed], strict=True
    )


def test_walls_are_computed_and_never_crossed():
    found, full = refined(lambda x, y: np.where(x + y > 6, np.nan, x * x + y * y))
    values = found.values[..., 0]
    np.testing.assert_array_equal(np.isfinite(values), np.isfinite(full))
    assert found.computed[~np.isfinite(full)].all()
    assert np.nanmax(np.abs(values - full)) < 0.016 * np.nanmax(full)
    assert found.computed.mean() < 0.5


def test_noise_is_computed_point_by_point():
    noise = np.random.default_rng(0).normal(size=(31, 31))
    rows = lambda x: np.round((x + 5) * 3).astype(int)  # noqa: E731
    found, full = refined(lambda x, y: noise[rows(x), rows(y)], points=31)
    assert found.computed.mean() > 0.9
    assert np.abs(found.values[..., 0] - full).max() / np.ptp(full) < 0.2


def test_a_flat_map_is_flat_and_cheap():
    found, _ = refined(lambda x, y: 0 * x + 3.0)
    np.testing.assert_allclose(found.values[..., 0], 3.0)
    assert found.computed.sum() <= 121


@given(st.integers(2, 40), st.integers(1, 3))
def test_every_size_and_dimension_is_filled(points, dimension):
    points = min(points, 12) if dimension == 3 else points
    found, full = refined(lambda *x: sum(c**2 for c in x), points=points, dimension=dimension)
    assert np.abs(found.values[..., 0] - full).max() <= 0.016 * np.ptp(full) + 1e-9


@given(st.integers(2, 300))
def test_levels_are_nested_and_end_with_every_point(points):
    ladder = levels(points)
    for coarse, fine in pairwise(ladder):
        assert set(coarse) < set(fine)
        assert coarse[0] == 0
        assert coarse[-1] == points - 1
    np.testing.assert_array_equal(ladder[-1], np.arange(points))


def test_splines_reproduce_cubics():
    line = np.arange(17.0)
    full = np.add.outer(line**3 - 5 * line, line**2)[..., None]
    rows = levels(17)[0]
    coarse = full[np.ix_(rows, rows)]
    np.testing.assert_allclose(interpolate(coarse, (rows, rows), (17, 17)), full, atol=1e-8)


def test_correction_passes_through_what_is_known():
    whole = np.zeros((9, 9, 2))
    values = np.random.default_rng(1).normal(size=(9, 9, 2))
    known = np.zeros((9, 9), dtype=bool)
    known[::4, ::4] = True
    bent = corrected(whole, known, values)
    np.testing.assert_array_equal(bent[known], values[known])
    assert np.isfinite(bent).all()


def test_the_smooth_surface_passes_through_known_points_and_reproduces_quadratics():
    x, y = np.meshgrid(np.arange(15.0), np.arange(9.0), indexing="ij")
    full = np.stack([x * x - 3 * x * y + 2, y * y - x], -1)
    known = np.random.default_rng(0).random(x.shape) < 0.3
    whole = smooth(known, np.where(known[..., None], full, np.nan))
    np.testing.assert_allclose(whole, full, atol=1e-6)
    np.testing.assert_array_equal(whole[known], full[known])


@pytest.mark.parametrize(
    ("shape", "known", "value"),
    [((5, 9), 20, 1.0), ((9, 9), 20, np.nan), ((50, 50), 1600, 1.0)],
)
def test_there_is_no_smooth_surface_where_it_would_not_serve(shape, known, value):
    mask = np.zeros(shape, dtype=bool)
    mask.flat[:known] = True
    values = np.ones((*shape, 1))
    values.flat[3] = value
    assert smooth(mask, values) is None


def test_smooth_ground_takes_fewer_points_than_splines_would_need():
    found, full = refined(lambda x, y: np.exp(0.5 * x + 0.2 * y) + np.cos(x * y / 3))
    assert found.computed.mean() < 0.06
    error = np.abs(found.values[..., 0] - full).max() / np.ptp(full)
    assert error < 0.008
