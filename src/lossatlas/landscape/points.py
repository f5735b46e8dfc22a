"""Points in, numbers out: chunks go to an executor, finished ones into the ledger."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossatlas.executor import Executor, Progress, Serial, run_tasks
from lossatlas.io import Ledger
from lossatlas.landscape.engines import Engine, Task, build

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """What a process is sent: enough to build the engine there."""

    task: Task
    engine: str

    def __call__(self) -> Callable[[Array], Array]:
        """Build the engine."""
        return build(self.task, self.engine).evaluate


class Points:
    """Evaluates any points of a plane, chunk by chunk.

    Chunks depend on the points asked for only, so a run that is resumed asks for the same
    chunks and gets the same bits.

    Args:
        work: what another process builds the engine from.
        engine: the same engine, for this process.
        executor: where chunks run.
        ledger: where finished chunks are kept, if anywhere.
        progress: hears about finished chunks; its total grows as points are asked for.
    """

    def __init__(
        self,
        work: Work,
        engine: Engine,
        *,
        executor: Executor,
        ledger: Ledger | None,
        progress: Progress | None,
    ) -> None:
        self._work, self._executor, self._ledger = work, executor, ledger
        self._progress, self._requested = progress, 0
        self._chunk, self.memory = engine.chunk, engine.memory
        self._start = (lambda: engine.evaluate) if _in_process(executor) else work
        self.evaluations = 0

    def __call__(self, coordinates: Array) -> Array:
        """Evaluate some points."""
        pieces = {
            _name(piece): piece
            for start in range(0, len(coordinates), self._chunk)
            if len(piece := coordinates[start : start + self._chunk])
        }
        self._requested += len(coordinates)
        results = []
        for result in run_tasks(
            pieces, self._start, executor=self._executor, ledger=self._ledger
        ):
            results.append(result)
            self._tell(len(result))
        return np.concatenate(results)

    def _tell(self, points: int) -> None:
        self.evaluations += points
        if self._progress is not None:
            self._progress(self.evaluations, self._requested, "points")


def _name(piece: Array) -> str:
    return hashlib.blake2b(np.ascontiguousarray(piece).tobytes(), digest_size=16).hexdigest()


def _in_process(executor: Executor) -> bool:
    return isinstance(executor, Serial)
