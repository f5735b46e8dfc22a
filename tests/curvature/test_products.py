import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import cases as common
import lossatlas as la
from lossatlas.curvature import empirical_fisher, fisher, gauss_newton, hessian, spectrum
from lossatlas.curvature.matrices import KINDS, product_of
from lossatlas.errors import (
    ArgumentError,
    LossError,
    ModelError,
    NonFiniteError,
    StructureError,
    UnknownNameError,
)
from lossatlas.objective.batches import map_tensors
from reference import curvature_dense as dense
from reference.curvature_cases import cases, classes, initialized, mlp, normal

CASES = {case.name: case for case in cases()}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@EVERY
def test_hessian_is_the_dense_hessian(case):
    got = dense.matrix_of(hessian(case.objective, cache=True))
    assert_close(got, dense.hessian(case.objective), rtol=1e-9, atol=1e-11)


@EVERY
def test_gauss_newton_is_the_dense_one_and_has_no_negative_eigenvalue(case):
    got = dense.matrix_of(gauss_newton(case.objective, cache=True))
    assert_close(got, dense.gauss_newton(case.objective), rtol=1e-9, atol=1e-11)
    assert torch.linalg.eigvalsh(got)[0] > -1e-12


@EVERY
@pytest.mark.parametrize("kind", KINDS[:2])
def test_streaming_gives_the_products_of_kept_graphs(case, kind):
    kept, streamed = (product_of(kind, case.objective, cache=cache) for cache in (True, False))
    for seed in range(3):
        vector = normal(kept.size, seed=seed)
        assert_close(streamed.flat(vector), kept.flat(vector), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["mlp", "two batches", "frozen layer", "attention", "convolution"]
)
def test_empirical_fisher_is_the_dense_one(name):
    got = dense.matrix_of(empirical_fisher(CASES[name].objective))
    assert_close(got, dense.empirical_fisher(CASES[name].objective), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["mlp", "two batches", "squared error", "binary", "tied"])
def test_fisher_with_many_draws_is_the_gauss_newton_matrix(name):
    objective = CASES[name].objective
    want = dense.matrix_of(gauss_newton(objective))
    got = dense.matrix_of(fisher(objective, draws=400, cache=True))
    assert (got - want).norm() < 0.1 * want.norm()


@pytest.mark.parametrize("name", ["mlp", "two batches", "attention", "convolution"])
def test_fisher_is_what_its_definition_says(name):
    objective = CASES[name].objective
    want = dense.fisher(objective)
    # For cross-entropy of logits the two are one; labels drawn at random scatter around it.
    assert_close(dense.gauss_newton(objective), want, rtol=1e-9, atol=1e-11)
    got = dense.matrix_of(fisher(objective, draws=400, cache=True))
    assert (got - want).norm() < 0.1 * want.norm()


@pytest.mark.parametrize("builder", common.BUILDERS, ids=lambda b: b.__name__)
def test_hessian_of_every_common_model_is_that_of_plain_autograd(builder):
    case = common.make(builder)
    model = case.model.double().eval()
    batches = map_tensors(lambda t: t.double() if t.is_floating_point() else t, case.batches)
    objective = la.Objective(model, case.loss, batches)
    want = dense.hessian_of_model(model, case.loss, batches)
    matrix = hessian(objective)
    vectors = normal(3, matrix.size)
    for vector in vectors:
        assert_close(matrix.flat(vector), want @ vector, rtol=1e-8, atol=1e-10)
    found = spectrum(objective, top=3, bottom=2, density=False)
    values = torch.linalg.eigvalsh(want).numpy()
    assert (abs(found.top - values[::-1][:3]) <= found.top_bounds).all()
    # Far below the largest, several may hide under one value: a bound is of the nearest.
    nearest = abs(found.bottom[:, None] - values).min(1)
    assert (nearest <= found.bottom_bounds).all()
    assert (abs(found.bottom - values[:2]) <= 2e-3 * abs(values).max()).all()


