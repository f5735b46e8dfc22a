"""Code of others: what a model, a loss or a metric raises becomes an error with a name."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from lossatlas.errors import AtlasError, LossError

_OURS = str(Path(__file__).parents[1])


@contextmanager
def named_failure(what: str, remedy: str, kind: type[AtlasError] = LossError) -> Iterator[None]:
    """Run code of others; what it raises becomes the cause of a named error.

    The cause stays attached: its traceback leads to the line of the user's that failed.

    Args:
        what: the code that runs, as in "`loss`".
        remedy: what to check.
        kind: of the error.

    Yields:
        Nothing.

    Raises:
        AtlasError: of that kind; the code raised what this library did not name.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, AtlasError):
            raise
        lines = str(error).strip().rstrip(".").splitlines()
        reason = ": ".join([type(error).__name__, *lines[:1]]) + _place(error)
        raise kind(f"{what} failed ({reason}); {remedy}") from error


@contextmanager
def fed_with(outputs: object) -> Iterator[None]:
    """Run a criterion; where it fails on what only looks like an output, say so.

    Args:
        outputs: what the model gave.

    Yields:
        Nothing.

    Raises:
        LossError: the model gave no tensor, but a tuple or a mapping, say.
    """
    try:
        yield
    except Exception as error:
        if isinstance(outputs, Tensor) or not isinstance(error, TypeError | AttributeError):
            raise
        raise LossError(
            f"the model returns {type(outputs).__name__}, which the criterion cannot take; "
            "write loss(model, batch) that picks the tensor, as in criterion(model(x)[0], y)."
        ) from error


def _place(error: Exception) -> str:
    # The last line that the user wrote: not ours, not of an installed package.
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        ours = frame.filename.startswith((_OURS, "<"))
        if not ours and "site-packages" not in frame.filename:
            return f" in {Path(frame.filename).name}, line {frame.lineno}"
    return ""
