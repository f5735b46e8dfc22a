import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import directed_hausdorff, pdist, squareform

from lossatlas.errors import ArgumentError, DataError, MissingDependencyError
from lossatlas.topology.distances import bottleneck
from lossatlas.topology.filtration import graph
from lossatlas.topology.persistence import persistence
from lossatlas.topology.rips import rips, spanning_edges
from reference.topology_bars import reduced_bars

coordinates = st.integers(-6, 6).map(float)
clouds = st.tuples(st.integers(1, 9), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=coordinates)
)


def bars(diagram, k):
    return diagram.bars(k, essential="keep")


def flag_complex(matrix, top=2):
    """Every simplex of up to top + 1 points, with its diameter."""
    from itertools import combinations

    points = range(len(matrix))
    simplices = [s for size in range(1, top + 2) for s in combinations(points, size)]
    return {s: max((matrix[i, j] for i in s for j in s), default=0.0) for s in simplices}


@given(clouds)
def test_bars_equal_matrix_reduction(cloud):
    matrix = squareform(pdist(cloud)) if len(cloud) > 1 else np.zeros((1, 1))

    def boundary(simplex):
        return (
            []
            if len(simplex) == 1
            else [simplex[:k] + simplex[k + 1 :] for k in range(len(simplex))]
        )

    wanted = reduced_bars(flag_complex(matrix), boundary, lambda s: len(s) - 1, 1)
    diagram = rips(cloud)
    for k in (0, 1):
        assert sorted(map(tuple, bars(diagram, k).tolist())) == wanted[k]


@given(clouds.filter(lambda x: len(x) > 1))
def test_degree_zero_is_single_linkage_and_the_spanning_tree(cloud):
    matrix = squareform(pdist(cloud))
    deaths = np.sort(rips(cloud, dimensions=(0,)).bars(0)[:, 1])
    heights = np.sort(linkage(pdist(cloud), "single")[:, 2])
    np.testing.assert_allclose(deaths, heights[heights > 0])
    edges = spanning_edges(matrix)
    lengths = matrix[edges[:, 0], edges[:, 1]]
    assert np.sort(lengths[lengths > 0]).tolist() == deaths.tolist()
    tree = persistence(graph(np.zeros(len(cloud)), edges, lengths))
    upper = np.stack(np.triu_indices(len(cloud), 1), axis=1)
    whole = persistence(graph(np.zeros(len(cloud)), upper, matrix[upper[:, 0], upper[:, 1]]))
    assert tree.deaths.tolist() == whole.deaths.tolist()


@given(clouds, st.sampled_from([0.5, 2.0]), st.integers(0, 2))
def test_motions_change_nothing_scale_scales_and_equal_points_add_nothing(cloud, scale, again):
    plain = rips(cloud)
    moved = rips(scale * cloud[::-1, ::-1] + 3.0)
    more = rips(np.vstack([cloud, cloud[[again % len(cloud)]]]))
    for k in (0, 1):
        np.testing.assert_allclose(
            np.sort(bars(moved, k), axis=0), scale * np.sort(bars(plain, k), axis=0)
        )
        assert bars(more, k).tolist() == bars(plain, k).tolist()


@given(clouds, st.integers(0, 10**6))
def test_stable_under_small_moves(cloud, seed):
    moved = cloud + np.random.default_rng(seed).uniform(-0.5, 0.5, cloud.shape)
    apart = max(directed_hausdorff(cloud, moved)[0], directed_hausdorff(moved, cloud)[0])
    for k in (0, 1):
        assert bottleneck(rips(cloud), rips(moved), dimension=k) <= 2 * apart + 1e-9


def test_a_circle_has_one_long_cycle_and_reach_keeps_it_open():
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    diagram = rips(circle)
    assert len(bars(diagram, 1)) == 1
    short = rips(circle, reach=1.0)
    assert np.isinf(bars(short, 1)[:, 1]).all()
    assert rips(circle, dimensions=(0,), reach=0.1).essential.sum() == 24


def test_degree_zero_needs_no_gudhi(monkeypatch):
    monkeypatch.setitem(sys.modules, "gudhi.sklearn.rips_persistence", None)
    assert len(rips([[0.0], [2.0]], dimensions=(0,))) == 2
    with pytest.raises(MissingDependencyError, match=r"gudhi.*dimensions=\(0,\)"):
        rips([[0.0], [2.0]])


def test_bad_clouds_are_named():
    with pytest.raises(ArgumentError, match="Exactly one"):
        rips()
    with pytest.raises(
        DataError, match=r"at least one point, none beyond .*; got shape \(0,\)"
    ):
        rips([])
    with pytest.raises(DataError, match="finite"):
        rips([[np.nan]])
    for matrix in (np.ones((2, 3)), [[0.0, 1.0], [2.0, 0.0]], [[0.0, -1.0], [-1.0, 0.0]]):
        with pytest.raises(ArgumentError, match="symmetric matrix"):
            rips(distances=matrix)
