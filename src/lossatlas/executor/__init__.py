"""Where work runs: here, on all cores, or on a cluster. Pieces are chunks, never points."""

from lossatlas.arguments import guard_exports
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.executor.cluster import Ray
from lossatlas.executor.contract import Array, Executor, Serial, Start
from lossatlas.executor.pool import Joblib

__all__ = ["EXECUTORS", "Array", "Executor", "Joblib", "Ray", "Serial", "Start", "get_executor"]

EXECUTORS = ("serial", "joblib", "ray")


def get_executor(executor: str | Executor) -> Executor:
    """The executor of a name; an executor is given back as it is.

    Args:
        executor: "serial", "joblib", "ray", or an object with a `run` method.

    Returns:
        The executor.

    Raises:
        ArgumentError: neither a name nor an object with a `run` method.
        UnknownNameError: no executor has this name.
        MissingDependencyError: "ray" without Ray.
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


guard_exports(__name__)
