"""Every model of the common suite against matrices by plain autograd, in float64."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

import cases as common
import lossatlas as la
from lossatlas.curvature import empirical_fisher, fisher, gauss_newton
from lossatlas.errors import ArgumentError, LossError
from lossatlas.objective.batches import batch_size, map_tensors
from reference.curvature_cases import normal

EVERY = pytest.mark.parametrize("builder", common.BUILDERS, ids=lambda b: b.__name__)
# What `fisher` has to be told, and the models that it cannot serve at all.
TOLD = {"transformer": "gaussian"}
NO_FISHER = {"tied": "its loss names no likelihood, and its classes are along the last axis"}
NO_EMPIRICAL_FISHER = {"tied": "the loss gives means only"}


@pytest.fixture(autouse=True)
def _kernels_of_attention():
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _double(builder):
    case = common.make(builder)
    model = case.model.double().eval()
    batches = map_tensors(lambda t: t.double() if t.is_floating_point() else t, case.batches)
    return la.Objective(model, case.loss, batches)


def _leaves(model):
    return [value for value in model.parameters() if value.requires_grad]


def _rows(values, model):
    """One row a number: its gradient in the parameters."""
    found = [
        torch.autograd.grad(
            value, _leaves(model), retain_graph=True, materialize_grads=True, allow_unused=True
        )
        for value in values.reshape(-1)
    ]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in found])


def _outputs(objective, batch):
    """What the model returns in the loss of a batch; every common model returns one tensor."""
    seen = []
    handle = objective.model.register_forward_hook(lambda *args: seen.append(args[-1]))
    objective.loss(objective.model, batch)
    handle.remove()
    (answer,) = seen
    return answer


def _mean(objective, matrix_of_batch):
    sizes = [batch_size(batch) for batch in objective.batches]
    parts = [matrix_of_batch(batch) for batch in objective.batches]
    return sum(n * part for n, part in zip(sizes, parts, strict=True)) / sum(sizes)


def _dense_gauss_newton(objective):
    def of_batch(batch):
        outputs = _outputs(objective, batch)
        jacobian = _rows(outputs, objective.model)

        def loss(values):
            return objective.loss(lambda *inputs: values.view_as(outputs), batch).mean()

        inner = torch.autograd.functional.hessian(loss, outputs.detach().reshape(-1))
        return jacobian.T @ inner @ jacobian

    return _mean(objective, of_batch)


def _dense_fisher(objective, likelihood):
    """The expectation over labels, of g g^T with g the gradient of one label's loss."""

    def of_batch(batch):
        outputs = _outputs(objective, batch)
        if likelihood == "gaussian":
            # The loss (z - y)^2 has the slope 2 (z - y), whose square is 4 x 1/2 in the mean.
            jacobian = _rows(outputs, objective.model)
            return 2.0 * jacobian.T @ jacobian / len(jacobian)
        chances = outputs.log_softmax(1)
        scores = _rows(chances, objective.model)
        return scores.T @ (chances.exp().reshape(-1, 1) * scores).detach() / len(outputs)

    return _mean(objective, of_batch)


def _dense_empirical_fisher(objective):
    def of_batch(batch):
        rows = [
            _rows(objective.loss(objective.model, _one(batch, i)).mean(), objective.model)
            for i in range(batch_size(batch))
        ]
        gradients = torch.cat(rows)
        return gradients.T @ gradients / len(gradients)

    return _mean(objective, of_batch)


def _one(batch, index):
    return map_tensors(lambda value: value[index : index + 1], batch)


def _applied(matrix, want):
    vectors = normal(5, matrix.size)
    return torch.stack([matrix.flat(vector) for vector in vectors]), vectors @ want


@EVERY
@pytest.mark.parametrize("cache", [True, False], ids=["cached", "streamed"])
def test_gauss_newton_of_every_common_model_is_that_of_plain_autograd(builder, cache):
    objective = _double(builder)
    want = _dense_gauss_newton(objective)
    assert want.norm() > 0
    assert_close(*_applied(gauss_newton(objective, cache=cache), want), rtol=1e-8, atol=1e-10)


@EVERY
def test_fisher_of_every_common_model_is_that_of_plain_autograd(builder):
    objective = _double(builder)
    name = builder.__name__
    if name in NO_FISHER or name in TOLD:
        with pytest.raises(ArgumentError, match="`likelihood` must be"):
            fisher(objective)
    if name in NO_FISHER:
        return
    kind = TOLD.get(name) or ("gaussian" if name == "frozen" else "categorical")
    want = _dense_fisher(objective, kind)
    # For these likelihoods it is the Gauss-Newton matrix.
    assert_close(want, _dense_gauss_newton(objective), rtol=1e-8, atol=1e-10)
    matrix = fisher(objective, likelihood=TOLD.get(name), draws=1000, cache=True)
    got, wanted = _applied(matrix, want)
    assert (got - wanted).norm() < 0.1 * wanted.norm()


@EVERY
@pytest.mark.parametrize("cache", [True, False], ids=["cached", "streamed"])
def test_empirical_fisher_of_every_common_model_is_that_of_plain_autograd(builder, cache):
    objective = _double(builder)
    if builder.__name__ in NO_EMPIRICAL_FISHER:
        with pytest.raises(LossError, match="the loss of every example"):
            empirical_fisher(objective, cache=cache)
        return
    matrix, want = empirical_fisher(objective, cache=cache), _dense_empirical_fisher(objective)
    assert_close(*_applied(matrix, want), rtol=1e-8, atol=1e-10)
