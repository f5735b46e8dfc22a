"""Who predicts whom: splits, and predictions of rows that no part of the fit has seen."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import DataError
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.regressors import Regressor, Scaler
from lossatlas.inits.scores import random_source
from lossatlas.rng import derive_seed

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
# Rows that a fold must hold, and members that make a cell of equal scheme and scale.
SMALLEST_FOLD, SMALLEST_CELL = 4, 8
SPLITS = ("pooled", "leave-scheme-out", "scale-matched")


@dataclass(frozen=True, eq=False)
class Split:
    """One question: who is predicted from whom, and what is compared with what.

    Attributes:
        name: one of `SPLITS`.
        fold: of each candidate, shape (candidates,); -1 for those that take no part.
        blocks: candidates that are compared: all, a scheme, a cell of equal scheme and scale.
        centered: features and labels are taken relative to the means of the block's training
            rows, so that only what varies within a block can be predicted.
    """

    name: str
    fold: Ints
    blocks: Ints
    centered: bool = False

    @property
    def ranked(self) -> Ints:
        """Blocks within folds, shape (candidates,): where the order of predictions counts."""
        return np.asarray(self.blocks * (self.fold.max() + 1) + self.fold)

    @property
    def taking(self) -> NDArray[np.bool_]:
        """Who takes part, bool, shape (candidates,)."""
        return np.asarray(self.fold >= 0)


def make_splits(
    candidates: Sequence[Candidate], folds: int = 5, seed: int = 0
) -> tuple[Split, ...]:
    """The splits that these candidates allow."""
    if len(candidates) < SMALLEST_FOLD * folds:
        raise DataError(
            f"{folds} folds need at least {SMALLEST_FOLD * folds} candidates whose training "
            f"stayed finite; got {len(candidates)}: label more, or ask for fewer folds."
        )
    recipe = _numbers(candidates)
    distinct = int(recipe.max()) + 1
    if distinct < folds:
        raise DataError(
            f"{folds} folds need {folds} different recipes; got {distinct} among "
            f"{len(candidates)} candidates: label more, or ask for fewer folds."
        )
    scheme = _numbers([candidate.scheme for candidate in candidates])
    cell = _numbers([(c.scheme, c.scale) for c in candidates])
    everyone = np.zeros(len(candidates), dtype=np.int64)
    splits = [Split("pooled", _dealt(scheme, recipe, folds, seed), everyone)]
    if len(np.unique(scheme)) > 1:
        splits.append(Split("leave-scheme-out", scheme, scheme))
    first = np.unique(recipe, return_index=True)[1]
    members = np.bincount(cell[first], minlength=int(cell.max()) + 1)[cell]
    large = members >= SMALLEST_CELL
    if large.any():
        # An order of two or three says next to nothing.
        fewer = min(folds, int(members[large].min()) // SMALLEST_FOLD)
        fold = np.where(large, _dealt(cell, recipe, fewer, seed), -1)
        splits.append(Split("scale-matched", fold, cell, centered=True))
    return tuple(splits)


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold, its features scaled by what the training rows know.

    Attributes:
        train: training rows.
        test: rows to predict.
        inside: their features, shape (training rows, features).
        outside: those of the rows to predict.
        blocks: of the training rows and of the rows to predict, where labels are to be taken
            relative to the block; else None.
    """

    train: Ints
    test: Ints
    inside: Array
    outside: Array
    blocks: tuple[Ints, Ints] | None


def make_folds(features: Array, split: Split) -> list[Fold]:
    """Scale the features anew for every fold."""
    folds = []
    for fold in np.unique(split.fold[split.taking]):
        train = np.flatnonzero(split.taking & (split.fold != fold))
        test = np.flatnonzero(split.fold == fold)
        scaler = Scaler.fit(features[train])
        inside, outside = (scaler.apply(features[rows]) for rows in (train, test))
        blocks = None
        if split.centered:
            blocks = split.blocks[train], split.blocks[test]
            inside, outside = _relative(inside, outside, blocks)
        folds.append(Fold(train, test, inside, outside, blocks))
    return folds


def predict(
    regressor: Regressor,
    folds: Sequence[Fold],
    columns: Sequence[int],
    labels: Array,
    seed: int = 0,
) -> Array:
    """Predict every row from the other folds; selection happens inside the regressor."""
    predicted = np.full(labels.shape, np.nan)
    for number, fold in enumerate(folds):
        targets = labels[fold.train]
        if fold.blocks is not None:
            targets, _ = _relative(targets, labels[fold.test], fold.blocks)
        if not len(columns):
            # Nothing is known: all that can be said is the mean.
            predicted[fold.test] = targets.mean(0)
            continue
        inside, outside = fold.inside[:, columns], fold.outside[:, columns]
        predicted[fold.test] = regressor(inside, targets, outside, derive_seed(seed, number))
    return predicted


def out_of_fold(
    regressor: Regressor, features: Array, labels: Array, split: Split, seed: int = 0
) -> Array:
    """Predict every row from the other folds, with all of some features."""
    return predict(
        regressor, make_folds(features, split), range(features.shape[1]), labels, seed
    )


def _relative(train: Array, test: Array, blocks: tuple[Ints, Ints]) -> tuple[Array, Array]:
    # Only means of training rows are taken off, from both.
    train, test = train.copy(), test.copy()
    for block in np.unique(blocks[1]):
        mean = train[blocks[0] == block].mean(0)
        test[blocks[1] == block] -= mean
    for block in np.unique(blocks[0]):
        train[blocks[0] == block] -= train[blocks[0] == block].mean(0)
    return train, test


def _dealt(groups: Ints, recipes: Ints, folds: int, seed: int) -> Ints:
    # Like cards: every group is spread over all folds, and folds differ by one recipe at most.
    source = random_source("folds", seed)
    first = groups[np.unique(recipes, return_index=True)[1]]
    order = np.concatenate(
        [source.permutation(np.flatnonzero(first == group)) for group in np.unique(first)]
    )
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % folds
    return fold[recipes]


def _numbers(keys: Sequence[Hashable]) -> Ints:
    known = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([known[key] for key in keys], dtype=np.int64)
