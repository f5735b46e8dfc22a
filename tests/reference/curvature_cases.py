"""Small float64 networks of every kind that curvature instruments meet."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.rng import generator


def initialized(model, seed=0):
    """The model in float64 with weights from a generator of one's own."""
    drawn = generator(seed, "weights")
    model = model.double()
    with torch.no_grad():
        for value in model.parameters():
            scale = 0.5 if value.ndim < 2 else value[0].numel() ** -0.5
            value.copy_(scale * torch.randn(value.shape, generator=drawn, dtype=value.dtype))
    return model


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "data"), dtype=torch.float64)


def classes(count, number, seed=0):
    return torch.randint(0, number, (count,), generator=generator(seed, "labels"))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embed(tokens)))).movedim(-1, 1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (2, 6)).movedim(-2, 1).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.head(seen.movedim(1, -2).flatten(-2).mean(1))


def mlp(inputs=4, hidden=5, outputs=3, activation=nn.Tanh):
    return initialized(
        nn.Sequential(nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, outputs))
    )


def stepped(make, steps=20):
    """An MLP and its optimizer after some steps."""
    model = mlp()
    objective = la.Objective(
        model, la.supervised(F.cross_entropy), [(normal(20, 4), classes(20, 3))]
    )
    optimizer = make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss(model, objective.batches[0]).backward()
        optimizer.step()
    return objective, optimizer


def convolution():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    )
    model = initialized(model)
    model[1].running_mean.copy_(normal(2, seed=3))
    return model


@dataclass(frozen=True)
class Case:
    name: str
    objective: la.Objective
    criterion: object


def _case(name, model, criterion, batches, **options):
    return Case(
        name, la.Objective(model, la.supervised(criterion), batches, **options), criterion
    )


def cases():
    frozen = mlp()
    frozen[0].weight.requires_grad_(False)
    tokens = torch.randint(0, 5, (4, 3), generator=generator(0, "tokens"))
    two = [(normal(5, 4), classes(5, 3)), (normal(2, 4, seed=1), classes(2, 3, seed=1))]
    return [
        _case("mlp", mlp(), F.cross_entropy, [(normal(6, 4), classes(6, 3))]),
        _case("two batches", mlp(activation=nn.GELU), nn.CrossEntropyLoss(), two),
        _case("squared error", mlp(), F.mse_loss, [(normal(6, 4), normal(6, 3, seed=2))]),
        _case(
            "binary",
            mlp(),
            F.binary_cross_entropy_with_logits,
            [(normal(6, 4), (normal(6, 3, seed=2) > 0).double())],
        ),
        _case("frozen layer", frozen, F.cross_entropy, [(normal(6, 4), classes(6, 3))]),
        _case(
            "convolution", convolution(), F.cross_entropy, [(normal(4, 1, 4, 4), classes(4, 2))]
        ),
        _case(
            "batch statistics",
            convolution(),
            F.cross_entropy,
            [(normal(4, 1, 4, 4), classes(4, 2))],
            mode="train",
        ),
        _case("tied", initialized(Tied()), F.cross_entropy, [(tokens, tokens.roll(1, 1))]),
        _case(
            "attention",
            initialized(Attention()),
            F.cross_entropy,
            [(normal(3, 4, 4), classes(3, 3))],
        ),
    ]
