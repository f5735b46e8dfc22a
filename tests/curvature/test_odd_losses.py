"""Losses with few different eigenvalues, with derivatives inside, too large for the memory."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas.curvature import gradient_noise, krylov_memory, spectrum, trace
from lossatlas.errors import ArgumentError, LossError, ModelError
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


def test_little_memory_restarts_a_run_and_none_is_named(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3))
    objective = la.Objective(model, CE, [(X, Y)])
    size = sum(p.numel() for p in model.parameters())
    asked = {"top": 10, "bottom": 1, "density": False, "by": "class"}
    whole = spectrum(objective, **asked)
    monkeypatch.setattr(krylov_memory, "free_memory", lambda _: 40 * size * 4)
    found = spectrum(objective, **asked)
    assert found.reached
    assert_close(torch.tensor(found.top), torch.tensor(whole.top), atol=1e-4, rtol=1e-3)
    assert [line.name for line in found.groups] == [line.name for line in whole.groups]
    monkeypatch.setattr(krylov_memory, "free_memory", lambda _: 5 * size * 4)
    with pytest.raises(
        ArgumentError, match=r"need a basis of at least .* are free; take fewer"
    ):
        spectrum(objective, **asked)


def test_an_operation_without_second_derivative_inside_the_loss_is_named():
    def loss(model, batch):
        outputs = model(batch[0])
        if not torch.is_grad_enabled():
            return outputs.mean()
        far = torch.cdist(outputs, torch.ones(2, 3)).sum()
        slope = torch.autograd.grad(far, outputs, create_graph=True)[0]
        return torch.autograd.grad(slope.sum(), outputs, create_graph=True)[0].mean()

    objective = la.Objective(nn.Linear(4, 3), loss, [(X, Y)])
    words = r"not twice differentiable: the operation _cdist_backward .* replace it, or pass"
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


class Experts(nn.Module):
    """The second expert sees only batches whose inputs are large; the third one none."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3)).double()

    def forward(self, x):
        return self.experts[int(x.abs().max() > 50)](x)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton", "fisher", "empirical_fisher"])
@pytest.mark.parametrize("turned", [False, True])
def test_layers_that_some_or_no_batches_reach_have_their_lines(curvature, turned):
    torch.manual_seed(0)
    batches = [(X.double(), Y), (100 * X[:8].double(), Y[:8])]
    model = Experts()
    objective = la.Objective(model, CE, batches[::-1] if turned else batches)
    options = {"top": 1, "bottom": 1, "density": False, "tolerance": 1e-6}
    found = spectrum(objective, by="layer", curvature=curvature, **options)
    lines = {line.name: line for line in found.groups}
    for name, share, batch in (("experts.0", 20 / 28, 0), ("experts.1", 8 / 28, 1)):
        alone = la.Objective(model, CE, [batches[batch]], params=f"{name}.*")
        if curvature != "fisher":
            want = spectrum(alone, curvature=curvature, **options).top[0]
            assert np.isclose(lines[name].largest, share * want, rtol=1e-5)
        assert lines[name].largest > 0
        assert lines[name].gradient_norm.value > 0
    unused = lines["experts.2"]
    assert (unused.largest, unused.largest_bound, unused.trace.value) == (0.0, 0.0, 0.0)
    assert unused.note == "the loss does not depend on it"
    alone = la.Objective(model, CE, batches, params="experts.2.*", check=False)
    with pytest.raises(LossError, match="does not depend on the parameters"):
        spectrum(alone, curvature=curvature)


def test_the_gradient_of_an_expert_is_that_of_its_batches():
    model = Experts()
    batches = [(X.double(), Y), (100 * X[:8].double(), Y[:8])]
    got = la.Objective(model, CE, batches, params="experts.1.*").gradient()
    want = la.Objective(model, CE, batches[1:], params="experts.1.*").gradient()
    for name in want:
        assert_close(got[name], want[name] * 8 / 28)
    with pytest.raises(
        ModelError, match=r"stays the same .* 'experts\.2\.weight' \(and 1 more"
    ):
        la.Objective(model, CE, batches, params="experts.2.*")
    unused = la.Objective(model, CE, batches, params="experts.2.*", check=False)
    assert not any(value.any() for value in unused.gradient().values())
    assert gradient_noise(unused).norm.value == 0.0
    model.requires_grad_(False)
    cut = la.Objective(model, lambda m, b: CE(m, b).detach(), batches, params="*")
    with pytest.raises(LossError, match="does not lead back"):
        cut.gradient()
