import numpy as np
import pytest
import scipy

from lossatlas.landscape import interpolant
from lossatlas.landscape.interpolant import interpolate
from reference.landscape_radial import left_out, power_function


@pytest.mark.parametrize("power", [1, 3, 5])
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_leaving_out_in_closed_form_equals_fitting_again(power, dimension):
    random = np.random.default_rng(0)
    centers, values = random.uniform(-1, 1, (14, dimension)), random.normal(size=(14, 2))
    fit = interpolant._Radial(centers, values, power)
    np.testing.assert_allclose(fit.left_out, left_out(centers, values, power), 1e-3, 1e-4)
    points = random.uniform(1.1, 1.5, (5, dimension))
    expected = power_function(centers, points, power)
    basis = fit.basis(points, interpolant._squares(points, centers))
    np.testing.assert_allclose(fit.power(basis), expected, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(("dimension", "points"), [(1, 30), (2, 21), (3, 9)])
def test_known_points_are_kept_and_quartics_reproduced(dimension, points):
    line = np.linspace(-1, 1, points)
    grid = np.meshgrid(*[line] * dimension, indexing="ij")
    full = np.stack([sum(c**4 - c for c in grid), np.prod(grid, axis=0), grid[0]], -1)
    known = np.random.default_rng(0).random(grid[0].shape) < (0.5 if dimension < 3 else 0.2)
    surface = interpolate(known, np.where(known[..., None], full, np.nan))
    np.testing.assert_allclose(surface.values, full, atol=1e-6)
    np.testing.assert_array_equal(surface.values[known], full[known])
    assert (surface.doubt[known] == 0).all()
    assert surface.doubt.max() < 1e-5


def test_boxes_cover_the_grid_and_blend_smoothly(monkeypatch):
    line = np.linspace(-1, 1, 41)
    full = np.exp(np.add.outer(line, np.sin(3 * line)))[..., None]
    known = np.random.default_rng(1).random((41, 41)) < 0.3
    whole = interpolate(known, full)
    monkeypatch.setattr(interpolant, "_MOST_CENTERS", 10_000)
    single = interpolate(known, full)
    assert np.isfinite(whole.doubt).all()
    for surface in (whole, single):
        off = np.abs(surface.values - full)[..., 0]
        assert off[2:-2, 2:-2].max() < 0.005 * np.ptp(full)
    # Neighbors differ by no more than those of the truth: no seam where boxes meet.
    steps, true = (np.abs(np.diff(v[..., 0], 2, axis=0)) for v in (whole.values, full))
    assert steps.max() < 2 * true.max()


def test_a_column_is_unknown_where_its_nearest_known_point_is():
    values = np.zeros((9, 9, 2))
    values[:, 5:, 1] = np.inf
    known = np.zeros((9, 9), dtype=bool)
    known[::2, ::2] = True
    surface = interpolate(known, values)
    np.testing.assert_allclose(surface.values[..., 0], 0, atol=1e-12)
    assert np.isnan(surface.values[1, 7, 1])
    assert surface.values[1, 1, 1] == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_nothing_is_said_from_fewer_than_three_points(count):
    known = np.zeros((7, 7), dtype=bool)
    known.flat[:count] = True
    surface = interpolate(known, np.ones((7, 7, 1)))
    assert np.isnan(surface.values[~known]).all()
    assert np.isinf(surface.doubt[~known]).all()


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 12, 40])
def test_the_nearest_centers_are_those_of_a_tree(dimension, count):
    rng = np.random.default_rng([dimension, count])
    centers, queries = rng.random((40, dimension)), rng.random((25, dimension))
    found = interpolant._nearest(interpolant._squares(queries, centers), count)
    wanted = scipy.spatial.KDTree(centers).query(queries, k=range(1, count + 1))[1]
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(wanted, 1))
