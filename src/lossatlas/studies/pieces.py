"""Pieces of a study: each is computed once, kept when it is done, and never done again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.executor import Executor, get_executor
from lossatlas.store.ledger import Ledger

Array = NDArray[np.float64]


def finished(
    names: Sequence[str],
    work: Callable[[int], Array],
    *,
    run: Mapping[str, Any],
    resume: str | Path | None = None,
    executor: str | Executor = "serial",
    progress: Callable[[str], object] | None = None,
) -> list[Array]:
    """The results of all pieces, those of an earlier run among them."""
    runner = get_executor(executor)
    if resume is None:
        fresh = _computed(names, range(len(names)), work, runner, progress)
        return [table for _, table in fresh]
    with Ledger(resume, run) as ledger:
        found = [ledger.get(name) for name in names]
        missing = [index for index, table in enumerate(found) if table is None]
        for index, table in _computed(names, missing, work, runner, progress):
            ledger.put(names[index], table)
            found[index] = table
    return [table for table in found if table is not None]


def _computed(
    names: Sequence[str],
    missing: Sequence[int],
    work: Callable[[int], Array],
    runner: Executor,
    progress: Callable[[str], object] | None,
) -> Iterator[tuple[int, Array]]:
    def start() -> Callable[[Array], Array]:
        return lambda piece: work(int(piece[0, 0]))

    pieces = (np.array([[index]], dtype=np.float64) for index in missing)
    tables = zip(missing, runner.run(start, pieces), strict=True)
    for count, (index, table) in enumerate(tables, start=1):
        if progress is not None:
            progress(f"{count} of {len(missing)}: {names[index]}")
        yield index, table
