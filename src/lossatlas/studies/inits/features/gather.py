"""All features of all candidates, with what each of them costs."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.algebra.params import Params
from lossatlas.objective import Batch
from lossatlas.objective.batches import batch_size as size_of
from lossatlas.rng import derive_seed
from lossatlas.studies.inits.baselines import recipe_numbers, size_numbers
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.features.barcodes import (
    cloud_numbers,
    graph_numbers,
    plane_numbers,
)
from lossatlas.studies.inits.features.derivatives import derivatives
from lossatlas.studies.inits.features.early import AFTER, early_cost, early_losses, early_name
from lossatlas.studies.inits.features.neighbourhood import Neighbourhood, Sampling, Surveyor
from lossatlas.studies.inits.features.proxies import COST, proxies
from lossatlas.studies.inits.features.statistics import loss_numbers
from lossatlas.studies.inits.subject import Subject

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
# Candidates whose derivatives are computed side by side.
TOGETHER = 25
CURVATURE = ("trace", "frobenius", "largest eigenvalue", "gradient curvature")


@dataclass(frozen=True)
class Column:
    """One feature of all candidates.

    Attributes:
        name: of the feature.
        group: one of `records.GROUPS`.
        values: shape (candidates,).
        cost: forward passes over the probe a candidate.
    """

    name: str
    group: str
    values: Array
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
    after: tuple[int, ...] = field(default=AFTER)


def stacked(initial: Sequence[Params]) -> dict[str, Tensor]:
    """Parameters of many candidates, stacked.

    Args:
        initial: one mapping a candidate.

    Returns:
        name -> shape (candidates, ...).
    """
    return {name: torch.stack([one[name] for one in initial]) for name in initial[0]}


def landscape_row(found: Neighbourhood, sampling: Sampling) -> dict[tuple[str, str], float]:
    """Features of one neighbourhood, and of the same losses shuffled over its points.

    Args:
        found: the losses around a candidate.
        sampling: where they were taken.

    Returns:
        (group, name) -> number. The group "null" has the topology of the shuffled losses: it
        knows their distribution and nothing of their places.
    """
    source = np.random.default_rng(derive_seed("inits topology null", sampling.seed))
    # One neighbourhood in two readings: as it is, and with the losses dealt out anew.
    planes = source.permuted(found.planes.reshape(*found.planes.shape[:2], -1), axis=-1)
    dealt = Neighbourhood(
        found.centre,
        planes.reshape(found.planes.shape),
        found.points,
        source.permutation(found.scattered),
    )
    row = {("topology", n): v for n, v in topology_numbers(found, sampling).items()}
    row |= {("null", n): v for n, v in topology_numbers(dealt, sampling).items()}
    for index, radius in enumerate(sampling.radii):
        numbers = loss_numbers(found.planes[:, index], found.centre)
        row |= {("statistics", f"{name} at {radius:g}"): v for name, v in numbers.items()}
    numbers = loss_numbers(found.scattered, found.centre)
    row |= {("statistics", f"{name} in the ball"): v for name, v in numbers.items()}
    return row | {("baseline", "initial loss"): found.centre}


def topology_numbers(found: Neighbourhood, sampling: Sampling) -> dict[str, float]:
    """The topology of one neighbourhood, planes of a radius averaged.

    Args:
        found: losses.
        sampling: where they were taken.

    Returns:
        name -> number; NaN where no loss is finite.
    """
    numbers: dict[str, float] = {}
    for index, radius in enumerate(sampling.radii):
        each = [plane_numbers(p) for p in found.planes[:, index] if np.isfinite(p).any()]
        for name in each[0] if each else ():
            mean = float(np.mean([one[name] for one in each]))
            numbers[f"{name} at {radius:g}"] = mean
    if np.isfinite(found.scattered).any():
        part = slice(0, sampling.cloud)
        graph = graph_numbers(found.points, found.scattered)
        numbers |= {f"{name} of the graph": value for name, value in graph.items()}
        cloud = cloud_numbers(found.points[part], found.scattered[part])
        numbers |= {f"{name} of the cloud": value for name, value in cloud.items()}
    return numbers


def gather(
    subject: Subject,
    candidates: Sequence[Candidate],
    parameters: Callable[[Candidate], Params],
    *,
    sampling: Sampling,
    training: Training,
    groups: Sequence[str] = ("topology", "statistics", "curvature", "baseline"),
    recall: Callable[[int], dict[tuple[str, str], float] | None] = lambda _: None,
    progress: Progress | None = None,
) -> list[Column]:
    """Measure the features of all candidates.

    Args:
        subject: network, data, probe.
        candidates: recipes.
        parameters: makes the parameters of a recipe.
        sampling: where losses are taken.
        training: how candidates are trained a little.
        groups: what is measured; "topology" and "statistics" come together, as they share
            their losses.
        recall: index -> landscape features that are known already, or None.
        progress: called with (done, candidates) after each landscape.

    Returns:
        The features, those that no candidate has left out.
    """
    columns: list[Column] = []
    if {"topology", "statistics"} & set(groups):
        rows = _landscape_rows(
            subject, candidates, parameters, sampling, recall=recall, progress=progress
        )
        columns += _columns(list(rows), float(sampling.losses + 1))
    batches = [candidates[k : k + TOGETHER] for k in range(0, len(candidates), TOGETHER)]
    parts = [
        _part(subject, [parameters(c) for c in batch], sampling.seed, training)
        for batch in batches
    ]
    for first in parts[0]:
        pieces = [next(c for c in part if c.name == first.name) for part in parts]
        values = np.concatenate([piece.values for piece in pieces])
        columns.append(Column(first.name, first.group, values, first.cost))
    recipe = recipe_numbers(candidates)
    columns += [Column(name, "baseline", values) for name, values in recipe.items()]
    wanted = {*groups, "null"}
    return [c for c in columns if c.group in wanted and np.isfinite(c.values).any()]


def _landscape_rows(
    subject: Subject,
    candidates: Sequence[Candidate],
    parameters: Callable[[Candidate], Params],
    sampling: Sampling,
    *,
    recall: Callable[[int], dict[tuple[str, str], float] | None],
    progress: Progress | None,
) -> Iterator[dict[tuple[str, str], float]]:
    surveyor = Surveyor(subject.objective(), sampling)
    for index, candidate in enumerate(candidates):
        known = recall(index)
        if known is None:
            found = surveyor.neighbourhood(parameters(candidate))
            known = landscape_row(found, sampling)
        yield known
        if progress is not None:
            progress(index + 1, len(candidates))


def _columns(rows: list[dict[tuple[str, str], float]], cost: float) -> list[Column]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [
        Column(
            f"null: {name}" if group == "null" else name,
            group,
            np.array([row.get((group, name), math.nan) for row in rows]),
            1.0 if name == "initial loss" else cost,
        )
        for group, name in keys
    ]


def _part(
    subject: Subject, initial: Sequence[Params], seed: int, training: Training
) -> list[Column]:
    stack, probe = stacked(initial), subject.probe
    columns = [Column(n, "baseline", v) for n, v in size_numbers(stack).items()]
    found = derivatives(subject.model, subject.loss, probe, stack, seed=seed)
    columns += [
        Column(n, "curvature" if n in CURVATURE else "baseline", v, found.cost[n])
        for n, v in found.values.items()
    ]
    rows = [proxies(subject.model, probe, one) for one in initial]
    columns += [
        Column(n, "baseline", np.array([row[n] for row in rows]), COST[n]) for n in COST
    ]
    return columns + _early(subject, initial, seed, probe, training)


def _early(
    subject: Subject, initial: Sequence[Params], seed: int, probe: Batch, training: Training
) -> list[Column]:
    found = early_losses(
        subject.model,
        subject.train,
        subject.loss,
        probe,
        initial,
        lr=training.lr,
        optimizer=training.optimizer,
        batch_size=training.batch_size,
        seed=derive_seed("inits early", seed),
        after=training.after,
    )
    size = size_of(probe)
    return [
        Column(
            early_name(k),
            "baseline",
            found[early_name(k)],
            early_cost(k, training.batch_size, size),
        )
        for k in training.after
    ]
