"""Pieces of work are leased: what a worker that died had in its hands is put back."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from lossatlas.errors import WorkerError
from lossatlas.executor.contract import Array

# Workers may die for a reason that comes again, such as too little memory.
PATIENCE = 3


def with_leases(
    attempt: Callable[[Iterator[Array]], Iterator[Array]],
    pieces: Iterable[Array],
    lost: tuple[type[Exception], ...],
) -> Iterator[Array]:
    """Run pieces, and run those again whose worker died."""
    source, leased = iter(pieces), deque[Array]()
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


def _lease(pieces: Iterable[Array], leased: deque[Array]) -> Iterator[Array]:
    for piece in pieces:
        leased.append(piece)
        yield piece
