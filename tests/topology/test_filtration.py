import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage

from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.topology import Graph, checkpoints, graph, merge_tree, persistence, scattered
from lossatlas.topology.pairing import elder_rule
from reference.topology_bars import graph_merges

levels = st.integers(0, 6).map(float)


@st.composite
def weighted_graphs(draw, star=None):
    count = draw(st.integers(1, 9))
    values = draw(st.lists(levels, min_size=count, max_size=count))
    vertex = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(vertex, vertex), max_size=20))
    floor = [max(values[u], values[v]) for u, v in edges]
    star = draw(st.booleans()) if star is None else star
    extra = [0.0 if star else draw(levels) for _ in edges]
    return np.array(values), np.array(edges, dtype=int).reshape(-1, 2), np.array(floor) + extra


def bars(source):
    return sorted(map(tuple, persistence(source).bars(0, essential="keep").tolist()))


@given(weighted_graphs())
def test_graph_bars_equal_kruskal(parts):
    assert bars(graph(*parts)) == graph_merges(*parts)


@given(weighted_graphs())
def test_the_tree_of_a_graph_has_its_bars_and_its_edges(parts):
    _values, edges, heights = parts
    tree = merge_tree(graph(*parts))
    branches = zip(tree.minima_values, tree.minima_values + tree.persistences, strict=True)
    assert sorted((b, d) for b, d in branches if d > b) == graph_merges(*parts)
    known = {(frozenset(e), h) for e, h in zip(map(tuple, edges), heights, strict=True)}
    for bridge, level in zip(tree.bridges, tree.saddle_values, strict=True):
        assert (frozenset(bridge.tolist()), level) in known


@given(weighted_graphs(), st.randoms())
def test_names_of_vertices_do_not_matter(parts, random):
    values, edges, heights = parts
    names = list(range(len(values)))
    random.shuffle(names)
    renamed = np.empty_like(values)
    renamed[names] = values
    assert bars(graph(renamed, np.array(names)[edges], heights)) == bars(graph(*parts))


@given(weighted_graphs(), st.data())
def test_an_edge_above_the_minimax_level_changes_nothing_and_any_edge_only_lowers(parts, data):
    values, edges, heights = parts
    tree = merge_tree(graph(*parts))
    i, j = (data.draw(st.integers(0, len(tree) - 1)) for _ in "ij")
    new = [tree.minima[i], tree.minima[j]]
    level = tree.barrier(i, j) + data.draw(levels)
    if np.isfinite(level):
        more = graph(values, np.vstack([edges, new]), np.append(heights, level))
        assert bars(more) == bars(graph(*parts))
    low = max(values[new])
    fewer = graph(values, np.vstack([edges, new]), np.append(heights, low))
    before, after = (sorted(d for _, d in bars(g)) for g in (graph(*parts), fewer))
    missing = [*after, *([-np.inf] * (len(before) - len(after)))]
    assert all(a <= b for a, b in zip(sorted(missing), before, strict=True))


def test_vertices_without_a_value_are_walls():
    apart = graph([0.0, np.nan, 1.0], [(0, 1), (1, 2)])
    assert bars(apart) == [(0.0, np.inf), (1.0, np.inf)]
    assert persistence(apart).excluded == 1
    assert merge_tree(apart).barrier(0, 1) == np.inf


@given(st.integers(2, 200), st.integers(0, 5))
def test_elder_rule_finishes_staircases_exactly(count, seed):
    # Ever older nodes along a path: every round ends one node, so the sweep must take over.
    first = np.arange(count - 1)
    ages = np.arange(count)[::-1].copy()
    shuffled = np.random.default_rng(seed).permutation(count)
    for age in (ages, shuffled):
        pairs = elder_rule(count, age[first], age[first + 1])
        alive, deaths = list(age), []
        for u, v in itertools.pairwise(range(count)):
            elder, younger = sorted((alive[u], alive[v]))
            deaths.append((younger, elder))
            alive[: v + 1] = [elder] * (v + 1)
        assert list(zip(pairs.ended, pairs.into, strict=True)) == deaths
        assert pairs.edge.tolist() == list(range(count - 1))


