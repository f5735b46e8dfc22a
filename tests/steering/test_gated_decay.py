import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.rng import generator
from lossatlas.steering.penalties import (
    CautiousDecay,
    CVPRegularizer,
    apply_cvp_,
    cvp_gate,
    cvp_penalty,
)
from reference.steering_penalties import cautious_sgd


def weights(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("scale_free", [True, False])
def test_fact_4_no_penalty_where_the_step_contracts(scale_free):
    value = cvp_penalty(
        [weights(1, -1)], [weights(5, -5)], mode="expansion", scale_free=scale_free
    )
    assert value.item() < 1e-3


@pytest.mark.parametrize("scale_free", [True, False])
def test_fact_5_the_gradient_is_the_weight_where_the_step_expands(scale_free):
    theta = weights(1, -1)
    cvp_penalty([theta], [weights(-5, 5)], mode="expansion", scale_free=scale_free).backward()
    assert_close(theta.grad, theta.detach(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("mode", ["cautious", "expansion"])
@pytest.mark.parametrize("scale_free", [True, False])
def test_in_place_adds_the_gradient_of_the_penalty(mode, scale_free):
    theta = torch.randn(7, generator=generator(0), dtype=torch.float64).requires_grad_()
    grad = torch.randn(7, generator=generator(1), dtype=torch.float64)
    theta.grad = grad.clone()
    options = {"mode": mode, "scale_free": scale_free}
    (expected,) = torch.autograd.grad(cvp_penalty([theta], **options), theta)
    apply_cvp_([theta], weight=0.3, **options)
    assert_close(theta.grad, grad + 0.3 * expected, atol=1e-15, rtol=0)


def test_the_two_modes_open_for_opposite_weights():
    theta, grad = torch.tensor([1.0, 1.0]), torch.tensor([3.0, -3.0])
    shrinks, grows = cvp_gate(theta, grad, mode="cautious", beta=math.inf)
    assert (shrinks.item(), grows.item()) == (1.0, 0.0)
    shrinks, grows = cvp_gate(theta, grad, mode="expansion", beta=math.inf)
    assert (shrinks.item(), grows.item()) == (0.0, 1.0)


@given(st.floats(1e-12, 1e6), st.floats(1e-6, 1e6))
def test_the_gate_does_not_depend_on_units(grads, sizes):
    theta, grad = (torch.randn(9, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    for mode in ("cautious", "expansion"):
        plain = cvp_gate(theta, grad, mode=mode, beta=50.0)
        assert_close(cvp_gate(sizes * theta, grads * grad, mode=mode, beta=50.0), plain)


def test_the_original_gate_is_all_but_constant_at_small_gradients():
    theta, grad = torch.tensor([0.05, 0.05]), torch.tensor([-1e-3, 1e-3])
    on, off = cvp_gate(theta, grad, mode="expansion", beta=50.0, scale_free=False)
    assert on.item() == pytest.approx(0.5006, abs=1e-4)
    assert off.item() == pytest.approx(0.4994, abs=1e-4)


def test_zero_weights_and_gradients_have_a_gate():
    for theta, grad in ((torch.zeros(3), torch.ones(3)), (torch.ones(3), torch.zeros(3))):
        assert_close(cvp_gate(theta, grad, mode="cautious", beta=50.0), torch.full((3,), 0.5))


@given(st.integers(0, 100))
def test_decoupled_is_cautious_weight_decay(seed):
    theta, grad = (
        torch.randn(8, generator=generator(seed, s), dtype=torch.float64) for s in "ab"
    )
    expected = cautious_sgd(theta, grad, lr=0.1, lam=0.2)
    for way in ("function", "hooks"):
        weight = theta.clone().requires_grad_()
        weight.grad = grad.clone()
        optimizer = torch.optim.SGD([weight], lr=0.1)
        if way == "function":
            apply_cvp_([weight], weight=0.2, beta=math.inf, lr=0.1)
        else:
            CautiousDecay(optimizer, 0.2)
        optimizer.step()
        assert_close(weight.detach(), expected)


def test_hooks_gate_on_the_update_that_is_made():
    weight = weights(1.0)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    decay = CautiousDecay(optimizer, 0.5)
    weight.grad = torch.tensor([10.0], dtype=torch.float64)
    optimizer.step()
    # Momentum still shrinks... the weight is negative now, so the next update grows it.
    before = weight.item()
    weight.grad = torch.tensor([-1.0], dtype=torch.float64)
    optimizer.step()
    plain = before - 0.1 * (0.9 * 10.0 - 1.0)
    assert before < 0
    assert weight.item() == pytest.approx(plain)
    decay.remove()
    optimizer.zero_grad()
    optimizer.step()
    assert not optimizer._optimizer_step_pre_hooks


def test_gradcheck_with_the_gate_held():
    theta = torch.randn(5, generator=generator(3), dtype=torch.float64).requires_grad_()
    grad = torch.randn(5, generator=generator(4), dtype=torch.float64)
    # The gate carries no gradient: an open mask makes the penalty smooth for the check.
    signs = theta.detach() * grad.abs()
    assert torch.autograd.gradcheck(lambda t: cvp_penalty([t], [signs], math.inf), (theta,))


def test_weights_without_a_gradient_are_left_out():
    still, moved = weights(1.0), weights(2.0)
    value = cvp_penalty([still, moved], [None, moved.detach()])
    assert value.item() == pytest.approx(2.0, rel=1e-6)


def test_without_gradients_it_is_an_error_not_zero():
    theta = weights(1.0)
    with pytest.raises(ArgumentError, match="between backward"):
        cvp_penalty([theta])
    with pytest.raises(ArgumentError, match="between backward"):
        CVPRegularizer()([theta])
    with pytest.raises(ArgumentError, match="between backward"):
        apply_cvp_([theta])
    with pytest.raises(ArgumentError, match="no parameter"):
        cvp_penalty([])


def test_bad_input_is_named():
    theta = weights(1.0, 2.0)
    with pytest.raises(ArgumentError, match="one tensor for each of 1"):
        cvp_penalty([theta], [theta, theta])
    with pytest.raises(ArgumentError, match="shaped like their parameters"):
        cvp_penalty([theta], [weights(1.0)])
    with pytest.raises(ArgumentError, match="sparse"):
        cvp_penalty([theta], [theta.detach().to_sparse()])
    with pytest.raises(UnknownNameError, match="did you mean 'cautious'"):
        CVPRegularizer(mode="caution")
    with pytest.raises(ArgumentError, match="`weight`"):
        CVPRegularizer(-1)
    with pytest.raises(ArgumentError, match="`beta`"):
        cvp_penalty([theta], [theta], 0.0)
    with pytest.raises(ArgumentError, match="which is None"):
        apply_cvp_([theta], grads=[theta.detach()])
    with pytest.raises(ArgumentError, match="`lr`"):
        apply_cvp_([theta], grads=[theta.detach()], lr=-1.0)
    with pytest.raises(ArgumentError, match="`weight_decay`"):
        CautiousDecay(torch.optim.SGD([theta], lr=1.0), -1)


def test_gates_are_of_floating_numbers():
    w = torch.ones(2)
    with pytest.raises(ArgumentError, match=r"`param` must hold floating .* torch.int64"):
        cvp_gate(torch.arange(2), w, mode="cautious", beta=1.0)
    with pytest.raises(ArgumentError, match=r"`grad` must hold floating .* torch.int64"):
        cvp_gate(w, torch.arange(2), mode="cautious", beta=1.0)
    with pytest.raises(ArgumentError, match=r"`params` must hold tensors.*got 0"):
        cvp_penalty(number for number in range(2))
