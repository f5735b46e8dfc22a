"""Numbers of unfinished work, kept in a resume file."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.io import Ledger, run_identity
from lossatlas.linalg.params import Params, fingerprint
from lossatlas.objective import Objective

Array = NDArray[np.float64]


class Unfinished:
    """Arrays by name that survive a kill; nothing is kept where there is no file.

    Args:
        path: the resume file, or None.
        run: what identifies the run, plain values.
    """

    def __init__(self, path: str | Path | None, run: Mapping[str, Any]) -> None:
        self._ledger = None if path is None else Ledger(path, run)

    def get(self, name: str) -> Array | None:
        """What was kept under a name, two axes; None where nothing was."""
        data = None if self._ledger is None else self._ledger.get(name)
        if data is None:
            return None
        height = int.from_bytes(data[:8], "little")
        return np.frombuffer(data[8:], dtype="<f8").reshape(height, -1).copy()

    def put(self, name: str, values: Array) -> None:
        """Keep an array of two axes, all bits of it."""
        if self._ledger is not None:
            flat = np.ascontiguousarray(values, dtype="<f8").tobytes()
            self._ledger.put(name, len(values).to_bytes(8, "little") + flat)

    def once(self, name: str, make: Callable[[], Array]) -> Array:
        """What was kept, or else what is made now and kept."""
        stored = self.get(name)
        if stored is None:
            stored = make()
            self.put(name, stored)
        return stored

    def get_tensors(self, name: str, like: Iterable[Tensor]) -> list[Tensor] | None:
        """Tensors as they were kept, shaped like others."""
        stored = self.get(name)
        if stored is None:
            return None
        targets = list(like)
        parts = torch.split(torch.from_numpy(stored[0]), [value.numel() for value in targets])
        pairs = zip(parts, targets, strict=True)
        return [part.view(target.shape).to(target) for part, target in pairs]

    def put_tensors(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Keep real tensors; float64 holds the bits of all narrower types."""
        if self._ledger is None:
            return
        flat = [tensor.detach().double().cpu().flatten() for tensor in tensors]
        self.put(name, torch.cat(flat)[None].numpy())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ledger is not None:
            self._ledger.__exit__(kind, error, trace)


def identity(
    what: str,
    objectives: Iterable[Objective],
    points: Iterable[Params],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What tells one run from another: networks, data and settings."""
    known = list(objectives)
    modes = [objective.mode for objective in known]
    return run_identity(
        what,
        {"mode": modes, **settings},
        model=" ".join(fingerprint(point) for point in points),
        data=" ".join(objective.fingerprint()[1] for objective in known),
    )
