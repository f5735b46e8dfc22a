"""Which engine evaluates a map: by rule, never by stopwatch, and never one that disagrees."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lossatlas.algebra.params import size
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.landscape.engines import plain
from lossatlas.landscape.engines.batched import BatchedEngine
from lossatlas.landscape.engines.folded import FoldedEngine
from lossatlas.landscape.engines.plain import PlainEngine
from lossatlas.landscape.engines.streaming import StreamingEngine
from lossatlas.landscape.engines.task import Array, Engine, Task

logger = logging.getLogger(__name__)
ENGINES = ("auto", "plain", "batched", "folded", "streaming")
TOLERANCE = 1e-6
# Below this many parameters one product keeps a processor less busy than its call.
_SMALL = 300_000
# Fewer points side by side are not worth their stacking.
_FEWEST = 4
_UNSUPPORTED = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    UserWarning,
)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BUILD: dict[str, Callable[[Task], Engine]] = {
    "plain": PlainEngine,
    "batched": BatchedEngine,
    "folded": FoldedEngine,
    "streaming": StreamingEngine,
}


def choose(task: Task, name: str, corners: Array) -> str:
    """The engine to use; a fast one only if it equals the plain loop on this very task.

    The rule: streaming where several copies of the weights would take more than half of the
    free memory; folded for convolutional networks in eval mode; batched for small networks
    without convolutions; plain otherwise.

    Args:
        task: what to evaluate.
        name: what the user asked for; "auto" for the rule.
        corners: points to compare on, shape (points, dimension).

    Returns:
        A name for `build`.

    Raises:
        UnknownNameError: no engine has this name.
        ArgumentError: the engine asked for cannot serve this task; the message says why.
    """
    check_one_of("engine", name, ENGINES)
    if name in {"plain", "streaming"}:
        return name
    candidates = _candidates(task) if name == "auto" else [name]
    if candidates == ["streaming"]:
        return "streaming"
    for candidate in candidates:
        reason = _disagreement(task, candidate, corners, wanted=name)
        if reason is None:
            return candidate
        if name != "auto":
            raise ArgumentError(
                f'engine="{name}" cannot serve this model ({reason}); use engine="auto".'
            )
        logger.info("engine %s left out: %s", candidate, reason)
    return "plain"


def build(task: Task, name: str) -> Engine:
    """Make an engine.

    Args:
        task: what to evaluate.
        name: what `choose` returned.

    Returns:
        The engine.
    """
    return _BUILD[name](task)


def free_memory(device: torch.device) -> int | None:
    """Bytes of memory that a map may still take on a device.

    Args:
        device: where the weights live.

    Returns:
        Bytes, or None where the system does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        # Free pages alone would leave out what the file cache gives back on demand.
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _candidates(task: Task) -> list[str]:
    free = free_memory(task.objective.device)
    if free is not None and plain.memory(task) > free / 2:
        return ["streaming"]
    coarse = any(torch.finfo(v.dtype).bits < 32 for v in task.plane.origin.values())
    if coarse or task.objective.mode == "recalibrated":
        # Half precision rounds by more than engines may differ.
        return []
    has_convolution = any(isinstance(m, _CONVS) for m in task.objective.model.modules())
    if has_convolution and task.objective.mode == "eval":
        return ["folded"]
    if not has_convolution and size(task.plane.origin) <= _SMALL:
        return ["batched"]
    return []


def _disagreement(task: Task, name: str, corners: Array, *, wanted: str) -> str | None:
    if task.objective.mode != "eval" and name == "folded":
        return f'it needs mode="eval", not "{task.objective.mode}"'
    if task.objective.mode == "recalibrated":
        return 'mode="recalibrated" needs a pass over the data at every point'
    try:
        with warnings.catch_warnings():
            # vmap then loops over the points inside the operation: no gain, and noise.
            warnings.filterwarnings("error", message="There is a performance drop")
            engine = build(task, name)
            if wanted == "auto" and name == "batched" and engine.chunk < _FEWEST:
                return f"{engine.chunk} points of this network fill the cache already"
            fast = engine.evaluate(corners)
    except AtlasError:
        raise
    except _UNSUPPORTED as error:
        # Whatever a model does that vmap or folding does not support shows here, once.
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    slow = PlainEngine(task).evaluate(corners)
    worst = _difference(fast, slow)
    return None if worst <= TOLERANCE else f"it differs from the plain loop by {worst:.1e}"


def _difference(fast: Array, slow: Array) -> float:
    # Relative to the largest value of a quantity: a loss may pass through zero.
    means = slice(0, slow.shape[1] // 2)
    a, b = fast[:, means], slow[:, means]
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.where(np.isfinite(b), b, 0.0)
    scale = np.maximum(np.abs(finite).max(axis=0), np.finfo(np.float32).tiny)
    return float((np.abs(np.where(np.isfinite(a), a, 0.0) - finite) / scale).max())
