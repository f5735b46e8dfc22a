"""Executors: one function on many pieces, in this process, on all cores, or on a cluster."""

import hashlib
import importlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal, Protocol, TypeVar, get_args

import cloudpickle
import torch

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, AtlasError, MissingDependencyError, WorkerError
from lossatlas.executor.parcel import pack, packed_size
from lossatlas.executor.worker_memory import WorkerPlan, plan_workers
from lossatlas.memory import free_memory

T = TypeVar("T")
R = TypeVar("R")
# Called once in every process; gives the function of a piece.
Start = Callable[[], Callable[[T], R]]
ExecutorName = Literal["serial", "joblib", "ray"]
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)
# Workers may die for a reason that comes again, such as too little memory.
PATIENCE = 3
# Pieces on their way for each processor, so that none waits for the next.
_AHEAD = 2
# Results for each processor that may wait for an earlier one.
_UNREAD = 16
_HOST = torch.device("cpu")
logger = logging.getLogger(__name__)


class Executor(Protocol):
    """Protocol of executors, which run one function on many pieces, as on a custom cluster."""

    def run(self, start: Start[T, R], pieces: Iterable[T]) -> Iterator[R]:
        """Run the work on every piece.

        Args:
            start: called once in every process; returns the function to run on a piece.
            pieces: arguments of the function.

        Returns:
            The results in the order of the pieces, each as soon as it and all earlier ones are
            available.
        """
        ...


class Serial:
    """One piece after another, in this process."""

    def run(self, start: Start[T, R], pieces: Iterable[T]) -> Iterator[R]:
        """Run the work on every piece; see `Executor`.

        Args:
            start: called once; gives the function of a piece.
            pieces: arguments of the function.

        Yields:
            The results in order.
        """
        work = start()
        for piece in pieces:
            yield work(piece)


class Joblib:
    """Processes on all cores of this machine, one thread each.

    If a process is killed, the pieces it was working on are repeated.

    Args:
        workers: number of processes; all cores by default. Each loads torch, and stores model
            and data up to three times while it starts. If the free memory is too small for the
            default, fewer are started and `note` states it; an explicit number raises an error
            instead.
    """

    def __init__(self, workers: int = -1) -> None:
        self.workers, self.note = workers, ""

    def plan(self, parcel: int, work: int = 0) -> WorkerPlan:
        """Plan the number of processes and their memory.

        Args:
            parcel: bytes of model and data.
            work: bytes that the work needs in addition.

        Returns:
            The plan.

        Raises:
            ArgumentError: the number of workers is explicit, and they do not fit.
        """
        import joblib

        requested, free = int(joblib.effective_n_jobs(self.workers)), free_memory(_HOST)
        if requested == 1:
            return WorkerPlan()
        fixed, remedy = self.workers > 0, "Joblib(workers={})"
        worker_plan = plan_workers(requested, parcel, work, free, fixed=fixed, remedy=remedy)
        # One process is this one.
        return replace(worker_plan, each=0) if worker_plan.count == 1 else worker_plan

    def run(self, start: Start[T, R], pieces: Iterable[T]) -> Iterator[R]:
        """Run the work on every piece; see `Executor`.

        Args:
            start: sent once to every process.
            pieces: arguments of the function.

        Returns:
            The results in order.
        """
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        plan = _planned(self, start)
        if plan.count == 1:
            # joblib would run the pieces here, and never send the parcel.
            return Serial().run(start, pieces)
        # Bytes, because the pool compares these arguments to see whether it can be reused.
        attempt = partial(self._attempt, pack(start), plan.count)
        return with_leases(attempt, pieces, (TerminatedWorkerError,))

    def _attempt(self, parcel: bytes, count: int, pieces: Iterator[Any]) -> Iterator[Any]:
        import joblib

        parallel = joblib.Parallel(
            n_jobs=count,
            backend="loky",
            return_as="generator",
            batch_size=1,
            initializer=_start_pool_worker,
            initargs=(parcel,),
        )
        results: Iterator[Any] = parallel(joblib.delayed(_pool_work)(piece) for piece in pieces)
        return results


