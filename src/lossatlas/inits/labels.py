"""Stage 3: what becomes of each initialization. Every label is a training of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from lossatlas import io
from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError, DataError
from lossatlas.executor import Executor, Progress
from lossatlas.executor.executors import ExecutorName
from lossatlas.inits.candidates import Candidate, check_schemes
from lossatlas.inits.paths import ledger_of, provenance, run_stage_tasks
from lossatlas.inits.problem import Problem
from lossatlas.inits.scores import interval_estimate, mean_estimate, scheme_figure
from lossatlas.inits.settings import SCHEMES, InitsSettings, LabelSettings
from lossatlas.io import remove_ledger
from lossatlas.linalg.params import Params
from lossatlas.result import Estimate, Figure, Reference, Result, result, rows_figure
from lossatlas.rng import derive_seed, generator
from lossatlas.text import count as counted
from lossatlas.text import number, percent
from lossatlas.training import EnsembleRun, evaluate_ensemble, train_ensemble

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
MEASURES = ("train loss", "test loss", "train accuracy", "test accuracy")
_ICC = Reference(
    "reliability of labels",
    "Shrout and Fleiss, Intraclass correlations, Psychological Bulletin 86 (1979) 420.",
    "https://doi.org/10.1037/0033-2909.86.2.420",
)


@result("inits-reliability", references=(_ICC,))
class Reliability(Result):
    """The intraclass correlation of labels, and what it leaves to be predicted.

    Attributes:
        single: share of the variance of one training that is the candidates' own, ICC(1,1).
        mean: the same for the mean over the orders, ICC(1,k).
        lower: lower end of the 95 % interval of `mean`; it may be below zero.
        upper: its upper end.
        candidates: how many.
        orders: how many.
    """

    single: float
    mean: float
    lower: float
    upper: float
    candidates: int
    orders: int

    @property
    def ceiling(self) -> float:
        """The highest correlation that a perfect predictor can reach: sqrt(max(mean, 0))."""
        return float(np.sqrt(max(self.mean, 0.0)))

    def estimates(self) -> tuple[Estimate, ...]:
        """The reliability, that of a single training, and the noise ceiling."""
        whole = (self.mean, self.lower, self.upper)
        why = "a function of the reliability"
        return (
            interval_estimate("reliability", whole, self.candidates),
            Estimate(self.single, why_no_error=why, name="reliability of one training"),
            Estimate(self.ceiling, why_no_error=why, name="noise ceiling"),
        )

    def figures(self) -> tuple[Figure, ...]:
        """The reliability of the mean over the orders, beside that of one training."""
        caption = "The share of the variance of the labels that the candidates themselves make."
        return (rows_figure("Reliability", self.estimates()[:2], "share", caption=caption),)

    def sentences(self) -> tuple[str, ...]:
        """Which share of the variance can be predicted, and what that allows."""
        if not np.isfinite(self.mean):
            return ("The labels do not vary: there is nothing to predict.",)
        share = percent(max(self.mean, 0.0))
        return (
            f"{share} of the variance of the labels is the candidates' own, the rest comes "
            "from the order of the data: no predictor can correlate above "
            f"{number(self.ceiling, 2)}.",
        )


def reliability(labels: Array, level: float = 0.95) -> Reliability:
    """One-way random-effects intraclass correlation, with its exact interval under normality.

    Args:
        labels: finite, shape (candidates, orders).
        level: of the interval.

    Returns:
        The correlation. Labels that do not vary at all have none: NaN.

    Raises:
        DataError: fewer than two orders or three candidates.

    Source: Shrout and Fleiss, Psychological Bulletin 86 (1979) 420, cases ICC(1,1) and
    ICC(1,k).

    Examples:
        >>> same = np.arange(5.0)[:, None].repeat(3, axis=1)
        >>> reliability(same).mean
        1.0
    """
    count, orders = labels.shape
    if count < 3 or orders < 2:
        raise DataError(
            "the reliability of labels needs 3 candidates whose training stayed finite and 2 "
            f"data orders; got {count} and {orders}: label more, or give more orders."
        )
    means = labels.mean(axis=1)
    between = orders * float(means.var(ddof=1))
    within = float(((labels - means[:, None]) ** 2).sum()) / (count * (orders - 1))
    if between == 0 and within == 0:
        return Reliability(np.nan, np.nan, np.nan, np.nan, count, orders)
    ratio = np.inf if within == 0 else between / within
    freedom = (count - 1, count * (orders - 1))
    tail = 0.5 + level / 2
    low = ratio / stats.f.ppf(tail, *freedom)
    high = ratio * stats.f.ppf(tail, *freedom[::-1])
    single = (between - within) / (between + (orders - 1) * within)
    mean, lower, upper = (float(1 - 1 / r) if r > 0 else -np.inf for r in (ratio, low, high))
    return Reliability(single, mean, lower, upper, count, orders)


@result("inits-labels", references=(_ICC,))
class Labels(Result):
    """What became of each initialization: the losses after training.

    Attributes:
        candidates: the recipes, one an initialization.
        budgets: epochs of each training, growing; trainings are of their own, not prefixes of
            one another, because the schedule knows its end.
        orders: seeds of the data order; the spread over them is the noise of a label.
        values: float64, shape (measures, candidates, orders, budgets) with the measures of
            `MEASURES`, over all training and all test examples, in eval mode; NaN where the
            training diverged.
        diverged: bool, shape (candidates, orders, budgets).
        provenance: settings, seed, fingerprints of the data.

    Examples:
        >>> recipes = (Candidate("normal"), Candidate("orthogonal"))
        >>> measured, diverged = np.ones((4, 2, 1, 1)), np.zeros((2, 1, 1), dtype=bool)
        >>> Labels(recipes, (5,), (0,), measured, diverged).quality(5)
        array([1., 1.])
    """

    candidates: tuple[Candidate, ...]
    budgets: tuple[int, ...]
    orders: tuple[int, ...]
    values: Array
    diverged: Bools
    provenance: io.Provenance = field(default_factory=io.Provenance)

    def __len__(self) -> int:
        """How many initializations there are."""
        return len(self.candidates)

    @property
    def schemes(self) -> NDArray[np.str_]:
        """The scheme of each candidate, shape (candidates,)."""
        return np.array([candidate.scheme for candidate in self.candidates])

    def of(self, budget: int, which: str = "test loss") -> Array:
        """One measure after one budget, shape (candidates, orders)."""
        check_one_of("which", which, MEASURES)
        if budget not in self.budgets:
            raise ArgumentError(f"`budget` must be one of {self.budgets}; got {budget!r}.")
        values = self.values[MEASURES.index(which), :, :, self.budgets.index(budget)]
        return np.asarray(values)

    def quality(self, budget: int, which: str = "test loss") -> Array:
        """The label of each candidate: the mean over the data orders."""
        return np.asarray(self.of(budget, which).mean(axis=1))

    def finite(self, budget: int) -> Bools:
        """Whose training stayed finite in every order; the others are a class of their own."""
        return np.asarray(np.isfinite(self.of(budget)).all(axis=1))

    def reliability(self, budget: int, which: str = "test loss") -> Reliability:
        """How much of the labels' variance is the candidates' own, not the data order's."""
        return reliability(self.of(budget, which)[self.finite(budget)])

    def estimates(self) -> tuple[Estimate, ...]:
        """How many trainings diverged; the loss and the reliability of every budget."""
        rows = [
            Estimate(float(len(self)), 0.0, name="candidates"),
            Estimate(float(self.diverged.sum()), 0.0, name="diverged trainings"),
        ]
        for budget in self.budgets:
            losses = self.quality(budget)[self.finite(budget)]
            rows.append(mean_estimate(losses, f"test loss, {counted(budget, 'epoch')}"))
            rows.append(self._reliability(budget))
        return tuple(rows)

    def _reliability(self, budget: int) -> Estimate:
        name = f"reliability, {counted(budget, 'epoch')}"
        if len(self.orders) < 2 or int(self.finite(budget).sum()) < 3:
            why = "it needs two data orders and three candidates that stayed finite"
            return Estimate(np.nan, why_no_error=why, name=name)
        known = self.reliability(budget)
        return interval_estimate(name, (known.mean, known.lower, known.upper), len(self))

    def sentences(self) -> tuple[str, ...]:
        """How many trainings there are and diverged, and what the orders of the data decide."""
        lost = int(self.diverged.sum())
        first = (
            f"{counted(len(self), 'candidate')} were trained in "
            f"{counted(self.diverged.size, 'run')}; {lost} diverged."
        )
        last = self.budgets[-1]
        if not np.isfinite(self._reliability(last).value):
            return (first,)
        return (first, *self.reliability(last).sentences())

    def figures(self) -> tuple[Figure, ...]:
        """The losses of every scheme after the longest training."""
        budget = self.budgets[-1]
        kept, losses = self.finite(budget), self.quality(budget)
        by_scheme = {
            str(s): losses[kept & (self.schemes == s)] for s in np.unique(self.schemes)
        }
        title = f"Test loss after {counted(budget, 'epoch')}"
        return (scheme_figure("losses", title, by_scheme, "test loss"),)

    def table(self) -> "pd.DataFrame":
        """One row a training: recipe, data order, epochs, measures, whether it diverged.

        Returns:
            A pandas table, for work of your own.
        """
        import pandas as pd

        shape = self.diverged.shape
        which, order, budget = (axis.ravel() for axis in np.indices(shape))
        recipes = [self.candidates[k] for k in which]
        columns = {
            "candidate": which,
            "scheme": [recipe.scheme for recipe in recipes],
            "scale": [recipe.scale for recipe in recipes],
            "seed": [recipe.seed for recipe in recipes],
            "order": np.array(self.orders)[order],
            "epochs": np.array(self.budgets)[budget],
        }
        columns |= {name: self.values[k].ravel() for k, name in enumerate(MEASURES)}
        return pd.DataFrame(columns | {"diverged": self.diverged.ravel()})


