"""Several merges of the same networks, measured on the same examples."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Figure, Result, quantity, result
from lossatlas.text import listed
from lossatlas.weights.merge import MODEL_SOUPS, SEARCH, MergeJob, described, parsed
from lossatlas.weights.paired import PairedLosses
from lossatlas.weights.statistics import loss_anew
from lossatlas.weights.unfinished import Unfinished, identity
from lossatlas.weights.verdicts import (
    JOINTLY,
    at_level,
    called,
    compared_with,
    differences_figure,
    joint_level,
    negated,
    reasoned,
    recommendation,
    verdict,
)

Array = NDArray[np.float64]


@result("merge comparison", references=(MODEL_SOUPS,))
class MergeComparison(Result):
    """Several merges of the same networks on the same held-out data.

    Attributes:
        losses: name of a merge or of a network -> its loss.
        against: name -> its loss minus that of the plain average, with the paired error.
        coefficients: name of a merge -> share of each expert, where it has one for each.
        failed: name of a merge -> why it could not be made.
        notes: what a reader should know.
        networks: names of the base and the experts among `losses`.
        best_against: "base" and the name of the best expert -> loss of the best merge minus
            theirs. Both were chosen on these examples: intervals are those of all pairs of a
            merge and a network, which hold together with 95 % (Bonferroni).
    """

    losses: Mapping[str, Estimate] = quantity("loss")
    against: Mapping[str, Estimate] = quantity("loss")
    coefficients: Mapping[str, tuple[float, ...]]
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    best_against: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The merge with the lowest loss on these examples; empty where none is finite."""
        return _lowest({n: e for n, e in self.losses.items() if n not in self.networks})

    def estimates(self) -> tuple[Estimate, ...]:
        """The best merge minus the base and the best expert, then all minus the average.

        Returns:
            Differences of the best, the loss of the plain average, and one difference a merge
            and network, the best first.
        """
        order = sorted(self.against, key=lambda name: self.against[name].value)
        average = replace(self.losses["average"], name="loss of the average", unit="loss")
        others = (
            reasoned(replace(self.against[name], unit="loss"), f"{name} minus the average")
            for name in order
        )
        return (*self._best_estimates(), average, *others)

    def _best_estimates(self) -> Iterator[Estimate]:
        for name, far in self.best_against.items():
            shown = "the base" if name == "base" else "the best expert"
            meaning = f"{self.best} minus {name}; the interval allows for the choice of both"
            named = reasoned(far, f"best merge minus {shown}")
            yield replace(named, unit="loss", meaning=meaning)

    def headline(self) -> str:
        """Whether to use the best merge, or the best of base and experts."""
        if not self.best_against:
            return ""
        others = {called(name): far for name, far in self.best_against.items()}
        return recommendation(called(self.best), self.losses[self.best], others)

    def sentences(self) -> tuple[str, ...]:
        """Whether the best merge and the average helped, and which merges beat the average.

        Returns:
            Sentences on the best merge, on the average beside base and experts, on the others
            beside the average, and the notes.
        """
        lost = [f"{name} could not be made: {why}" for name, why in self.failed.items()]
        expert = ", as was the best expert" if len(self.networks) > 2 else ""
        return (
            *filter(None, (self.headline(),)),
            *self._on_best(),
            *((_CHOSEN.format(expert),) if len(self._merges) > 1 else (JOINTLY,)),
            *self._on_average(),
            *self._ahead(),
            *lost,
            *self.notes,
        )

    def _on_best(self) -> tuple[str, ...]:
        merges = len(self._merges)
        if merges < 2 or not self.best:
            return ()
        name = f"The best of {merges} merges"
        return compared_with(name, self.losses[self.best], self.best_against)

    # By the same intervals as the headline: equal losses get one verdict.
    def _on_average(self) -> tuple[str, ...]:
        if len(self._merges) > 1 and self.best == "average":
            return ()
        level = joint_level(len(self._merges), len(self.networks))
        others = {
            name: at_level(negated(e), level)
            for name, e in self.against.items()
            if name in self.networks
        }
        return compared_with("The average", self.losses["average"], others)

    @property
    def _merges(self) -> list[str]:
        return [name for name in self.losses if name not in self.networks]

    def _ahead(self) -> tuple[str, ...]:
        others = [name for name in self._merges if name != "average"]
        if not others:
            return ()
        level = joint_level(len(others), 1)
        far = {name: at_level(self.against[name], level) for name in others}
        ahead = [name for name, e in far.items() if verdict(e) == "below that of"]
        if ahead:
            lower = "has a lower loss" if len(ahead) == 1 else "have lower losses"
            together = " for all together" if len(others) > 1 else ""
            return (f"{listed(ahead)} {lower} than the plain average (95 %{together}).",)
        return ("No merge has a loss that is significantly below that of the plain average.",)

    def figures(self) -> tuple[Figure, ...]:
        """Differences of the loss to the plain average, the best first, and of the best merge.

        Returns:
            One figure, and one of the best merge beside the base and the best expert.
        """
        order = sorted(self.against, key=lambda name: self.against[name].value)
        shown = {name: self.against[name] for name in order}
        figures = [differences_figure("Loss minus that of the plain average", shown)]
        if self.best_against:
            title = "Loss of the best merge minus that of others"
            figures.append(differences_figure(title, self.best_against, "best"))
        return tuple(figures)


