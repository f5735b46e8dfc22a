"""The networks of the study: two data sets, five hyper-parameters, one rule of stopping."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.training import load_dataset
from lossatlas.training.networks import mlp

SHARED = Path(__file__).parents[4] / "shared" / "data"
GRID = {
    "width": (24, 48, 96),
    "depth": (1, 3),
    "lr": (0.005, 0.015, 0.05),
    "batch size": (16, 64),
    "weight decay": (0.0, 1e-3, 3e-3),
}
# Training ends at this loss over all examples, as in Jiang et al., or after so many epochs.
REACHED, EPOCHS = 0.02, 500
HELD_OUT = 100


@dataclass(frozen=True)
class Split:
    """Examples to train on, a few held out for a baseline, and those that are predicted."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Trained:
    """A network, where it began, and how its training went."""

    model: nn.Sequential
    start: dict[str, Tensor]
    epochs: int
    loss: float


def settings() -> list[dict[str, float]]:
    """Every combination of the five hyper-parameters."""
    return [
        dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())
    ]


def digits() -> Split:
    """scikit-learn's digits: 400 to train on, 1,297 to predict."""
    return _split(load_dataset("digits", normalize="standardized"), 400)


def mnist() -> Split:
    """MNIST at 14 x 14 pixels: 500 to train on, 5,000 to predict."""
    path = f"parquet:{SHARED / 'mnist' / 'train.parquet'}"
    data = load_dataset(path, examples=5600, normalize="standardized")
    return _split(data, 500)


DATA = {"digits": digits, "mnist": mnist}


def _split(data, count: int) -> Split:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    inputs = data.inputs[order]
    inputs = (F.avg_pool2d(inputs, 2) if inputs.shape[-1] > 16 else inputs).flatten(1)
    targets = data.targets[order]
    cuts = (slice(0, count), slice(count, count + HELD_OUT), slice(count + HELD_OUT, None))
    return Split(*((inputs[cut].clone(), targets[cut].clone()) for cut in cuts))


def train(data: Split, setting: dict[str, float], seed: int) -> Trained:
    """SGD with momentum until the training loss is low enough."""
    inputs, targets = data.train
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = [int(setting["width"])] * int(setting["depth"])
        model = mlp(*hidden, features=inputs.shape[1], outputs=10)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=setting["lr"],
        momentum=0.9,
        weight_decay=setting["weight decay"],
        foreach=True,
    )
    drawn = torch.Generator().manual_seed(seed)
    epochs, loss = 0, float("inf")
    while loss > REACHED and epochs < EPOCHS:
        order = torch.randperm(len(inputs), generator=drawn)
        for rows in order.split(int(setting["batch size"])):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(F.cross_entropy(model(inputs), targets))
        epochs += 1
    return Trained(model, start, epochs, loss)
