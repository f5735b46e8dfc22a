"""Objectives of other shapes than (input, target) go through every instrument."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.surveys import INSTRUMENTS
from reference.curvature_cases import classes, initialised, normal

QUICK = {"points": 3, "span": 0.5, "instruments": "all", "lr": 0.1}


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 4)
        self.decode = nn.Linear(2, 6)

    def forward(self, x, eps):
        mean, log_var = self.encode(x).chunk(2, dim=1)
        return self.decode(mean + eps * (log_var / 2).exp()), mean, log_var


def vae_loss(model, batch):
    x, eps = batch
    out, mean, log_var = model(x, eps)
    divergence = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
    return (out - x).square().sum(1) + divergence


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x, adjacency):
        return self.head(adjacency @ torch.tanh(self.first(adjacency @ x)))


def graph_loss(model, batch):
    x, adjacency, targets, mask = batch
    return F.cross_entropy(model(x, adjacency)[mask], targets[mask])


def vae():
    batches = [(normal(n, 6, seed=n), normal(n, 2, seed=n + 1)) for n in (40, 24)]
    return la.Objective(initialised(Autoencoder()), vae_loss, batches)


def graph():
    adjacency = (normal(30, 30) > 1).double() + torch.eye(30)
    adjacency = adjacency / adjacency.sum(1, keepdim=True)
    batch = (normal(30, 5), adjacency, classes(30, 3), torch.arange(30) % 2 == 0)
    return la.Objective(initialised(Graph()), graph_loss, [batch])


def mapping():
    model = initialised(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    batches = [{"input": normal(n, 4, seed=n), "label": classes(n, 3)} for n in (40, 24)]

    def loss(model, batch):
        return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")

    return la.Objective(model, loss, batches)


def contrastive():
    # The loss of a pair depends on all others of its batch.
    model = initialised(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)))

    def loss(model, batch):
        first, second = (F.normalize(model(x), dim=1) for x in batch)
        return F.cross_entropy(first @ second.T / 0.5, torch.arange(len(first)))

    views = normal(32, 6)
    return la.Objective(model, loss, [(views, views + 0.3 * normal(32, 6, seed=1))])


OBJECTIVES = {"vae": vae, "graph": graph, "mapping": mapping, "contrastive": contrastive}
# What cannot be served, and a piece of the reason. Everything else has a result.
REASONS = {
    "vae": {
        "classes": "one whole number an example",
        "spikes": "no list of blocks",
        "plasticity": "",
        "collapse": "class index",
        "similarity": "two checkpoints",
        "interference": "two checkpoints",
    },
    "graph": {},
    "mapping": {},
    "contrastive": {},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_instrument_serves_it_or_says_why(name):
    found = la.survey(OBJECTIVES[name](), **QUICK)
    assert list(found.findings) == [tool.name for tool in INSTRUMENTS]
    for k, f in found.findings.items():
        print(k, list(f.results), dict(f.missing))
