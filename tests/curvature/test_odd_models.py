"""Models and losses that derivatives go through in unusual ways."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import lossatlas as la
from lossatlas.curvature import gauss_newton, hessian, spectrum, trace
from lossatlas.errors import DerivativeError, LossError
from reference import curvature_dense as dense

CE = la.supervised(F.cross_entropy)
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Y = torch.arange(12) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def old_hook(layer, dim):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer, dim=dim)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, old_hook])
def test_weight_norm_has_the_second_derivative_of_its_formula(norm, dim):
    # That of torch's own kernel is wrong: slopes of the gradient are the truth here.
    model = network()
    norm(model[0], dim=dim)
    norm(model[2], dim=dim)
    objective = la.Objective(model, CE, [(X, Y)])
    matrix = hessian(objective)
    square = dense.matrix_of(matrix)
    assert_close(square, square.T, atol=1e-12, rtol=1e-9)
    step, flat = 1e-6, torch.randn(matrix.size, dtype=torch.float64)
    along = matrix.unflatten(flat)
    ends = [
        objective.gradient({n: v + side * step * along[n] for n, v in objective.params.items()})
        for side in (1, -1)
    ]
    for name, part in matrix.unflatten(matrix.flat(flat)).items():
        assert_close(part, (ends[0][name] - ends[1][name]) / (2 * step), atol=1e-6, rtol=1e-5)
    exact = float(square.trace())
    found = trace(objective, tolerance=1e-6)
    assert abs(found.value - exact) <= 1e-4 * abs(exact) + 4 * found.stderr
    assert torch._weight_norm.__module__ != "lossatlas.curvature.differentiable"


def pinn(model, batch):
    inputs = batch[0].clone().requires_grad_()
    with torch.enable_grad():
        slope = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)[0]
    return slope.square().sum(1)


def mapped(model, batch):
    return torch.func.vmap(model)(batch[0]).square().sum(1)


def in_place(model, batch):
    return F.cross_entropy(model(batch[0]).mul_(2.0), batch[1], reduction="none")


@pytest.mark.parametrize("loss", [pinn, mapped, in_place])
def test_losses_that_do_more_than_read_outputs_have_a_hessian_only(loss):
    objective = la.Objective(network(), loss, [(X, Y)])
    assert np.isfinite(spectrum(objective, top=1, bottom=0, density=False).top).all()
    with pytest.raises(LossError, match="use curvature='hessian'"):
        spectrum(objective, top=1, bottom=0, density=False, curvature="gauss_newton")


def test_a_penalty_that_is_switched_off_is_none():
    def loss(model, batch):
        size = sum(p.square().sum() for p in model.parameters())
        return CE(model, batch) + 0.0 * size

    model = network()
    got = dense.matrix_of(gauss_newton(la.Objective(model, loss, [(X, Y)])))
    assert_close(got, dense.gauss_newton(la.Objective(model, CE, [(X, Y)])))


@pytest.mark.parametrize("called", [True, False])
def test_batches_that_say_nothing_are_left_out(called):
    def loss(model, batch):
        known = batch[1] >= 0
        if not known.any() and not called:
            return batch[0].new_zeros(())
        outputs = model(batch[0])
        if not known.any():
            return outputs.new_zeros(())
        return F.cross_entropy(outputs[known], batch[1][known])

    model = network()
    batches = [(X[:4], torch.full((4,), -1)), (X[4:], Y[4:])]
    got = dense.matrix_of(gauss_newton(la.Objective(model, loss, batches)))
    want = dense.gauss_newton(la.Objective(model, CE, batches[1:])) * 8 / 12
    assert_close(got, want)


class Answers(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.inner, self.form = network(), form

    def forward(self, x):
        return self.form(self.inner(x))


def test_what_a_model_answers_is_found_or_named():
    def loss_of(read):
        return lambda m, b: F.cross_entropy(read(m(b[0])), b[1])

    by_default = Answers(lambda z: defaultdict(list, logits=z))
    objective = la.Objective(by_default, loss_of(lambda out: out["logits"]), [(X, Y)])
    plain = la.Objective(by_default.inner, CE, [(X, Y)])
    assert_close(dense.matrix_of(gauss_newton(objective)), dense.gauss_newton(plain))
    for form, read, words in (
        (lambda z: SimpleNamespace(z=z), lambda out: out.z, "in a SimpleNamespace"),
        (lambda z: (z, z.sum()), lambda out: out[0], "another number beside its outputs"),
    ):
        objective = la.Objective(Answers(form), loss_of(read), [(X, Y)])
        with pytest.raises(LossError, match=words):
            dense.matrix_of(gauss_newton(objective))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoints_are_named():
    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = nn.Linear(4, 4).double(), network()

        def forward(self, x):
            return checkpoint(self.inner, self.first(x), use_reentrant=True)

    objective = la.Objective(Saving(), CE, [(X, Y)])
    with pytest.raises(LossError, match="use_reentrant=False"):
        trace(objective)


def test_a_mistake_of_the_users_keeps_its_own_words():
    def loss(model, batch):
        if torch.is_grad_enabled():
            raise RuntimeError("element 0 does not require grad, says my own check")
        return CE(model, batch)

    with pytest.raises(LossError, match=r"my own check in test_odd_models.py, line \d+"):
        trace(la.Objective(network(), loss, [(X, Y)]))


class WrongTwice(torch.autograd.Function):
    """A square whose first derivative is right and whose second one is not."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        mixed = x.roll(1, -1)
        return slope * 2 * (x.detach() + mixed - mixed.detach())


def test_wrong_second_derivatives_that_show_are_told():
    model = network()

    def loss(model, batch):
        return WrongTwice.apply(model(batch[0])).sum(1)

    with pytest.raises(DerivativeError, match=r"off by \d\S* .*'differences'"):
        spectrum(la.Objective(model, loss, [(X, Y)]))
    unchecked = la.Objective(model, loss, [(X, Y)], derivatives="unchecked")
    found = spectrum(unchecked, top=2, bottom=1, density=False)
    assert not found.reached
    assert "an operation whose second derivative is wrong" in found.note
    right = spectrum(la.Objective(model, CE, [(X, Y)]), top=2, bottom=1, density=False)
    assert right.note == ""
