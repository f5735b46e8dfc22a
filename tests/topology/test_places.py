"""Births and deaths have places: the points whose values they are."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lossatlas.topology import graph, merge_tree, persistence, rips

levels = st.one_of(*[st.integers(0, 9).map(float)] * 4, st.just(np.nan))
fields = arrays(
    np.float64, array_shapes(min_dims=1, max_dims=3, max_side=5), elements=levels
).filter(lambda f: np.isfinite(f).any())
connectivities = st.sampled_from(["full", "axis"])


def values_at(f, places):
    found = np.full(len(places), np.nan)
    there = ~np.isnan(places).any(axis=1)
    found[there] = f[tuple(places[there].astype(int).T)]
    return found


@given(fields, connectivities, st.booleans())
def test_the_field_at_a_place_is_the_birth_or_the_death(f, connectivity, superlevel):
    degrees = tuple(range(f.ndim))
    diagram = persistence(
        f, connectivity=connectivity, superlevel=superlevel, dimensions=degrees
    )
    turned = -f if superlevel else f
    np.testing.assert_array_equal(values_at(turned, diagram.birth_places), diagram.births)
    deaths = np.where(diagram.essential, np.nan, diagram.deaths)
    np.testing.assert_array_equal(values_at(turned, diagram.death_places), deaths)


@given(st.data(), connectivities)
def test_places_on_a_torus_have_the_values_too(data, connectivity):
    f = data.draw(arrays(np.float64, (4, 3), elements=st.integers(0, 9).map(float)))
    diagram = persistence(f, connectivity=connectivity, periodic=(True, False))
    np.testing.assert_array_equal(values_at(f, diagram.birth_places), diagram.births)
    deaths = np.where(diagram.essential, np.nan, diagram.deaths)
    np.testing.assert_array_equal(values_at(f, diagram.death_places), deaths)


def rows(*parts):
    return sorted(tuple(np.nan_to_num(row, nan=-1.0)) for row in np.concatenate(parts, axis=1))


@given(st.permutations(range(20)), connectivities)
def test_of_distinct_values_every_place_is_the_one_gudhi_names(order, connectivity):
    import gudhi

    f = np.array(order, dtype=np.float64).reshape(4, 5)
    name = "top_dimensional_cells" if connectivity == "full" else "vertices"
    peer = gudhi.CubicalComplex(**{name: f})
    peer.compute_persistence()
    pairs = (
        peer.cofaces_of_persistence_pairs()
        if connectivity == "full"
        else peer.vertices_of_persistence_pairs()
    )
    diagram = persistence(f, connectivity=connectivity)
    for k in (0, 1):
        ended = np.asarray(pairs[0][k] if k < len(pairs[0]) else np.empty((0, 2)), dtype=int)
        wanted = [np.stack(np.unravel_index(side, f.shape, order="F"), 1) for side in ended.T]
        chosen = (diagram.dimensions == k) & ~diagram.essential
        got = [diagram.birth_places[chosen], diagram.death_places[chosen]]
        assert rows(*got) == rows(*wanted)


def test_a_basin_is_born_at_its_minimum_and_ends_at_its_saddle():
    f = np.random.default_rng(0).random((17, 13))
    tree, diagram = merge_tree(f), persistence(f, dimensions=(0,))
    finite = ~diagram.essential
    minima = tree.coordinates(tree.minima[tree.ended])
    got = [diagram.birth_places[finite], diagram.death_places[finite]]
    assert rows(*got) == rows(minima, tree.coordinates(tree.saddles))


def test_places_are_coordinates_of_the_axes_of_a_map():
    x, y = np.linspace(-1, 1, 21), np.linspace(0, 4, 9)
    hill = np.exp(-8 * (x[:, None] - 0.2) ** 2 - 2 * (y[None] - 2.5) ** 2)
    f = 5 * hill + 0.1 * x[:, None] ** 2 + 0.01 * y[None]
    source = SimpleNamespace(
        values=f, stderr=np.full(f.shape, 0.01), axes=(x, y), interpolation_error=0.0
    )
    diagram = persistence(source)
    (top,) = diagram.death_places[(diagram.dimensions == 1) & diagram.certain]
    np.testing.assert_allclose(top, [0.2, 2.5])
    # A ridge around a wall has no top.
    f[3, 4] = np.inf
    walled = persistence(source)
    assert np.isnan(walled.death_places[walled.essential]).all()
    assert not np.isnan(walled.birth_places).any()


@pytest.mark.parametrize("source", [graph([0.0, 1.0], [(0, 1)]), None])
def test_graphs_and_clouds_have_no_places(source):
    diagram = rips([[0.0], [2.0]], dimensions=(0,)) if source is None else persistence(source)
    assert diagram.birth_places.shape == diagram.death_places.shape == (len(diagram), 0)
