"""The models that every instrument must serve, each with a loss and batches."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la


@dataclass(frozen=True)
class Case:
    name: str
    model: nn.Module
    loss: object
    batches: list

    def objective(self, **options) -> la.Objective:
        return la.Objective(self.model, self.loss, self.batches, **options)


def _seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def mlp() -> Case:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.randn(n, 3, 4), torch.randint(0, 3, (n,))) for n in (6, 4)]
    return Case("mlp", model, la.supervised(F.cross_entropy), batches)


class _ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = x + F.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


def conv_bn() -> Case:
    batches = [(torch.randn(n, 2, 6, 6), torch.randint(0, 3, (n,))) for n in (5, 3)]
    model = _ConvNet()
    # A submodule in another mode than its parent must stay so.
    model.train()
    model.norm2.eval()
    return Case("conv_bn", model, la.supervised(nn.CrossEntropyLoss()), batches)


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embed(tokens))))


def tied() -> Case:
    def loss(model, batch):
        logits = model(batch["tokens"])
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    batches = [
        {"tokens": torch.randint(0, 7, (3, 5)), "labels": torch.randint(0, 7, (3, 5))}
        for _ in range(3)
    ]
    return Case("tied", _Tied(), loss, batches)


def frozen() -> Case:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
    model[0].requires_grad_(False)
    batches = [(torch.randn(8, 5), torch.randn(8, 1))]
    return Case("frozen", model, la.supervised(F.mse_loss), batches)


def dropout() -> Case:
    model = nn.Sequential(
        nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )
    batches = [(torch.randn(6, 5), torch.randint(0, 2, (6,))) for _ in range(2)]
    return Case("dropout", model, la.supervised(F.cross_entropy), batches)


def transformer() -> Case:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
    model = nn.Sequential(block, nn.Linear(8, 4))

    def loss(model, batch):
        # One number an example, and one that goes below zero.
        return (model(batch[0]) - batch[1]).square().mean((1, 2)) - 2.0

    batches = [(torch.randn(n, 5, 8), torch.randn(n, 5, 4)) for n in (4, 3)]
    return Case("transformer", model, loss, batches)


BUILDERS = (mlp, conv_bn, tied, frozen, dropout, transformer)


def make(builder) -> Case:
    return _seeded(builder)
