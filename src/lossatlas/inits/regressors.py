"""From features to quality: ridge, boosted trees, and the network of the published study."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.inits.scores import random_source
from lossatlas.rng import derive_seed
from lossatlas.training.seeding import seeded

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
# (training features, training targets, features to predict, seed) -> predictions.
Regressor = Callable[[Array, Array, Array, int], Array]
PENALTIES = np.logspace(-2, 4, 13)
TREES, INNER = (25, 50, 100), 3


@dataclass(frozen=True, eq=False)
class Scaler:
    """Brings each feature to normal scores; what it knows is of the training rows alone.

    Attributes:
        medians: what stands for a missing number, shape (features,).
        known: training values, sorted in each column, shape (rows, features).
        scores: their normal scores; equal values have equal ones, a constant column zeros.
    """

    medians: Array
    known: Array
    scores: Array

    @classmethod
    def fit(cls, train: Array) -> "Scaler":
        """Learn ranks."""
        hidden = np.ma.masked_invalid(train)
        medians = np.ma.filled(np.ma.median(hidden, axis=0), 0.0)  # type: ignore[no-untyped-call]
        known = np.sort(_filled(train, medians), axis=0)
        ranks = stats.rankdata(known, axis=0)
        return cls(medians, known, stats.norm.ppf((ranks - 0.5) / len(known)))

    def apply(self, rows: Array) -> Array:
        """The features of any rows on the scale of the training rows."""
        filled = _filled(rows, self.medians)
        columns = zip(filled.T, self.known.T, self.scores.T, strict=True)
        scaled = [np.interp(column, known, scores) for column, known, scores in columns]
        return np.stack(scaled, axis=1) if scaled else filled


def _filled(rows: Array, medians: Array) -> Array:
    return np.asarray(np.where(np.isfinite(rows), rows, medians))


def ridge(train: Array, targets: Array, rows: Array, seed: int = 0) -> Array:
    """Ridge regression; the penalty is chosen on the training rows."""
    y = targets if targets.ndim > 1 else targets[:, None]
    offset, middle = y.mean(0), train.mean(0)
    left, singular, right = np.linalg.svd(train - middle, full_matrices=False)
    inside = left.T @ (y - offset)
    shrink = singular**2 / (singular**2 + PENALTIES[:, None])
    count = len(train)
    rest = ((y - offset) ** 2).sum(0) - (2 * shrink - shrink**2) @ inside**2
    freedom = np.maximum(1 - (shrink.sum(1) + 1) / count, 1e-9)[:, None]
    best = (rest / freedom**2).argmin(0)
    safe = np.where(singular > 0, singular, 1.0)
    weights = right.T @ ((shrink[best] / safe).T * inside)
    predicted = offset + (rows - middle) @ weights
    return np.asarray(predicted if targets.ndim > 1 else predicted[:, 0])


def boosted(train: Array, targets: Array, rows: Array, seed: int = 0) -> Array:
    """Gradient boosting; the number of trees is chosen on the training rows."""
    errors = np.zeros(len(TREES))
    for inside, outside in _inner_folds(len(train), seed):
        model = _trees(TREES[-1], seed).fit(train[inside], targets[inside])
        stages = list(model.staged_predict(train[outside]))
        errors += [((stages[n - 1] - targets[outside]) ** 2).sum() for n in TREES]
    best = TREES[int(errors.argmin())]
    return np.asarray(_trees(best, seed).fit(train, targets).predict(rows))


def _trees(count: int, seed: int) -> "GradientBoostingRegressor":  # type: ignore[name-defined] # noqa: F821
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(
        n_estimators=count,
        max_depth=2,
        learning_rate=0.08,
        subsample=0.7,
        max_features="sqrt",
        random_state=derive_seed("inits trees", seed) % 2**32,
    )


def _inner_folds(count: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    which = random_source("inner folds", seed).permutation(count) % INNER
    for fold in range(INNER):
        yield np.flatnonzero(which != fold), np.flatnonzero(which == fold)


def network(
    train: Array, targets: Array, rows: Array, seed: int = 0, *, epochs: int = 150
) -> Array:
    """The network of the published study; its epoch is chosen on part of the training rows."""
    order = random_source("network", seed).permutation(len(train))
    kept, fitted = np.split(order, [max(len(train) // 5, 1)])
    offset, scale = targets[fitted].mean(), targets[fitted].std() or 1.0
    x, held, tested = (torch.from_numpy(a).float() for a in (train[fitted], train[kept], rows))
    y, aim = (
        torch.from_numpy((targets[part] - offset) / scale).float() for part in (fitted, kept)
    )
    with seeded(seed, "inits network"):
        best = _best_epoch(x, y, held, aim, tested, epochs=epochs)
    return np.asarray(best.double().numpy() * scale + offset)


def _best_epoch(
    x: Tensor, y: Tensor, held: Tensor, aim: Tensor, tested: Tensor, *, epochs: int
) -> Tensor:
    model = _published(x.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    lowest, best = float("inf"), torch.zeros(len(tested))
    for _ in range(epochs):
        model.train()
        for part in torch.split(torch.randperm(len(x)), 32):
            if len(part) > 1:  # BatchNorm cannot see a single row
                optimizer.zero_grad()
                torch.autograd.backward(F.mse_loss(model(x[part])[:, 0], y[part]))
                optimizer.step()
        model.eval()
        with torch.no_grad():
            error = float((model(held)[:, 0] - aim).abs().mean())
            if error < lowest:
                lowest, best = error, model(tested)[:, 0]
    return best


def _published(features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((features, 128), (128, 64), (64, 32)):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(32, 1))


REGRESSORS: dict[str, Regressor] = {"ridge": ridge, "boosted": boosted, "network": network}
