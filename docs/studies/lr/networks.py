"""Networks of the study that have no name in `build_model`."""

import torch
from torch import Tensor, nn


class CharLSTM(nn.Module):
    """One layer of 64 units over embedded characters."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 32)
        self.lstm, self.out = nn.LSTM(32, 64, batch_first=True), nn.Linear(64, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(x))[0])


class Factors(nn.Module):
    """A matrix of ratings as a product of factors of rank 4."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(100, 4), nn.Embedding(60, 4)

    def forward(self, places: Tensor) -> Tensor:
        row, column = self.rows(places[:, 0]), self.columns(places[:, 1])
        return torch.linalg.vecdot(row, column)[:, None]


def normalized_mlp(features: int, outputs: int) -> nn.Module:
    """Two hidden layers with BatchNorm."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, outputs),
    )  # fmt: skip


def softmax_regression(features: int, outputs: int) -> nn.Module:
    """No hidden layer: the loss is convex."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, outputs))
