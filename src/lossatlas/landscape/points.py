"""Evaluate points: chunks run on an executor, finished ones are stored in the ledger."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.executor import Executor, Progress, Serial, run_tasks
from lossatlas.io import Ledger, from_bytes, to_bytes
from lossatlas.landscape.engines import Engine, Task, build
from lossatlas.memory import is_out_of_memory
from lossatlas.objective import Objective
from lossatlas.objective.in_place import is_collective
from lossatlas.objective.shared import ran_out_somewhere
from lossatlas.ranks import Ranks

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """Everything a worker process needs to build the engine.

    Attributes:
        task: the task to evaluate.
        engine: its name.
        memory: bytes the engine needs beyond model and data.
    """

    task: Task
    engine: str
    memory: int = 0

    @classmethod
    def of(cls, task: Task, engine: Engine) -> "Work":
        """What is sent for an engine; on a card it takes nothing of the host's memory."""
        on_host = task.objective.device.type == "cpu"
        return cls(task, engine.name, engine.memory if on_host else 0)

    def __call__(self) -> Callable[[Array], Array]:
        """Build the engine."""
        return Sparing(build(self.task, self.engine))


class Sparing:
    """Evaluate with an engine; when memory runs out, retry with half of the points.

    Args:
        engine: the engine.

    Attributes:
        most: points at once after memory ran out; 0 until then.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self.max_points = engine, 0

    def __call__(self, coordinates: Array) -> Array:
        """The quantities of some points, as `Engine.evaluate`."""
        if not self.max_points:
            values = self._at_once(coordinates)
            if values is not None:
                return values
            self.max_points = max(1, min(len(coordinates), self._block) // 2)
            logger.warning("memory ran out; going on with %d points at once", self.max_points)
        parts = range(0, len(coordinates), self.max_points)
        results = [self._engine.evaluate(coordinates[k : k + self.max_points]) for k in parts]
        return np.concatenate(results)

    def _at_once(self, coordinates: Array) -> Array | None:
        # None where memory ran out, on this process or on another that works along.
        values, short = None, False
        try:
            values = self._engine.evaluate(coordinates)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(coordinates) < 2:
                raise
            short = True
        task = self._engine.task
        return None if ran_out_somewhere(task.objective.model, task.ranks, short) else values

    @property
    def _block(self) -> int:
        # How many points an engine holds side by side, on every process.
        block = int(getattr(self._engine, "block", self._engine.chunk))
        ranks = self._engine.task.ranks
        return block if ranks is None else min(ranks.gather(block))


class Points:
    """Evaluate points of a plane, chunk by chunk.

    Chunks depend only on the requested points, so a resumed run requests the same chunks and
    gets bitwise identical results.

    Args:
        work: what another process builds the engine from.
        engine: the same engine, for this process.
        executor: where chunks run.
        ledger: where finished chunks are kept, if anywhere; that of the first process.
        ranks: the processes that evaluate the same chunks, each on its share of the data.
        progress: hears about finished chunks.
        most: points of the grid, the total that `progress` hears of until `finish`.
        is_adaptive: whether fewer may do.
    """

    def __init__(
        self,
        work: Work,
        engine: Engine,
        *,
        executor: Executor,
        ledger: Ledger | None,
        ranks: Ranks | None = None,
        progress: Progress | None,
        max_points: int,
        is_adaptive: bool,
    ) -> None:
        self._work, self._executor, self._ledger = work, executor, ledger
        self._ranks = ranks
        self._progress, self._most = progress, max_points
        self._label = "points at most" if is_adaptive else "points"
        self._chunk, self.memory = engine.chunk, engine.memory
        self._sparing = Sparing(engine)
        self._start = (lambda: self._sparing) if _in_process(executor) else work
        self.evaluations = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What became of the run that a reader of the map should know."""
        max_points, fewer = self._sparing.max_points, getattr(self._executor, "note", "")
        if not max_points:
            return (fewer,) if fewer else ()
        points = "one point" if max_points == 1 else f"{max_points} points"
        return (f"Memory ran out once; after that, {points} were evaluated at a time.",)

    def skip(self, points: int) -> None:
        """Count points that were evaluated elsewhere."""
        self.evaluations += points

    def __call__(self, coordinates: Array) -> Array:
        """Evaluate some points."""
        pieces = {
            _name(piece): piece
            for start in range(0, len(coordinates), self._chunk)
            if len(piece := coordinates[start : start + self._chunk])
        }
        if self._ranks is not None:
            return np.concatenate([self._together(*item) for item in pieces.items()])
        results = []
        for result in run_tasks(
            pieces, self._start, executor=self._executor, ledger=self._ledger
        ):
            results.append(result)
            self._tell(len(result))
        return np.concatenate(results)

    def _together(self, name: str, piece: Array) -> Array:
        # All processes go the same way: the first one knows what is done.
        assert self._ranks is not None
        stored = self._ranks.first(partial(self._stored_chunk, name))
        if stored is None:
            result = self._start()(piece)
            if self._ledger is not None:
                self._ledger.put(name, to_bytes(result))
        else:
            result = from_bytes(stored)
        self._tell(len(result))
        return result

    def _stored_chunk(self, name: str) -> bytes | None:
        return None if self._ledger is None else self._ledger.get(name)

    def _tell(self, points: int) -> None:
        self.evaluations += points
        if self._progress is not None and self.evaluations < self._most:
            self._progress(self.evaluations, self._most, self._label)

    def finish(self) -> None:
        """Tell that no more points are needed."""
        if self._progress is not None:
            self._progress(self.evaluations, self.evaluations, "points")


def _name(piece: Array) -> str:
    return hashlib.blake2b(np.ascontiguousarray(piece).tobytes(), digest_size=16).hexdigest()


def check_executor(objective: Objective, executor: Executor) -> None:
    """Refuse to send to others what belongs to the processes of a group."""
    collective = objective.placed is not None and is_collective(objective.model)
    if (objective.ranks is not None or collective) and not _in_process(executor):
        raise ArgumentError(
            "`executor` must be 'serial' if processes share the data or the model; got "
            f"{type(executor).__name__}. The processes of the group already run in parallel."
        )


def _in_process(executor: Executor) -> bool:
    return isinstance(executor, Serial)
