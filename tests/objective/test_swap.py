import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.objective.swap import swapped_in

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
CE = la.supervised(F.cross_entropy)


class Shared(nn.Module):
    """One layer under two names, and a weight that two layers hold."""

    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(4, 4)
        self.c = nn.Linear(4, 4)
        self.c.weight = self.a.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.c(self.b(self.a(x))))


def entries(model):
    return [
        (id(value), name)
        for m in model.modules()
        for held in (m._parameters, m._buffers)
        for name, value in held.items()
    ]


def test_shared_layers_and_tied_weights_move_together_and_come_back():
    model = Shared()
    before = entries(model)
    new = torch.randn(4, 4)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.a.weight.copy_(new)
    with swapped_in(model, {"a.weight": new}):
        assert model.a.weight is model.b.weight is model.c.weight is new
        torch.testing.assert_close(model.eval()(X), twin.eval()(X))
        model.train()(X)
    assert entries(model) == before
    assert model.norm.num_batches_tracked == 0


def test_an_error_inside_leaves_nothing_behind():
    model = Shared()
    before = entries(model)
    with pytest.raises(ZeroDivisionError), swapped_in(model, {"a.bias": torch.ones(4)}):
        raise ZeroDivisionError
    assert entries(model) == before


class Merges(nn.Linear):
    """Merges something into its weights when it is put into eval mode."""

    def train(self, mode=True):
        if not mode:
            self.weight.data.add_(1)
        return super().train(mode)


def test_measuring_does_not_make_a_model_merge():
    model = Merges(4, 4)
    before = model.weight.detach().clone()
    objective = la.Objective(model, CE, [(X, Y)])
    objective.value()
    assert torch.equal(model.weight, before)
    assert model.training


def test_the_digest_of_the_data_follows_the_data():
    inputs = X.clone()
    objective = la.Objective(nn.Linear(4, 4), CE, [(inputs, Y)])
    first = objective.fingerprint()[1]
    assert objective.fingerprint()[1] == first
    inputs[0, 0] += 1
    second = objective.fingerprint()[1]
    assert second != first
    inputs[0, 0] -= 1
    objective.batches[0] = (X.clone(), Y)
    assert objective.fingerprint()[1] == first
    assert copy.deepcopy(objective).fingerprint()[1] == first
    loader = torch.utils.data.DataLoader(list(zip(X, Y, strict=True)), batch_size=12)
    assert la.Objective(nn.Linear(4, 4), CE, loader).fingerprint()[1] == first
