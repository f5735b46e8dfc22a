"""Concurrent forward passes that pause at requests and are served together.

Each pass has its own thread, but only one runs at any time: they alternate like coroutines,
which third-party code cannot be converted to.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
V = TypeVar("V")


class _Stopped(BaseException):
    """Ends a pass whose result is no longer needed."""


class Lane(Generic[T, V]):
    """A pass that pauses wherever it requests a value.

    Args:
        call: the pass; it is given a function name -> value to ask with.

    Attributes:
        wanted: the name it waits for; None where it has ended.
        result: what the pass returned.
    """

    result: T

    def __init__(self, call: Callable[[Callable[[str], V]], T]) -> None:
        self.wanted: str | None = None
        self._call, self._stop = call, False
        self._go, self._rests = _taken(), _taken()
        self._given: list[V] = []
        self._error: BaseException | None = None
        context, device = contextvars.copy_context(), _device()
        self._thread = threading.Thread(target=context.run, args=(self._run, device))

    def start(self) -> None:
        """Run until it requests a value, or ends."""
        self._thread.start()
        self._wait()

    def go_on(self, value: V) -> None:
        """Pass the requested value, and run until the next request or the end."""
        self.wanted = None
        self._given.append(value)
        _open(self._go)
        self._wait()

    def stop(self) -> None:
        """End it at its next request."""
        self._stop = True
        _open(self._go)
        if self._thread.ident is not None:
            self._thread.join()

    def _wait(self) -> None:
        self._rests.acquire()
        if self._error is not None:
            raise self._error

    def _run(self, device: AbstractContextManager[None]) -> None:
        try:
            with device:
                self.result = self._call(self._ask)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            _open(self._rests)

    def _ask(self, name: str) -> V:
        if not self._stop:
            self.wanted = name
            _open(self._rests)
            self._go.acquire()
        if self._stop:
            raise _Stopped
        return self._given.pop()


def in_step(
    calls: Sequence[Callable[[Callable[[str], V]], T]],
    serve: Callable[[str, list[int]], Iterator[V]],
) -> list[T]:
    """Run passes concurrently; a value that several wait for is computed once.

    Args:
        calls: the passes, each given a function to ask with.
        serve: name, and the numbers of the passes that wait for it -> a value for each.

    Returns:
        What each pass returned.
    """
    lanes: list[Lane[T, V]] = [Lane(call) for call in calls]
    try:
        for lane in lanes:
            lane.start()
        while waiting := _wanted(lanes):
            # All take the same way through a model, or nearly: then they meet again.
            name = max(waiting, key=lambda each: len(waiting[each]))
            values = serve(name, waiting[name])
            for number in waiting[name]:
                lanes[number].go_on(next(values))
        return [lane.result for lane in lanes]
    finally:
        for lane in lanes:
            lane.stop()


def _wanted(lanes: Sequence[Lane[T, V]]) -> dict[str, list[int]]:
    waiting: dict[str, list[int]] = {}
    for number, lane in enumerate(lanes):
        if lane.wanted is not None:
            waiting.setdefault(lane.wanted, []).append(number)
    return waiting


def _device() -> AbstractContextManager[None]:
    # The present device and stream belong to a thread.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return nullcontext()
    return torch.cuda.stream(torch.cuda.current_stream())


def _taken() -> threading.Lock:
    # What the other side releases; a lock of the interpreter is the cheapest there is.
    lock = threading.Lock()
    lock.acquire()
    return lock


def _open(lock: threading.Lock) -> None:
    if lock.locked():
        lock.release()
