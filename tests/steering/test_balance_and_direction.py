import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.steering.penalties import (
    DMTATracker,
    NGERWeighter,
    dmta_penalty,
    nger_loss,
    nger_weights,
    ntk_proxies,
)


def test_fact_6_weights_sum_to_one_and_follow_the_excess():
    shares = nger_weights(torch.tensor([2.0, 1.0]), torch.zeros(2), torch.ones(2))
    assert shares.sum().item() == pytest.approx(1)
    assert shares[0] > shares[1]


def test_fact_7_a_task_that_moves_fast_gets_less():
    shares = nger_weights(torch.ones(2), torch.zeros(2), torch.tensor([4.0, 1.0]))
    assert shares[0] < shares[1]


@given(st.lists(st.floats(0, 10), min_size=2, max_size=5), st.floats(0, 2))
def test_weights_are_the_formula(losses, gamma):
    values = torch.tensor(losses, dtype=torch.float64)
    kappas = torch.linspace(0.5, 2, len(losses), dtype=torch.float64)
    raw = (values + 1e-6) / (kappas + 1e-6) ** gamma
    got = nger_weights(values, torch.zeros_like(values), kappas, gamma)
    assert_close(got, raw / raw.sum())


def test_the_loss_is_the_weighted_sum():
    losses = torch.tensor([1.0, 3.0], requires_grad=True)
    nger_loss(losses, torch.tensor([0.25, 0.75])).backward()
    assert_close(losses.grad, torch.tensor([0.25, 0.75]))
    pair = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    shares = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: nger_loss(v, shares), (pair,))
    with pytest.raises(ArgumentError, match="shape of `task_losses`"):
        nger_loss(losses, torch.ones(3))


def test_kappa_is_the_squared_gradient_in_the_shared_weights():
    shared, own = nn.Linear(3, 2), nn.Linear(2, 1)
    h = shared(torch.randn(5, 3, generator=generator(0)))
    losses = torch.stack([h.square().mean(), own(h).mean(), own.bias.sum()])
    kappas = ntk_proxies(losses, shared.parameters())
    for loss, kappa in zip(losses[:2], kappas[:2], strict=True):
        grads = torch.autograd.grad(loss, list(shared.parameters()), retain_graph=True)
        assert_close(kappa, sum(g.square().sum() for g in grads))
    assert kappas[2] == 0
    weighter = NGERWeighter(3)
    assert weighter(losses, shared=list(shared.parameters())).sum().item() == pytest.approx(1)
    with pytest.raises(ArgumentError, match="requires a"):
        ntk_proxies(losses.detach(), shared.parameters())


def run(weighter, steps, second, seed=0):
    source = generator(seed)
    for step in range(steps):
        first = 2.0 * 0.995**step
        weighter(torch.tensor([first, second(step, source)]))
    return weighter.last_weights


def test_a_task_that_improves_steadily_keeps_its_weight():
    assert run(NGERWeighter(2), 400, lambda step, source: 1.0)[0] > 0.8


def test_noise_does_not_attract_weight():
    def noisy(step, source):
        return 1.0 + torch.randn((), generator=source).item() * 0.5

    assert run(NGERWeighter(2), 400, noisy)[0] > 0.7


def test_no_task_starves_and_the_scale_can_be_kept():
    weighter = NGERWeighter(2, floor=0.2, total=2)
    last = run(weighter, 300, lambda step, source: 1.0)
    assert last.min() >= 0.2 - 1e-12
    assert last.sum().item() == pytest.approx(2)


def test_a_task_that_got_worse_again_gains_weight():
    weighter = NGERWeighter(2, window=20)
    for step in range(200):
        weighter(torch.tensor([1.0, 1.0 if step < 100 else 3.0]))
    assert weighter.last_weights[1] > 0.9


def test_state_goes_on_with_the_same_bits():
    whole, half = NGERWeighter(2, window=9), NGERWeighter(2, window=9)
    losses = torch.rand(40, 2, generator=generator(5))
    for row in losses[:20]:
        whole(row)
        half(row)
    other = NGERWeighter(2, window=9)
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    for row in losses[20:]:
        assert torch.equal(whole(row), other(row))


