import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lossatlas.topology import device, merge_tree, persistence
from lossatlas.topology.losses import betti_matching_loss, persistence_penalty, signature_loss
from lossatlas.topology.torch_layers import graph_bars, grid_bars, rips_bars

levels = st.one_of(st.integers(0, 9).map(float), st.just(np.nan))
fields = arrays(
    np.float64, array_shapes(min_dims=1, max_dims=3, max_side=6), elements=levels
).filter(lambda f: np.isfinite(f).any())


def same(a, b):
    for name in ("minima", "minima_values", "saddle_values", "ended", "into", "basins"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@given(fields, st.sampled_from(["full", "axis"]))
def test_the_reduction_in_torch_gives_the_same_tree(f, connectivity):
    tensor = torch.tensor(f)
    basins = device.tensor_basins(tensor, connectivity)
    tree = merge_tree(f, connectivity=connectivity)
    np.testing.assert_array_equal(basins.minima, tree.minima)
    np.testing.assert_array_equal(basins.labels.reshape(f.shape), tree.basins)
    pairs = set(zip(basins.first.tolist(), basins.second.tolist(), strict=True))
    assert len({frozenset(p) for p in pairs}) == basins.first.size


@given(fields, st.sampled_from(["full", "axis"]))
def test_a_tensor_on_an_accelerator_takes_that_way(f, connectivity):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "on_accelerator", lambda source: isinstance(source, torch.Tensor))
        same(
            merge_tree(torch.tensor(f), connectivity=connectivity),
            merge_tree(f, connectivity=connectivity),
        )


def test_tensors_on_the_cpu_are_arrays():
    f = torch.tensor([3.0, 0.0, 2.0, 1.0], requires_grad=True)
    assert not device.on_accelerator(f)
    assert persistence(f).births.tolist() == [0.0, 1.0]
    assert merge_tree(f.float()).minima.tolist() == [1, 3]


def everything_on_tensors(f, other, cloud, edges):
    return [
        device.tensor_basins(f, "full").heights.sum(),
        merge_tree(f).minima_values.sum(),
        persistence(f).births.sum(),
        *(grid_bars(f, dimension=k, essential="cap").sum().item() for k in (0, 1)),
        graph_bars(cloud[:3, 0], edges).sum().item(),
        graph_bars(cloud[:3, 0], edges, cloud[:3, 0] + 20).sum().item(),
        *(rips_bars(cloud, dimension=k).sum().item() for k in (0, 1)),
        signature_loss(cloud, cloud[:, :1]).item(),
        betti_matching_loss(f, other).item(),
        persistence_penalty(grid_bars(f)).item(),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_tensor_is_made_on_the_default_device(dtype):
    rng = np.random.default_rng(0)
    shapes = (6, 7), (6, 7), (9, 2)
    parts = [
        torch.tensor(rng.permutation(int(np.prod(shape))).reshape(shape), dtype=dtype)
        for shape in shapes
    ]
    edges = torch.tensor([[0, 1], [1, 2], [2, 0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "on_accelerator", lambda source: isinstance(source, torch.Tensor))
        wanted = everything_on_tensors(*parts, edges)
        # No number can be read on this one, so whoever forgets the device of his input fails.
        with torch.device("meta"):
            assert everything_on_tensors(*parts, edges) == wanted
