"""Axes whose ends touch: bars and trees against brute force, gudhi and plain identities."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lossatlas.errors import ArgumentError, MissingDependencyError
from lossatlas.topology import certain_basins, graph, merge_tree, persistence
from reference.topology_bars import periodic_bars

levels = st.one_of(*[st.integers(0, 5).map(float)] * 4, st.just(np.nan))
connectivities = st.sampled_from(["full", "axis"])


@st.composite
def wrapped(draw, dims=(1, 3), side=4):
    periodic = tuple(draw(st.lists(st.booleans(), min_size=dims[0], max_size=dims[1])))
    sizes = [draw(st.integers(3 if circle else 1, side)) for circle in periodic]
    f = draw(arrays(np.float64, tuple(sizes), elements=levels))
    f[(0,) * f.ndim] = 1.0
    return f, periodic


def bars(diagram, k):
    return sorted(map(tuple, diagram.bars(k, essential="keep").tolist()))


@given(wrapped(), connectivities)
def test_bars_of_every_degree_equal_brute_force(case, connectivity):
    f, periodic = case
    degrees = tuple(range(f.ndim + 1))
    found = persistence(f, connectivity=connectivity, dimensions=degrees, periodic=periodic)
    wanted = periodic_bars(f, connectivity, periodic)
    for k in degrees:
        assert bars(found, k) == wanted.get(k, [])


@given(wrapped(), connectivities)
def test_the_tree_has_the_bars_of_degree_zero(case, connectivity):
    f, periodic = case
    tree = merge_tree(f, connectivity=connectivity, periodic=periodic)
    branches = zip(tree.minima_values, tree.minima_values + tree.persistences, strict=True)
    assert sorted(branches) == periodic_bars(f, connectivity, periodic)[0]


@given(wrapped(dims=(2, 2), side=6), connectivities)
def test_turning_a_circle_changes_nothing(case, connectivity):
    f, periodic = case
    turned = np.roll(f, [2 * circle for circle in periodic], axis=(0, 1))
    one, two = (
        persistence(g, connectivity=connectivity, periodic=periodic) for g in (f, turned)
    )
    for k in (0, 1):
        assert bars(one, k) == bars(two, k)


def test_a_torus_has_one_part_two_circles_and_one_hollow():
    angles = 2 * np.pi * np.arange(24) / 24
    f = np.cos(angles)[:, None] + 0.5 * np.cos(2 * angles)[None]
    diagram = persistence(f, dimensions=(0, 1, 2), periodic=True)
    assert diagram.periodic == (True, True)
    essential = diagram.dimensions[diagram.essential]
    assert np.bincount(essential).tolist() == [1, 2, 1]
    assert (diagram.dimensions == 0).sum() == len(merge_tree(f, periodic=True)) == 2
    # Cut open, the valley at the middle of the second axis lies in two halves at its ends.
    assert (persistence(np.roll(f, 6, axis=1)).dimensions == 0).sum() == 3
    assert not persistence(f).periodic


def test_a_valley_over_the_seam_is_one_basin_with_its_barrier():
    f = np.array([0.0, 1.0, 4.0, 2.0, 5.0, 0.5])
    cut, circle = merge_tree(f), merge_tree(f, periodic=True)
    assert len(cut) == 3
    assert len(circle) == 2
    assert circle.barrier(0, 1) == 4.0
    assert circle.basins[-1] == circle.basins[0]


def test_gudhi_is_needed_above_degree_zero_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "gudhi", None)
    f = np.arange(9.0).reshape(3, 3)
    assert len(persistence(f, dimensions=(0,), periodic=True)) == 1
    with pytest.raises(MissingDependencyError, match="periodic grid need gudhi"):
        persistence(f, periodic=True)


@pytest.mark.parametrize(
    "bad", ["yes", 1, (True,), (True, 0), None, (True, False, True), [[True]]]
)
def test_bad_periods_are_named(bad):
    f = np.ones((3, 4))
    for ask in (persistence, merge_tree):
        with pytest.raises(ArgumentError, match="`periodic`"):
            ask(f, periodic=bad)
        with pytest.raises(ArgumentError, match="`periodic` axes need at least three points"):
            ask(np.ones((2, 4)), periodic=(True, False))
        with pytest.raises(ArgumentError, match="`periodic` is for grids"):
            ask(graph([0.0], []), periodic=True)
        with pytest.raises(ArgumentError, match="`error` is for arrays"):
            ask(graph([0.0], []), error=0.0)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, "small", True, [0.1]])
def test_bad_errors_are_named(bad):
    for ask in (persistence, merge_tree, certain_basins):
        with pytest.raises(ArgumentError, match="`error`"):
            ask(np.ones((3, 4)), error=bad)