def test_the_fisher_matrix_keeps_its_labels_and_follows_its_seed():
    objective = CASES["mlp"].objective
    first, second, other = (fisher(objective, seed=s, cache=False) for s in (1, 1, 2))
    vector = normal(first.size)
    assert torch.equal(first.flat(vector), first.flat(vector))
    assert torch.equal(first.flat(vector), second.flat(vector))
    assert not torch.equal(first.flat(vector), other.flat(vector))


def test_gauss_newton_trace_of_a_softmax_head_has_its_closed_form():
    x, y = normal(7, 4), classes(7, 3)
    model = initialized(nn.Linear(4, 3))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    share = model(x).softmax(1)
    want = ((x.square().sum(1) + 1) * (1 - share.square().sum(1))).mean()
    assert_close(dense.matrix_of(gauss_newton(objective)).trace(), want.detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", [True, False])
def test_a_product_over_some_parameters_is_the_block(kind, cache):
    objective = CASES["mlp"].objective
    whole = dense.matrix_of(product_of(kind, objective, cache=cache))
    part = product_of(kind, objective, names="2.*", cache=cache)
    assert list(part.params) == ["2.weight", "2.bias"]
    assert_close(dense.matrix_of(part), whole[-part.size :, -part.size :])


def test_products_are_taken_where_asked():
    objective = CASES["mlp"].objective
    moved = {name: value + 0.1 for name, value in objective.params.items()}
    away = dense.matrix_of(hessian(objective, moved))
    assert not torch.allclose(away, dense.matrix_of(hessian(objective)))
    with torch.no_grad():
        model = mlp()
        for name, value in model.named_parameters():
            value.copy_(moved[name])
    there = la.Objective(model, objective.loss, objective.batches)
    assert_close(away, dense.matrix_of(hessian(there)))


def test_a_product_speaks_params_and_counts():
    objective = CASES["mlp"].objective
    matrix = hessian(objective)
    vector = matrix.unflatten(normal(matrix.size))
    assert_close(matrix.flatten(matrix @ vector), matrix.flat(matrix.flatten(vector)))
    assert matrix.count == 2


def test_later_steps_of_the_optimizer_do_not_reach_a_product():
    model = mlp()
    objective = la.Objective(
        model, la.supervised(F.cross_entropy), [(normal(6, 4), classes(6, 3))]
    )
    for cache in (True, False):
        matrix = hessian(objective, cache=cache)
        vector = normal(matrix.size)
        before = matrix.flat(vector)
        with torch.no_grad():
            model[0].weight.add_(0.5)
        assert_close(matrix.flat(vector), before)


def test_no_trace_is_left():
    model = CASES["batch statistics"].objective.model
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    for kind in KINDS[:3]:
        matrix = product_of(kind, CASES["batch statistics"].objective)
        matrix.flat(normal(matrix.size))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(value.grad is None for value in model.parameters())
    assert model.training


def test_a_loss_that_reads_the_model_in_other_ways_has_a_hessian_only():
    model = mlp()
    batch = (normal(6, 4), classes(6, 3))

    def decay(model, batch):
        return sum(value.square().sum() for value in model.parameters())

    objective = la.Objective(model, decay, [batch])
    size = hessian(objective).size
    assert_close(dense.matrix_of(hessian(objective)), 2 * torch.eye(size, dtype=torch.float64))
    with pytest.raises(LossError, match="not called by the loss"):
        gauss_newton(objective).flat(torch.ones(size))


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad


def _objective(change, criterion=F.cross_entropy):
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x):
            return change(self.body(x))

    batch = (normal(6, 4), classes(6, 3))
    return la.Objective(Changed(), la.supervised(criterion), [batch])


def test_a_function_without_a_second_derivative_is_named():
    objective = _objective(lambda z: _Hidden.apply(z).square())
    with pytest.raises(LossError, match="once_differentiable"):
        hessian(objective).flat(normal(hessian(objective).size))


