import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import generate_binary_structure, label

from lossatlas import io
from lossatlas.errors import (
    ArgumentError,
    DataError,
    MissingDependencyError,
    UnknownNameError,
)
from lossatlas.topology import Graph, graph, persistence
from lossatlas.topology.cubical import grid_bars
from reference.topology_bars import cubical_bars, sweep_bars

# Small integers: ties are the rule, and failing examples stay readable.
levels = st.integers(0, 9).map(float)
walled = st.one_of(levels, levels, levels, st.just(np.nan))
connectivities = st.sampled_from(["full", "axis"])


def grids(elements=levels, dims=2, side=6):
    return arrays(
        np.float64, array_shapes(min_dims=dims, max_dims=dims, max_side=side), elements=elements
    )


def bars(diagram, k):
    return sorted(map(tuple, diagram.bars(k, essential="keep").tolist()))


def diagram_of(values, connectivity="full", **options):
    return persistence(values, connectivity=connectivity, **options)


@given(grids(walled).filter(lambda f: np.isfinite(f).any()), connectivities)
def test_plane_equals_matrix_reduction_walls_and_ties_included(f, connectivity):
    diagram = diagram_of(f, connectivity)
    wanted = cubical_bars(f, connectivity)
    assert {0: bars(diagram, 0), 1: bars(diagram, 1)} == wanted
    assert diagram.excluded == np.isnan(f).sum()


@given(grids(walled).filter(lambda f: np.isfinite(f).any()), connectivities)
def test_plane_without_gudhi_is_the_same(f, connectivity):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gudhi.sklearn.cubical_persistence", None)
        alone = diagram_of(f, connectivity)
    assert [bars(alone, k) for k in (0, 1)] == [
        bars(diagram_of(f, connectivity), k) for k in (0, 1)
    ]


@given(grids(walled, dims=3, side=3).filter(lambda f: np.isfinite(f).any()), connectivities)
def test_solid_equals_matrix_reduction(f, connectivity):
    diagram = diagram_of(f, connectivity, dimensions=(0, 1, 2))
    assert {k: bars(diagram, k) for k in (0, 1, 2)} == cubical_bars(f, connectivity)


@given(grids(walled, dims=1, side=30).filter(lambda f: np.isfinite(f).any()), connectivities)
def test_line_equals_the_sweep_and_has_no_degree_one(f, connectivity):
    diagram = diagram_of(f, connectivity)
    assert bars(diagram, 0) == sweep_bars(f, connectivity)
    assert bars(diagram, 1) == []


@given(grids(dims=4, side=3), connectivities)
def test_four_dimensions_equal_the_sweep(f, connectivity):
    assert bars(diagram_of(f, connectivity, dimensions=(0,)), 0) == sweep_bars(f, connectivity)


def test_solid_degree_one_names_gudhi_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gudhi", None)
    solid = np.random.default_rng(0).random((3, 3, 3))
    assert len(persistence(solid, dimensions=(0,))) >= 1
    with pytest.raises(MissingDependencyError, match=r"gudhi.*dimensions=\(0,\)"):
        persistence(solid)


@given(grids(), connectivities, st.integers(-5, 5), st.sampled_from([0.5, 2.0, 4.0]))
def test_shift_and_scale(f, connectivity, shift, scale):
    moved, plain = diagram_of(scale * f + shift, connectivity), diagram_of(f, connectivity)
    np.testing.assert_array_equal(moved.births, scale * plain.births + shift)
    np.testing.assert_array_equal(moved.deaths, scale * plain.deaths + shift)


@given(grids(), connectivities)
def test_an_increasing_map_moves_the_bars_along(f, connectivity):
    plain = diagram_of(f, connectivity)
    for k in (0, 1):
        moved = [(b**3, d**3) for b, d in bars(plain, k)]
        assert bars(diagram_of(f**3, connectivity), k) == moved


@given(grids(dims=3, side=4), connectivities, st.permutations([0, 1, 2]), st.integers(0, 2))
def test_axes_and_their_direction_do_not_matter(f, connectivity, axes, flipped):
    turned = np.flip(f.transpose(axes), flipped)
    plain = diagram_of(f, connectivity)
    for k in (0, 1):
        assert bars(diagram_of(turned, connectivity), k) == bars(plain, k)


@given(grids(), connectivities)
def test_singleton_axis_constant_axis_and_upsampling_change_nothing(f, connectivity):
    plain = diagram_of(f, connectivity)
    thick = np.repeat(np.repeat(f, 2, axis=0), 2, axis=1)
    for other in (f[:, None, :], np.stack([f, f, f], axis=1), thick):
        for k in (0, 1):
            assert bars(diagram_of(other, connectivity), k) == bars(plain, k)


@given(grids(), connectivities)
def test_edge_padding_keeps_the_bars(f, connectivity):
    padded = np.pad(f, 1, mode="edge")
    for k in (0, 1):
        assert bars(diagram_of(padded, connectivity), k) == bars(diagram_of(f, connectivity), k)