def test_checkpoints_take_heights_as_a_mapping_or_a_matrix():
    losses = [0.1, 0.3, 0.2]
    mapping = {(0, 1): 0.9, (1, 2): 0.5}
    matrix = np.full((3, 3), np.nan)
    for (i, j), height in mapping.items():
        matrix[i, j] = matrix[j, i] = height
    for heights in (mapping, matrix):
        made = checkpoints(losses, heights)
        assert bars(made) == [(0.1, np.inf), (0.2, 0.9), (0.3, 0.5)]
        assert persistence(made).connectivity == "checkpoints"
    assert merge_tree(checkpoints(losses, {})).barrier(0, 2) == np.inf
    assert persistence(checkpoints(losses, mapping, error=0.15)).certain.sum() == 2


def test_scattered_points_find_the_two_wells():
    rng = np.random.default_rng(0)
    for dimensions, made in ((1, "delaunay"), (2, "delaunay"), (3, "delaunay"), (5, "knn-10")):
        points = rng.uniform(-1.5, 1.5, (1500, dimensions))
        values = (points[:, 0] ** 2 - 1) ** 2 + (points[:, 1:] ** 2).sum(axis=1)
        source = scattered(points, values)
        assert source.made == made
        tree = merge_tree(source)
        assert tree.connectivity == made
        if dimensions < 4:
            long = np.flatnonzero(tree.persistences > 0.4)
            assert len(long) == 2
            wells = points[tree.minima[long], 0]
            np.testing.assert_allclose(np.sort(wells), [-1, 1], atol=0.15)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_nearest_neighbors_and_spanning_edges_make_one_part(seed, neighbors):
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-50, 50, (4, 4))
    points = (centers[:, None] + 0.01 * rng.standard_normal((4, 8, 4))).reshape(-1, 4)
    source = scattered(points, rng.random(32), method="knn", neighbors=neighbors)
    assert persistence(source).essential.sum() == 1


def test_spanning_edges_are_the_shortest_links():
    points = np.array([[0.0], [1.0], [10.0], [11.0]])
    edges = scattered(points, np.zeros(4), method="knn", neighbors=1).edges
    heights = np.abs(points[edges[:, 0], 0] - points[edges[:, 1], 0])
    assert sorted(heights) == sorted(linkage(points, "single")[:, 2])


def test_repeated_and_flat_points_are_served():
    points = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    source = scattered(points, [0.0, 3.0, 1.0, 0.0])
    assert source.made == "knn-2"
    assert persistence(source).essential.sum() == 1
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]], dtype=float)
    source = scattered(square, [0.0, 1.0, 1.0, 1.0, 0.5])
    assert source.made == "delaunay"
    assert bars(source) == [(0.0, np.inf), (0.5, 1.0)]
    assert len(persistence(scattered([[1.0, 2.0]], [3.0]))) == 1


def test_bad_graphs_are_named():
    with pytest.raises(ArgumentError, match="got 1 edges below"):
        graph([0.0, 1.0], [(0, 1)], [0.5])
    with pytest.raises(ArgumentError, match="vertex numbers 0 to 1; got 0 to 2"):
        graph([0.0, 1.0], [(0, 2)])
    with pytest.raises(ArgumentError, match="one number per edge"):
        graph([0.0, 1.0], [(0, 1)], [1.0, 2.0])
    with pytest.raises(DataError, match="one number per vertex"):
        graph([], [])
    with pytest.raises(ArgumentError, match="symmetric matrix of 2 by 2"):
        checkpoints([0.0, 1.0], [[0.0, 1.0], [2.0, 0.0]])
    with pytest.raises(ArgumentError, match=r"got shape \(3, 3\)"):
        checkpoints([0.0, 1.0], np.ones((3, 3)))


def test_bad_points_are_named():
    with pytest.raises(
        DataError, match=r"at least one point, none beyond .*; got shape \(0, 2\)"
    ):
        scattered(np.empty((0, 2)), [])
    with pytest.raises(DataError, match="one number per point"):
        scattered([[0.0, 1.0]], [1.0, 2.0])
    with pytest.raises(DataError, match="finite coordinates"):
        scattered([[np.nan, 1.0]], [1.0])
    with pytest.raises(UnknownNameError, match="'delaunay'"):
        scattered([[0.0, 1.0]], [1.0], method="delauney")
    with pytest.raises(DataError, match="use `method='knn'`"):
        scattered(np.arange(8.0).reshape(4, 2), np.zeros(4), method="delaunay")
    with pytest.raises(ArgumentError, match="neighbors"):
        scattered([[0.0, 1.0]], [1.0], neighbors=0)


def test_a_graph_is_a_plain_record():
    made = graph([0.0, 1.0], [(0, 1)], [2.0])
    assert isinstance(made, Graph)
    assert made.range == (0.0, 2.0)
    assert made.excluded == 0
