import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, NonFiniteError, UnknownNameError
from lossatlas.topology import persistence
from lossatlas.topology.losses import betti_matching_loss, persistence_penalty, signature_loss
from lossatlas.topology.rips import rips
from lossatlas.topology.torch_layers import graph_bars, grid_bars, rips_bars

connectivities = st.sampled_from(["full", "axis"])


@st.composite
def distinct_fields(draw, dims=2, side=5):
    shape = [draw(st.integers(1, side)) for _ in range(dims)]
    values = draw(st.permutations(range(int(np.prod(shape)))))
    return torch.tensor(values, dtype=torch.float64).reshape(shape).requires_grad_()


def cloud(seed, count=7, dimensions=2):
    return torch.tensor(
        np.random.default_rng(seed).standard_normal((count, dimensions)), requires_grad=True
    )


def rows(bars):
    return sorted(map(tuple, bars.tolist()))


@given(distinct_fields(), connectivities, st.sampled_from([0, 1]))
def test_the_layer_gives_the_bars_of_the_field(f, connectivity, dimension):
    found = grid_bars(f, dimension=dimension, connectivity=connectivity)
    wanted = persistence(f, connectivity=connectivity).bars(dimension)
    assert rows(found.detach()) == rows(wanted)


@given(distinct_fields(), connectivities, st.sampled_from([0, 1]))
def test_each_bar_pulls_on_its_two_entries_and_no_other(f, connectivity, dimension):
    bars = grid_bars(f, dimension=dimension, connectivity=connectivity)
    (gradient,) = torch.autograd.grad((bars[:, 1] - bars[:, 0]).sum(), f, allow_unused=True)
    gradient = torch.zeros_like(f) if gradient is None else gradient
    assert gradient.sum() == 0
    assert (gradient > 0).sum() <= len(bars)
    assert gradient.abs().sum() <= 2 * len(bars)


@pytest.mark.parametrize("connectivity", ["full", "axis"])
@pytest.mark.parametrize("dimension", [0, 1])
def test_gradients_of_grids_equal_finite_differences(connectivity, dimension):
    rng = np.random.default_rng(dimension)
    f = torch.tensor(rng.permutation(42).reshape(6, 7) * 1.0)
    f.requires_grad_()

    def loss(field):
        bars = grid_bars(field, dimension=dimension, connectivity=connectivity)
        return (bars.sin() * torch.tensor([1.0, 2.0])).sum()

    assert gradcheck(loss, (f,))


def test_capped_basins_end_at_the_top():
    f = torch.tensor([3.0, 0.0, 2.0, 1.0, 4.0], requires_grad=True)
    assert rows(grid_bars(f, essential="cap")) == [(0.0, 4.0), (1.0, 2.0)]
    line = torch.arange(27.0).reshape(3, 3, 3)
    assert grid_bars(line).shape == (0, 2)


