"""Alignment: bring one network as near to another as its symmetries allow."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import field, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lossatlas.checks import (
    check_at_least,
    check_one_of,
    check_positive,
    check_same_structure,
)
from lossatlas.errors import SymmetryError
from lossatlas.linalg.params import Params
from lossatlas.memory import release_memory
from lossatlas.objective import Objective
from lossatlas.objective.batches import Batch
from lossatlas.result import Estimate, Figure, Reference, quantity, result, rows_figure
from lossatlas.rng import generator
from lossatlas.weights.activations import norm_statistics
from lossatlas.weights.matching import Candidate, Matcher, distance
from lossatlas.weights.network_checks import check_finite
from lossatlas.weights.network_result import NetworkResult, complete_state
from lossatlas.weights.paired import PairedLosses, halfway
from lossatlas.weights.symmetries import Element, Move

_REPAIR = Reference(
    "matching by activations",
    "K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur. REPAIR: REnormalizing Permuted "
    "Activations for Interpolation Repair. ICLR 2023.",
    "https://arxiv.org/abs/2211.08403",
)
GIT_REBASIN = Reference(
    "matching by weights",
    "S. K. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation "
    "Symmetries. ICLR 2023.",
    "https://arxiv.org/abs/2209.04836",
)
AlignBy = Literal["best", "weights", "activations"]
WAYS: tuple[str, ...] = get_args(AlignBy)
REFINED = "refined"
_MOMENTUM = 0.9
# How often a refinement is measured.
_LOOKS = 8


@result("alignment", references=(GIT_REBASIN, _REPAIR))
class Alignment(NetworkResult):
    """One network aligned to another.

    Attributes:
        params: the aligned network; the same function as before.
        element: the moves that were made, in order; `Symmetries.apply` repeats them.
        way: what won: "unchanged", "weights, order 1" (2, ...), "activations", "activations,
            then weights" or "refined".
        before: loss at the midpoint of the straight line over the mean of its ends, as it was.
        after: the same for the aligned network; both with paired errors.
        tried: way -> that number for every candidate.
        distance: Euclidean distance of the weights, before and after.
        error: largest change of a loss of the aligned network, in units of the largest loss.
        tied: second names of tied tensors -> the name in `params`.
    """

    params: Mapping[str, Tensor]
    element: tuple[Move, ...]
    way: str
    before: Estimate = quantity("loss")
    after: Estimate = quantity("loss")
    tried: Mapping[str, Estimate] = field(default_factory=dict)
    distance: tuple[float, float] = (math.nan, math.nan)
    error: float = quantity("", default=0.0)
    tied: Mapping[str, str] = field(default_factory=dict)

    def estimates(self) -> tuple[Estimate, ...]:
        """Barriers at the midpoint and distances, before and after.

        Returns:
            Four estimates.
        """
        return before_and_after((self.before, self.after), "distance", self.distance)

    def figures(self) -> tuple[Figure, ...]:
        """The loss halfway for every way that was tried.

        Returns:
            One figure.
        """
        title, axis = "Ways of alignment", "loss halfway above the mean of the ends"
        tried = [_named(estimate, way) for way, estimate in self.tried.items()]
        shown = tried or [self.before, self.after]
        return (rows_figure(title, shown, axis, caption=self.sentences()[0]),)

    def sentences(self) -> tuple[str, ...]:
        """What alignment achieved.

        Returns:
            One sentence.
        """
        return (
            f"Aligned by {self.way}, the loss halfway lies {self.after} above the mean of the "
            f"ends (before: {self.before}).",
        )


def before_and_after(
    losses: tuple[Estimate, Estimate], name: str, distance: tuple[float, float]
) -> tuple[Estimate, ...]:
    """Losses halfway and distances, each before and after."""
    pairs = zip(("before", "after"), distance, strict=True)
    return (*losses, *(Estimate(value, 0.0, name=f"{name} {when}") for when, value in pairs))


def align(
    objective: Objective,
    reference: Params,
    other: Params,
    *,
    by: AlignBy = "best",
    starts: int = 3,
    refine: int = 0,
    lr: float = 0.03,
    train: Objective | None = None,
    seed: int = 0,
) -> Alignment:
    """Align a network to another of the same architecture without changing its function.

    Units are permuted, heads exchanged and linear spaces rotated, as `symmetries` finds them.
    "weights" maximizes the inner product of the weights group by group; "activations" matches
    units by their correlation over the data; "best" tries both, activations followed by
    weights, and several random orders, and keeps the one with the lowest measured loss halfway;
    of candidates within one standard error of it, the nearest. `refine` trains one more
    candidate from there: a goal, at first the mean of the reference and the candidate, is moved
    by SGD (momentum 0.9) so that the network aligned to it has a low loss halfway, whose
    gradient is passed to the goal as if matching were the identity (straight-through). Each
    step costs a gradient and a matching; what counts is the best of eight looks on the way.

    Args:
        objective: model, loss and batches. Halfway losses are measured on its data: use data
            that neither network was trained on. Its mode says what norm layers do there.
        reference: name -> tensor, as `objective.params` or a full state dict.
        other: the network that is moved; the same names and shapes. Not changed. Parameters
            alone stand for a network with the running statistics of the model, which move
            along and are part of the answer.
        by: "best", "weights" or "activations".
        starts: random orders of weight matching.
        refine: steps of straight-through training, one batch each; 0 leaves it out.
        lr: of these steps.
        train: the same model and loss on other data, such as those of training: activations are
            compared on them, and the steps see them; by default `objective`, on whose data the
            loss halfway then looks better than it is.
        seed: of these orders, and of the order of the batches.

    Returns:
        The aligned weights, how they were found, and the loss halfway before and after.

    Raises:
        ArgumentError: `starts` is below 1.
        NonFiniteError: a checkpoint is not finite.
        StructureError: the two differ in names or shapes.
        SymmetryError: the aligned network is not the same function.
        UnknownNameError: an unknown `by`.

    Source: Ainsworth et al., arXiv:2209.04836; Jordan et al., arXiv:2211.08403.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import symmetries
        >>> from torch.nn import functional as F
        >>> layers = torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)
        >>> batch = torch.randn(8, 2), torch.randn(8, 1)
        >>> objective = la.Objective(
        ...     torch.nn.Sequential(*layers), la.supervised(F.mse_loss), [batch]
        ... )
        >>> reference = {k: v.clone() for k, v in objective.params.items()}
        >>> shuffled = symmetries(objective).apply(reference, symmetries(objective).random(1))
        >>> align(objective, reference, shuffled).distance[1]
        0.0
    """
    check_one_of("by", by, WAYS)
    check_at_least("starts", starts, 1)
    check_at_least("refine", refine, 0)
    check_positive("lr", lr)
    check_same_structure(reference=reference, other=other)
    for name, params in (("reference", reference), ("other", other)):
        check_finite(name, params)
    given = other
    points = (objective.split(point).whole for point in (reference, other))
    reference, other = (with_statistics(objective, point) for point in points)
    matcher = Matcher(train or objective, reference, other)
    middle = Midpoint(objective, reference, other)
    race = _Race(matcher, middle)
    race.enter("unchanged", Candidate(dict(other), ()))
    if by != "weights":
        race.enter("activations", matcher.by_activations(seed))
    for start in range(starts if by != "activations" else 0):
        race.enter(f"weights, order {start + 1}", matcher.by_weights(seed, start))
    if by == "best":
        race.enter(
            "activations, then weights",
            matcher.by_weights(seed, 0, race.candidate("activations")),
        )
    if refine:
        base = race.candidate(race.best)
        better = _refined(
            train or objective, matcher, middle, base, steps=refine, lr=lr, seed=seed
        )
        race.enter(REFINED, better)
    alignment = race.result(given.keys())
    whole, tied = complete_state(objective, alignment.params, given)
    return replace(alignment, params=whole, tied=tied)


def with_statistics(objective: Objective, point: Params) -> dict[str, Tensor]:
    """A point with the model's running statistics, which move along with the channels."""
    if objective.mode != "eval":
        return dict(point)
    return norm_statistics(objective.model) | dict(point)


