"""Several networks aligned to one another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace

import numpy as np
import torch
from torch import Tensor

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.landscape.checkpoints import states_of
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Result, quantity, result
from lossatlas.rng import generator
from lossatlas.text import count
from lossatlas.weights.align import GIT_REBASIN, Midpoint, before_and_after, with_statistics
from lossatlas.weights.matching import Candidate, Matcher, distance
from lossatlas.weights.network_checks import check_finite
from lossatlas.weights.network_result import complete_state, state_dict_of
from lossatlas.weights.paired import PairedLosses, blend

_ROUNDS = 50


@result("joint alignment", references=(GIT_REBASIN,))
class JointAlignment(Result):
    """Several networks aligned to one another.

    Attributes:
        params: the networks, each the same function as before; the first one is unchanged.
        before: loss of their mean above the mean of their losses, as they were.
        after: the same once aligned; both with paired errors.
        distance: root mean square distance to their mean, before and after.
        error: largest change of a loss of a network, in units of its largest loss.
        rounds: how often all networks were gone through.
        tied: second names of tied tensors -> the name in each of `params`.
    """

    params: tuple[Mapping[str, Tensor], ...]
    before: Estimate = quantity("loss")
    after: Estimate = quantity("loss")
    distance: tuple[float, float] = (math.nan, math.nan)
    error: float = quantity("", default=0.0)
    rounds: int = 0
    tied: Mapping[str, str] = field(default_factory=dict)

    def state_dicts(self) -> tuple[dict[str, Tensor], ...]:
        """All that files of the networks hold, for `model.load_state_dict`.

        Returns:
            One state dict a network, in the order given; see `Alignment.state_dict`.
        """
        return tuple(state_dict_of(params, self.tied) for params in self.params)

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean of the aligned networks."""
        return _mean(self.params)

    def estimates(self) -> tuple[Estimate, ...]:
        """Loss of the mean above the mean of the losses, and distances, before and after.

        Returns:
            Four estimates.
        """
        losses = self.before, self.after
        return before_and_after(losses, "distance to the mean", self.distance)

    def sentences(self) -> tuple[str, ...]:
        """What alignment achieved.

        Returns:
            One sentence.
        """
        return (
            f"With {count(len(self.params), 'network')} aligned, the loss of their mean lies "
            f"{self.after} above the mean of their losses (before: {self.before}).",
        )


def align_many(
    objective: Objective, *networks: Params, starts: int = 3, seed: int = 0
) -> JointAlignment:
    """Align several networks of one architecture to one another, none changed in function.

    Every network is matched by its weights to the mean of the others, again and again in a
    random order, until none moves; the first one stays. The sum of the inner products of all
    pairs rises at every step.

    Args:
        objective: model, loss and batches; losses are measured on its data, which no network
            should have been trained on.
        *networks: two or more; names and shapes as `objective.params`, or full state dicts.
        starts: random orders of the first matching, of which the nearest counts.
        seed: of the orders.

    Returns:
        The aligned networks, and the loss of their mean before and after.

    Raises:
        ArgumentError: fewer than two networks, or `starts` below 1.
        NonFiniteError: a network is not finite.
        StructureError: names or shapes differ.
        SymmetryError: an aligned network is not the same function.

    Source: Ainsworth et al., arXiv:2209.04836, appendix (merging many models).

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import align_many, symmetries
        >>> from torch.nn import functional as F
        >>> layers = torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)
        >>> batch = torch.randn(8, 2), torch.randn(8, 1)
        >>> objective = la.Objective(
        ...     torch.nn.Sequential(*layers), la.supervised(F.mse_loss), [batch]
        ... )
        >>> start, found = objective.params, symmetries(objective)
        >>> shuffled = [found.apply(start, found.random(seed)) for seed in range(2)]
        >>> align_many(objective, start, *shuffled).distance[1]
        0.0
    """
    if len(networks) < 2:
        raise ArgumentError(
            f"`networks` must be two or more; got {len(networks)}; pass "
            "align_many(objective, a, b)."
        )
    check_at_least("starts", starts, 1)
    called = [f"network {number}" for number in range(1, len(networks) + 1)]
    for name, network in zip(called, networks, strict=True):
        check_finite(name, network)
    states = states_of(objective, networks, names=called)
    points = [with_statistics(objective, state.whole) for state in states]
    matcher = Matcher(objective, points[0], points[0])
    aligned, rounds = _aligned(matcher, points, starts, seed)
    changes = [
        Midpoint(objective, points[0], old).change(new)
        for old, new in zip(points[1:], aligned[1:], strict=True)
    ]
    aligned = [{name: value.clone() for name, value in point.items()} for point in aligned]
    named = zip(aligned, networks, strict=True)
    whole = [
        complete_state(objective, matcher.with_tied(params, given.keys()), given)
        for params, given in named
    ]
    return JointAlignment(
        params=tuple(params for params, _ in whole),
        before=_excess(objective, points, "as they were"),
        after=_excess(objective, aligned, "aligned"),
        distance=(_spread(points), _spread(aligned)),
        error=max(changes),
        rounds=rounds,
        tied=whole[0][1],
    )


def _aligned(
    matcher: Matcher, points: Sequence[Params], starts: int, seed: int
) -> tuple[list[dict[str, Tensor]], int]:
    aligned = [dict(points[0])]
    for point in points[1:]:
        # At first to the mean of those that are aligned.
        middle = _mean(aligned)
        toward = matcher.toward(middle, point)
        runs = [toward.by_weights(seed, start).params for start in range(starts)]
        aligned.append(min(runs, key=lambda params: distance(middle, params)))
    draw = generator(seed, "networks")
    for turn in range(_ROUNDS):
        has_moved = False
        for k in (torch.randperm(len(aligned) - 1, generator=draw) + 1).tolist():
            others = _mean([*aligned[:k], *aligned[k + 1 :]])
            moved = matcher.toward(others).by_weights(seed, k, Candidate(aligned[k], ()))
            has_moved |= bool(moved.element)
            aligned[k] = moved.params
        if not has_moved:
            return aligned, turn + 1
    return aligned, _ROUNDS


def _mean(points: Sequence[Params]) -> dict[str, Tensor]:
    return blend(points, [1 / len(points)] * len(points))


def _spread(points: Sequence[Params]) -> float:
    middle = _mean(points)
    squares = sum(distance(middle, point) ** 2 for point in points)
    return math.sqrt(squares / len(points))


def _excess(objective: Objective, points: Sequence[Params], how: str) -> Estimate:
    losses = PairedLosses(objective)
    ends = np.mean([losses.sums(point) for point in points], axis=0)
    difference = losses.difference(losses.sums(_mean(points)), ends)
    return replace(difference, name=f"loss of the mean, {how}", unit="loss")
