"""Points in, numbers out: chunks go to an executor, finished ones into the ledger."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lossatlas.executor import Executor, Serial
from lossatlas.landscape.engines import Engine, Task, build
from lossatlas.store import Ledger

Array = NDArray[np.float64]


class Progress(Protocol):
    """Hears how far the work is; raising from it stops the work cleanly."""

    def __call__(self, done: int, total: int) -> None:
        """Called after every chunk."""
        ...


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
        progress: hears about finished chunks.
        total: how many points there can be at most.
    """

    def __init__(
        self,
        work: Work,
        engine: Engine,
        *,
        executor: Executor,
        ledger: Ledger | None,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._work, self._executor, self._ledger = work, executor, ledger
        self._progress, self._total = progress, total
        self._chunk, self.memory = engine.chunk, engine.memory
        self._start = (lambda: engine.evaluate) if _in_process(executor) else work
        self.evaluations = 0

    def __call__(self, coordinates: Array) -> Array:
        """Evaluate some points."""
        pieces = [
            coordinates[start : start + self._chunk]
            for start in range(0, len(coordinates), self._chunk)
        ]
        known = {
            i: found
            for i, piece in enumerate(pieces)
            if (found := self._recall(piece)) is not None
        }
        self._tell(sum(map(len, known.values())))
        missing = [i for i in range(len(pieces)) if i not in known]
        results = self._executor.run(self._start, [pieces[i] for i in missing])
        for i, result in zip(missing, results, strict=True):
            known[i] = result
            if self._ledger is not None:
                self._ledger.put(_name(pieces[i]), result)
            self._tell(len(result))
        return np.concatenate([known[i] for i in range(len(pieces))])

    def _recall(self, piece: Array) -> Array | None:
        return None if self._ledger is None else self._ledger.get(_name(piece))

    def _tell(self, points: int) -> None:
        self.evaluations += points
        if self._progress is not None and points:
            self._progress(self.evaluations, self._total)


def open_ledger(
    path: str | Path | None, run: dict[str, Any]
) -> AbstractContextManager[Ledger | None]:
    """The resume file of a run, if there is one."""
    return nullcontext() if path is None else Ledger(path, run)


def _name(piece: Array) -> str:
    return hashlib.blake2b(np.ascontiguousarray(piece).tobytes(), digest_size=16).hexdigest()


def _in_process(executor: Executor) -> bool:
    return isinstance(executor, Serial)
