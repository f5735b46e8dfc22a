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
    parts = _parts_of_few(whole, batches)
    if parts is not None:
        return DividedData(*parts, len(batches), largest)
    if len(batches) < _HELD_OUT:
        return DividedData(whole, whole, len(batches), largest)
    training = [batch for at, batch in enumerate(batches, 1) if at % _HELD_OUT]
    judge = whole.part(batches[_HELD_OUT - 1 :: _HELD_OUT])
    return DividedData(whole.part(training), judge, len(batches), largest)


def _parts_of_few(whole: Objective, batches: list[Batch]) -> tuple[Objective, Objective] | None:
    # Every fifth example of each batch judges. A single batch mean has no standard error, so
    # that batches of scalar losses stay whole only where two of them judge.
    if len(batches) >= _HELD_OUT * (1 if whole.unit == "examples" else 2):
        return None
    # Normalization layers in training mode need two examples.
    min_judging = 2 if len(batches) >= _HELD_OUT else 1
    try:
        parts = [_divided(batch, min_judging) for batch in batches]
    except DataError:
        return None
    training, judging = zip(*parts, strict=True)
    return whole.part(training), whole.part(judging)


def _divided(batch: Batch, min_judging: int) -> tuple[Batch, Batch]:
    indices = list(range(batch_size(batch)))
    judging = indices[_HELD_OUT - 1 :: _HELD_OUT]
    if len(judging) < min_judging:
        raise DataError(f"a batch of {len(indices)} examples leaves too few to judge.")
    return rows(batch, [k for k in indices if (k + 1) % _HELD_OUT]), rows(batch, judging)


def needed_batches(updates: int) -> int:
    """Batches that `updates` updates and their judges take."""
    return updates + updates // (_HELD_OUT - 1)
