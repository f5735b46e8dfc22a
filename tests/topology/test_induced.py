import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lossatlas.errors import ArgumentError
from lossatlas.topology import merge_tree, persistence
from lossatlas.topology.betti import matched_places
from lossatlas.topology.induced import match_basins
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
        found = matched_places(a, b, degree, connectivity)
        one, two = (pair[k].ravel()[p] for k, p in enumerate((found.first, found.second)))
        rows = [(tuple(a), tuple(b)) for a, b in zip(one.tolist(), two.tolist(), strict=True)]
        assert sorted(rows) == wanted[degree]


@given(distinct_pairs(), connectivities)
def test_every_finite_bar_is_matched_or_alone_once(pair, connectivity):
    for degree in (0, 1):
        found = matched_places(*map(torch.tensor, pair), degree, connectivity)
        both = (found.first, found.only_first), (found.second, found.only_second)
        for field, parts in zip(pair, both, strict=True):
            bars = sorted(map(tuple, field.ravel()[np.concatenate(parts)].tolist()))
            wanted = persistence(field, connectivity=connectivity).bars(degree)
            assert bars == sorted(map(tuple, wanted.tolist()))


@given(distinct_pairs(), connectivities)
def test_a_field_matches_itself_and_the_matching_is_symmetric(pair, connectivity):
    first, second = pair
    own = match_basins(first, first, connectivity=connectivity)
    assert sorted(own.pairs.tolist()) == [[k, k] for k in range(len(own.first))]
    assert (own.gone.size, own.new.size) == (0, 0)
    there = match_basins(first, second, connectivity=connectivity).pairs
    back = match_basins(second, first, connectivity=connectivity).pairs
    assert sorted(there.tolist()) == sorted(back[:, ::-1].tolist())


def test_a_basin_that_stays_is_known_by_its_place():
    x = np.linspace(-3, 3, 61)
    wells = lambda *at: -sum(h * np.exp(-((x - c) ** 2) / 0.1) for c, h in at)  # noqa: E731
    before, after = wells((-2, 1.0), (0, 0.8)), wells((0.1, 0.8), (2, 1.2))
    found = match_basins(before, after)
    places = [(x[found.first.minima[i]], x[found.second.minima[j]]) for i, j in found.pairs]
    # What never ends is matched with what never ends, wherever it lies.
    assert len(found.first) == len(found.second) == 2
    assert (pytest.approx(-2, abs=0.1), pytest.approx(2, abs=0.1)) in places


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
        matched_places(torch.ones(2, 2), torch.ones(3), 0, "full")
    with pytest.raises(ArgumentError, match="planes"):
        matched_places(torch.ones(3), torch.ones(3), 1, "full")
