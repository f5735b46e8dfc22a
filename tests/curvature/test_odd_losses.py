"""Losses with few different eigenvalues, with derivatives inside, too large for the memory."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas.curvature import gradient_noise, memory, spectrum, trace
from lossatlas.errors import LossError
from reference import curvature_dense as dense

CE = la.supervised(F.cross_entropy)
X, Y = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def decay(model, batch):
    return sum(p.square().sum() for p in model.parameters()) + 0 * model(batch).mean()


@pytest.mark.parametrize(
    ("loss", "value"), [(lambda m, b: m(b).mean(), 0.0), (decay, 2.0)], ids=["linear", "decay"]
)
def test_a_matrix_with_one_eigenvalue_is_known_after_as_many_products_as_asked(loss, value):
    objective = la.Objective(nn.Linear(50, 50), loss, [torch.randn(4, 50)])
    found = spectrum(objective, top=10, bottom=2, density=False)
    assert found.reached
    assert found.products == 12
    np.testing.assert_allclose(found.top, value, atol=1e-4)
    assert found.top_bounds.max() <= 1e-4


@pytest.mark.parametrize("curvature", ["gauss_newton", "fisher", "empirical_fisher"])
def test_matrices_of_low_rank_are_known_soon(curvature):
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 3)).double()
    objective = la.Objective(model, CE, [(X[:3].double(), Y[:3])])
    found = spectrum(
        objective, top=10, bottom=1, density=False, curvature=curvature, by="class"
    )
    assert found.reached
    # Four matrices, and the trace of three.
    assert found.products < 120
    assert not any("not reached" in line.note for line in found.groups)
    if curvature == "gauss_newton":
        truth = torch.linalg.eigvalsh(dense.gauss_newton(objective)).flip(0)[:10]
        assert_close(torch.tensor(found.top), truth, atol=1e-9, rtol=1e-3)


def test_memory_that_cuts_a_run_short_is_said_and_holds_for_groups(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3))
    objective = la.Objective(model, CE, [(X, Y)])
    size = sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(memory, "free_memory", lambda _: 20 * size * 4)
    found = spectrum(objective, top=10, bottom=1, density=False, tolerance=1e-5, by="class")
    assert not found.reached
    assert found.note == f"the memory that was free holds the basis of 15 of {size} products"
    assert all("holds the basis of 15 of" in line.note for line in found.groups)
    assert len(found.groups) == 3
    monkeypatch.setattr(memory, "free_memory", lambda _: None)
    assert spectrum(objective, top=1, bottom=0, density=False).note == ""


def test_an_operation_without_second_derivative_inside_the_loss_is_named():
    def loss(model, batch):
        outputs = model(batch[0])
        if not torch.is_grad_enabled():
            return outputs.mean()
        far = torch.cdist(outputs, torch.ones(2, 3)).sum()
        slope = torch.autograd.grad(far, outputs, create_graph=True)[0]
        return torch.autograd.grad(slope.sum(), outputs, create_graph=True)[0].mean()

    objective = la.Objective(nn.Linear(4, 3), loss, [(X, Y)])
    words = r"not twice differentiable: the operation _cdist_backward .* replace it\.$"
    with pytest.raises(LossError, match=words):
        trace(objective)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(4, 8)

    def forward(self, x):
        q = self.lift(x).view(len(x), 1, 2, 4)
        return F.scaled_dot_product_attention(q, q, q).flatten(1)[:, :3]


def test_losses_that_hold_gradients_of_attention_are_served_or_named():
    def loss(model, batch):
        with torch.enable_grad():
            inputs = batch[0].clone().requires_grad_()
            slope = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)[0]
        return slope.square().sum(1)

    objective = la.Objective(Attention(), loss, [(X, Y)])
    assert np.isfinite(trace(objective, tolerance=0.5).value)
    assert gradient_noise(objective).norm.value > 0
    words = r"the gradient of `loss` failed \(.*sdpa_kernel\(SDPBackend.MATH\)"
    with pytest.raises(LossError, match=words):
        objective.gradient()


def test_a_processor_without_memory_is_not_a_fault_of_the_loss():
    def loss(model, batch):
        return CE(model, batch) + torch.empty(2**60).sum()

    with pytest.raises(RuntimeError, match="allocate memory"):
        la.Objective(nn.Linear(4, 3), loss, [(X, Y)])
