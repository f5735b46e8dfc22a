"""The window of gradients against dense matrices, and saliencies on a quadratic."""

import pytest
import torch
from networks import objective
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import empirical_fisher
from lossatlas.errors import ArgumentError, LossError, StructureError, UnknownNameError
from lossatlas.weights import window_fisher


def task_of(examples=30, batches=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(examples, 6, generator=draw, dtype=torch.float64)
    y = torch.randint(0, 3, (examples,), generator=draw)
    parts = list(zip(x.tensor_split(batches), y.tensor_split(batches), strict=True))
    return la.Objective(model, la.supervised(F.cross_entropy), parts)


def flat(vector):
    return torch.cat([vector[name].flatten() for name in vector])


@pytest.mark.parametrize("damping", [1e-5, 1e-1])
def test_the_inverse_is_that_of_the_dense_matrix(damping):
    task = task_of()
    found = window_fisher(task, window=20, damping=damping)
    rows = torch.cat([g.flatten(1) for g in found.gradients.values()], 1)
    dense = damping * torch.eye(rows.shape[1]).double() + rows.T @ rows / 20
    vector = {n: torch.randn_like(v) for n, v in task.params.items()}
    inverse = torch.linalg.inv(dense)
    expected = inverse @ flat(vector)
    solved = flat(found.solve(vector))
    assert float((solved - expected).norm() / expected.norm()) < 1e-10
    assert torch.allclose(flat(found.diagonal), dense.diagonal())
    difference = flat(found.inverse_diagonal) - inverse.diagonal()
    assert float(difference.abs().max() / inverse.diagonal().max()) < 1e-9
    values = torch.linalg.eigvalsh(dense).flip(0)
    assert torch.allclose(found.spectrum, values[:20], atol=1e-12)
    assert torch.allclose(values[20:], torch.tensor(damping).double(), atol=1e-12)


def test_a_window_over_all_examples_is_the_empirical_fisher_matrix():
    task = task_of()
    found = window_fisher(task, window=1000, damping=1e-3)
    assert found.window == 30
    vector = {n: torch.randn_like(v) for n, v in task.params.items()}
    image = empirical_fisher(task) @ vector
    back = found.solve({n: v + 1e-3 * vector[n] for n, v in image.items()})
    assert torch.allclose(flat(back), flat(vector), atol=1e-9)


def test_rows_are_spread_over_the_data_and_batches_give_means():
    task = task_of(examples=31, batches=4)
    found = window_fisher(task, window=31)
    for k in (0, 7, 8, 30):
        (x, y) = [torch.cat(part) for part in zip(*task.batches, strict=True)]
        loss = F.cross_entropy(task.model(x[k : k + 1]), y[k : k + 1])
        (slope,) = torch.autograd.grad(loss, [task.model[0].weight])
        assert torch.allclose(found.gradients["0.weight"][k], slope)
    means = window_fisher(task, window=2, unit="batches")
    for row, batch in zip(
        means.gradients["2.bias"], (task.batches[0], task.batches[3]), strict=True
    ):
        loss = F.cross_entropy(task.model(batch[0]), batch[1])
        (slope,) = torch.autograd.grad(loss, [task.model[2].bias])
        assert torch.allclose(row, slope)
    some = window_fisher(task, "2", window=3)
    assert list(some.gradients) == ["2.weight", "2.bias"]


def test_saliencies_are_the_rise_of_a_quadratic():
    task = task_of()
    found = window_fisher(task, window=30, damping=1e-2)
    dense = flat_matrix(found)
    weights = {n: torch.randn_like(v) for n, v in task.params.items()}
    point = flat(weights)
    obs, obd = (flat(found.saliencies(weights, score)) for score in ("obs", "obd"))
    for j in (0, 5, 40):
        # The loss is d^T F d / 2 around the weights.
        alone = torch.zeros_like(point)
        alone[j] = -point[j]
        assert obd[j] == pytest.approx(float(alone @ dense @ alone / 2))
        column = torch.linalg.inv(dense)[:, j]
        along = -point[j] * column / column[j]
        assert obs[j] == pytest.approx(float(along @ dense @ along / 2))
        assert obs[j] <= obd[j] * (1 + 1e-9)


def flat_matrix(found):
    rows = torch.cat([g.flatten(1) for g in found.gradients.values()], 1)
    return found.damping * torch.eye(rows.shape[1]).double() + rows.T @ rows / len(rows)


def test_it_is_stored_and_leaves_the_model_alone(tmp_path):
    task = objective("cnn")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    found = window_fisher(task, window=4)
    assert la.load(found.save(tmp_path / "window.nc")) == found
    assert all(torch.equal(before[n], v) for n, v in task.model.state_dict().items())
    assert all(value.grad is None for value in task.model.parameters())
    assert "4 gradients of examples" in found.sentences()[0]
    assert len(repr(found)) <= 400


def test_bad_arguments_are_named():
    task = task_of()
    with pytest.raises(ArgumentError, match="`window`"):
        window_fisher(task, window=0)
    with pytest.raises(ArgumentError, match="`damping`"):
        window_fisher(task, damping=0.0)
    with pytest.raises(UnknownNameError, match="`unit`"):
        window_fisher(task, unit="tokens")
    with pytest.raises(UnknownNameError, match="`layers`"):
        window_fisher(task, "none")
    means = la.Objective(task.model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), task.batches)
    with pytest.raises(LossError, match="unit='batches'"):
        window_fisher(means, unit="examples")
    assert window_fisher(means, window=2).unit == "batches"
    found = window_fisher(task, window=2)
    with pytest.raises(StructureError):
        found.solve({})
    with pytest.raises(UnknownNameError, match="`score`"):
        found.saliencies(task.params, "magnitude")


def test_more_gradients_than_fit_are_refused(monkeypatch):
    monkeypatch.setattr("lossatlas.weights.window.free_memory", lambda device: 2000)
    with pytest.raises(ArgumentError, match="take a smaller window"):
        window_fisher(task_of(), window=10)