def test_an_operation_without_a_second_derivative_is_named():
    objective = _objective(lambda z: torch.cdist(z, z.new_ones(3, 3), p=1.0))
    with pytest.raises(LossError, match="operation _cdist_backward has no second derivative"):
        hessian(objective).flat(normal(hessian(objective).size))


def test_a_loss_cut_from_the_weights_is_named():
    objective = _objective(lambda z: z.detach())
    with pytest.raises(LossError, match="differentiable operations"):
        hessian(objective).flat(normal(hessian(objective).size))
    with pytest.raises(LossError, match="differentiable"):
        gauss_newton(objective).flat(normal(hessian(objective).size))


def test_log_softmax_inside_the_model_would_make_gauss_newton_zero():
    objective = _objective(lambda z: z.log_softmax(1), F.nll_loss)
    with pytest.raises(LossError, match="linear in the model's outputs"):
        gauss_newton(objective).flat(normal(hessian(objective).size))


def test_a_model_that_computes_its_loss_has_no_gauss_newton_matrix():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x, y):
            return F.cross_entropy(self.body(x), y)

    batch = (normal(6, 4), classes(6, 3))
    objective = la.Objective(Whole(), lambda m, b: m(*b), [batch])
    with pytest.raises(LossError, match="computes the loss itself"):
        gauss_newton(objective).flat(normal(hessian(objective).size))
    with pytest.raises(ArgumentError, match="`likelihood` must be"):
        fisher(objective)
    with pytest.raises(LossError, match="loss of every example"):
        empirical_fisher(objective)


def test_a_gradient_that_is_not_finite_is_named():
    objective = _objective(lambda z: z * float("nan"))
    with pytest.raises(NonFiniteError, match=r"body.0\.weight"):
        hessian(objective).flat(normal(hessian(objective).size))


def test_a_curvature_that_is_not_finite_is_named():
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    objective = la.Objective(model, lambda m, b: m.weight.norm(), [torch.ones(1, 2)])
    with pytest.raises(NonFiniteError, match="square root or a norm at zero"):
        hessian(objective).flat(torch.ones(2, dtype=torch.float64))


def test_wrong_input_is_named():
    objective = CASES["mlp"].objective
    with pytest.raises(UnknownNameError, match=r"no parameter called '3\.weight'"):
        hessian(objective, names="3.weight")
    with pytest.raises(ArgumentError, match="at least one name"):
        hessian(objective, names=[])
    with pytest.raises(StructureError, match=r"0\.bias"):
        hessian(objective) @ {"0.weight": objective.params["0.weight"]}
    with pytest.raises(UnknownNameError, match="did you mean 'gaussian'"):
        fisher(objective, likelihood="gausian")
    with pytest.raises(ArgumentError, match="draws"):
        fisher(objective, draws=0)
    summed = la.Objective(
        objective.model, la.supervised(nn.CrossEntropyLoss(reduction="sum")), objective.batches
    )
    with pytest.raises(ArgumentError, match="reduction"):
        fisher(summed)
    frozen = mlp().requires_grad_(False)
    with pytest.raises(ModelError, match="frozen"):
        la.Objective(frozen, objective.loss, objective.batches)


def test_ignored_targets_do_not_count():
    x, y = normal(6, 4), classes(6, 3)
    y[2] = -100
    kept = [0, 1, 3, 4, 5]
    model = mlp()
    part, whole = (
        la.Objective(model, la.supervised(F.cross_entropy), [batch])
        for batch in ((x[kept], y[kept]), (x, y))
    )
    assert_close(dense.matrix_of(gauss_newton(whole)), dense.matrix_of(gauss_newton(part)))
    near = dense.matrix_of(fisher(whole, draws=400))
    assert (near - dense.matrix_of(gauss_newton(part))).norm() < 0.1 * near.norm()
