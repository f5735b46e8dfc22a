"""Losses of constant predictions, beside closed forms."""

import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.objective.chance import ChanceLevel, chance_level
from lossatlas.objective.guessing import guessed_classes


class SimpleOutput(dict):
    """A mapping that is made by keywords, as the outputs of transformers are."""


def made(criterion, outputs, targets, width=3):
    model = nn.Linear(width, outputs)
    inputs = torch.randn(len(targets), width)
    loss = criterion if getattr(criterion, "whole", False) else la.supervised(criterion)
    return la.Objective(model, loss, [(inputs[:20], targets[:20]), (inputs[20:], targets[20:])])


def test_of_classes_it_is_the_entropy_of_their_shares():
    targets = torch.tensor([0] * 30 + [1] * 15 + [2] * 5)[torch.randperm(50)]
    shares = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    entropy = float(-(shares * shares.log()).sum())
    found = chance_level(made(F.cross_entropy, 3, targets))
    assert found.constant == pytest.approx(entropy, rel=1e-4)
    smooth = chance_level(made(nn.CrossEntropyLoss(label_smoothing=0.1), 3, targets))
    mixed = 0.9 * shares + 0.1 / 3
    assert smooth.constant == pytest.approx(float(-(mixed * mixed.log()).sum()), rel=1e-4)


def test_of_squares_it_is_the_variance():
    targets = 5 + 2 * torch.randn(50, 2)
    found = chance_level(made(F.mse_loss, 2, targets))
    assert found.constant == pytest.approx(float(targets.var(0, correction=0).mean()), rel=1e-4)
    assert found.zero == pytest.approx(float(targets.square().mean()), rel=1e-6)


def test_a_loss_of_model_and_batch_serves_where_it_only_calls_the_model(caplog):
    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    loss.whole = True
    targets = torch.arange(50) % 2
    assert chance_level(made(loss, 2, targets)).constant == pytest.approx(math.log(2), rel=1e-4)

    def other(model, batch):
        return F.cross_entropy(F.linear(batch[0], model.weight), batch[1])

    other.whole = True
    with caplog.at_level(logging.DEBUG):
        assert chance_level(made(other, 2, targets)) is None
    assert "no constant prediction can be fitted" in caplog.text


@pytest.mark.parametrize("wrap", [dict, SimpleOutput])
def test_outputs_in_a_mapping_are_those_of_its_logits(wrap):
    targets = torch.tensor([0] * 30 + [1] * 15 + [2] * 5)[torch.randperm(50)]

    class Wrapped(nn.Linear):
        def forward(self, x):
            return wrap(logits=super().forward(x))

    def loss(model, batch):
        return F.cross_entropy(model(batch["x"])["logits"], batch["labels"], reduction="none")

    model, inputs = Wrapped(3, 3), torch.randn(50, 3)
    batches = [
        {"x": inputs[part], "labels": targets[part]} for part in (slice(20), slice(20, 50))
    ]
    level = chance_level(la.Objective(model, loss, batches))
    plain = chance_level(made(F.cross_entropy, 3, targets))
    assert (level.constant, level.is_guessed) == (pytest.approx(plain.constant), False)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    assert chance_level(la.Objective(model, loss, batches)).is_at_chance


def test_of_tokens_it_is_the_entropy_of_their_shares():
    tokens = torch.randint(0, 4, (30, 7)).clamp(max=2)
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8,
        vocab_size=5, num_labels=3,
    )  # fmt: skip
    model = transformers.BertForTokenClassification(config)
    batches = [{"input_ids": tokens, "labels": tokens}]
    level = chance_level(la.Objective(model, la.huggingface(model), batches))
    shares = tokens.flatten().bincount().double() / tokens.numel()
    entropy = float(-(shares * shares.log()).sum())
    assert (level.constant, level.is_guessed) == (pytest.approx(entropy, rel=1e-4), False)


