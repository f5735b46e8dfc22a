"""Code of others: what a model, a loss or a metric raises becomes an error with a name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from lossatlas.errors import AtlasError, LossError
from lossatlas.memory import is_out_of_memory
from lossatlas.monitored import lost_rank
from lossatlas.tracebacks import reason_of

# What torch and common libraries say, and what helps there.
_REMEDIES = (
    (
        "decoder_input_ids",
        "give the model labels (or decoder_input_ids), as in model(**batch).loss with "
        "batch['labels'].",
    ),
    (
        "modified by an inplace operation",
        "the model writes into tensors that its gradient needs; switch its cache off (as in "
        "model(..., use_cache=False)), or write `x = x + y` for `x += y`.",
    ),
    (
        "backward through the graph a second time",
        "a tensor is kept with its graph from one call to the next: compute what depends on "
        "the parameters (a cached weight) anew at every call; what is carried on (a hidden "
        "state) must be detached.",
    ),
    (
        "device meta",
        "its weights are offloaded; load it whole, or call "
        "accelerate.hooks.remove_hook_from_submodules(model).",
    ),
)


class wrap_errors:  # noqa: N801 - used as a function is
    """Run code of others; what it raises becomes the cause of a named error.

    The cause stays attached: its traceback leads to the line of the user's that failed.

    Args:
        what: the code that runs, as in "`loss`".
        remedy: what to check.
        kind: of the error.

    Raises:
        AtlasError: of that kind; the code raised what this library did not name.
        MemoryError, OutOfMemoryError: as they came, since no remedy for code helps there.
        RuntimeError: torch's own, where it got no memory of the processor's.
    """

    # A class and no generator: it stands around every piece of every point.
    __slots__ = ("kind", "remedy", "what")

    def __init__(self, what: str, remedy: str, kind: type[AtlasError] = LossError) -> None:
        self.what, self.remedy, self.kind = what, remedy, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, AtlasError) or is_out_of_memory(error):
            return
        lost = lost_rank(error)
        if lost is not None:
            raise lost from error
        remedy = _known_remedy(error) or self.remedy
        raise self.kind(f"{self.what} failed ({reason_of(error)}); {remedy}") from error


@contextmanager
def fed_with(outputs: object, who: str, instead: str) -> Iterator[None]:
    """Run a criterion; where it fails on what only looks like an output, say so."""
    try:
        yield
    except Exception as error:
        if isinstance(outputs, Tensor) or not isinstance(error, TypeError | AttributeError):
            raise
        raise LossError(
            f"the model returns {type(outputs).__name__}, and {who} failed on it "
            f"({reason_of(error)}); where it wants a tensor, write {instead} that picks the "
            f"tensor, as in model(x)[{_entry(outputs)}]."
        ) from error


def _known_remedy(error: Exception) -> str | None:
    try:
        text = str(error)
    except Exception:
        # An error whose own text fails has no remedy that is known.
        return None
    return next((remedy for words, remedy in _REMEDIES if words in text), None)


def _entry(outputs: object) -> str:
    if not isinstance(outputs, Mapping):
        return "0"
    return repr("logits" if "logits" in outputs else next(iter(outputs), "logits"))
