import itertools
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from lossatlas.errors import ArgumentError, MissingDependencyError
from lossatlas.topology import distances, persistence
from lossatlas.topology.distances import bottleneck, sliced_wasserstein, wasserstein
from lossatlas.topology.matching import match_bars
from reference.topology_distances import best, sliced

levels = st.integers(0, 9).map(float)
bar = st.tuples(levels, st.integers(1, 9)).map(lambda b: (b[0], b[0] + b[1]))
diagrams = st.lists(bar, max_size=4).map(lambda b: np.array(b).reshape(-1, 2))
grounds = st.sampled_from([1.0, 2.0, np.inf])
pairs_of_grids = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(*(arrays(np.float64, shape, elements=levels) for _ in "fg"))
)


@given(diagrams, diagrams)
def test_bottleneck_equals_every_matching_tried_with_and_without_gudhi(a, b):
    wanted = pytest.approx(best(a, b, np.inf, np.inf), abs=1e-9)
    assert bottleneck(a, b) == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gudhi.hera", None)
        assert bottleneck(a, b) == wanted


@given(diagrams, diagrams, st.sampled_from([1.0, 2.0, 3.0]), grounds)
def test_wasserstein_equals_every_matching_tried(a, b, order, ground):
    assert wasserstein(a, b, order=order, ground=ground) == pytest.approx(
        best(a, b, order, ground), abs=1e-9
    )


@given(diagrams, diagrams, st.sampled_from([1.0, 2.0, np.inf]), grounds)
def test_a_matching_uses_every_bar_once_and_attains_the_distance(a, b, order, ground):
    found = match_bars(a, b, order=order, ground=ground)
    i, j = found.pairs.T
    assert sorted(i[i >= 0]) == list(range(len(a)))
    assert sorted(j[j >= 0]) == list(range(len(b)))
    assert found.distance == pytest.approx(best(a, b, order, ground), abs=1e-9)
    for (row, column), cost in zip(found.pairs, found.costs, strict=True):
        if row >= 0 and column >= 0:
            step = np.linalg.norm(a[row] - b[column], ground)
        else:
            lone = a[row] if row >= 0 else b[column]
            step = (lone[1] - lone[0]) * 2 ** (1 / ground - 1)
        assert cost == pytest.approx(step)


@given(diagrams, diagrams, st.integers(1, 9))
def test_sliced_wasserstein_equals_line_by_line(a, b, directions):
    wanted = sliced(a, b, directions)
    assert sliced_wasserstein(a, b, directions=directions) == pytest.approx(wanted, abs=1e-9)


@given(diagrams, diagrams, diagrams)
def test_metrics(a, b, c):
    for metric in (bottleneck, wasserstein, sliced_wasserstein):
        assert metric(a, a) == pytest.approx(0.0, abs=1e-12)
        assert metric(a, b) == pytest.approx(metric(b, a))
        assert metric(a, c) <= metric(a, b) + metric(b, c) + 1e-9


@given(diagrams, diagrams)
def test_orders_fall_towards_the_bottleneck(a, b):
    values = [wasserstein(a, b, order=p) for p in (1.0, 2.0, 4.0)] + [bottleneck(a, b)]
    assert all(x >= y - 1e-9 for x, y in itertools.pairwise(values))


@given(pairs_of_grids, st.sampled_from(["full", "axis"]), st.sampled_from([0, 1]))
def test_bars_move_no_further_than_the_field(grids, connectivity, dimension):
    f, g = grids
    one, two = (persistence(h, connectivity=connectivity) for h in grids)
    moved = bottleneck(one, two, dimension=dimension, essential="keep")
    assert moved <= np.abs(f - g).max() + 1e-12


def test_essential_bars_follow_the_stated_rule():
    a, b = np.array([[0.0, np.inf], [1.0, 2.0]]), np.array([[0.5, np.inf], [1.0, 2.0]])
    two = np.array([[0.0, np.inf], [0.0, np.inf]])
    for metric in (bottleneck, wasserstein):
        assert metric(a, b) == metric(a, b, essential="keep") == 0.5
        assert metric(a, two) == metric(two, a) == np.inf
        assert metric(a, b, essential="drop") == metric(a, a) == 0.0
        assert metric(a, two, essential="drop") == 0.5
        assert metric(a, b, essential=4.0) == 0.5
    assert bottleneck(np.empty((0, 2)), []) == 0.0
    with pytest.raises(ArgumentError, match="must give every bar an end"):
        sliced_wasserstein(a, b, essential="keep")


def test_many_bars_go_to_hera_or_name_it(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.random((40, 2)), axis=1) for _ in "ab")
    exact = wasserstein(a, b, order=2.0)
    monkeypatch.setattr(distances, "_EXACT", 10)
    assert wasserstein(a, b, order=2.0) == pytest.approx(exact, rel=0.011)
    monkeypatch.setitem(sys.modules, "gudhi.hera", None)
    with pytest.raises(MissingDependencyError, match="80 bars, which needs gudhi"):
        wasserstein(a, b)


def test_bad_diagrams_are_counted():
    wrong = np.array([[0.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    with pytest.raises(ArgumentError, match="got 2 of 3 bars"):
        bottleneck(wrong, wrong)
    with pytest.raises(ArgumentError, match=r"shape \(bars, 2\)"):
        wasserstein(np.ones((2, 3)), wrong)
    with pytest.raises(ArgumentError, match="directions"):
        sliced_wasserstein([], [], directions=0)


def test_five_hundred_bars_agree_with_hera():
    from gudhi.hera import bottleneck_distance, wasserstein_distance

    rng = np.random.default_rng(1)
    a, b = (np.sort(rng.random((150, 2)), axis=1) for _ in "ab")
    hera = wasserstein_distance(a, b, order=1.0, internal_p=np.inf, delta=1e-6)
    assert wasserstein(a, b) == pytest.approx(hera, rel=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gudhi.hera", None)
        own = bottleneck(a, b)
    assert own == pytest.approx(bottleneck_distance(a, b, 0.0))


@pytest.mark.parametrize("kind", ["reals", "steps", "one length", "far apart"])
@pytest.mark.parametrize("counts", [(60, 45), (120, 120), (1, 90), (40, 0)])
def test_the_level_is_the_first_at_which_a_dense_matching_serves_all(kind, counts):
    rng = np.random.default_rng([*counts, len(kind)])
    a, b = (np.sort(rng.random((count, 2)), axis=1) for count in counts)
    if kind == "steps":
        a, b = np.round(6 * a), np.round(6 * b)
    elif kind == "one length":
        a[:, 1], b[:, 1] = a[:, 0] + 1, b[:, 0] + 1
    elif kind == "far apart":
        b = b + 10
    assert bottleneck(a, b) == level_by_dense_matchings(a, b)


def level_by_dense_matchings(a, b):
    """Every level in turn, by bisection, on the graph with a diagonal point for every bar."""
    n, m = len(a), len(b)
    cost = np.full((n + m, n + m), np.inf)
    cost[:n, :m] = np.abs(a[:, None] - b[None]).max(2)
    cost[np.arange(n), m + np.arange(n)] = (a[:, 1] - a[:, 0]) / 2
    cost[n + np.arange(m), np.arange(m)] = (b[:, 1] - b[:, 0]) / 2
    cost[n:, m:] = 0.0
    levels = np.unique(cost[np.isfinite(cost)])
    return levels[bisect(levels, cost)]


def bisect(levels, cost):
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        partner = maximum_bipartite_matching(csr_array(cost <= levels[middle]))
        low, high = (low, middle) if (partner >= 0).all() else (middle + 1, high)
    return low
