"""A Ray cluster: the same pieces, the same bits."""

import importlib
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import cloudpickle
import torch

from lossatlas.errors import AtlasError, MissingDependencyError
from lossatlas.executor.contract import Array, Start
from lossatlas.executor.leases import with_leases

# Pieces on their way for each processor, so that none waits for the next.
_AHEAD = 2


class Ray:
    """Workers of a Ray cluster, one thread each; of this machine where there is no cluster.

    Joins the cluster that runs already or that RAY_ADDRESS names. A worker or a machine that is
    lost costs the pieces that were in work, which are done again.

    Args:
        workers: pieces in work at once; as many as the cluster has processors by default.

    Raises:
        MissingDependencyError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        try:
            self._ray = importlib.import_module("ray")
        except ImportError:
            raise MissingDependencyError(
                "executor='ray' needs Ray, which is not installed; "
                "pip install 'lossatlas[ray]', or use executor='joblib'."
            ) from None
        self.workers = workers

    def run(self, start: Start, pieces: Iterable[Array]) -> Iterator[Array]:
        """Run the work on every piece; see `Executor`.

        Args:
            start: sent once to every machine; called once in every process.
            pieces: what to work on.

        Returns:
            The results in order.
        """
        ray = self._ray
        if not ray.is_initialized():
            ray.init(include_dashboard=False, logging_level="error", log_to_driver=False)
        parcel = ray.put(cloudpickle.dumps(start))
        remote = ray.remote(num_cpus=1, max_retries=0)(_work)
        lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)
        return with_leases(partial(self._attempt, remote, parcel), pieces, lost)

    def _attempt(self, remote: Any, parcel: Any, pieces: Iterator[Array]) -> Iterator[Array]:
        together = self.workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        for piece in pieces:
            waiting.append(remote.remote(parcel, piece))
            if len(waiting) >= _AHEAD * together:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _result(self, promise: Any) -> Array:
        try:
            result: Array = self._ray.get(promise)
        except self._ray.exceptions.RayTaskError as error:
            # What went wrong in the work itself is told as if it had run here.
            if isinstance(error.cause, AtlasError):
                raise error.cause from None
            raise
        return result


_WORKER: dict[bytes, Any] = {}


def _work(parcel: bytes, piece: Array) -> Array:
    if parcel not in _WORKER:
        torch.set_num_threads(1)
        _WORKER.clear()
        _WORKER[parcel] = cloudpickle.loads(parcel)()
    result: Array = _WORKER[parcel](piece)
    return result