def label(
    settings: InitsSettings,
    problem: Problem,
    candidates: Sequence[Candidate] | None = None,
    *,
    executor: ExecutorName | Executor | None = None,
    progress: Progress | None = None,
) -> Labels:
    """Train every candidate in every data order for every budget."""
    plan = settings.label
    check_budgets(plan.budgets)
    chosen = label_candidates(settings) if candidates is None else tuple(candidates)
    problem.initializer.draw(chosen[0])
    groups = _groups(plan, len(chosen))
    tables = run_stage_tasks(
        settings,
        "label",
        problem.fingerprint,
        {group.name: group for group in groups},
        lambda: lambda group: _trained(problem, plan, chosen, group),
        executor=executor,
        progress=_in_words(groups, progress),
        recipes=derive_seed("recipes", *map(repr, chosen)),
    )
    return _assembled(settings, problem, chosen, groups, tables)


def label_candidates(settings: InitsSettings) -> tuple[Candidate, ...]:
    """The candidates to label: schemes in turn, a share of them at scale 1 exactly."""
    plan = settings.label
    schemes = plan.schemes or SCHEMES
    check_schemes(schemes)
    low, high = plan.scales
    drawn = torch.rand(plan.samples, generator=generator(settings.seed, "label scales"))
    chosen = []
    for index, share in enumerate(drawn.double().tolist()):
        turn, which = divmod(index, len(schemes))
        matched = int((turn + 1) * plan.matched) > int(turn * plan.matched)
        scale = 1.0 if matched else low + share * (high - low)
        seed = derive_seed(settings.seed, "label", index) % 2**31
        chosen.append(Candidate(schemes[which], scale, seed))
    return tuple(chosen)


