"""Matching: the moves of a network's symmetries that bring it near another one."""

import math
from collections.abc import Callable, Collection, Iterator
from copy import copy
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from lossatlas.linalg.params import Params
from lossatlas.memory import release_memory
from lossatlas.objective import Objective
from lossatlas.rng import generator
from lossatlas.weights.activations import Correlations
from lossatlas.weights.places import ROOM
from lossatlas.weights.symmetries import Element, Group, Move, Symmetries, acted, find

_SWEEPS = 100
_GAIN = 1e-9


@dataclass(frozen=True, eq=False)
class Candidate:
    """An aligned network and the moves that made it."""

    params: dict[str, Tensor]
    element: Element


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


class Matcher:
    """Finds moves that bring `other` near `reference`."""

    def __init__(self, objective: Objective, reference: Params, other: Params) -> None:
        self._objective, self.reference, self._other = objective, reference, other
        self._symmetries, self._activations = find(objective)
        self._blocks = _blocks(self._symmetries)

    def toward(self, reference: Params, other: Params | None = None) -> "Matcher":
        """The same for another reference, and another network that is moved."""
        changed = copy(self)
        changed.reference = reference
        changed._other = self._other if other is None else other
        return changed

    def with_tied(self, params: Params, names: Collection[str]) -> dict[str, Tensor]:
        """A network with further names of tied weights, where they were given."""
        tied = self._symmetries.tied.items()
        return dict(params) | {n: params[k] for n, k in tied if n in names and k in params}

    def by_activations(self, seed: int) -> Candidate:
        """Each group by the similarity of its units over the data; no search."""
        parts = (self._matched_by_data(blocks, seed) for blocks in self._affordable())
        return self.made(tuple(move for part in parts for move in part))

    def _matched_by_data(self, blocks: list["_Block"], seed: int) -> list[Move]:
        pairs = [pair for block in blocks for pair in block.pairs]
        measure = Correlations(self._objective, self._symmetries, self._activations, pairs)
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
            size = sum(self._symmetries.groups[a].size ** 2 for a, _ in block.pairs)
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
            for place in self._symmetries.groups[group].places
            if place.tensor in self._other
        }

    def groups_matched(self) -> list[tuple[Group, int]]:
        """Groups, each with how many others it is compared with."""
        groups = self._symmetries.groups
        matched = [(groups[b.group], 0 if b.families else 1) for b in self._blocks]
        for block in self._blocks:
            matched += [(groups[k], len(f)) for f in block.families for k in f]
        return matched

    def made(self, element: Element) -> Candidate:
        """The network that was moved by an element."""
        return Candidate(self._symmetries.apply(self._other, element), element)

    def _scale(self, state: Params) -> float:
        return sum(_inner(self.reference[name], self.reference[name]) for name in state)

    def _improved(self, state: dict[str, Tensor], block: "_Block") -> tuple[list[Move], float]:
        moves = self._matched(block, lambda a, b: self._weights(state, a, b))
        changes = self._symmetries.changes(moves, state)
        made: dict[str, Tensor] = {}
        before, after, room = 0.0, 0.0, ROOM
        for name, parts in changes.items():
            new = acted(state[name], parts)
            room -= new.numel()
            if name in self._objective.names:
                before += _inner(self.reference[name], state[name])
                after += _inner(self.reference[name], new)
            if room > 0:
                # Large ones are made again: a block may act on all weights there are.
                made[name] = new
            del new
        if room <= 0:
            release_memory()
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
        size = self._symmetries.groups[block.group].size
        gains = torch.zeros(size, size, dtype=torch.float64)
        for family in block.families:
            rotated = self._is_rotated(family[0])
            for i, first in enumerate(family):
                for j, second in enumerate(family):
                    gains[i, j] += _best_gain(similar(first, second), rotated)
        return _best_map(gains, rotated=False)

    def _is_rotated(self, group: int) -> bool:
        return self._symmetries.groups[group].kind == "orthogonal"

    def _weights(self, state: Params, first: int, second: int) -> Tensor:
        groups = self._symmetries.groups
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


def _blocks(symmetries: Symmetries) -> list[_Block]:
    families: dict[int, list[list[int]]] = {}
    for k, group in enumerate(symmetries.groups):
        if group.within is not None:
            outer, index = group.within
            if index == 0:
                families.setdefault(outer, []).append([])
            families[outer][-1].append(k)
    return [
        _Block(k, tuple(map(tuple, families.get(k, ()))))
        for k, group in enumerate(symmetries.groups)
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
