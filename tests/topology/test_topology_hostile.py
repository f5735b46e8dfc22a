"""What is no number, no grid, no norm or no graph is named; nothing hangs and nothing lies."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lossatlas import topology
from lossatlas.errors import ArgumentError, AtlasError

FIELD = np.random.default_rng(0).random((7, 7))
BARS = np.array([[0.0, 1.0], [0.2, 0.5]])
OTHER = np.array([[0.1, 0.9]])
TREE = topology.merge_tree(FIELD)
EDGES = [(k, k + 1) for k in range(48)]
PLACES = np.stack(np.unravel_index(np.arange(49), (7, 7)), axis=1)
UNTRIED = np.array([[0.0, 4.0, np.nan], [4.0, 0.0, 5.0], [np.nan, 5.0, 0.0]])


@pytest.mark.parametrize(
    "source",
    [
        [[1, 2], [1]],
        FIELD + 1j,
        np.array([["a"]]),
        np.float64(1),
        None,
        np.empty((0, 3)),
        np.full((3, 3), -np.inf),
        np.array(["2020-01-01"], "M8[D]"),
        torch.ones(3, 3, dtype=torch.complex64),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        topology.persistence,
        topology.merge_tree,
        topology.certain_basins,
        topology.resolution,
        lambda source: topology.flood_below(source, 0.1),
        lambda source: topology.euler_curve(source, [0.0]),
        lambda source: topology.match_basins(source, FIELD),
    ],
)
def test_what_is_no_field_is_named(source, ask):
    with pytest.raises(AtlasError):
        ask(source)


@pytest.mark.parametrize(
    "made",
    [
        lambda f: f.tolist(),
        np.asfortranarray,
        lambda f: np.repeat(f, 2, axis=0)[::2],
        lambda f: f.astype(np.longdouble),
        torch.tensor,
        lambda f: torch.tensor(f, requires_grad=True),
        lambda f: torch.tensor(f).to_sparse(),
        lambda f: f.astype(object).astype(float),
    ],
)
def test_every_kind_of_array_gives_the_same_bars(made):
    want, got = topology.persistence(FIELD), topology.persistence(made(FIELD))
    np.testing.assert_array_equal(got.births, want.births)
    np.testing.assert_array_equal(got.deaths, want.deaths)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32])
def test_coarse_numbers_are_taken_as_they_are(dtype):
    coarse = (9 * FIELD).astype(dtype)
    want = topology.persistence(coarse.astype(float))
    np.testing.assert_array_equal(topology.persistence(coarse).bars(), want.bars())


@pytest.mark.parametrize("degrees", [0, (-1,), (0.5,), (0, 0), (True,), "01"])
def test_degrees_are_distinct_whole_numbers(degrees):
    for ask in (
        lambda: topology.persistence(FIELD, dimensions=degrees),
        lambda: topology.rips(FIELD, dimensions=degrees),
    ):
        with pytest.raises(ArgumentError, match="`dimensions`"):
            ask()


@pytest.mark.parametrize("bars", ["x", [[1, 2], [1]], BARS + 1j, np.ones((2, 3)), None])
def test_what_is_no_barcode_is_named(bars):
    for ask in (topology.bottleneck, topology.wasserstein, topology.sliced_wasserstein):
        with pytest.raises(AtlasError):
            ask(bars, OTHER)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: topology.wasserstein(BARS, OTHER, order=0.5),
        lambda: topology.wasserstein(BARS, OTHER, order=np.nan),
        lambda: topology.wasserstein(BARS, OTHER, ground=0),
        lambda: topology.wasserstein(BARS, OTHER, ground="max"),
        lambda: topology.wasserstein(BARS, OTHER, delta=-1),
        lambda: topology.bottleneck(BARS, OTHER, delta=-1),  # Hera never came back
        lambda: topology.bottleneck(BARS, OTHER, delta=np.nan),
        lambda: topology.bottleneck(BARS, OTHER, essential=np.nan),
        lambda: topology.match_bars(BARS, OTHER, order=0),
        lambda: topology.amplitude(BARS, ground=0),
        lambda: topology.total_persistence(BARS, order=-1),
        lambda: topology.silhouette(BARS, [0.0], power=np.nan),
        lambda: topology.betti_curve(BARS, [np.nan]),
        lambda: topology.persistence_landscape(BARS, [[0.0, 1.0], [2.0, 3.0]]),
        lambda: topology.euler_curve(FIELD, "high"),
        lambda: topology.persistence(FIELD, confidence="high"),
        lambda: topology.persistence(FIELD, replicates="many"),
        lambda: topology.simplify(TREE, np.nan),
        lambda: topology.simplify(TREE, np.inf),  # would leave no basin at all
        lambda: topology.flood_below(FIELD, "deep"),
        lambda: TREE.barrier("a", 0),
        lambda: TREE.barrier(0.5, 0),
    ],
)
def test_choices_without_sense_are_named(ask):
    with pytest.raises(AtlasError):
        ask()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: topology.graph([0.0, 1.0], [(0.5, 1)]),
        lambda: topology.graph([0.0, 1.0], [(np.nan, 1)]),
        lambda: topology.graph([0.0, 1.0, 2.0, 3.0], [(0, 1, 1), (1, 2, 3)]),
        lambda: topology.graph([0.0, 1.0], [(0, 1)], error=-1),
        lambda: topology.graph([0.0, 1.0], [(0, 1)], error=np.nan),
        lambda: topology.graph([0.0, 1.0], [(0, 1)], error="small"),
        lambda: topology.checkpoints([1.0, 2.0], {(0, 1): "high"}),
        lambda: topology.resolution(FIELD, floor="low"),
        lambda: topology.resolution(FIELD, floor=np.nan),
        lambda: topology.profile(FIELD, length="long"),
        lambda: topology.persistence(FIELD, connectivity=["full"]),
        lambda: topology.persistence(FIELD, confidence=True),
        lambda: topology.bottleneck(BARS, OTHER, dimension="zero"),
        lambda: topology.bottleneck(topology.persistence(FIELD), OTHER, dimension="zero"),
        lambda: topology.persistence(FIELD).bars("zero"),
        lambda: topology.persistence(FIELD).bars(-1),
        lambda: topology.persistence_image(BARS, births=3, lengths=(0, 1)),
        lambda: topology.persistence_image(BARS, births=(0, 1), lengths=(0, 1), pixels=4),
        lambda: topology.persistence_image(BARS, births=(0, "x"), lengths=(0, 1)),
        lambda: topology.spread("ab"),
        lambda: topology.spread([{"a": "x"}]),
        lambda: topology.spread(None),
        lambda: topology.barrier_matrix(FIELD),
        lambda: topology.simplify(FIELD),
        lambda: topology.scattered([[0.0], [1.0]], [0.0, 1.0], neighbors=2.5),
        lambda: topology.replicate_maps("many"),
        lambda: topology.graph([0.0, 1j], []),
        lambda: topology.checkpoints([1.0, 2.0], {(0, 1, 1): 3.0}),
        lambda: topology.checkpoints([1.0, 2.0], "high"),
        lambda: topology.scattered("here", [1.0]),
        lambda: topology.scattered([[1e300, 0.0], [0.0, 1e300]], [1.0, 2.0]),
        lambda: topology.rips([[1e300, 0.0], [0.0, 1e300]]),
        lambda: topology.rips([[0.0], [1.0]], reach=-1),
        lambda: topology.rips([[0.0, np.nan]]),
    ],
)
def test_what_is_no_graph_and_no_cloud_is_named(ask):
    with pytest.raises(AtlasError):
        ask()


@pytest.mark.parametrize("connectivity", ["full", "axis"])
@pytest.mark.parametrize("kind", [float, int])
def test_what_is_masked_is_missing_at_every_entry(kind, connectivity):
    field = FIELD if kind is float else (9 * FIELD).astype(int)
    mask = field < (0.3 if kind is float else 3)
    masked, nan = np.ma.array(field, mask=mask), np.where(mask, np.nan, field)
    options = {"connectivity": connectivity}
    asks = (
        lambda f: topology.persistence(f, **options).bars(0, essential="keep"),
        lambda f: topology.persistence(f, **options).bars(1, essential="keep"),
        lambda f: topology.persistence(f, superlevel=True, **options).bars(0),
        lambda f: topology.persistence(f, **options).excluded,
        lambda f: topology.merge_tree(f, **options).basins,
        lambda f: topology.certain_basins(f, error=0.1, **options).births,
        lambda f: topology.flood_below(f, 0.2, **options),
        lambda f: topology.euler_curve(f, [0.4, 0.6], **options),
        lambda f: topology.barrier_distance(f, FIELD, **options),
        lambda f: topology.match_basins(f, FIELD, **options).pairs,
        lambda f: topology.resolution(f).full,
        lambda f: topology.profile(f, **options).tree.minima,
        lambda f: topology.merge_tree(topology.graph(f.ravel(), EDGES)).basins,
        lambda f: topology.merge_tree(topology.scattered(PLACES, f.ravel())).basins,
    )
    for ask in asks:
        # Whole numbers have no rounding error, the same with NaN among them do.
        np.testing.assert_allclose(ask(masked), ask(nan), rtol=1e-14)
    assert topology.persistence(masked, **options).excluded == mask.sum() > 0


def test_masked_errors_replicates_and_paths_are_missing_too():
    nan, masked = (
        topology.checkpoints([1.0, 2.0, 3.0], heights)
        for heights in (UNTRIED, np.ma.masked_invalid(UNTRIED))
    )
    np.testing.assert_array_equal(topology.persistence(masked).bars(), nan_bars(nan))
    maps = np.ma.array(np.stack([FIELD] * 19), mask=np.stack([FIELD < 0.3] * 19))
    topology.persistence(np.ma.masked_less(FIELD, 0.3), replicates=maps)
    with pytest.raises(AtlasError, match="`replicates` must be finite where"):
        topology.persistence(FIELD, replicates=maps)


def nan_bars(source):
    return topology.persistence(source).bars()


class Land(SimpleNamespace):
    """A landscape with one thing wrong."""

    def __init__(self, **wrong):
        whole = {
            "values": FIELD,
            "stderr": np.full((7, 7), 0.1),
            "axes": (np.arange(7.0),) * 2,
            "interpolation_error": 0.0,
        }
        super().__init__(**(whole | wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stderr": np.full((7, 7), -1.0)},
        {"stderr": np.full((7, 6), 1.0)},
        {"stderr": "small"},
        {"stderr": None},
        {"interpolation_error": "small"},
        {"interpolation_error": -0.1},
        {"count": "many"},
        {"count": -3},
        {"leverage": np.ones((2, 2))},
        {"leverage": "x"},
        {"computed": np.ones((3, 3), dtype=bool)},
        {"computed": "all"},
        {"rounding": "none"},
        {"rounding": -1.0},
        {"axes": (np.arange(7.0),)},
        {"axes": (np.arange(7.0), np.arange(6.0))},
        {"axes": 3},
    ],
)
@pytest.mark.parametrize(
    "ask", [topology.persistence, topology.merge_tree, topology.certain_basins]
)
def test_a_landscape_with_something_wrong_is_named(wrong, ask):
    ask(Land())
    with pytest.raises(AtlasError, match="landscape"):
        ask(Land(**wrong))


def test_entropy_of_bars_whose_sum_overflows():
    assert topology.entropy(1.5e308 * BARS / 1.5) == pytest.approx(topology.entropy(BARS))