def check_budgets(budgets: Sequence[int]) -> None:
    """Require growing numbers of epochs."""
    for budget in budgets:
        check_at_least("label.budgets", budget, 1)
    if not budgets or list(budgets) != sorted(set(budgets)):
        raise ArgumentError(
            f"`label.budgets` must be growing numbers of epochs; got {list(budgets)}."
        )


@dataclass(frozen=True)
class _Group:
    """Trainings side by side: (candidate, order) each, for one budget."""

    budget: int
    members: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        # The key in a ledger: another text would leave those of stopped runs unread.
        return f"{self.budget} epochs from {self.members[0]} to {self.members[-1]}"

    @property
    def text(self) -> str:
        """What a reader is told of it."""
        return (
            f"{counted(len(self.members), 'network')} trained, {counted(self.budget, 'epoch')}"
        )


def _in_words(groups: Sequence[_Group], progress: Progress | None) -> Progress | None:
    if not callable(progress):
        return progress
    texts = {group.name: group.text for group in groups}
    return lambda done, total, key: progress(done, total, texts[key])


def _groups(plan: LabelSettings, candidates: int) -> list[_Group]:
    pairs = [(c, order) for c in range(candidates) for order in range(plan.orders)]
    parts = [pairs[i : i + plan.together] for i in range(0, len(pairs), plan.together)]
    return [_Group(budget, tuple(part)) for budget in plan.budgets for part in parts]


