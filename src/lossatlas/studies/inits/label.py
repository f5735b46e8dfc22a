"""Stage 3: what becomes of each initialization. Every label is a training of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError, DataError
from lossatlas.executor import Executor
from lossatlas.linalg.params import Params
from lossatlas.rng import derive_seed, generator
from lossatlas.store import remove_ledger
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.candidates import check_schemes
from lossatlas.studies.inits.files import ledger_of, provenance
from lossatlas.studies.inits.problem import Problem
from lossatlas.studies.inits.records import MEASURES, Labels
from lossatlas.studies.inits.settings import SCHEMES, InitsSettings, LabelSettings
from lossatlas.studies.inits.threads import one_thread
from lossatlas.studies.pieces import finished
from lossatlas.training import EnsembleRun, evaluate_ensemble, train_ensemble

Array = NDArray[np.float64]


def label(
    settings: InitsSettings,
    subject: Problem,
    candidates: Sequence[Candidate] | None = None,
    *,
    executor: str | Executor | None = None,
    progress: Callable[[str], object] | None = None,
) -> Labels:
    """Train every candidate in every data order for every budget."""
    plan = settings.label
    check_budgets(plan.budgets)
    chosen = label_candidates(settings) if candidates is None else tuple(candidates)
    subject.initializer.draw(chosen[0])
    groups = _groups(plan, len(chosen))
    run = settings.identity("label") | {
        "data fingerprint": subject.fingerprint,
        "recipes": derive_seed(*(c.to_json() for c in chosen)),
    }

    def work(index: int) -> Array:
        return _trained(subject, plan, chosen, groups[index])

    tables = finished(
        [group.name for group in groups],
        work,
        run=run,
        resume=ledger_of(settings, "label"),
        executor=executor or settings.executor,
        progress=progress,
    )
    return _assembled(settings, subject, chosen, groups, tables)


def label_candidates(settings: InitsSettings) -> tuple[Candidate, ...]:
    """The candidates to label: schemes in turn, a share of them at scale 1 exactly."""
    plan = settings.label
    schemes = plan.schemes or SCHEMES
    check_schemes(schemes)
    low, high = plan.scales
    drawn = torch.rand(plan.samples, generator=generator(settings.seed, "label scales"))
    found = []
    for index, share in enumerate(drawn.double().tolist()):
        turn, which = divmod(index, len(schemes))
        matched = int((turn + 1) * plan.matched) > int(turn * plan.matched)
        scale = 1.0 if matched else low + share * (high - low)
        seed = derive_seed(settings.seed, "label", index) % 2**31
        found.append(Candidate(schemes[which], scale, seed))
    return tuple(found)


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
        return f"{self.budget} epochs from {self.members[0]} to {self.members[-1]}"


def _groups(plan: LabelSettings, candidates: int) -> list[_Group]:
    pairs = [(c, order) for c in range(candidates) for order in range(plan.orders)]
    parts = [pairs[i : i + plan.together] for i in range(0, len(pairs), plan.together)]
    return [_Group(budget, tuple(part)) for budget in plan.budgets for part in parts]


def _trained(
    subject: Problem, plan: LabelSettings, candidates: Sequence[Candidate], group: _Group
) -> Array:
    # One row a member: the measures, and whether it diverged.
    initializer, starts = subject.initializer, dict[int, Params]()
    for index, _ in group.members:
        if index not in starts:
            starts[index] = initializer.draw(candidates[index])
    with one_thread():
        run = train_ensemble(
            subject.model,
            subject.train,
            subject.loss,
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
        return _measured(subject, run)


def _measured(subject: Problem, run: EnsembleRun) -> Array:
    parts = (subject.train, subject.test)
    losses = [evaluate_ensemble(subject.model, run.states, p, subject.loss) for p in parts]
    right = [np.full(len(run), np.nan)] * 2
    if subject.train.task == "classification":
        right = [1 - evaluate_ensemble(subject.model, run.states, p, "error") for p in parts]
    table = np.stack([*losses, *right], axis=1)
    diverged = (run.diverged_at >= 0) | ~np.isfinite(table[:, :2]).all(axis=1)
    table[diverged] = np.nan
    return np.column_stack([table, diverged])


def _assembled(
    settings: InitsSettings,
    subject: Problem,
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
    made = provenance(settings, "label", subject.fingerprint)
    return Labels(candidates, plan.budgets, tuple(range(plan.orders)), values, diverged, made)
