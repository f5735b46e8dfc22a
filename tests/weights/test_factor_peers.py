"""Factors and diagonals beside those of curvlinops and nngeometry, on the same labels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.weights import factors
from lossatlas.weights.example_gradients import squared_gradients

EXAMPLES = 24


def _peer(name):
    return pytest.importorskip(name, reason=f"needs {name}: tests/weights/requirements.txt")


def _mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def _cnn():
    layers = nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(18, 3))


def _bare():
    return nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))


CASES = pytest.mark.parametrize(
    ("make", "shape"), [(_mlp, (4,)), (_cnn, (1, 4, 4)), (_bare, (4,))]
)


def _task(make, shape):
    """An objective whose labels are those that `factors` draws from the model."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, *shape, generator=draw, dtype=torch.float64)
    model = make().double()
    labels = la.rng.generator(0, "labels", 0)
    shares = model(x).detach().softmax(1)
    y = torch.multinomial(shares, 1, generator=labels).squeeze(1)
    return la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])


def _apart(task, flat):
    """A vector over all parameters, by name."""
    parts = flat.split([v.numel() for v in task.params.values()])
    return {n: p.view_as(v) for (n, v), p in zip(task.params.items(), parts, strict=True)}


def _times(found, vector):
    """Our factors times a vector."""
    out = {}
    for layer in found.layers:
        given = {name: vector[name] for name in layer.names}
        turned = layer.eigenvalues * layer.to_basis(layer.matrix_of(given))
        out |= layer.vector_of(layer.from_basis(turned), given)
    return out


@CASES
def test_products_are_those_of_curvlinops(make, shape):
    peer, task = _peer("curvlinops"), _task(make, shape)
    theirs = peer.KFACLinearOperator(
        task.model, nn.CrossEntropyLoss(), list(task.model.parameters()), task.batches,
        fisher_type="empirical", separate_weight_and_bias=False, check_deterministic=False,
    )  # fmt: skip
    ours = factors(task, examples=0)
    size = sum(v.numel() for v in task.params.values())
    for seed in range(3):
        flat = torch.randn(size, generator=la.rng.generator(seed, "v"), dtype=torch.float64)
        expected, found = _apart(task, theirs @ flat), _times(ours, _apart(task, flat))
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-10), name


@pytest.mark.parametrize("make", [_mlp, _bare])
def test_corrected_eigenvalues_are_those_of_curvlinops(make):
    peer, task = _peer("curvlinops"), _task(make, (4,))
    theirs = peer.EKFACLinearOperator(
        task.model, nn.CrossEntropyLoss(), list(task.model.parameters()), task.batches,
        fisher_type="empirical", separate_weight_and_bias=False, check_deterministic=False,
    )  # fmt: skip
    ours = factors(task, correct=True, examples=0)
    assert ours.layers
    assert sum(layer.trace for layer in ours.layers) == pytest.approx(float(theirs.trace))
    size = sum(v.numel() for v in task.params.values())
    flat = torch.randn(size, generator=la.rng.generator(0, "v"), dtype=torch.float64)
    expected, found = _apart(task, theirs @ flat), _times(ours, _apart(task, flat))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-10), name


def _nngeometry(task, kind):
    """Their matrix of the gradients of the same labels: one function value an example."""
    _peer("nngeometry")
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object import pspace

    def log_likelihood(x, y):
        return task.model(x).log_softmax(1).gather(1, y[:, None])

    generator = TorchHooksJacobianBackend(
        model=task.model,
        function=log_likelihood,
        layer_collection=LayerCollection.from_model(task.model),
    )
    data = torch.utils.data.TensorDataset(*task.batches[0])
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    return getattr(pspace, kind)(generator=generator, examples=loader)


@CASES
def test_factors_are_those_of_nngeometry(make, shape):
    task = _task(make, shape)
    theirs = list(_nngeometry(task, "PMatKFAC").data.values())
    ours = factors(task, examples=0)
    for layer, (inputs, outputs) in zip(ours.layers, theirs, strict=True):
        # The two share a constant out differently: how many positions there are.
        ratio = float(layer.inputs.matrix.trace() / inputs.trace())
        assert torch.allclose(layer.inputs.matrix, ratio * inputs, rtol=1e-5, atol=1e-10)
        assert torch.allclose(layer.outputs.matrix * ratio, outputs, rtol=1e-5, atol=1e-10)


@CASES
def test_diagonals_are_those_of_nngeometry(make, shape):
    task = _task(make, shape)
    expected = _apart(task, _nngeometry(task, "PMatDiag").data)
    for name, value in squared_gradients(task, task.params).items():
        assert torch.allclose(value, expected[name], rtol=1e-5, atol=1e-12), name
