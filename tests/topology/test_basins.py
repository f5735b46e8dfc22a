"""The reduction of a grid against its twin, which ranks every point first."""

import numpy as np
import pytest

from lossatlas.topology.basins import grid_basins
from lossatlas.topology.pairing import elder_rule
from reference.topology_sorted import sorted_basins

SHAPES = [(40,), (13, 17), (6, 7, 8), (1, 9), (1, 1), (2, 2)]
# An axis of fewer than three points cannot close.
CASES = [(s, circle) for s in SHAPES for circle in (False, True) if not circle or s[0] > 2]


def fields(shape, seed):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    yield noise
    yield np.round(noise)
    yield np.zeros(shape)
    yield np.cumsum(noise, axis=0)
    holes = noise.copy()
    holes[rng.random(shape) < 0.2] = np.inf
    holes.flat[0] = 0.0
    yield holes


@pytest.mark.parametrize(("shape", "circle"), CASES)
@pytest.mark.parametrize("connectivity", ["full", "axis"])
def test_basins_are_those_of_points_in_order(shape, circle, connectivity):
    wraps = (circle,) + (False,) * (len(shape) - 1)
    for seed in range(3):
        for values in fields(shape, seed):
            finite = np.isfinite(values)
            first, second = (
                make(values, finite, connectivity, wraps)
                for make in (grid_basins, sorted_basins)
            )
            np.testing.assert_array_equal(first.labels, second.labels)
            np.testing.assert_array_equal(first.minima, second.minima)
            assert first.labels.dtype == first.minima.dtype == first.ends.dtype == np.int64
            one, two = (elder_rule(b.minima.size, b.first, b.second) for b in (first, second))
            np.testing.assert_array_equal(one.ended, two.ended)
            np.testing.assert_array_equal(one.into, two.into)
            np.testing.assert_array_equal(first.ends[one.edge], second.ends[two.edge])
            np.testing.assert_array_equal(first.heights[one.edge], second.heights[two.edge])


def test_indices_of_large_grids_are_wide(monkeypatch):
    from lossatlas.topology import basins

    values = np.random.default_rng(0).standard_normal((9, 9))
    narrow = grid_basins(values, np.isfinite(values), "full")
    monkeypatch.setattr(basins, "_INT32", 10)
    wide = grid_basins(values, np.isfinite(values), "full")
    np.testing.assert_array_equal(narrow.labels, wide.labels)
    np.testing.assert_array_equal(narrow.ends, wide.ends)
