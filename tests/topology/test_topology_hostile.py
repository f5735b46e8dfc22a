"""What is no number, no grid, no norm or no graph is named; nothing hangs and nothing lies."""

import numpy as np
import pytest
import torch

from lossatlas import topology
from lossatlas.errors import ArgumentError, AtlasError

FIELD = np.random.default_rng(0).random((7, 7))
BARS = np.array([[0.0, 1.0], [0.2, 0.5]])
OTHER = np.array([[0.1, 0.9]])
TREE = topology.merge_tree(FIELD)


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
        lambda source: topology.fill(source, 0.1),
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
        lambda: topology.fill(FIELD, "deep"),
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


def test_entropy_of_bars_whose_sum_overflows():
    assert topology.entropy(1.5e308 * BARS / 1.5) == pytest.approx(topology.entropy(BARS))
