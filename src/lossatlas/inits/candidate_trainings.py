"""Trainings of candidates: all for a short time, some for long, and successive halving."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import DataError
from lossatlas.executor import Progress
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.labels import Labels, label
from lossatlas.inits.problem import Problem
from lossatlas.inits.settings import InitsSettings
from lossatlas.objective.batches import batch_size as size_of

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
ORDERS = 2


class Halving(NamedTuple):
    """What successive halving leaves.

    Attributes:
        finalists: candidates that it trains to the end, the best first.
        losses: their losses.
        epochs: of all its trainings but the first, short one.
    """

    finalists: Ints
    losses: Array
    epochs: float


@dataclass(frozen=True, eq=False)
class CandidateTrainings:
    """Short, long and halved trainings of the candidates of one ranking.

    Attributes:
        settings: of the study.
        problem: network and data.
        candidates: what is trained.
        progress: called with (done, total, label) now and then.
    """

    settings: InitsSettings
    problem: Problem
    candidates: tuple[Candidate, ...]
    progress: Progress | None

    def short(self) -> tuple[Array, Array]:
        """Mean losses after the shortest budget, and their standard errors over the orders."""
        labels = self._labels("short", range(len(self.candidates)), 0, ORDERS)
        losses = labels.of(labels.budgets[0])
        if not np.isfinite(losses).all(axis=1).any():
            raise DataError(
                f"all {len(losses)} candidates diverged; train with a smaller rate "
                "(--set label.lr=...)."
            )
        return losses.mean(1), losses.std(1, ddof=1) / np.sqrt(ORDERS)

    def long(self, rows: Sequence[int] | Ints) -> Array:
        """Losses of some candidates after the longest budget, in one order."""
        labels = self._labels("long", rows, -1, 1)
        return np.asarray(labels.of(labels.budgets[0])[:, 0])

    def halving(self, order: Ints) -> Halving:
        """Train ever fewer of the candidates for ever longer, the best of the short first."""
        # The first rung is the short training that is there already.
        budgets, left, losses, spent = self.settings.label.budgets, order, np.empty(0), 0
        for rung in range(1, len(budgets)):
            left = left[: max(round(len(order) / 4**rung), 1)]
            labels = self._labels(f"rung {rung}", left, rung, 1)
            losses = labels.of(labels.budgets[0])[:, 0]
            spent += len(left) * budgets[rung]
            best = np.argsort(np.where(np.isfinite(losses), losses, np.inf), kind="stable")
            left, losses = left[best], losses[best]
        return Halving(left, losses, spent)

    def passes(self, count: float) -> float:
        """Forward passes over the probe that so many epochs of training cost."""
        return 3.0 * count * len(self.problem.train) / size_of(self.problem.probe)

    def _labels(self, name: str, rows: Any, budget: int, orders: int) -> Labels:
        plan = self.settings.label
        part = plan.model_copy(update={"budgets": (plan.budgets[budget],), "orders": orders})
        folder = self.settings.out / "rank" / name.replace(" ", "-")
        settings = self.settings.model_copy(update={"label": part, "out": folder})
        chosen = [self.candidates[int(row)] for row in rows]
        return label(settings, self.problem, chosen, progress=self.progress)
