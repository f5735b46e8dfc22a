"""All cores of one machine, through joblib."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import cloudpickle
import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lossatlas.executor.contract import Array, Start
from lossatlas.executor.leases import with_leases


class Joblib:
    """Processes on all cores of this machine, one thread each.

    A process that is killed costs the pieces that were in work, which are done again.

    Args:
        workers: how many; all cores by default.
    """

    def __init__(self, workers: int = -1) -> None:
        self.workers = workers

    def run(self, start: Start, pieces: Iterable[Array]) -> Iterator[Array]:
        """Run the work on every piece; see `Executor`.

        Args:
            start: sent once to every process.
            pieces: what to work on.

        Returns:
            The results in order.
        """
        # Bytes, because the pool compares these arguments to see whether it can be reused.
        parcel = cloudpickle.dumps(start)
        return with_leases(partial(self._attempt, parcel), pieces, (TerminatedWorkerError,))

    def _attempt(self, parcel: bytes, pieces: Iterator[Array]) -> Iterator[Array]:
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


_WORKER: dict[str, Any] = {}


def _start_worker(parcel: bytes) -> None:
    torch.set_num_threads(1)
    _WORKER["work"] = cloudpickle.loads(parcel)()


def _work(piece: Array) -> Array:
    result: Array = _WORKER["work"](piece)
    return result
