"""All features of some candidates, in a fixed order of columns, each with its cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.linalg.params import Params
from lossatlas.objective.batches import batch_size as size_of
from lossatlas.rng import derive_seed
from lossatlas.studies.inits.baselines import size_numbers
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.features import derivatives, proxies
from lossatlas.studies.inits.features.early import AFTER, early_cost, early_losses, early_name
from lossatlas.studies.inits.features.landscape import landscape_keys, landscape_row
from lossatlas.studies.inits.features.neighborhood import Sampling, Surveyor
from lossatlas.studies.inits.problem import Problem

Array = NDArray[np.float64]
GROUPS = ("topology", "statistics", "curvature", "baseline")
_CURVATURE = ("trace", "frobenius", "largest eigenvalue", "gradient curvature")


@dataclass(frozen=True)
class Column:
    """One feature.

    Attributes:
        name: of the feature.
        group: one of `records.GROUPS`.
        cost: forward passes over the probe that it takes a candidate.
    """

    name: str
    group: str
    cost: float = 0.0


@dataclass(frozen=True)
class Training:
    """How candidates are trained a little, for the simplest rival.

    Attributes:
        lr: constant rate.
        optimizer: "sgd" or "adamw".
        batch_size: examples a batch.
        after: numbers of updates.
    """

    lr: float = 0.05
    optimizer: str = "sgd"
    batch_size: int = 128
    after: tuple[int, ...] = AFTER


@dataclass(frozen=True, eq=False)
class Measure:
    """What is measured of every candidate.

    Attributes:
        subject: network, data, probe.
        parameters: makes the parameters of a recipe.
        sampling: where losses are taken.
        training: how candidates are trained a little.
        groups: "topology" and "statistics" (which share their losses: either brings both),
            "curvature" (with the proxies made of gradients), "baseline".
    """

    subject: Problem
    parameters: Callable[[Candidate], Params]
    sampling: Sampling
    training: Training
    groups: tuple[str, ...] = GROUPS

    @property
    def maps(self) -> bool:
        """Whether losses around the candidates are taken."""
        return bool({"topology", "statistics"} & set(self.groups))

    def columns(self) -> list[Column]:
        """The features, in the order of the tables."""
        probe = size_of(self.subject.probe)
        own = {n: p[None] for n, p in self.subject.objective().params.items()}
        found = [Column(name, "baseline") for name in size_numbers(own)]
        found.append(Column("initial loss", "baseline", 1.0))
        found += [Column(n, "baseline", cost) for n, cost in proxies.COST.items()]
        found += [
            Column(early_name(k), "baseline", early_cost(k, self.training.batch_size, probe))
            for k in self.training.after
        ]
        if "curvature" in self.groups:
            found += [
                Column(n, "curvature" if n in _CURVATURE else "baseline", cost)
                for n, cost in derivatives.COST.items()
            ]
        if self.maps:
            cost = float(self.sampling.losses + 1)
            found += [Column(n, g, cost) for g, n in landscape_keys(self.sampling)]
        return found

    def table(self, candidates: Sequence[Candidate]) -> Array:
        """The features of some candidates."""
        subject, initial = self.subject, [self.parameters(c) for c in candidates]
        stack = stacked(initial)
        objective = subject.objective()
        columns = size_numbers(stack)
        columns["initial loss"] = np.array([objective.value(one) for one in initial])
        rows = [proxies.proxies(subject.model, subject.probe, one) for one in initial]
        columns |= {n: np.array([row[n] for row in rows]) for n in proxies.COST}
        columns |= self._early(initial)
        if "curvature" in self.groups:
            columns |= derivatives.derivatives(
                subject.model, subject.loss, subject.probe, stack, seed=self.sampling.seed
            )
        tables = [np.stack(list(columns.values()), axis=1)]
        if self.maps:
            surveyor, keys = Surveyor(objective, self.sampling), landscape_keys(self.sampling)
            found = [
                landscape_row(surveyor.neighborhood(one), self.sampling) for one in initial
            ]
            tables.append(np.array([[row.get(key, np.nan) for key in keys] for row in found]))
        return np.concatenate(tables, axis=1)

    def _early(self, initial: Sequence[Params]) -> dict[str, Array]:
        subject, how = self.subject, self.training
        return early_losses(
            subject.model,
            subject.train,
            subject.loss,
            subject.probe,
            initial,
            lr=how.lr,
            optimizer=how.optimizer,
            batch_size=how.batch_size,
            seed=derive_seed("inits early", self.sampling.seed),
            after=how.after,
        )


def stacked(initial: Sequence[Params]) -> dict[str, Tensor]:
    """Parameters of many candidates, stacked."""
    return {name: torch.stack([one[name] for one in initial]) for name in initial[0]}