class Ray:
    """Workers of a Ray cluster, or of this machine if there is no cluster, one thread each.

    Joins a running cluster or the one in RAY_ADDRESS. The work (model and data) is put into its
    object store once, even if a map requests points repeatedly, and every worker builds it
    once. If a worker or a machine is lost or runs out of memory, the pieces it was working on
    are repeated.

    Args:
        workers: number of workers; by default the number of processors of the cluster (or of
            GPUs, if requested). On one machine fewer are started if its memory is too small,
            and `note` states it; an explicit number raises an error instead.
        gpus: GPUs per worker; fractions are allowed.

    Raises:
        MissingDependencyError: Ray is not installed.
        ArgumentError: more GPUs are requested than the cluster has.
    """

    def __init__(self, workers: int | None = None, *, gpus: float = 0.0) -> None:
        try:
            self._ray = importlib.import_module("ray")
        except ImportError:
            raise MissingDependencyError(
                "executor='ray' needs Ray, which is not installed; "
                "pip install 'lossatlas[ray]', or use executor='joblib'."
            ) from None
        self.workers, self.gpus, self.note = workers, gpus, ""
        # Digest of a parcel -> where it lies, and the actors that have unpacked it.
        self._digest, self._parcel = "", None
        self._actors: list[Any] = []
        self._size = 1

    def plan(self, parcel: int, work: int = 0) -> WorkerPlan:
        """Plan the number of workers and their memory.

        Args:
            parcel: bytes of model and data.
            work: bytes that the work needs in addition.

        Returns:
            The plan; nothing is started. The free memory of several machines is unknown.

        Raises:
            ArgumentError: the number of workers is explicit, and they do not fit.
        """
        running = self._ray.is_initialized()
        requested = self._count() if running else self.workers or os.cpu_count() or 1
        alone = not running or len(self._ray.nodes()) == 1
        free = free_memory(_HOST) if alone and "RAY_ADDRESS" not in os.environ else None
        fixed, remedy = self.workers is not None, "Ray(workers={})"
        return plan_workers(requested, parcel, work, free, fixed=fixed, remedy=remedy)

    def run(self, start: Start[T, R], pieces: Iterable[T]) -> Iterator[R]:
        """Run the work on every piece; see `Executor`.

        Args:
            start: sent once to every machine; called once in every process.
            pieces: arguments of the function.

        Returns:
            The results in order.
        """
        ray = self._ray
        if not ray.is_initialized():
            ray.init(include_dashboard=False, logging_level="error", log_to_driver=False)
        plan = _planned(self, start)
        self._put(pack(start), plan.count)
        names = ("WorkerCrashedError", "NodeDiedError", "ActorDiedError", "RayActorError",
                 "OutOfMemoryError", "ActorUnavailableError")  # fmt: skip
        lost = tuple(getattr(ray.exceptions, n) for n in names if hasattr(ray.exceptions, n))
        return with_leases(self._attempt, pieces, lost)

    def _put(self, parcel: bytes, count: int) -> None:
        digest = hashlib.blake2b(parcel, digest_size=16).hexdigest()
        if digest != self._digest:
            self._stop()
            self._size = count
            self._digest, self._parcel = digest, self._ray.put(parcel)

    def _stop(self) -> None:
        actors, self._actors = self._actors, []
        for actor in actors:
            self._ray.kill(actor)

    def _count(self) -> int:
        resources = self._ray.cluster_resources()
        if self.gpus > resources.get("GPU", 0):
            raise ArgumentError(
                f"`gpus`: {self.gpus:g} per worker are requested, and the cluster has "
                f"{resources.get('GPU', 0):g}; request fewer, or none."
            )
        max_workers = resources.get("CPU", 1) if not self.gpus else resources["GPU"] / self.gpus
        return self.workers or max(1, int(max_workers))

    def _attempt(self, pieces: Iterator[Any]) -> Iterator[Any]:
        make = self._ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0)(_ClusterWorker)
        if not self._actors:
            self._actors = [make.remote(self._parcel) for _ in range(self._size)]
        try:
            yield from self._dealt(pieces)
        except GeneratorExit:
            raise
        except BaseException:
            # Whichever died, the next attempt begins with workers that are alive.
            self._stop()
            raise

    def _dealt(self, pieces: Iterator[Any]) -> Iterator[Any]:
        # Whoever is done gets the next piece: machines of a cluster are not equally fast.
        idle, working = deque(_AHEAD * self._actors), dict[Any, Any]()
        unread: deque[Any] = deque()
        for piece in pieces:
            while not idle or len(unread) >= _UNREAD * len(self._actors):
                idle.extend(self._finished(working))
                while unread and unread[0] not in working:
                    yield self._result(unread.popleft())
            actor = idle.popleft()
            promise = actor.work.remote(piece)
            working[promise] = actor
            unread.append(promise)
        while unread:
            yield self._result(unread.popleft())

    def _finished(self, working: dict[Any, Any]) -> list[Any]:
        # Actors that have finished a piece; waits for one. A dead one "finishes" at once, and
        # would be dealt all that is left: its error is raised here, before its turn.
        done, _ = self._ray.wait(list(working), num_returns=1)
        for promise in done:
            # What went wrong in the work itself is told in its turn.
            with suppress(self._ray.exceptions.RayTaskError):
                self._ray.get(promise)
        return [working.pop(promise) for promise in done]

    def _result(self, promise: Any) -> Any:
        try:
            result: Any = self._ray.get(promise)
        except self._ray.exceptions.RayTaskError as error:
            # What went wrong in the work itself is told as if it had run here.
            if isinstance(error.cause, AtlasError):
                raise error.cause from None
            raise
        return result