def test_gradients_of_graphs_equal_finite_differences():
    values = torch.tensor([0.0, 3.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    edges = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
    heights = torch.tensor([4.0, 5.0, 6.5, 7.0], dtype=torch.float64, requires_grad=True)
    assert rows(graph_bars(values, edges, heights)) == [(1.0, 5.0), (2.0, 6.5), (3.0, 4.0)]
    assert rows(graph_bars(values, edges)) == [(1.0, 2.0)]
    assert gradcheck(lambda v, h: graph_bars(v, edges, h).sin(), (values, heights))
    assert gradcheck(lambda v: graph_bars(v, edges).sin(), (values,))


@pytest.mark.parametrize("dimension", [0, 1])
def test_gradients_of_clouds_equal_finite_differences(dimension):
    angles = torch.linspace(0, 6.0, 9, dtype=torch.float64)
    ring = torch.stack([angles.cos(), angles.sin()], dim=1) + 0.05 * cloud(3, 9).detach()
    ring.requires_grad_()
    bars = rips_bars(ring, dimension=dimension)
    assert_close(
        torch.tensor(rows(bars), dtype=torch.float64),
        torch.tensor(rows(rips(ring.detach()).bars(dimension)), dtype=torch.float64),
    )
    assert len(bars) >= 1
    assert gradcheck(lambda x: rips_bars(x, dimension=dimension).sin(), (ring,))


def test_equal_points_have_a_finite_gradient():
    points = torch.zeros(3, 2, requires_grad=True)
    x = torch.cat([points, torch.ones(1, 2)])
    (rips_bars(x).sum() + signature_loss(x, x + 1.0)).backward()
    assert points.grad.isfinite().all()


def test_penalty_keeps_the_longest():
    bars = torch.tensor([[0.0, 4.0], [1.0, 2.0], [1.0, 3.0]])
    assert persistence_penalty(bars) == 7
    assert persistence_penalty(bars, order=2.0, keep=1) == 5
    assert persistence_penalty(bars, order=2.0, keep=1, reward=1.0) == 5 - 16
    assert persistence_penalty(torch.empty(0, 2)) == 0
    with pytest.raises(ArgumentError, match="keep"):
        persistence_penalty(bars, keep=-1)


def test_descending_the_penalty_merges_the_wells():
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    f = ((x**2 - 1) ** 2 + 0.1 * x).requires_grad_()
    start = f.detach().clone()
    for _ in range(400):
        (gradient,) = torch.autograd.grad(persistence_penalty(grid_bars(f)) + 0 * f.sum(), f)
        f = (f - 0.02 * gradient).detach().requires_grad_()
    before, after = (persistence(g.detach()).bars(0) for g in (start, f))
    assert (after[:, 1] - after[:, 0]).sum() < 0.1 * (before[:, 1] - before[:, 0]).sum()


@given(st.integers(0, 10**6), st.sampled_from([True, False]))
def test_signature_loss_vanishes_on_motions_and_is_symmetric(seed, normalize):
    x, z = cloud(seed).detach(), cloud(seed + 1, dimensions=3).detach()
    turn = torch.linalg.qr(cloud(seed + 2, 2, 2).detach()).Q
    options = {"normalize": normalize}
    assert_close(signature_loss(x, x @ turn + 5.0, **options), torch.tensor(0.0).double())
    assert_close(signature_loss(x, z, **options), signature_loss(z, x, **options))
    if normalize:
        assert_close(signature_loss(x, 3.0 * z), signature_loss(x, z))


@pytest.mark.parametrize("normalize", [True, False])
def test_signature_loss_has_the_gradient_of_finite_differences(normalize):
    assert gradcheck(
        lambda x, z: signature_loss(x, z, normalize=normalize), (cloud(0), cloud(1, 7, 3))
    )


@given(distinct_fields(), connectivities)
def test_betti_matching_loss_of_a_field_with_itself_is_zero(f, connectivity):
    assert betti_matching_loss(f, f, connectivity=connectivity) == 0.0
    assert betti_matching_loss(f, f + 1.0, connectivity=connectivity) >= 2.0


def test_betti_matching_loss_by_hand():
    a = torch.tensor([9.0, 0.0, 5.0, 2.0, 9.0])
    b = torch.tensor([9.0, 1.0, 9.0, 9.0, 9.0])
    # Deepest: 2 (0 - 1)^2. The basin (2, 5) of `a` has no partner: 3^2.
    assert betti_matching_loss(a, b, dimensions=(0,)) == 2 + 9
    c = torch.tensor([9.0, 0.0, 6.0, 2.5, 9.0])
    assert betti_matching_loss(a, c, dimensions=(0,)) == 2 * (0.5**2 + 1)
    ring = torch.zeros(5, 5)
    hill = ring.clone()
    hill[2, 2] = 3.0
    assert betti_matching_loss(ring, hill) == 9.0
    assert betti_matching_loss(0.5 * hill, hill) == 2 * 1.5**2


@pytest.mark.parametrize("connectivity", ["full", "axis"])
def test_betti_matching_loss_has_the_gradient_of_finite_differences(connectivity):
    values = np.random.default_rng(4).permutation(60) / 7.0
    a, b = (torch.tensor(v.reshape(5, 6), requires_grad=True) for v in np.split(values, 2))
    assert gradcheck(lambda f, g: betti_matching_loss(f, g, connectivity=connectivity), (a, b))


def test_bad_input_is_named():
    flat = torch.ones(4)
    with pytest.raises(NonFiniteError, match="got 1 of 2"):
        grid_bars(torch.tensor([1.0, torch.nan]))
    with pytest.raises(NonFiniteError, match="got 0 of 0"):
        rips_bars(torch.empty(0, 2))
    with pytest.raises(ArgumentError, match="1 for a plane; got 1"):
        grid_bars(flat, dimension=1)
    with pytest.raises(UnknownNameError, match="'cap'"):
        grid_bars(flat, essential="keep")
    with pytest.raises(ArgumentError, match="two spaces"):
        signature_loss(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(NonFiniteError, match="`second`"):
        betti_matching_loss(flat, flat / 0.0)
    with pytest.raises(ArgumentError, match="below"):
        graph_bars(flat, torch.tensor([[0, 1]]), torch.tensor([0.0]))
