"""Alignment: bring one network as near to another as its symmetries allow."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import scipy
import torch
from torch import Tensor

from lossatlas.checks import (
    check_at_least,
    check_one_of,
    check_positive,
    check_same_structure,
)
from lossatlas.errors import NonFiniteError, SymmetryError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.batches import Batch
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result, rows_figure
from lossatlas.rng import generator
from lossatlas.weights.activations import Correlations, norm_statistics
from lossatlas.weights.paired import PairedLosses, halfway
from lossatlas.weights.places import ROOM
from lossatlas.weights.symmetries import Element, Group, Move, Symmetries, acted, find

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
_SWEEPS = 100
_MOMENTUM = 0.9
# How often a refinement is measured.
_LOOKS = 8
_GAIN = 1e-9


@result("alignment", references=(GIT_REBASIN, _REPAIR))
class Alignment(Result):
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
    """

    params: Mapping[str, Tensor]
    element: tuple[Move, ...]
    way: str
    before: Estimate = quantity("loss")
    after: Estimate = quantity("loss")
    tried: Mapping[str, Estimate] = field(default_factory=dict)
    distance: tuple[float, float] = (math.nan, math.nan)
    error: float = quantity("", default=0.0)

    def estimates(self) -> tuple[Estimate, ...]:
        """Barriers at the midpoint and distances, before and after.

        Returns:
            Four estimates.
        """
        start, end = self.distance
        return (
            self.before,
            self.after,
            Estimate(start, 0.0, name="distance before"),
            Estimate(end, 0.0, name="distance after"),
        )

    def figures(self) -> tuple[Figure, ...]:
        """The loss halfway for every way that was tried.

        Returns:
            One figure.
        """
        title, axis = "Ways of alignment", "loss halfway above the mean of the ends"
        tried = [_named(found, way) for way, found in self.tried.items()]
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
    names = other.keys()
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
    return race.result(names)


def with_statistics(objective: Objective, point: Params) -> dict[str, Tensor]:
    """A point with the model's running statistics, which move along with the channels."""
    if objective.mode != "eval":
        return dict(point)
    return norm_statistics(objective.model) | dict(point)


def check_finite(argument: str, params: Params) -> None:
    """Refuse a checkpoint with an entry that is not finite, by name."""
    for name, value in params.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise NonFiniteError(
                f"`{argument}` holds '{name}' with entries that are not finite; take a "
                "checkpoint from before the training diverged."
            )


@dataclass(frozen=True, eq=False)
class Candidate:
    """An aligned network and the moves that made it."""

    params: dict[str, Tensor]
    element: Element