class _Race:
    """Candidates one after the other; only their moves are kept, so that memory is that of one.

    Args:
        matcher: makes a candidate again from its moves.
        middle: losses halfway.
    """

    def __init__(self, matcher: Matcher, middle: "Midpoint") -> None:
        self._matcher, self._middle = matcher, middle
        self._elements: dict[str, Element] = {}
        self._tried: dict[str, Estimate] = {}
        self._lengths: dict[str, float] = {}

    def enter(self, way: str, candidate: Candidate) -> None:
        release_memory()
        self._elements[way] = candidate.element
        self._tried[way] = self._middle.barrier(candidate.params)
        self._lengths[way] = distance(self._matcher.reference, candidate.params)
        del candidate
        release_memory()

    def candidate(self, way: str) -> Candidate:
        return self._matcher.made(self._elements[way])

    @property
    def best(self) -> str:
        """The lowest loss halfway; of those that are indistinguishable, the nearest."""
        # Below the ends counts as no barrier.
        heights = {
            way: max(estimate.value, 0.0) if math.isfinite(estimate.value) else math.inf
            for way, estimate in self._tried.items()
        }
        lowest = min(heights, key=lambda way: heights[way])
        error = self._tried[lowest].stderr
        level = heights[lowest] + (error if math.isfinite(error) else 0.0)
        near = [way for way, height in heights.items() if height <= level]
        return min(near, key=lambda way: self._lengths[way])

    def result(self, names: Collection[str]) -> Alignment:
        way = self.best
        chosen = self.candidate(way)
        return Alignment(
            params=self._matcher.with_tied(chosen.params, names),
            element=chosen.element,
            way=way,
            before=_named(self._tried["unchanged"], "loss halfway, as it was"),
            after=_named(self._tried[way], "loss halfway, aligned"),
            tried=self._tried,
            distance=(self._lengths["unchanged"], self._lengths[way]),
            error=self._middle.change(chosen.params),
        )