@given(grids(), connectivities, levels)
def test_clipping_moves_deaths_down_or_births_up(f, connectivity, level):
    plain = diagram_of(f, connectivity)
    for k in (0, 1):
        low = [(b, min(d, level) if d < np.inf else d) for b, d in bars(plain, k)]
        low = [(min(b, level), d) for b, d in low]
        high = [(max(b, level), d) for b, d in bars(plain, k)]
        for clipped, moved in ((np.minimum(f, level), low), (np.maximum(f, level), high)):
            assert bars(diagram_of(clipped, connectivity), k) == sorted(
                bar for bar in moved if bar[1] > bar[0]
            )


@given(grids(), connectivities)
def test_one_essential_basin_born_at_the_minimum(f, connectivity):
    diagram = diagram_of(f, connectivity)
    assert diagram.births[diagram.essential].tolist() == [f.min()]
    assert diagram.dimensions[diagram.essential].tolist() == [0]
    assert diagram.births.min() == f.min()
    assert diagram.bars(0).max(initial=f.min()) <= f.max()


@given(grids(), connectivities, levels)
def test_components_alive_are_the_components_of_the_sublevel_set(f, connectivity, level):
    structure = generate_binary_structure(2, 2 if connectivity == "full" else 1)
    diagram = diagram_of(f, connectivity)
    alive = (diagram.dimensions == 0) & (diagram.births <= level) & (level < diagram.deaths)
    assert alive.sum() == label(f <= level, structure)[1]


@given(grids(), connectivities)
def test_a_wall_between_two_grids_adds_their_bars(f, connectivity):
    apart = np.concatenate([f, np.full((1, f.shape[1]), np.inf), f])
    for k in (0, 1):
        assert bars(diagram_of(apart, connectivity), k) == sorted(
            2 * bars(diagram_of(f, connectivity), k)
        )


@given(
    st.permutations(range(24)).map(lambda p: np.array(p, float).reshape(4, 6)), connectivities
)
def test_bars_count_the_local_minima(f, connectivity):
    offsets = [(0, 1), (1, 0), (1, 1), (1, -1)] if connectivity == "full" else [(0, 1), (1, 0)]
    padded = np.pad(f, 1, constant_values=np.inf)
    sides = [
        padded[1 + s * i : 5 + s * i, 1 + s * j : 7 + s * j]
        for i, j in offsets
        for s in (1, -1)
    ]
    minima = np.all([f < side for side in sides], axis=0).sum()
    assert len(bars(diagram_of(f, connectivity), 0)) == minima


@given(st.lists(grids(dims=1, side=6), min_size=2, max_size=2), connectivities)
def test_separable_sums_multiply_their_minima(parts, connectivity):
    f = parts[0][:, None] + parts[1][None, :]
    counts = [len(bars(diagram_of(part, "axis"), 0)) for part in parts]
    if connectivity == "axis":
        assert len(bars(diagram_of(f, "axis"), 0)) == counts[0] * counts[1]
    else:
        assert len(bars(diagram_of(f, "full"), 0)) <= counts[0] * counts[1]


def test_a_bowl_has_one_bar_and_a_double_well_two():
    x = np.linspace(-2, 2, 41)
    bowl = x[:, None] ** 2 + x[None, :] ** 2
    assert bars(persistence(bowl), 0) == [(0.0, np.inf)]
    well = (x[:, None] ** 2 - 1) ** 2 + x[None, :] ** 2
    diagram = persistence(well, connectivity="axis")
    np.testing.assert_allclose(bars(diagram, 0), [(0.0, 1.0), (0.0, np.inf)], atol=1e-12)


def test_a_ring_of_ridge_is_a_bar_of_degree_one():
    f = np.zeros((5, 5))
    f[2, 2] = 3.0
    assert bars(persistence(f), 1) == [(0.0, 3.0)]
    f[2, 2] = np.nan
    assert bars(persistence(f), 1) == [(0.0, np.inf)]


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1), (7, 1)])
def test_constant_and_single_cells_have_one_essential_bar(shape):
    diagram = persistence(np.ones(shape))
    assert (diagram.births.tolist(), diagram.deaths.tolist()) == ([1.0], [np.inf])
    assert np.isnan(diagram.threshold)
    assert not diagram.certain.any()


@pytest.mark.parametrize(
    ("rule", "wanted"), [("drop", 1), ("keep", 2), ("cap", 2), (1.5, 2), (-9.0, 1)]
)
def test_essential_bars_follow_the_stated_rule(rule, wanted):
    kept = persistence([3.0, 0.0, 2.0, 1.0, 2.5]).bars(0, essential=rule)
    assert len(kept) == wanted
    assert not np.isinf(kept).any() or rule == "keep"


@pytest.mark.parametrize("source", [["a"], 3.0, np.ones((2, 2), complex), np.array([None])])
def test_what_is_not_an_array_of_numbers_is_named(source):
    with pytest.raises(ArgumentError, match="`landscape` must be an array of real numbers"):
        persistence(source)


