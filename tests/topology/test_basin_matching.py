from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lossatlas.errors import ArgumentError
from lossatlas.topology import merge_tree, persistence
from lossatlas.topology.basin_matching import match_basins
from lossatlas.topology.losses import matched_indices
from reference.topology_bars import betti_matching

connectivities = st.sampled_from(["full", "axis"])


@st.composite
def distinct_pairs(draw):
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    size = shape[0] * shape[1]
    values = np.array(draw(st.permutations(range(2 * size))), dtype=float)
    return values[:size].reshape(shape), values[size:].reshape(shape)


@given(distinct_pairs(), connectivities)
def test_matched_bars_equal_image_persistence_by_matrices(pair, connectivity):
    # Where three basins meet at one point, the order of its two merges is a convention.
    lower = merge_tree(np.minimum(*pair), connectivity=connectivity).saddle_values
    closed = [persistence(f, connectivity=connectivity).bars(1)[:, 0] for f in pair]
    assume(all(np.unique(levels).size == levels.size for levels in (lower, *closed)))
    wanted = betti_matching(*pair, connectivity)
    a, b = map(torch.tensor, pair)
    for degree in (0, 1):
        found = matched_indices(a, b, degree, connectivity)
        one, two = (pair[k].ravel()[p] for k, p in enumerate((found.first, found.second)))
        rows = [(tuple(a), tuple(b)) for a, b in zip(one.tolist(), two.tolist(), strict=True)]
        assert sorted(rows) == wanted[degree]


@given(distinct_pairs(), connectivities)
def test_every_finite_bar_is_matched_or_alone_once(pair, connectivity):
    for degree in (0, 1):
        found = matched_indices(*map(torch.tensor, pair), degree, connectivity)
        both = (found.first, found.only_first), (found.second, found.only_second)
        for field, parts in zip(pair, both, strict=True):
            bars = sorted(map(tuple, field.ravel()[np.concatenate(parts)].tolist()))
            wanted = persistence(field, connectivity=connectivity).bars(degree)
            assert bars == sorted(map(tuple, wanted.tolist()))


@st.composite
def tied_pairs(draw):
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    levels = st.integers(0, 4).map(float)
    field = arrays(np.float64, shape, elements=st.one_of(levels, levels, st.just(np.nan)))
    finite = field.filter(lambda f: np.isfinite(f).any())
    return draw(finite), draw(finite)


either = st.one_of(distinct_pairs(), tied_pairs())


@given(either, connectivities)
def test_a_field_matches_itself_and_the_matching_is_symmetric(pair, connectivity):
    first, second = pair
    own = match_basins(first, first, connectivity=connectivity)
    # Of a plateau one minimum alone has a bar.
    real = np.flatnonzero(own.first.persistences > 0).tolist()
    assert sorted(own.pairs.tolist()) == [[k, k] for k in real]
    there = match_basins(first, second, connectivity=connectivity).pairs
    back = match_basins(second, first, connectivity=connectivity).pairs
    assert sorted(there.tolist()) == sorted(back[:, ::-1].tolist())


@given(either, connectivities)
def test_partners_stand_in_one_common_basin_before_either_ends(pair, connectivity):
    found = match_basins(*pair, connectivity=connectivity)
    common = merge_tree(np.fmin(*pair), connectivity=connectivity)
    trees = found.first, found.second
    for partners in found.pairs:
        homes = [
            common.basins.ravel()[tree.minima[n]]
            for tree, n in zip(trees, partners, strict=True)
        ]
        ends = [
            tree.minima_values[n] + tree.persistences[n]
            for tree, n in zip(trees, partners, strict=True)
        ]
        assert common.barrier(*homes) <= min(ends)
    assert all(len(set(side)) == len(side) for side in found.pairs.T.tolist())


def wells(x, at, depths):
    return -sum(h * np.exp(-((x - c) ** 2) / 0.1) for c, h in zip(at, depths, strict=True))


depth = st.integers(50, 99).map(lambda n: n / 100)


@given(st.lists(depth, min_size=4, max_size=4), st.lists(depth, min_size=4, max_size=4))
def test_basins_that_stay_are_matched_whatever_their_depths_become(before, after):
    x, at = np.linspace(-4, 4, 81), (-3, -1, 1, 3)
    found = match_basins(wells(x, at, before), wells(x, at, after))
    places = [(x[found.first.minima[i]], x[found.second.minima[j]]) for i, j in found.pairs]
    np.testing.assert_allclose(sorted(places), [(c, c) for c in at], atol=0.06)
    assert (found.gone.size, found.new.size) == (0, 0)


def test_a_deeper_basin_that_goes_takes_no_partner_from_one_that_stays():
    x = np.linspace(-4, 4, 81)
    found = match_basins(wells(x, (-1, 1), (0.99, 1.0)), wells(x, (-1,), (0.99,)))
    assert x[found.first.minima[found.pairs[:, 0]]] == pytest.approx([-1.0])
    assert x[found.first.minima[found.gone]] == pytest.approx([1.0])
    assert found.new.size == 0


def test_a_basin_that_moves_is_followed_past_one_that_stays():
    x = np.linspace(-3, 3, 61)
    before, after = wells(x, (-2, 0), (1.0, 0.8)), wells(x, (0.1, 2), (0.8, 1.2))
    found = match_basins(before, after)
    places = [(x[found.first.minima[i]], x[found.second.minima[j]]) for i, j in found.pairs]
    # What has no partner in its place is matched with what comes, as long as both are there.
    np.testing.assert_allclose(sorted(places), [(-2, 2), (0, 0.1)], atol=0.11)


@dataclass(frozen=True)
class Map:
    values: np.ndarray
    stderr: np.ndarray
    interpolation_error: float = 0.0

    @property
    def axes(self):
        return (np.arange(float(self.values.size)),)


def test_minima_as_deep_as_the_errors_can_tell_are_told_apart_by_place():
    two = np.array([5.0, 1.0, 2.0, 3.0, 1.0, 5.0])
    one = np.array([5.0, 1.0, 0.5, 0.3, 0.2, 5.0])
    found = match_basins(two, one)
    assert found.first.minima[found.pairs[:, 0]].tolist() == [4]
    lower = two.copy()
    lower[1] = 0.99
    assert match_basins(lower, one).first.minima[match_basins(lower, one).pairs[0, 0]] == 1
    blurred = match_basins(Map(lower, np.full(6, 0.01)), one)
    assert blurred.first.minima[blurred.pairs[:, 0]].tolist() == [4]


def test_walls_split_the_essential_matching():
    f = np.array([1.0, np.nan, 0.0, 2.0])
    g = np.array([5.0, np.nan, 3.0, 4.0])
    assert sorted(match_basins(f, g).pairs.tolist()) == [[0, 0], [1, 1]]
    h = np.array([np.nan, np.nan, 3.0, 4.0])
    found = match_basins(f, h)
    assert found.pairs.tolist() == [[0, 0]]
    assert found.gone.tolist() == [1]


def test_other_shapes_are_named():
    with pytest.raises(ArgumentError, match="one grid"):
        match_basins(np.ones(3), np.ones(4))
    with pytest.raises(ArgumentError, match="one grid"):
        matched_indices(torch.ones(2, 2), torch.ones(3), 0, "full")
    with pytest.raises(ArgumentError, match="planes"):
        matched_indices(torch.ones(3), torch.ones(3), 1, "full")