def _refined(
    objective: Objective,
    matcher: Matcher,
    middle: "Midpoint",
    start: Candidate,
    *,
    steps: int,
    lr: float,
    seed: int,
) -> Candidate:
    """Straight-through: move a goal until what matches it has a low loss halfway."""
    # What matches this goal is the start; matching the reference may lead far away from it.
    goal = halfway(matcher.reference, start.params)
    speed = {name: torch.zeros_like(goal[name]) for name in objective.names}
    batches, candidate = endless_batches(objective, seed), start
    lowest, best = middle.barrier(start.params).value, start
    for step in range(1, steps + 1):
        now = halfway(matcher.reference, candidate.params)
        for name, value in objective.part([next(batches)]).gradient(now).items():
            speed[name].mul_(_MOMENTUM).add_(value / 2)
            goal[name] -= lr * speed[name]
        candidate = matcher.toward(goal).by_weights(seed, step, candidate)
        if step == steps or step % max(1, steps // _LOOKS) == 0:
            height = middle.barrier(candidate.params).value
            lowest, best = (height, candidate) if height < lowest else (lowest, best)
    return best


def endless_batches(objective: Objective, seed: int) -> Iterator[Batch]:
    """Batches in a new random order each time all have been seen."""
    batches: list[Batch] = objective.map_batches(lambda batch: batch)
    draw = generator(seed, "batches")
    while True:
        for k in torch.randperm(len(batches), generator=draw).tolist():
            yield batches[k]


def _named(estimate: Estimate, name: str) -> Estimate:
    return replace(estimate, name=name, unit="loss")


class Midpoint:
    """Loss at the midpoint over the mean of the ends, example by example."""

    def __init__(self, objective: Objective, reference: Params, other: Params) -> None:
        self._losses, self._reference = PairedLosses(objective), reference
        self._first, self._second = self._losses.sums(reference), self._losses.sums(other)

    def barrier(self, params: Params) -> Estimate:
        """Loss at the midpoint above the mean of the ends."""
        middle = self._losses.sums(halfway(self._reference, params))
        return self._losses.difference(middle, (self._first + self._second) / 2)

    def change(self, params: Params) -> float:
        """How far the losses of the aligned network are from those that it had."""
        largest = float(np.abs(self._second).max())
        changed = float(np.abs(self._losses.sums(params) - self._second).max())
        relative = changed / largest if largest else changed
        eps = max(torch.finfo(v.dtype).eps for v in params.values() if v.is_floating_point())
        if not relative <= max(1e-4, 1000 * eps):
            raise SymmetryError(
                f"the aligned network changes a loss by {relative:.2g} of the largest; the "
                "model computes something that its trace does not see. Leave parameters out of "
                "the objective (`params=`), and report this model."
            )
        return relative
