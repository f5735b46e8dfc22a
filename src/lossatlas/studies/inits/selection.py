"""Choosing one of many: the regret of every predictor, and of training the candidates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.studies.inits.records import Labels
from lossatlas.studies.inits.scores import interval, random_source

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
GROUP, DRAWS, RESAMPLES, EACH = 32, 2000, 300, 20


@dataclass(frozen=True, eq=False)
class Draws:
    """Groups of candidates to choose from: of the candidates, and of bootstrap samples of them.

    Attributes:
        groups: indices, shape (draws, group).
        again: indices, shape (resamples, draws of each, group).
    """

    groups: Ints
    again: Ints

    @classmethod
    def make(cls, blocks: Ints, group: int = GROUP, seed: int = 0) -> "Draws":
        """Draw groups, each out of one block."""
        source = random_source("groups", seed)
        members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
        size = min(group, *(len(m) for m in members))
        share = np.array([len(m) for m in members]) / len(blocks)
        chosen = source.choice(len(members), size=DRAWS, p=share)
        groups = np.array([source.permutation(members[k])[:size] for k in chosen])
        # A bootstrap sample of each block, and groups out of it.
        again = np.empty((RESAMPLES, EACH, size), dtype=np.int64)
        for row in again:
            sample = [m[source.integers(len(m), size=len(m))] for m in members]
            for place, k in enumerate(source.choice(len(members), size=EACH, p=share)):
                row[place] = sample[k][source.integers(len(sample[k]), size=size)]
        return cls(groups, again)

    def regret(self, quality: Array, score: Array, top: int = 1) -> tuple[float, float, float]:
        """What is lost by choosing by a score."""
        worst = quality[np.isfinite(quality)].max()
        losses = np.where(np.isfinite(quality), quality, worst)
        value = _lost(losses, score, self.groups, top).mean()
        spread = _lost(losses, score, self.again, top).mean(-1)
        return (float(value), *interval(spread))


def _lost(losses: Array, score: Array, groups: Ints, top: int) -> Array:
    ranked = np.where(np.isnan(score), np.inf, score)[groups]
    first = np.argpartition(ranked, top - 1, axis=-1)[..., :top] if top > 1 else None
    order = ranked.argmin(-1)[..., None] if first is None else first
    found = losses[groups]
    best = np.take_along_axis(found, order, -1).min(-1)
    return np.asarray(best - found.min(-1))


@dataclass(frozen=True)
class Plan:
    """One way of successive halving: how many are trained how long.

    Attributes:
        name: as in "halving: 32 x 1, 6 x 5 epochs".
        rungs: (candidates, position of the budget) of each.
        epochs: candidate-epochs of the whole group.
    """

    name: str
    rungs: tuple[tuple[int, int], ...]
    epochs: float


def halving_plans(budgets: Sequence[int], group: int, *, fresh: bool) -> tuple[Plan, ...]:
    """Plans of growing cost: all trained for one budget, and thinned out over several."""
    plans = []
    for rungs in range(1, len(budgets) + 1):
        keep = [max(math.ceil(group ** (1 - k / rungs) - 1e-9), 1) for k in range(rungs)]
        plans.append(tuple(zip(keep, range(rungs), strict=True)))
    plans += [((group, position),) for position in range(1, len(budgets))]
    return tuple(
        Plan(_plan_name(plan, budgets), plan, _epochs(plan, budgets, fresh=fresh))
        for plan in plans
    )


def _plan_name(plan: Sequence[tuple[int, int]], budgets: Sequence[int]) -> str:
    parts = ", ".join(f"{count} x {budgets[position]}" for count, position in plan)
    return f"train {parts} epochs" if len(plan) == 1 else f"halving {parts} epochs"


def _epochs(plan: Sequence[tuple[int, int]], budgets: Sequence[int], *, fresh: bool) -> float:
    spent, before = 0.0, 0
    for count, position in plan:
        spent += count * (budgets[position] - (0 if fresh else before))
        before = budgets[position]
    return spent


def halving_regret(
    labels: Labels, plan: Plan, quality: Array, draws: Draws
) -> tuple[float, float, float]:
    """The regret of successive halving on recorded trainings."""
    worst = quality[np.isfinite(quality)].max()
    losses = np.where(np.isfinite(quality), quality, worst)
    rungs = [
        np.nan_to_num(labels.of(labels.budgets[position], "train loss")[:, 0], nan=np.inf)
        for _, position in plan.rungs
    ]
    keeps = [*(count for count, _ in plan.rungs[1:]), 1]

    def lost(groups: Ints) -> Array:
        left = groups
        for rung, keep in zip(rungs, keeps, strict=True):
            order = np.argsort(rung[left], axis=-1, kind="stable")[..., :keep]
            left = np.take_along_axis(left, order, -1)
        return np.asarray(losses[left[..., 0]] - losses[groups].min(-1))

    return (float(lost(draws.groups).mean()), *interval(lost(draws.again).mean(-1)))