class _Race:
    """Candidates one after the other; only their moves are kept, so that memory is that of one.

    Args:
        matcher: makes a candidate again from its moves.
        middle: losses halfway.
    """

    def __init__(self, matcher: "Matcher", middle: "Midpoint") -> None:
        self._matcher, self._middle = matcher, middle
        self._elements: dict[str, Element] = {}
        self._tried: dict[str, Estimate] = {}
        self._lengths: dict[str, float] = {}

    def enter(self, way: str, candidate: Candidate) -> None:
        self._elements[way] = candidate.element
        self._tried[way] = self._middle.barrier(candidate.params)
        self._lengths[way] = distance(self._matcher.reference, candidate.params)

    def candidate(self, way: str) -> Candidate:
        return self._matcher.made(self._elements[way])

    @property
    def best(self) -> str:
        """The lowest loss halfway; of those that errors do not tell apart, the nearest."""
        # Below the ends counts as no barrier.
        heights = {
            way: max(found.value, 0.0) if math.isfinite(found.value) else math.inf
            for way, found in self._tried.items()
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
    matcher: "Matcher",
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
    batches, found = endless_batches(objective, seed), start
    lowest, best = middle.barrier(start.params).value, start
    for step in range(1, steps + 1):
        now = halfway(matcher.reference, found.params)
        for name, value in objective.part([next(batches)]).gradient(now).items():
            speed[name].mul_(_MOMENTUM).add_(value / 2)
            goal[name] -= lr * speed[name]
        found = matcher.toward(goal).by_weights(seed, step, found)
        if step == steps or step % max(1, steps // _LOOKS) == 0:
            height = middle.barrier(found.params).value
            lowest, best = (height, found) if height < lowest else (lowest, best)
    return best


def endless_batches(objective: Objective, seed: int) -> Iterator[Batch]:
    """Batches in a new random order each time all have been seen."""
    batches: list[Batch] = objective.map_batches(lambda batch: batch)
    draw = generator(seed, "batches")
    while True:
        for k in torch.randperm(len(batches), generator=draw).tolist():
            yield batches[k]


def _named(found: Estimate, name: str) -> Estimate:
    return replace(found, name=name, unit="loss")


def distance(first: Params, second: Params) -> float:
    """Euclidean distance of two points."""
    squares = (
        float((a.double() - b.double()).square().sum())
        for name, value in second.items()
        for a, b in _chunks(first[name], value)
    )
    return math.sqrt(sum(squares))


def _chunks(first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Two tensors of one shape piece by piece: in float64 they would take twice the room."""
    parts = (torch.split(value.reshape(-1), ROOM) for value in (first, second))
    return zip(*parts, strict=True)


class Midpoint:
    """Loss at the midpoint over the mean of the ends, example by example."""

    def __init__(self, objective: Objective, reference: Params, other: Params) -> None:
        self._losses, self._reference = PairedLosses(objective), reference
        self._first, self._second = self._losses.sums(reference), self._losses.sums(other)

    def barrier(self, params: Params) -> Estimate:
        """Loss at the midpoint above the mean of the ends."""
        middle = self._losses.sums(halfway(self._reference, params))
        return self._losses.mean(middle - (self._first + self._second) / 2)

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


class Matcher:
    """Finds moves that bring `other` near `reference`."""

    def __init__(self, objective: Objective, reference: Params, other: Params) -> None:
        self._objective, self.reference, self._other = objective, reference, other
        self._found, self._activations = find(objective)
        self._blocks = _blocks(self._found)

    def toward(self, reference: Params, other: Params | None = None) -> "Matcher":
        """The same for another reference, and another network that is moved."""
        changed = copy(self)
        changed.reference = reference
        changed._other = self._other if other is None else other
        return changed

    def with_tied(self, params: Params, names: Collection[str]) -> dict[str, Tensor]:
        """A network with further names of tied weights, where they were given."""
        tied = self._found.tied.items()
        return dict(params) | {n: params[k] for n, k in tied if n in names and k in params}

    def by_activations(self, seed: int) -> Candidate:
        """Each group by the similarity of its units over the data; no search."""
        parts = (self._matched_by_data(blocks, seed) for blocks in self._affordable())
        return self.made(tuple(move for part in parts for move in part))

    def _matched_by_data(self, blocks: list["_Block"], seed: int) -> list[Move]:
        pairs = [pair for block in blocks for pair in block.pairs]
        measure = Correlations(self._objective, self._found, self._activations, pairs)
        similar = measure.between(self.reference, self._other, seed)
        moves: list[Move] = []
        for block in blocks:
            if all(pair in similar for pair in block.pairs):
                moves += self._matched(block, lambda a, b: similar[a, b])
        return moves

    def _affordable(self) -> Iterator[list["_Block"]]:
        """Blocks together, as far as their similarities take half the room of the weights."""
        entries = sum(value.nbytes for value in self.reference.values()) // 16
        room, part = max(entries, ROOM), list[_Block]()
        for block in self._blocks:
            size = sum(self._found.groups[a].size ** 2 for a, _ in block.pairs)
            if part and size > room:
                yield part
                room, part = max(entries, ROOM), []
            part.append(block)
            room -= size
        if part:
            yield part

    def by_weights(self, seed: int, start: int, base: Candidate | None = None) -> Candidate:
        """Coordinate ascent on the inner product of the weights, in a random order."""
        # Tensors are replaced one by one: the base is let go.
        state = dict(base.params if base else self._other)
        moves = list(base.element if base else ())
        del base
        draw = generator(seed, "order", start)
        # Tensors that were moved since a block was last found to be at its best.
        stale = [self._names(block) for block in self._blocks]
        for _ in range(_SWEEPS):
            gain = 0.0
            for k in torch.randperm(len(self._blocks), generator=draw).tolist():
                if not stale[k]:
                    continue
                made, more = self._improved(state, self._blocks[k])
                moves += made
                gain += more
                stale[k] = set()
                if made:
                    moved = self._names(self._blocks[k])
                    stale = [
                        names | (self._names(b) & moved) for names, b in self._pairs(stale)
                    ]
            if gain <= _GAIN * self._scale(state):
                break
        return Candidate(state, tuple(moves))

    def _pairs(self, stale: list[set[str]]) -> Iterator[tuple[set[str], "_Block"]]:
        return zip(stale, self._blocks, strict=True)

    def _names(self, block: "_Block") -> set[str]:
        """Tensors that a block acts on, as far as they are there."""
        return {
            place.tensor
            for group in block.groups
            for place in self._found.groups[group].places
            if place.tensor in self._other
        }

    def groups_matched(self) -> list[tuple[Group, int]]:
        """Groups, each with how many others it is compared with."""
        groups = self._found.groups
        found = [(groups[b.group], 0 if b.families else 1) for b in self._blocks]
        for block in self._blocks:
            found += [(groups[k], len(f)) for f in block.families for k in f]
        return found

    def made(self, element: Element) -> Candidate:
        """The network that was moved by an element."""
        return Candidate(self._found.apply(self._other, element), element)

    def _scale(self, state: Params) -> float:
        return sum(_inner(self.reference[name], self.reference[name]) for name in state)

    def _improved(self, state: dict[str, Tensor], block: "_Block") -> tuple[list[Move], float]:
        moves = self._matched(block, lambda a, b: self._weights(state, a, b))
        changes = self._found.changes(moves, state)
        made: dict[str, Tensor] = {}
        before, after, room = 0.0, 0.0, ROOM
        for name, parts in changes.items():
            new = acted(state[name], parts)
            room -= new.numel()
            if room > 0:
                # Large ones are made again: a block may act on all weights there are.
                made[name] = new
            if name in self._objective.names:
                before += _inner(self.reference[name], state[name])
                after += _inner(self.reference[name], new)
        # A group on two axes of one tensor: the linear term is not the whole gain.
        if after - before <= _GAIN * max(before, 1e-30):
            return [], 0.0
        for name, parts in changes.items():
            state[name] = made[name] if name in made else acted(state[name], parts)
        return moves, after - before

    def _matched(self, block: "_Block", similar: "_Similarity") -> list[Move]:
        if not block.families:
            own = block.group
            return [Move(own, _best_map(similar(own, own), self._is_rotated(own)))]
        heads = self._best_heads(block, similar)
        moves = [Move(block.group, heads)]
        for family in block.families:
            rotated = self._is_rotated(family[0])
            for new, old in enumerate(heads.tolist()):
                moves.append(
                    Move(family[new], _best_map(similar(family[new], family[old]), rotated))
                )
        return moves

    def _best_heads(self, block: "_Block", similar: "_Similarity") -> Tensor:
        size = self._found.groups[block.group].size
        gains = torch.zeros(size, size, dtype=torch.float64)
        for family in block.families:
            rotated = self._is_rotated(family[0])
            for i, first in enumerate(family):
                for j, second in enumerate(family):
                    gains[i, j] += _best_gain(similar(first, second), rotated)
        return _best_map(gains, rotated=False)

    def _is_rotated(self, group: int) -> bool:
        return self._found.groups[group].kind == "orthogonal"

    def _weights(self, state: Params, first: int, second: int) -> Tensor:
        groups = self._found.groups
        total = torch.zeros(groups[first].size, groups[first].size, dtype=torch.float64)
        for a, b in zip(groups[first].places, groups[second].places, strict=True):
            if a.tensor in self._objective.names:
                one, two = self.reference[a.tensor], state[b.tensor]
                # Large products in float32: they only choose, gains are measured anew.
                is_small = a.locate(one)[0].numel() <= ROOM
                wide = torch.float64 if is_small else torch.float32
                for left, right in zip(a.row_parts(one), b.row_parts(two), strict=True):
                    total += (left.to(wide) @ right.to(wide).T).cpu()
        return total


def _inner(first: Tensor, second: Tensor) -> float:
    return sum(float(a.double() @ b.double()) for a, b in _chunks(first, second))


_Similarity = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class _Block:
    """A group with the families that exist once for each of its indices."""

    group: int
    families: tuple[tuple[int, ...], ...] = ()

    @property
    def groups(self) -> tuple[int, ...]:
        return (self.group, *(group for family in self.families for group in family))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        if not self.families:
            return [(self.group, self.group)]
        return [(a, b) for family in self.families for a in family for b in family]


def _blocks(found: Symmetries) -> list[_Block]:
    families: dict[int, list[list[int]]] = {}
    for k, group in enumerate(found.groups):
        if group.within is not None:
            outer, index = group.within
            if index == 0:
                families.setdefault(outer, []).append([])
            families[outer][-1].append(k)
    return [
        _Block(k, tuple(map(tuple, families.get(k, ()))))
        for k, group in enumerate(found.groups)
        if group.within is None
    ]


def _best_map(similar: Tensor, rotated: bool) -> Tensor:
    """The permutation or rotation of the second set of units with the largest inner product."""
    if rotated:
        u, _, v = torch.linalg.svd(similar)
        rotation: Tensor = u @ v
        return rotation
    _, columns = scipy.optimize.linear_sum_assignment(similar.numpy(), maximize=True)
    return torch.as_tensor(columns)


def _best_gain(similar: Tensor, rotated: bool) -> float:
    if rotated:
        return float(torch.linalg.svdvals(similar).sum())
    rows, columns = scipy.optimize.linear_sum_assignment(similar.numpy(), maximize=True)
    return float(similar[rows, columns].sum())
