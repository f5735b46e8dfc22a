import copy
from collections import UserDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import cases
import lossatlas as la
from lossatlas.errors import (
    ArgumentError,
    DataError,
    LossError,
    ModelError,
    StochasticError,
    StructureError,
    UnknownNameError,
)


def regression(sizes=(4, 2), seed=0):
    source = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=source, dtype=torch.float64)  # noqa: E731
    model = nn.Linear(3, 1).double()
    return model, [(draw(n, 3), draw(n, 1)) for n in sizes]


def test_value_is_the_mean_over_all_examples_not_over_batches():
    model, batches = regression((5, 1))
    objective = la.Objective(model, la.supervised(F.mse_loss), batches)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert objective.value() == pytest.approx(F.mse_loss(model(inputs), targets).item())
    assert objective.example_losses().shape == (6,)
    assert objective.example_losses().dtype == torch.float64


def test_gradient_is_that_of_autograd_and_leaves_grad_alone():
    model, batches = regression((5, 1))
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    gradient = la.Objective(model, la.supervised(F.mse_loss), batches).gradient()
    assert all(p.grad is None for p in model.parameters())
    F.mse_loss(model(inputs), targets).backward()
    for name, parameter in model.named_parameters():
        assert_close(gradient[name], parameter.grad)


def test_standard_error_is_that_of_the_mean_over_examples():
    model, batches = regression((7, 4))
    found = la.Objective(model, la.supervised(F.mse_loss), batches).evaluate()
    losses = la.Objective(model, la.supervised(F.mse_loss), batches).example_losses().numpy()
    assert found.stderr == pytest.approx(losses.std(ddof=1) / np.sqrt(11))
    assert (found.samples, found.sample_unit, found.why_no_error) == (11, "examples", None)


def test_means_only_give_the_spread_over_batches_and_one_batch_gives_none():
    model, batches = regression((4, 4, 4))
    loss = lambda m, b: F.mse_loss(m(b[0]), b[1])  # noqa: E731
    found = la.Objective(model, loss, batches).evaluate()
    means = [loss(model, batch).item() for batch in batches]
    assert found.stderr == pytest.approx(np.std(means, ddof=1) / np.sqrt(3))
    assert found.sample_unit == "batches"
    alone = la.Objective(model, loss, batches[:1]).evaluate()
    assert np.isnan(alone.stderr)
    assert alone.why_no_error == "a spread needs two batches; there is one"


def test_a_criterion_whose_weights_are_not_known_gives_means_of_batches():
    class Odd(nn.CrossEntropyLoss):
        def forward(self, output, target):
            losses = super().forward(output, target)
            return losses if losses.ndim else losses + 1

    case = cases.make(cases.mlp)
    objective = la.Objective(case.model, la.supervised(Odd()), case.batches)
    assert objective.unit == "batches"
    with pytest.raises(LossError, match="only the mean"):
        objective.example_losses()


def test_batchnorm_modes_differ_as_they_should():
    case = cases.make(cases.conv_bn)
    values = {
        mode: case.objective(mode=mode).value() for mode in ("eval", "train", "recalibrated")
    }
    assert len(set(values.values())) == 3
    # By hand: a copy whose statistics were estimated by plain averages over one pass.
    twin = copy.deepcopy(case.model)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    for inputs, _ in case.batches:
        twin(inputs)
    by_hand = la.Objective(twin, case.loss, case.batches).value()
    assert values["recalibrated"] == pytest.approx(by_hand, rel=1e-6)
    assert "running_mean" in dict(case.model.norm1.named_buffers())


def test_tied_weights_move_together_under_either_name():
    case = cases.make(cases.tied)
    assert case.objective().names == ("embed.weight", "mix.weight", "mix.bias")
    one = case.objective(params="head.weight")
    assert one.names == ("embed.weight",)
    doubled = {"embed.weight": 2 * case.model.embed.weight.detach()}
    twin = copy.deepcopy(case.model)
    twin.embed.weight.data.mul_(2)
    assert one.value(doubled) == pytest.approx(
        la.Objective(twin, case.loss, case.batches).value()
    )


def test_frozen_parameters_stay_unless_asked_for():
    case = cases.make(cases.frozen)
    assert case.objective().names == ("2.weight", "2.bias")
    assert case.objective(params="*").names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert case.objective(params=["0.*"]).names == ("0.weight", "0.bias")