_CHOSEN = (
    "It was chosen on these examples{}. Verdicts on merges beside base and experts allow for "
    "that: the intervals of all such pairs hold together with 95 %."
)


def _lowest(losses: Mapping[str, Estimate]) -> str:
    finite = {name: e.value for name, e in losses.items() if math.isfinite(e.value)}
    return min(finite, key=lambda name: finite[name]) if finite else ""


def compare_merges(
    objective: Objective,
    base: Params,
    *experts: Params,
    methods: Sequence[str] = ("average", "task_arithmetic:scale=0.7", "ties", "dare", "search"),
    importances: Sequence[Params] = (),
    objectives: Sequence[Objective] = (),
    tune: Objective | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    names: Sequence[str] | None = None,
) -> MergeComparison:
    """Merge the same networks in several ways and compare them on the same examples.

    Args:
        objective: as for `merge`.
        base: as for `merge`.
        *experts: as for `merge`.
        methods: names with options, as in "ties:density=0.3,scale=1".
        importances: as for `merge`.
        objectives: as for `merge`.
        tune: as for `merge`; where "search" is among the methods all are judged on the rest.
        seed: as for `merge`.
        resume: a file that losses of finished merges go to; the same call goes on from there
            after a kill, with the same bits.
        progress: called with how many networks were measured, and of how many.
        names: as for `merge`.

    Returns:
        Losses of all merges and networks, and paired differences to the plain average.

    Raises:
        ArgumentError: no expert, or a method that cannot be read.
        NonFiniteError: a checkpoint is not finite.
        ResumeError: `resume` belongs to another run, or cannot be written.
        StructureError: names or shapes differ.
        UnknownNameError: an unknown method or option.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.ones(9, 1), torch.ones(9, 1))] * 2
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), batches)
        >>> base, one, two = ({"weight": torch.tensor([[w]])} for w in (0.0, 0.5, 0.7))
        >>> found = compare_merges(objective, base, one, two, methods=["average", "search"])
        >>> found.losses["search"].value < found.losses["average"].value
        True
    """
    chosen = [parsed(spec) for spec in methods]
    job = MergeJob(
        objective,
        base,
        experts,
        importances=importances,
        objectives=objectives,
        tune=tune,
        seed=seed,
        names=names,
    )
    if SEARCH in {name for name, _ in chosen}:
        job.split()
    settings = {"methods": [described(*method) for method in chosen], "seed": seed}
    judges = [job.judge, *objectives, *([tune] if tune is not None else [])]
    points = [*job.networks.values(), *importances]
    titles = {described(*method): method for method in chosen}
    titles.pop("average", None)
    with Unfinished(resume, identity("merges", judges, points, settings)) as unfinished:
        table = _Losses(job, unfinished, progress, len(titles) + len(job.networks))
        for title, (name, options) in titles.items():
            table.add_merge(title, name, options)
        for name, params in job.networks.items():
            table.add(name, partial(dict, params))
    return table.result()


class _Losses:
    """Losses of merges and networks beside that of the average."""

    def __init__(
        self,
        job: "MergeJob",
        unfinished: Unfinished,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self._job, self._unfinished, self._progress, self._total = (
            job,
            unfinished,
            progress,
            total,
        )
        self._judged = PairedLosses(job.judge, unfinished)
        self._average = self._judged.sums_once(
            "average", lambda: job.made("average", {}).params
        )
        self._sums = {"average": self._average}
        self._losses = {"average": self._judged.mean(self._average)}
        self._against: dict[str, Estimate] = {}
        self._failed: dict[str, str] = {}
        self._coefficients: dict[str, tuple[float, ...]] = {}

    def add(self, title: str, params: Callable[[], Params]) -> None:
        sums = self._sums[title] = self._judged.sums_once(title, params)
        self._losses[title] = self._judged.mean(sums)
        self._against[title] = self._judged.difference(sums, self._average)
        if self._progress is not None:
            self._progress(len(self._against) + len(self._failed), self._total)

    def add_merge(self, title: str, name: str, options: Mapping[str, Any]) -> None:
        made = cache(partial(self._job.made, name, options))
        try:
            self.add(title, lambda: made().params)
            shares = self._unfinished.once(
                f"shares of {title}", lambda: np.array([[0.0, *made().coefficients]])
            )
        except ArgumentError as error:
            self._failed[title] = str(error)
            return
        if shares.shape[1] > 1:
            self._coefficients[title] = tuple(map(float, shares[0, 1:]))

    def result(self) -> MergeComparison:
        return MergeComparison(
            self._losses,
            self._against,
            self._coefficients,
            self._failed,
            (*self._job.notes, *self._anew()),
            tuple(self._job.networks),
            self._best_against(),
        )

    def _anew(self) -> tuple[str, ...]:
        average = self._job.made("average", {}).params
        return loss_anew(self._job.judge, average, "the loss of the average")

    def _best_against(self) -> dict[str, Estimate]:
        networks = {name: e for name, e in self._losses.items() if name in self._job.networks}
        merges = {name: e for name, e in self._losses.items() if name not in networks}
        best = _lowest(merges)
        expert = _lowest({name: e for name, e in networks.items() if name != "base"})
        level = joint_level(len(merges), len(networks))
        return {
            name: at_level(self._judged.difference(self._sums[best], self._sums[name]), level)
            for name in filter(None, ("base", expert) if best else ())
        }
