import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lossatlas.errors import ArgumentError
from lossatlas.topology import merge_tree, persistence
from lossatlas.topology.barriers import barrier_distance, barrier_matrix
from lossatlas.topology.distances import bottleneck
from lossatlas.topology.simplification import flood_below, simplify
from reference.topology_bars import minimax

levels = st.integers(0, 9).map(float)
connectivities = st.sampled_from(["full", "axis"])
walled = st.one_of(levels, levels, st.just(np.nan))


def grids(elements=levels):
    shapes = array_shapes(min_dims=1, max_dims=3, max_side=5)
    fields = arrays(np.float64, shapes, elements=elements)
    return fields.filter(lambda f: np.isfinite(f).any())


@given(grids(walled), connectivities)
def test_the_matrix_holds_all_barriers_and_is_an_ultrametric(f, connectivity):
    tree = merge_tree(f, connectivity=connectivity)
    matrix = barrier_matrix(tree)
    numbers = range(len(tree))
    assert matrix.tolist() == [[tree.barrier(i, j) for j in numbers] for i in numbers]
    via = np.maximum(matrix[:, :, None], matrix[None]).min(axis=1)
    assert (matrix <= via).all()


@given(grids(walled), connectivities, levels)
def test_simplifying_keeps_exactly_the_longer_bars(f, connectivity, length):
    tree = merge_tree(f, connectivity=connectivity)
    small = simplify(tree, length)
    kept = tree.persistences > length
    assert small.minima.tolist() == tree.minima[kept].tolist()
    np.testing.assert_array_equal(small.persistences, tree.persistences[kept])
    assert (small.basins >= 0).tolist() == (tree.basins >= 0).tolist()
    assert small.basins.ravel()[small.minima].tolist() == list(range(len(small)))
    old = np.flatnonzero(kept)
    for i in range(len(small)):
        for j in range(len(small)):
            assert small.barrier(i, j) == tree.barrier(old[i], old[j])


@given(grids(walled), connectivities, levels)
def test_filling_removes_the_short_bars_and_moves_the_field_little(f, connectivity, length):
    filled = flood_below(f, length, connectivity=connectivity)
    finite = np.isfinite(f)
    assert (np.isfinite(filled) == finite).all()
    assert ((filled - f)[finite] >= 0).all()
    assert ((filled - f)[finite] <= length).all()
    before = persistence(f, connectivity=connectivity, dimensions=(0,))
    after = persistence(filled, connectivity=connectivity, dimensions=(0,))
    long = before.lengths > length
    assert sorted(zip(after.births, after.deaths, strict=True)) == sorted(
        zip(before.births[long], before.deaths[long], strict=True)
    )


@given(grids(), connectivities, st.data())
def test_barrier_distance_is_the_greatest_difference_of_minimax_levels(f, connectivity, data):
    g = data.draw(arrays(np.float64, f.shape, elements=levels))
    distance = barrier_distance(f, g, connectivity=connectivity)
    assert distance <= np.abs(f - g).max()
    assert distance == barrier_distance(g, f, connectivity=connectivity)
    assert barrier_distance(f, f, connectivity=connectivity) == 0.0
    bars = [persistence(h, connectivity=connectivity) for h in (f, g)]
    assert bottleneck(*bars, essential="keep") <= distance + 1e-12
    labels = np.union1d(*(merge_tree(h, connectivity=connectivity).minima for h in (f, g)))
    spots = [
        np.unravel_index(k, f.shape) for k in data.draw(st.permutations(labels.tolist()))[:3]
    ]
    for a in spots:
        for b in spots:
            own = [minimax(h, connectivity, tuple(a), tuple(b)) for h in (f, g)]
            assert abs(own[0] - own[1]) <= distance


def test_walls_that_part_one_field_only_are_infinitely_far():
    open_, parted = np.array([0.0, 1.0, 0.0]), np.array([0.0, np.inf, 0.0])
    assert barrier_distance(open_, parted) == np.inf
    assert barrier_distance(parted, parted) == 0.0
    with pytest.raises(ArgumentError, match="on one grid"):
        barrier_distance(open_, open_[:2])


def test_without_a_length_the_certain_branches_stay():
    tree = merge_tree([0.0, 2.0, 1.0, 3.0, 0.5])
    assert len(simplify(tree)) == 3


def mueller_brown(points=401):
    x = np.linspace(-1.5, 1.2, points)[:, None]
    y = np.linspace(-0.2, 2.0, points)[None, :]
    terms = [
        (-200, -1, 0, -10, 1, 0),
        (-100, -1, 0, -10, 0, 0.5),
        (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    ]
    return sum(
        h * np.exp(a * (x - u) ** 2 + b * (x - u) * (y - v) + c * (y - v) ** 2)
        for h, a, b, c, u, v in terms
    )


def test_mueller_brown_minima_saddles_and_barriers():
    tree = simplify(merge_tree(mueller_brown()), 0.5)
    # Minima -146.700, -108.167, -80.768; saddles -72.249 (outer pair) and -40.665.
    np.testing.assert_allclose(tree.minima_values, [-146.70, -108.17, -80.77], atol=0.05)
    np.testing.assert_allclose(tree.saddle_values, [-72.25, -40.66], atol=0.15)
    assert tree.barrier(1, 2) == tree.saddle_values[0]
    assert tree.barrier(0, 1) == tree.barrier(0, 2) == tree.saddle_values[1]
