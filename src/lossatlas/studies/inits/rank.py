"""Rank candidates of one's own: a short training of all, checked by long ones of a few."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError, DataError
from lossatlas.objective.batches import batch_size as size_of
from lossatlas.rng import derive_seed
from lossatlas.studies.inits.calibration import Calibration, trust
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.label import label
from lossatlas.studies.inits.problem import Problem, load_subject
from lossatlas.studies.inits.ranking import Ranking
from lossatlas.studies.inits.records import Labels
from lossatlas.studies.inits.schemes import OWN
from lossatlas.studies.inits.settings import InitsSettings

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[str], object]
# Candidates below which nothing can be said, and those trained to the end as a check.
FEWEST, CHECKED = 8, 8
ORDERS = 2


def rank(
    settings: InitsSettings,
    candidates: int = 32,
    *,
    subject: Problem | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank initializations of one network by what a short training shows.

    All candidates are trained for the first of `label.budgets` in two data orders; eight spread
    over the order, the first among them, are trained for the last budget, and say how far the
    short training foretells the long one. What is done is kept below `out`/rank.

    Args:
        settings: of the study. The candidates are seeds of the model's own initialization;
            where `label.schemes` is set they are drawn from these schemes at scale 1.
        candidates: how many, at least 8.
        subject: network and data; loaded by default.
        progress: called with a line now and then.

    Returns:
        The ranking, its expected regret, and what successive halving takes at no greater cost.

    Raises:
        ArgumentError: fewer than 8 candidates, or one budget only.
        ModelError: a network without supported layers (schemes only).
        DataError: all candidates diverged.
    """
    check_at_least("candidates", candidates, FEWEST)
    if len(settings.label.budgets) < 2:
        raise ArgumentError(
            "a ranking needs two budgets, a short and a long one; got "
            f"{list(settings.label.budgets)}: set label.budgets, as in [1, 25]."
        )
    known = subject or load_subject(settings)
    run = _Run(settings, known, _recipes(settings, candidates), progress)
    short, noise = run.short()
    order = np.argsort(np.where(np.isfinite(short), short, np.inf), kind="stable")
    count = int(np.isfinite(short).sum())
    ranks = np.unique(np.linspace(0, count - 1, min(CHECKED, count)).round().astype(np.int64))
    truth = run.long(order[ranks])
    found = _calibrated(short[order], ranks, truth, settings.seed)
    halved = run.halving(order)
    place = int(np.flatnonzero(order == halved[0])[0])
    budgets = settings.label.budgets
    return Ranking(
        candidates=tuple(run.candidates[k] for k in order),
        short=short[order],
        noise=noise[order],
        epochs=(budgets[0], budgets[-1]),
        checked=ranks,
        truth=truth,
        halving=(place, halved[1]),
        first=float(truth[0]),
        cost=run.epochs(candidates * ORDERS * budgets[0] + len(ranks) * budgets[-1]),
        title=f"{candidates} initializations of {settings.model} on {settings.data}",
        **found,
    )


def _recipes(settings: InitsSettings, count: int) -> tuple[Candidate, ...]:
    given = settings.label.schemes or (OWN,)
    return tuple(
        Candidate(given[k % len(given)], 1.0, derive_seed(settings.seed, "rank", k) % 2**31)
        for k in range(count)
    )


@dataclass(frozen=True, eq=False)
class _Run:
    settings: InitsSettings
    subject: Problem
    candidates: tuple[Candidate, ...]
    progress: Progress | None

    def short(self) -> tuple[Array, Array]:
        labels = self._labels("short", range(len(self.candidates)), 0, ORDERS)
        losses = labels.of(labels.budgets[0])
        if not np.isfinite(losses).all(axis=1).any():
            raise DataError(
                f"all {len(losses)} candidates diverged; train with a smaller rate "
                "(--set label.lr=...)."
            )
        return losses.mean(1), losses.std(1, ddof=1) / np.sqrt(ORDERS)

    def long(self, rows: Sequence[int] | Ints) -> Array:
        labels = self._labels("long", rows, -1, 1)
        return np.asarray(labels.of(labels.budgets[0])[:, 0])

    def halving(self, order: Ints) -> tuple[int, float]:
        # The first rung is the short training that is there already.
        budgets, left = self.settings.label.budgets, order
        for rung in range(1, len(budgets)):
            keep = max(round(len(order) / 4**rung), 1)
            labels = self._labels(f"rung {rung}", left[:keep], rung, 1)
            losses = labels.of(labels.budgets[0])[:, 0]
            best = np.argsort(np.where(np.isfinite(losses), losses, np.inf), kind="stable")
            left, least = left[:keep][best], float(losses[best[0]])
        return int(left[0]), least

    def epochs(self, count: float) -> float:
        return 3.0 * count * len(self.subject.train) / size_of(self.subject.probe)

    def _labels(self, name: str, rows: Any, budget: int, orders: int) -> Labels:
        plan = self.settings.label
        part = plan.model_copy(update={"budgets": (plan.budgets[budget],), "orders": orders})
        folder = self.settings.out / "rank" / name.replace(" ", "-")
        settings = self.settings.model_copy(update={"label": part, "out": folder})
        chosen = [self.candidates[int(row)] for row in rows]
        return label(settings, self.subject, chosen, progress=self.progress)


def _calibrated(short: Array, ranks: Ints, truth: Array, seed: int) -> dict[str, Any]:
    finite, known = np.isfinite(truth), np.isfinite(short)
    line = Calibration.fit(short[ranks][finite], truth[finite])
    expected, lower, upper = line.predict(short)
    measured = np.full(len(short), np.nan)
    # A candidate that diverged in the long training is worse than every other.
    measured[ranks] = np.where(finite, truth, np.inf)
    simulated = line.simulate(short[known], measured[known], seed)
    return {
        "expected": expected,
        "lower": lower,
        "upper": upper,
        **vars(trust(short[known], simulated)),
    }
