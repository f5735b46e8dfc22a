"""What an alignment will take, before it is made."""

import math
import time
from dataclasses import dataclass

import torch

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.io.records import record
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.weights.align import WAYS, AlignBy
from lossatlas.weights.matching import Matcher
from lossatlas.weights.places import ROOM
from lossatlas.weights.symmetries import Group

# Orders go through the groups about three times until nothing moves.
_SWEEPS = 3
# Bytes of a large tensor that is worked on in pieces: one in its dtype, two in float64.
_PIECES = 20
# Matrices of similarities that are there at once: the sum, a product, and what is solved.
_SIMILARITIES = 3
# Seconds of a linear assignment of n units by n^3, and of a singular value decomposition.
_ASSIGNMENT, _ROTATION = 7e-11, 4e-9


@record
@dataclass(frozen=True)
class AlignmentCost:
    """What an alignment takes.

    Attributes:
        memory: bytes of tensors beyond the model, its batch and the two networks; what a
            forward pass without gradients takes is not part of it, nor is the training of
            `refine`.
            The resident memory of the process rose by 1.1 times as much (GPT-2, 124M).
        operations: multiplications and additions of matching.
        seconds: CPU time of matching on one core; a rough guide, from a product of matrices
            that was timed just now.
    """

    memory: int
    operations: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.memory / 2**20:,.0f} MiB and about {self.seconds / 60:.1f} CPU minutes"


def alignment_cost(
    objective: Objective, *, by: AlignBy = "best", starts: int = 3
) -> AlignmentCost:
    """What `align` takes for networks of this objective; it costs a trace of the model.

    Args:
        objective: model, loss and batches.
        by: as for `align`.
        starts: as for `align`.

    Returns:
        Memory, operations and an estimate of the time.

    Raises:
        ArgumentError: `starts` is below 1.
        UnknownNameError: an unknown `by`.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import alignment_cost
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 9), torch.nn.Linear(9, 2))
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> objective = la.Objective(model, loss, [(torch.eye(2), torch.tensor([0, 1]))])
        >>> alignment_cost(objective).memory
        8972
    """
    check_one_of("by", by, WAYS)
    check_at_least("starts", starts, 1)
    params = objective.params
    runs = {"weights": starts, "activations": 0, "best": starts + 1}[by]
    operations = solving = 0.0
    groups = Matcher(objective, params, params).groups_matched()
    for group, pairs in groups:
        rest = sum(
            place.locate(params[place.tensor])[0].numel() / group.size
            for place in group.places
            if place.tensor in params
        )
        operations += 2 * pairs * group.size**2 * rest
        solving += pairs * _solving(group)
    sweeps = _SWEEPS * runs
    seconds = sweeps * (operations / _rate() + solving)
    memory = _memory(params, [group for group, _ in groups], runs + 1)
    return AlignmentCost(memory, sweeps * operations, seconds)


def _memory(params: Params, groups: list[Group], candidates: int) -> int:
    """A network that is moved and a mean of two, or else what matching takes beside one."""
    copy = sum(value.nbytes for value in params.values())
    largest = max(value.numel() for value in params.values())
    squares = [8 * group.size**2 for group in groups]
    similar = _SIMILARITIES * max(squares, default=0)
    turned = sum(s for s, g in zip(squares, groups, strict=True) if g.kind == "orthogonal")
    pieces = _PIECES * min(largest, ROOM)
    return copy + max(copy, similar) + pieces + 2 * candidates * turned


def _solving(group: Group) -> float:
    factor = _ROTATION if group.kind == "orthogonal" else _ASSIGNMENT
    return factor * float(group.size) ** 3


def _rate(size: int = 512) -> float:
    """Operations a second of a product of matrices, the best of three."""
    square = torch.ones(size, size)
    best = math.inf
    for _ in range(3):
        began = time.process_time()
        square @ square
        best = min(best, time.process_time() - began)
    return 2 * size**3 / max(best, 1e-6)