def test_bad_tasks_are_named():
    with pytest.raises(ArgumentError, match="2 finite numbers"):
        NGERWeighter(2)(torch.ones(3))
    with pytest.raises(ArgumentError, match="2 finite numbers"):
        NGERWeighter(2)(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ArgumentError, match="num_tasks"):
        NGERWeighter(0)
    with pytest.raises(ArgumentError, match="`floor`"):
        NGERWeighter(2, floor=1.0)
    with pytest.raises(ArgumentError, match="one shape"):
        nger_weights(torch.ones(2), torch.ones(3), torch.ones(2))
    with pytest.raises(ArgumentError, match="`gamma`"):
        nger_weights(torch.ones(2), torch.ones(2), torch.ones(2), -1)


def test_fact_9_zero_along_the_average_and_two_against_it():
    g = torch.randn(6, generator=generator(0), dtype=torch.float64)
    assert dmta_penalty(g, g).item() < 1e-5
    assert dmta_penalty(g, -g).item() == pytest.approx(2, abs=1e-5)


@given(st.integers(0, 50), st.floats(0.01, 100))
def test_only_directions_matter(seed, scale):
    g, m = (torch.randn(6, generator=generator(seed, s), dtype=torch.float64) for s in "gm")
    assert_close(dmta_penalty(scale * g, m), dmta_penalty(g, m), atol=0.02, rtol=0)
    assert 0 <= dmta_penalty(g, m).item() <= 2


def test_gradients_are_right_and_finite_at_zero():
    m = torch.randn(4, generator=generator(1), dtype=torch.float64)
    g = torch.randn(4, generator=generator(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: dmta_penalty(v, m), (g,))
    zero = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    dmta_penalty(zero, m).backward()
    assert zero.grad.abs().max() <= 1e3 / m.norm()
    none = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    value = dmta_penalty(none, torch.zeros(4, dtype=torch.float64))
    value.backward()
    assert value.item() == 1
    assert torch.equal(none.grad, torch.zeros_like(none))


def test_the_tracker_is_a_corrected_average_over_parameters():
    params = list(nn.Linear(3, 2).parameters())
    tracker = DMTATracker(params, mu=0.9)
    grads = [[torch.full_like(p, float(step)) for p in params] for step in (1, 2, 3)]
    for grad in grads:
        tracker.update(grad)
    expected = (0.81 * 1 + 0.9 * 2 + 3) * 0.1 / (1 - 0.9**3)
    for average in tracker.averages:
        assert_close(average, torch.full_like(average, expected))
    assert tracker.penalty(grads[0]).item() < 1e-7
    other = DMTATracker(params, mu=0.9)
    other.load_state_dict(tracker.state_dict())
    for a, b in zip(tracker.averages, other.averages, strict=True):
        assert torch.equal(a, b)


def test_the_penalty_reaches_the_weights():
    model = nn.Linear(2, 1)
    params = list(model.parameters())
    tracker = DMTATracker(params, weight=0.5)
    x = torch.randn(4, 2, generator=generator(0))
    for _ in range(2):
        loss = model(x).square().mean()
        grads = torch.autograd.grad(loss, params, create_graph=True)
        penalty = tracker.penalty(grads)
        tracker.update([-g for g in grads])
    assert torch.autograd.grad(penalty, params)[0].abs().sum() >= 0
    assert penalty.item() == pytest.approx(1.0, abs=1e-4)
    assert DMTATracker(5).penalty(torch.ones(5)).item() == pytest.approx(0.01)


def test_bad_directions_are_named():
    with pytest.raises(ArgumentError, match="same shapes"):
        dmta_penalty(torch.ones(2), torch.ones(3))
    with pytest.raises(ArgumentError, match="`eps`"):
        dmta_penalty(torch.ones(2), torch.ones(2), 0.0)
    with pytest.raises(ArgumentError, match="`mu`"):
        DMTATracker(2, mu=1.0)
    with pytest.raises(ArgumentError, match="at least one"):
        DMTATracker([])
    with pytest.raises(ArgumentError, match="must be shaped"):
        DMTATracker(2).update(torch.ones(3))


def test_direction_takes_sizes_from_1_and_any_finite_number():
    with pytest.raises(ArgumentError, match="`params` must be a whole number >= 1"):
        DMTATracker(-1)
    with pytest.raises(ArgumentError, match=r"`params` must hold tensors.*got 'a'"):
        DMTATracker("ab")
    g = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert dmta_penalty(g, g, eps=2**70).item() == pytest.approx(1.0)
    with pytest.raises(ArgumentError, match=r"`shared` must hold tensors.*got 0"):
        ntk_proxies(torch.ones(2, requires_grad=True), iter(range(2)))
