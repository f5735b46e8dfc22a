"""Where work runs: here, or on all cores. Pieces of work are chunks of points, never points."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import cloudpickle
import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.checks import check_one_of

Array = NDArray[np.float64]
EXECUTORS = ("serial", "joblib")


class Executor(Protocol):
    """Runs the same work on many pieces; implement this to bring clusters of your own."""

    def run(
        self, start: Callable[[], Callable[[Array], Array]], pieces: Iterable[Array]
    ) -> Iterator[Array]:
        """Run the work on every piece.

        Args:
            start: called once in every process; gives the function of a piece.
            pieces: what to work on.

        Returns:
            The results in the order of the pieces, each as soon as it and those before it
            are there.
        """
        ...


class Serial:
    """One piece after another, in this process."""

    def run(
        self, start: Callable[[], Callable[[Array], Array]], pieces: Iterable[Array]
    ) -> Iterator[Array]:
        """Run the work on every piece; see `Executor`.

        Args:
            start: called once; gives the function of a piece.
            pieces: what to work on.

        Yields:
            The results in order.
        """
        work = start()
        for piece in pieces:
            yield work(piece)


class Joblib:
    """Processes on all cores of this machine, one thread each.

    Args:
        workers: how many; all cores by default.
    """

    def __init__(self, workers: int = -1) -> None:
        self.workers = workers

    def run(
        self, start: Callable[[], Callable[[Array], Array]], pieces: Iterable[Array]
    ) -> Iterator[Array]:
        """Run the work on every piece; see `Executor`.

        Args:
            start: sent once to every process.
            pieces: what to work on.

        Returns:
            The results in order.
        """
        # Bytes, because the pool compares these arguments to see whether it can be reused.
        parcel = cloudpickle.dumps(start)
        parallel = joblib.Parallel(
            n_jobs=self.workers,
            backend="loky",
            return_as="generator",
            batch_size=1,
            initializer=_start_worker,
            initargs=(parcel,),
        )
        results: Iterator[Array] = parallel(joblib.delayed(_work)(piece) for piece in pieces)
        return results


def get_executor(executor: str | Executor) -> Executor:
    """The executor of a name; an executor is given back as it is.

    Args:
        executor: "serial", "joblib", or an object with a `run` method.

    Returns:
        The executor.

    Raises:
        UnknownNameError: no executor has this name.
    """
    if not isinstance(executor, str):
        return executor
    check_one_of("executor", executor, EXECUTORS)
    return Serial() if executor == "serial" else Joblib()


_WORKER: dict[str, Any] = {}


def _start_worker(parcel: bytes) -> None:
    torch.set_num_threads(1)
    _WORKER["work"] = cloudpickle.loads(parcel)()


def _work(piece: Array) -> Array:
    result: Array = _WORKER["work"](piece)
    return result