class _Adapted(nn.Module):
    """A frozen layer with a low-rank adapter beside it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 3).requires_grad_(False)
        self.lora_a, self.lora_b = nn.Linear(6, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, x):
        return self.base(x) + self.lora_b(self.lora_a(x))


@pytest.mark.parametrize("engine", ["plain", "streaming"])
def test_a_map_of_an_adapter_moves_nothing_else(engine):
    model, batch = _Adapted(), (torch.randn(9, 6), torch.arange(9) % 3)
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch], params="*lora_*")
    assert objective.names == ("lora_a.weight", "lora_b.weight")
    plane = la.random_plane(objective, seed=1)
    land = la.map_plane(objective, plane, points=3, adaptive=False, engine=engine)
    moved = model.state_dict() | plane.point((1.0, -1.0))
    there = torch.func.functional_call(model, moved, batch[0])
    assert land.values[2, 0] == pytest.approx(F.cross_entropy(there, batch[1]).item(), rel=1e-6)


def test_mapping_like_batches_of_transformers_work():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=8, use_cache=False
    )
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(0, 11, (3, 6))
    batch = transformers.BatchEncoding({"input_ids": tokens, "labels": tokens})
    objective = la.Objective(model, lambda m, b: m(**b).loss, [batch, batch])
    land = la.map_plane(objective, la.random_plane(objective), points=3)
    assert land.finite.all()
    assert objective.evaluate().sample_unit == "batches"
    assert isinstance(batch, UserDict)


@given(st.integers(1, 6), st.integers(1, 6))
def test_value_does_not_depend_on_how_data_are_cut_into_batches(one, two):
    model, batches = regression((one, two), seed=one * 7 + two)
    whole = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    a, b = (la.Objective(model, la.supervised(F.mse_loss), data) for data in (batches, whole))
    assert a.value() == pytest.approx(b.value())
    assert a.evaluate().stderr == pytest.approx(b.evaluate().stderr, nan_ok=True)


def test_a_loader_is_walked_anew_and_its_shuffling_is_named():
    model, batches = regression((8,))
    data = torch.utils.data.TensorDataset(*batches[0])
    steady = torch.utils.data.DataLoader(data, batch_size=3)
    objective = la.Objective(model, la.supervised(F.mse_loss), steady)
    assert objective.value() == pytest.approx(objective.value())
    shuffled = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)
    with pytest.raises(StochasticError, match=r"shuffled.*list\(loader\)"):
        la.Objective(model, la.supervised(F.mse_loss), shuffled)
    assert la.Objective(model, la.supervised(F.mse_loss), list(shuffled)).value() > 0


def test_dropout_that_ignores_eval_mode_is_named():
    case = cases.make(cases.dropout)
    always = lambda m, b: F.cross_entropy(F.dropout(m(b[0]), 0.5), b[1])  # noqa: E731
    with pytest.raises(StochasticError, match="dropout"):
        la.Objective(case.model, always, case.batches)


BAD = [
    (lambda m, b: {"model": None}, ArgumentError, "must be a torch.nn.Module; got NoneType"),
    (lambda m, b: {"model": nn.ReLU()}, ModelError, "ReLU has no parameters"),
    (lambda m, b: {"loss": 3}, ArgumentError, "`loss` must be callable; got int"),
    (lambda m, b: {"batches": []}, DataError, "at least one batch"),
    (lambda m, b: {"batches": b[0]}, ArgumentError, r"got one batch: wrap it, \[batch\]"),
    (lambda m, b: {"batches": iter(b)}, ArgumentError, "got an iterator"),
    (lambda m, b: {"batches": 7}, ArgumentError, "got int"),
    (lambda m, b: {"batches": [(b[0][0][:0], b[0][1][:0])]}, DataError, "a batch is empty"),
    (
        lambda m, b: {"loss": lambda m, b: m(b[0])},
        LossError,
        r"got shape \(4, 1\) for a batch",
    ),
    (lambda m, b: {"loss": lambda m, b: m(b[0])[:1, 0]}, LossError, r"got shape \(1,\)"),
    (lambda m, b: {"loss": lambda m, b: "low"}, LossError, "got str"),
    (lambda m, b: {"loss": lambda m, b: b[0].long().sum()}, LossError, "got torch.int64"),
    (lambda m, b: {"mode": "evel"}, UnknownNameError, "did you mean 'eval'"),
    (lambda m, b: {"params": "wieght"}, UnknownNameError, "did you mean 'weight'"),
    (lambda m, b: {"params": []}, ArgumentError, "leave it out"),
    (lambda m, b: {"batches": [b[0][0]]}, ArgumentError, "pair .input, target."),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_a_named_error_with_the_remedy(change, error, message):
    model, batches = regression()
    given = {"model": model, "loss": la.supervised(F.mse_loss), "batches": batches}
    with pytest.raises(error, match=message):
        la.Objective(**(given | change(model, batches)))


def test_all_frozen_model_says_how_to_move_it():
    model, batches = regression()
    model.requires_grad_(False)
    with pytest.raises(ModelError, match=r'params="\*"'):
        la.Objective(model, la.supervised(F.mse_loss), batches)


def test_points_of_another_model_are_refused():
    model, batches = regression()
    objective = la.Objective(model, la.supervised(F.mse_loss), batches)
    with pytest.raises(StructureError, match="no entry 'bias'"):
        objective.value({"weight": model.weight.detach()})
    with pytest.raises(StructureError, match=r"shape \(1, 2\)"):
        objective.value({"weight": torch.ones(1, 2), "bias": torch.ones(1)})


def test_losses_that_are_not_finite_stay_and_say_why_they_have_no_error():
    model, batches = regression()
    objective = la.Objective(model, lambda m, b: m(b[0])[:, 0] / 0, batches)
    found = objective.evaluate()
    assert not np.isfinite(found.value)
    assert found.why_no_error == "the loss is not finite"