def _planned(executor: Joblib | Ray, start: Start[T, R]) -> WorkerPlan:
    # Work that knows what it takes beside model and data says so.
    plan = executor.plan(packed_size(start), int(getattr(start, "memory", 0)))
    executor.note = plan.note
    if plan.note:
        logger.warning(plan.note)
    return plan


class _ClusterWorker:
    """Unpacks the work once, and does pieces of it."""

    def __init__(self, parcel: bytes) -> None:
        torch.set_num_threads(1)
        self._work = cloudpickle.loads(parcel)()

    def work(self, piece: Any) -> Any:
        """One piece."""
        return self._work(piece)


def get_executor(executor: ExecutorName | Executor) -> Executor:
    """Return an executor by name; an executor is returned unchanged.

    Args:
        executor: "serial", "joblib", "ray", or an object with a `run` method.

    Returns:
        The executor.

    Raises:
        ArgumentError: `executor` is neither a name nor an object with a `run` method.
        UnknownNameError: no executor has this name.
        MissingDependencyError: "ray" is requested and Ray is not installed.
    """
    if not isinstance(executor, str):
        if not callable(getattr(executor, "run", None)):
            raise ArgumentError(
                f"`executor` must be one of {', '.join(map(repr, EXECUTORS))} or an object "
                f"with a `run` method; got {type(executor).__name__}."
            )
        return executor
    check_one_of("executor", executor, EXECUTORS)
    if executor == "ray":
        return Ray()
    return Serial() if executor == "serial" else Joblib()


def with_leases(
    attempt: Callable[[Iterator[T]], Iterator[R]],
    pieces: Iterable[T],
    lost: tuple[type[Exception], ...],
) -> Iterator[R]:
    """Run pieces, and repeat those whose worker died."""
    source, leased = iter(pieces), deque[T]()
    deaths = 0
    while True:
        back = list(leased)
        leased.clear()
        try:
            for result in attempt(_lease(chain(back, source), leased)):
                leased.popleft()
                deaths = 0
                yield result
        except lost as error:
            deaths += 1
            if deaths >= PATIENCE:
                raise WorkerError(
                    f"workers died {deaths} times without finishing a piece "
                    f"({type(error).__name__}); they may lack memory: use fewer of them, "
                    "smaller pieces, or executor='serial'."
                ) from None
        else:
            return


def _lease(pieces: Iterable[T], leased: deque[T]) -> Iterator[T]:
    for piece in pieces:
        leased.append(piece)
        yield piece


_WORKER: dict[bytes, Any] = {}


def _start_pool_worker(parcel: bytes) -> None:
    torch.set_num_threads(1)
    _WORKER.clear()
    _WORKER[b""] = cloudpickle.loads(parcel)()


def _pool_work(piece: Any) -> Any:
    return _WORKER[b""](piece)