@pytest.mark.parametrize("is_last", [True, False], ids=["classes last", "classes first"])
def test_classes_of_tokens_are_found_on_either_axis(is_last):
    tokens = torch.randint(0, 5, (40, 7), generator=torch.Generator().manual_seed(0)).clamp(
        max=2
    )

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, x):
            return self.table(x) if is_last else self.table(x).mT

    def loss(model, batch):
        outputs = model(batch[0])
        outputs = outputs.mT if is_last else outputs
        return F.cross_entropy(outputs, batch[1], reduction="none").mean(1)

    model = Tokens()
    # The second batch has shorter rows.
    batches = [(tokens[:20], tokens[:20]), (tokens[20:, :6], tokens[20:, :6])]
    level = chance_level(la.Objective(model, loss, batches))
    shares = torch.stack(
        [
            torch.bincount(targets.flatten(), minlength=3).double() / targets.numel()
            for _, targets in batches
        ]
    ).mean(0)
    entropy = float(-(shares * shares.log()).sum())
    assert (level.constant, level.is_guessed) == (pytest.approx(entropy, rel=1e-3), False)
    with torch.no_grad():
        model.table.weight.copy_(shares.log().float().expand(5, 3))
    assert chance_level(la.Objective(model, loss, batches)).loss == pytest.approx(
        entropy, rel=1e-3
    )


def test_a_constant_is_not_fitted_to_few_examples_of_many_classes():
    level = chance_level(made(F.cross_entropy, 20, torch.arange(50) % 20))
    assert (level.constant, level.is_guessed) == (pytest.approx(math.log(20), rel=1e-5), True)
    assert "equal probabilities" in level.sentence
    # Means of many outputs are fitted one by one.
    targets = torch.randn(50, 20)
    level = chance_level(made(F.mse_loss, 20, targets))
    assert level.constant == pytest.approx(float(targets.var(0, correction=0).mean()), rel=1e-4)


def test_targets_that_are_all_alike_tell_nothing():
    assert chance_level(made(F.mse_loss, 2, torch.zeros(50, 2))) is None


def test_it_leaves_no_trace():
    torch.manual_seed(3)
    objective = made(F.cross_entropy, 3, torch.arange(50) % 3)
    weights = [p.clone() for p in objective.model.parameters()]
    state = torch.get_rng_state()
    chance_level(objective)
    assert torch.equal(torch.get_rng_state(), state)
    for before, after in zip(weights, objective.model.parameters(), strict=True):
        assert torch.equal(before, after)
        assert after.grad is None


@pytest.mark.parametrize(
    ("loss", "stderr", "is_at_chance"),
    [
        (2.4, 0.02, True),
        (2.3, 0.02, True),
        (2.0, 0.02, False),
        (2.2, 0.5, False),
        (0.1, 0.01, False),
    ],
)
def test_a_loss_below_equal_probabilities_is_no_chance(loss, stderr, is_at_chance):
    level = ChanceLevel(loss, stderr, 400, 2.303, is_guessed=True)
    assert level.is_at_chance is is_at_chance


def test_what_was_learned_is_seen_beside_a_large_constant():
    x = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(3, 1).double()
    data = [(x, model(x).detach())]

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean(1) + 1000

    assert not chance_level(la.Objective(model, loss, data)).is_at_chance
    noisy = [(x, model(x).detach() + 3 * torch.randn(200, 1, dtype=torch.float64))]
    assert not chance_level(la.Objective(model, loss, noisy)).is_at_chance
    fresh = nn.Linear(3, 1).double()
    assert chance_level(la.Objective(fresh, loss, data)).is_at_chance


def test_a_loss_that_is_not_finite_is_at_chance():
    assert ChanceLevel(math.nan, math.nan, 0, 2.3).is_at_chance


def test_classes_are_those_of_the_head():
    class Config:
        vocab_size, num_labels, problem_type = 50257, 3, None

    class GPT2LMHeadModel(nn.Module):
        config = Config()

    class BertForSequenceClassification(nn.Module):
        config = Config()

    assert guessed_classes(GPT2LMHeadModel()) == 50257
    assert guessed_classes(BertForSequenceClassification()) == 3
    assert guessed_classes(nn.DataParallel(GPT2LMHeadModel())) == 50257
    assert guessed_classes(nn.Linear(2, 2)) is None
    Config.problem_type = "regression"
    assert guessed_classes(BertForSequenceClassification()) is None
