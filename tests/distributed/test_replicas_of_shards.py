"""Sharded models on a mesh of two dimensions, and models of which one layer is sharded."""

import numpy as np
import pytest

import lossatlas as la
from distributed import four, processes
from distributed.problems import CE, batches, network, values

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return processes.run(four.CHECKS, 4, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def alone():
    return la.Objective(network(), CE, batches())


@pytest.mark.parametrize("kind", ["layers", "model", "first"])
def test_replicas_of_shards_give_the_numbers_of_one_process(ranks, alone, kind):
    truth = values(alone)
    first = ranks[0]["replicas_of_shards"]
    assert "failed" not in first, first
    for rank in ranks:
        assert rank["replicas_of_shards"] == first
    found = first[kind]
    assert found["value"] == pytest.approx(truth["value"], rel=1e-6)
    for name in ("gradient", "map"):
        np.testing.assert_allclose(found[name], truth[name], rtol=1e-6, atol=5e-7)


def test_differences_sum_what_every_process_holds_whole(ranks, alone):
    first = ranks[0]["a_layer_that_all_hold"]
    assert "failed" not in first, first
    for rank in ranks:
        assert rank["a_layer_that_all_hold"] == first
    options = {"top": 1, "bottom": 0, "density": False, "seed": 1}
    for found, kind in zip(first, ("hessian", "gauss_newton"), strict=True):
        truth = la.spectrum(alone, curvature=kind, **options).top
        np.testing.assert_allclose(found, truth, rtol=1e-3)
