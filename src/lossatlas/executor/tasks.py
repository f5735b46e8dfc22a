"""Tasks: each runs at most once, is stored in a ledger, and is returned in order."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from lossatlas.executor.executors import Executor, ExecutorName, Start, get_executor
from lossatlas.executor.progress import Progress, show_progress
from lossatlas.io import Ledger, from_bytes, to_bytes

T = TypeVar("T")
R = TypeVar("R")


def run_tasks(
    tasks: Mapping[str, T],
    start: Start[T, R],
    *,
    executor: ExecutorName | Executor = "serial",
    ledger: Ledger | None = None,
    progress: Progress | bool | None = None,
) -> Iterator[R]:
    """Run tasks; results of an earlier run are read from its ledger, bitwise identical.

    Args:
        tasks: mapping of keys (short labels, unique within the run) to arguments of the
            function.
        start: called once in every process; returns the function to run on one task.
        executor: "serial", "joblib", "ray", or a custom executor.
        ledger: stores each finished result; None stores nothing.
        progress: function called with (done, total, key) after every task; True shows a
            progress bar.

    Returns:
        The results in the order of the tasks, each as soon as it and all earlier ones are
        available.

    Raises:
        UnknownNameError: no executor has this name.
        ResumeError: the ledger is damaged or cannot be written.

    Examples:
        >>> list(run_tasks({"two": 2, "three": 3}, lambda: lambda number: number**2))
        [4, 9]
    """
    runner = get_executor(executor)
    stored = set() if ledger is None else {key for key in tasks if key in ledger}
    fresh = runner.run(start, (task for key, task in tasks.items() if key not in stored))
    return _results(tasks, stored, fresh, ledger, progress)


def _results(
    tasks: Mapping[str, T],
    stored: set[str],
    fresh: Iterator[R],
    ledger: Ledger | None,
    progress: Progress | bool | None,
) -> Iterator[R]:
    with show_progress(progress) as tell:
        for done, key in enumerate(tasks, start=1):
            if key in stored and ledger is not None:
                result: R = from_bytes(ledger.get(key) or b"")
            else:
                result = next(fresh)
                if ledger is not None:
                    ledger.put(key, to_bytes(result))
            if tell is not None:
                tell(done, len(tasks), key)
            yield result
