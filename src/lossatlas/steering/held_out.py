"""Data of an objective divided: what short runs train on, and what judges them."""

from dataclasses import dataclass

from lossatlas.errors import DataError
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import batch_size, rows
from lossatlas.steering.short_runs import training_objective

# One batch in so many judges the runs, where there are as many.
_HELD_OUT = 5


@dataclass(frozen=True)
class DividedData:
    """Data that the runs train on, data that judge them, and what both were made of."""

    training: Objective
    judge: Objective
    drawn: int
    batch_size: float

    @property
    def held_out(self) -> bool:
        """Whether what judges trains nothing."""
        return self.judge is not self.training


def divide_data(objective: Objective, updates: int) -> DividedData:
    """Batches for `updates` updates, a fifth of which judge and train nothing."""
    whole = training_objective(objective, needed_batches(updates))
    batches = list(whole.batches)
    largest = max(map(whole.size_of, batches))
    if len(batches) < _HELD_OUT:
        return DividedData(*_parts_of_few(whole, batches), len(batches), largest)
    training = [batch for at, batch in enumerate(batches, 1) if at % _HELD_OUT]
    judge = whole.part(batches[_HELD_OUT - 1 :: _HELD_OUT])
    return DividedData(whole.part(training), judge, len(batches), largest)


def _parts_of_few(whole: Objective, batches: list[Batch]) -> tuple[Objective, Objective]:
    # Every fifth example of each batch judges; all of them where batches cannot be divided.
    try:
        parts = [_divided(batch) for batch in batches]
    except DataError:
        return whole, whole
    training, judging = zip(*parts, strict=True)
    return whole.part(training), whole.part(judging)


def _divided(batch: Batch) -> tuple[Batch, Batch]:
    indices = list(range(batch_size(batch)))
    judging = indices[_HELD_OUT - 1 :: _HELD_OUT]
    if not judging:
        raise DataError(f"a batch of {len(indices)} examples leaves none to judge.")
    return rows(batch, [k for k in indices if (k + 1) % _HELD_OUT]), rows(batch, judging)


def needed_batches(updates: int) -> int:
    """Batches that `updates` updates and their judges take."""
    return updates + updates // (_HELD_OUT - 1)