def test_other_bad_input_is_named():
    with pytest.raises(DataError, match="at least one finite value; got 4"):
        persistence(np.full((2, 2), np.nan))
    with pytest.raises(DataError, match="got 0 points"):
        persistence([])
    with pytest.raises(UnknownNameError, match="did you mean 'full'"):
        persistence(np.ones((2, 2)), connectivity="ful")
    with pytest.raises(ArgumentError, match="confidence"):
        persistence(np.ones((2, 2)), confidence=1.0)
    with pytest.raises(UnknownNameError, match="'cap'"):
        persistence(np.ones((2, 2))).bars(0, essential="capp")


@pytest.mark.parametrize("values", [np.ones((3, 3)), [0.0, 2.0, 1.0, np.nan]])
def test_a_diagram_survives_the_disk(tmp_path, values):
    diagram = persistence(values)
    again = io.load(io.save(diagram, tmp_path / "diagram.nc"))
    places = ("birth_places", "death_places")
    for name in ("births", "deaths", "dimensions", "certain", "threshold", *places):
        np.testing.assert_array_equal(getattr(again, name), getattr(diagram, name))
    for name in ("connectivity", "excluded", "why_unknown", "periodic"):
        assert getattr(again, name) == getattr(diagram, name)


@pytest.mark.parametrize("source", [graph([0.0, 2.0], [(0, 1)]), np.ones((4, 3))])
def test_a_diagram_without_places_or_with_circles_survives_the_disk(tmp_path, source):
    options = {} if isinstance(source, Graph) else {"periodic": (True, False), "error": 0.5}
    diagram = persistence(source, **options)
    again = io.load(io.save(diagram, tmp_path / "diagram.nc"))
    assert again.birth_places.shape == (len(diagram), 2 * bool(options))
    assert again.periodic == diagram.periodic == options.get("periodic", ())
    assert again.why_unknown == diagram.why_unknown
    np.testing.assert_array_equal(again.threshold, diagram.threshold)


def test_degrees_that_a_grid_cannot_have_are_empty():
    assert all(len(part) == 0 for part in grid_bars(np.ones((3, 3)), "full", (2, 5)))


@given(grids(walled).filter(lambda f: np.isfinite(f).any()), connectivities)
def test_superlevel_sets_are_the_complements(f, connectivity):
    turned = diagram_of(f, connectivity, superlevel=True)
    other = {"full": "axis", "axis": "full"}[connectivity]
    plain = persistence(-f, connectivity=other)
    assert turned.superlevel
    assert [bars(turned, k) for k in (0, 1)] == [bars(plain, k) for k in (0, 1)]


@given(grids(dims=1, side=20))
def test_on_a_line_inner_hills_mirror_inner_basins(f):
    # Walls of great height at both ends leave no minimum there, so every pair is an inner one.
    line = np.concatenate([[99.0], f, [99.0]])
    basins = [(-d, -b) for b, d in bars(diagram_of(line), 0) if d < np.inf]
    hills = [bar for bar in bars(diagram_of(line, superlevel=True), 0) if -99.0 not in bar]
    assert sorted(basins) == hills


@given(grids(), connectivities)
def test_area_under_the_betti_curve_is_the_total_persistence(f, connectivity):
    diagram = diagram_of(f, connectivity)
    steps = np.arange(0, 10) + 0.5
    for k in (0, 1):
        finite = diagram.bars(k)
        alive = (finite[:, :1] <= steps) & (steps < finite[:, 1:])
        assert alive.sum() == pytest.approx((finite[:, 1] - finite[:, 0]).sum())


@given(grids(), connectivities)
def test_bars_of_the_ranks_mapped_back_are_the_bars(f, connectivity):
    level, ranks = np.unique(f, return_inverse=True)
    mapped = np.append(level, np.inf)
    ranked = diagram_of(ranks.reshape(f.shape), connectivity)
    for k in (0, 1):
        found = ranked.bars(k, essential="keep")
        places = np.where(np.isinf(found), level.size, found).astype(int)
        assert sorted(map(tuple, mapped[places].tolist())) == bars(
            diagram_of(f, connectivity), k
        )


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=levels))
def test_a_plane_is_read_as_gudhi_reads_it_with_and_without_its_inner_function(values):
    from gudhi.sklearn.cubical_persistence import CubicalPersistence

    route = CubicalPersistence([0, 1], input_type="top_dimensional_cells")
    wanted = route.fit_transform([values])[0]
    found = grid_bars(values, "full", (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gudhi._pers_cub_low_dim_ext", None)
        wrapped = grid_bars(values, "full", (0, 1))
    for bars in (found, wrapped):
        for own, theirs in zip(bars, wanted, strict=True):
            kept = theirs[theirs[:, 1] > theirs[:, 0]]
            np.testing.assert_array_equal(own[np.lexsort(own.T)], kept[np.lexsort(kept.T)])
