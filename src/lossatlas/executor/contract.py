"""What an executor does, and the one that does it here."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Called once in every process; gives the function of a piece.
Start = Callable[[], Callable[[Array], Array]]


class Executor(Protocol):
    """Runs the same work on many pieces; implement this to bring clusters of your own."""

    def run(self, start: Start, pieces: Iterable[Array]) -> Iterator[Array]:
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

    def run(self, start: Start, pieces: Iterable[Array]) -> Iterator[Array]:
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
