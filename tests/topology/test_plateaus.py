"""A connected plateau is one minimum: trees, bars and brute force agree where values tie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import binary_dilation, generate_binary_structure, label
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lossatlas.topology import Graph, graph, merge_tree, persistence, scattered
from lossatlas.topology.torch_layers import grid_bars

ties = st.one_of(st.integers(0, 2).map(float), st.integers(0, 2).map(float), st.just(np.nan))
fields = arrays(
    np.float64, array_shapes(min_dims=1, max_dims=3, max_side=7), elements=ties
).filter(lambda f: np.isfinite(f).any())
connectivities = st.sampled_from(["full", "axis"])


def grid_minima(f, connectivity):
    """Connected sets of one value without a lower neighbor, value by value."""
    touch = generate_binary_structure(f.ndim, f.ndim if connectivity == "full" else 1)
    found = []
    for value in np.unique(f[np.isfinite(f)]):
        parts, count = label(f == value, structure=touch)
        drains = binary_dilation(f < value, structure=touch)
        found += [value for k in range(1, count + 1) if not drains[parts == k].any()]
    return found


def graph_minima(source):
    """The same on a graph whose edges open with their higher end."""
    found = []
    u, v = source.edges.T
    for value in np.unique(source.values[np.isfinite(source.values)]):
        here = np.flatnonzero(source.values == value)
        flat = (source.values[u] == value) & (source.values[v] == value)
        links = coo_matrix((np.ones(flat.sum()), (u[flat], v[flat])), (source.values.size,) * 2)
        parts = connected_components(links, directed=False)[1]
        for part in np.unique(parts[here]):
            inside = here[parts[here] == part]
            near = np.concatenate([v[np.isin(u, inside)], u[np.isin(v, inside)]])
            if not (source.values[near] < value).any():
                found.append(value)
    return found


def agree(tree, diagram, wanted):
    births = np.sort(diagram.births[diagram.dimensions == 0])
    assert np.sort(tree.minima_values).tolist() == births.tolist() == sorted(wanted)
    lives = np.sort(diagram.lengths[diagram.dimensions == 0])
    assert np.sort(tree.persistences).tolist() == lives.tolist()
    finite = lives[np.isfinite(lives)]
    assert tree.smad(rule="elder") == pytest.approx(finite.mean() if finite.size else 0.0)
    gaps = tree.first_saddles() - tree.minima_values
    assert (gaps > 0).all()
    met = gaps[np.isfinite(gaps)]
    assert tree.smad() == pytest.approx(met.mean() if met.size else 0.0)


def test_an_l_of_equal_cells_is_one_minimum():
    assert len(merge_tree([[9.0, 1.0], [1.0, 1.0]], connectivity="axis")) == 1
    # A saddle between two deeper basins is neither a minimum nor a reason to join them.
    assert len(merge_tree([0.0, 1.0, 1.0, 0.5])) == 2


@given(fields, connectivities)
def test_a_connected_plateau_of_a_grid_is_one_minimum(f, connectivity):
    agree(
        merge_tree(f, connectivity=connectivity),
        persistence(f, connectivity=connectivity, dimensions=(0,)),
        grid_minima(f, connectivity),
    )


@given(fields, connectivities)
def test_the_bars_of_a_tensor_agree(f, connectivity):
    import torch

    f = np.nan_to_num(f, nan=1.0)
    got = grid_bars(torch.tensor(f), connectivity=connectivity).numpy()
    want = persistence(f, connectivity=connectivity, dimensions=(0,)).bars()
    assert sorted(map(tuple, got.tolist())) == sorted(map(tuple, want.tolist()))


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 9))
    values = draw(arrays(np.float64, count, elements=ties))
    values[draw(st.integers(0, count - 1))] = 1.0
    vertex = st.integers(0, count - 1)
    return graph(values, np.array(draw(st.lists(st.tuples(vertex, vertex), max_size=16))))


@given(graphs())
def test_a_connected_plateau_of_a_graph_is_one_minimum(source):
    agree(merge_tree(source), persistence(source), graph_minima(source))


@given(
    arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(0, 4)),
    st.data(),
)
def test_a_connected_plateau_of_scattered_points_is_one_minimum(points, data):
    values = data.draw(arrays(np.float64, len(points), elements=st.integers(0, 2).map(float)))
    source = scattered(points, values, method=data.draw(st.sampled_from(["auto", "knn"])))
    assert isinstance(source, Graph)
    agree(merge_tree(source), persistence(source), graph_minima(source))