def _trained(
    problem: Problem, plan: LabelSettings, candidates: Sequence[Candidate], group: _Group
) -> Array:
    # One row a member: the measures, and whether it diverged.
    initializer, starts = problem.initializer, dict[int, Params]()
    for index, _ in group.members:
        if index not in starts:
            starts[index] = initializer.draw(candidates[index])
    run = train_ensemble(
        problem.model,
        problem.train,
        problem.loss,
        initial=[starts[index] for index, _ in group.members],
        epochs=group.budget,
        optimizer=plan.optimizer,
        lr=plan.lr,
        weight_decay=plan.weight_decay,
        orders=[order for _, order in group.members],
        batch_size=plan.batch_size,
        schedule=plan.schedule,
        together=plan.together,
    )
    return _measured(problem, run)


def _measured(problem: Problem, run: EnsembleRun) -> Array:
    parts = (problem.train, problem.test)
    losses = [evaluate_ensemble(problem.model, run.states, p, problem.loss) for p in parts]
    right = [np.full(len(run), np.nan)] * 2
    if problem.train.task == "classification":
        right = [1 - evaluate_ensemble(problem.model, run.states, p, "error") for p in parts]
    table = np.stack([*losses, *right], axis=1)
    diverged = (run.diverged_at >= 0) | ~np.isfinite(table[:, :2]).all(axis=1)
    table[diverged] = np.nan
    return np.column_stack([table, diverged])


def _assembled(
    settings: InitsSettings,
    problem: Problem,
    candidates: tuple[Candidate, ...],
    groups: list[_Group],
    tables: list[Array],
) -> Labels:
    plan = settings.label
    shape = (len(candidates), plan.orders, len(plan.budgets))
    values, diverged = np.full((len(MEASURES), *shape), np.nan), np.zeros(shape, dtype=bool)
    for group, table in zip(groups, tables, strict=True):
        for (candidate, order), row in zip(group.members, table, strict=True):
            where = (candidate, order, plan.budgets.index(group.budget))
            values[(slice(None), *where)] = row[:-1]
            diverged[where] = bool(row[-1])
    if diverged.all():
        # What is there is of no use, and must not bar the way to other settings.
        remove_ledger(ledger_of(settings, "label"))
        raise DataError(
            f"all {diverged.size} trainings diverged; lower the learning rate, as in "
            f"--set label.lr={plan.lr / 10:g}, or the scales."
        )
    made = provenance(settings, "label", problem.fingerprint)
    return Labels(candidates, plan.budgets, tuple(range(plan.orders)), values, diverged, made)
