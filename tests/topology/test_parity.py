"""Parity with other libraries under matched conventions.

gudhi is asked on the spot. The numbers of the others were computed once by their releases:
Landscaper 1.3.1, persim 0.4.1, ripser 0.6.15, cripser 0.0.37 on the inputs below.
"""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lossatlas.topology import (
    bottleneck,
    entropy,
    graph,
    merge_tree,
    persistence,
    rips,
    sliced_wasserstein,
    total_persistence,
    wasserstein,
)
from reference.topology_landscaper import landscaper_smad

gudhi = pytest.importorskip("gudhi", reason="gudhi has no wheel for this machine")


def plane(half, points):
    x = np.linspace(*half, points)
    return np.meshgrid(x, x, indexing="ij")


def himmelblau(points):
    a, b = plane((-5, 5), points)
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def waves(points):
    a, b = plane((-2, 2), points)
    bowl = a**2 + 1.3 * b**2 + 0.1 * a + 0.03 * b
    return bowl + np.cos(5 * a + 1) * np.sin(4 * b + 0.5 * a)


def well(points):
    a, b = plane((-1.7, 1.6), points)
    return (a**2 - 1) ** 2 + b**2 + 0.2 * a


@pytest.mark.parametrize(
    ("field", "plain", "normalized", "weighted"),
    [
        (himmelblau(15), 47.61765930862142, 0.05354408148928697, 12.145814244064972),
        (himmelblau(21), 19.9375, 0.022401685393258427, 5.112244897959184),
        (waves(15), 0.24485486017190244, 0.02404294938924273, 0.026874875753844583),
        (waves(21), 0.25638510235016104, 0.02504374942939814, 0.024442039608312784),
        (well(21), 0.9966211406250001, 0.15766973165076503, 0.5031068845982143),
    ],
)
def test_smad_is_landscapers(field, plain, normalized, weighted):
    tree = merge_tree(field, connectivity="axis")
    assert tree.smad() == pytest.approx(plain, rel=1e-12)
    assert tree.smad(normalize=True) == pytest.approx(normalized, rel=1e-12)
    assert tree.smad(weighted=True) == pytest.approx(weighted, rel=1e-12)


ROUGH = [
    # Three minima, of which its contour tree holds none: it answers NaN.
    ([[3, 1, 0], [6, 2, 8], [5, 7, 4]], np.nan, 10 / 3),
    # One basin of three is left.
    ([[4, 3, 6], [2, 5, 8], [7, 1, 0]], 5.0, 8 / 3),
    # One minimum and no pass; its gap ends where a superlevel set parts.
    ([[6, 8, 4], [2, 1, 3], [5, 0, 7]], 2.0, 0.0),
    # 22 gaps of 36.
    (np.random.default_rng(3).random((13, 13)), 0.31537364760426195, 0.290758528118775),
]


@pytest.mark.parametrize(("field", "theirs", "ours"), ROUGH)
def test_on_rough_fields_landscaper_averages_a_contour_tree_cut_short(field, theirs, ours):
    field = np.asarray(field, dtype=float)
    assert landscaper_smad(field)[0] == pytest.approx(theirs, rel=1e-12, nan_ok=True)
    assert merge_tree(field, connectivity="axis").smad() == pytest.approx(ours, rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(3, 3), (9, 1)]))
def test_smad_is_landscapers_where_its_contour_tree_is_whole_and_only_basins_meet(seed, shape):
    draw, served = np.random.default_rng(seed), 0
    # One field in six is such a one.
    for _ in range(30):
        field = draw.permutation(9).astype(float).reshape(shape)
        tree = merge_tree(field, connectivity="axis")
        theirs, pairs, lost = landscaper_smad(field)
        whole = lost == 0 and len(pairs) == len(tree) > 1
        if whole and np.isin([high for _, high in pairs], tree.saddles).all():
            assert tree.smad() == pytest.approx(theirs)
            served += 1
    assume(served)


def barcodes():
    k, j = np.arange(12.0), np.arange(9.0)
    births = np.abs(np.sin(k)), np.abs(np.cos(j))
    lengths = 0.1 + np.abs(np.cos(3 * k)), 0.05 + np.abs(np.sin(2 * j))
    return [np.stack([b, b + p], axis=1) for b, p in zip(births, lengths, strict=True)]


def test_distances_and_entropy_are_persims():
    # persim rounds to single precision on the way.
    a, b = barcodes()
    assert bottleneck(a, b) == pytest.approx(0.38015835412204013)
    assert wasserstein(a, b, ground=2.0) == pytest.approx(3.3087380851171386)
    assert sliced_wasserstein(a, b, directions=40) == pytest.approx(2.048436730923915, rel=1e-6)
    assert entropy(a) == pytest.approx(2.36427966)
    assert entropy(a, normalized=True) == pytest.approx(0.95145613)


def test_clouds_are_ripsers():
    t = np.arange(40.0)
    x, y = np.cos(t) * (1 + 0.1 * np.sin(5 * t)), np.sin(t) * (1 + 0.1 * np.cos(7 * t))
    diagram = rips(np.stack([x, y, 0.2 * np.sin(3 * t)], axis=1))
    assert total_persistence(diagram) == pytest.approx(6.727955900132656)
    np.testing.assert_allclose(diagram.bars(1), [[0.43886399, 1.69052243]], rtol=1e-6)


@pytest.mark.parametrize(
    ("connectivity", "total"), [("axis", 16.6746904), ("full", 16.4270593)]
)
def test_grids_are_cripsers(connectivity, total):
    i, j = np.arange(14.0), np.arange(11.0)
    f = np.add.outer(np.sin(0.7 * i), np.cos(0.9 * j)) + 0.3 * np.sin(np.outer(i, j))
    diagram = persistence(f, connectivity=connectivity)
    assert [len(diagram.bars(k, essential="keep")) for k in (0, 1)] == [8, 2]
    assert total_persistence(diagram, essential=9.0) == pytest.approx(total)
    assert total_persistence(diagram, dimension=1) == pytest.approx(2.219761602273442)


@pytest.mark.parametrize(("connectivity", "cells"), [("axis", "vertices"), ("full", "top")])
@pytest.mark.parametrize("shape", [(40,), (24, 31), (9, 10, 11)])
def test_grids_are_gudhis(shape, connectivity, cells):
    f = np.random.default_rng(len(shape)).standard_normal(shape)
    name = "vertices" if cells == "vertices" else "top_dimensional_cells"
    complex_ = gudhi.CubicalComplex(**{name: f})
    complex_.compute_persistence()
    diagram = persistence(f, connectivity=connectivity, dimensions=tuple(range(len(shape))))
    for k in range(len(shape)):
        wanted = complex_.persistence_intervals_in_dimension(k).reshape(-1, 2)
        found = diagram.bars(k, essential="keep")
        assert sorted(found.tolist()) == sorted(wanted.tolist())


def test_graphs_are_gudhis():
    rng = np.random.default_rng(0)
    values, edges = rng.random(60), rng.integers(0, 60, (150, 2))
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    heights = values[edges].max(axis=1) + 0.2 * rng.random(len(edges))
    tree = gudhi.SimplexTree()
    for vertex, value in enumerate(values):
        tree.insert([vertex], value)
    for edge, height in zip(edges.tolist(), heights, strict=True):
        tree.insert(edge, height)
    tree.compute_persistence(persistence_dim_max=True)
    wanted = tree.persistence_intervals_in_dimension(0)
    found = persistence(graph(values, edges, heights)).bars(0, essential="keep")
    assert sorted(found.tolist()) == sorted(wanted.tolist())
