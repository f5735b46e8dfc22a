"""Findings on their way: each is written to a ledger as it is made, and read from there."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from lossatlas.curvature.instrument import InstrumentResult
from lossatlas.errors import ResumeError
from lossatlas.objective import Objective
from lossatlas.store import Ledger
from lossatlas.store.sizes import check_npz

_FIELDS = "fields"


def instruments_ledger(resume: str | Path) -> Path:
    """Where the findings of a survey are kept while it runs."""
    return Path(f"{resume}.instruments")


class ResultCache:
    """Finds a finding in a ledger, or makes it and writes it there.

    Args:
        ledger: where; None keeps nothing.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def keep(self, name: str, make: Callable[[], InstrumentResult]) -> InstrumentResult:
        """A finding, made at most once; one that is not final is not kept."""
        known = None if self._ledger is None else self._ledger.get(name)
        if known is not None:
            return unpacked(known)
        found = make()
        if self._ledger is not None and found.is_final:
            self._ledger.put(name, packed(found))
        return found


@contextmanager
def keeper(
    resume: str | Path | None, objective: Objective, settings: Mapping[str, Any]
) -> Iterator[ResultCache]:
    """Open the ledger of a survey's findings."""
    if resume is None:
        yield ResultCache(None)
        return
    model, data = objective.fingerprint()
    run = {
        "instrument": "survey",
        "model": model,
        "data": data,
        "mode": objective.mode,
        "parameters": list(objective.names),
        # A loss has no name to compare; what it gives has.
        "loss": objective.value().hex(),
        "torch": torch.__version__,
    }
    with Ledger(instruments_ledger(resume), run | dict(settings)) as ledger:
        yield ResultCache(ledger)


def packed(found: InstrumentResult) -> NDArray[np.float64]:
    """A finding as one array that a ledger can hold."""
    data = found.to_tree()["result"]
    arrays: dict[str, Any] = {str(k): v.to_numpy() for k, v in data.data_vars.items()}
    arrays[_FIELDS] = np.frombuffer(str(data.attrs[_FIELDS]).encode(), dtype=np.uint8)
    written = io.BytesIO()
    np.savez(written, **arrays)
    raw = written.getvalue()
    body = np.frombuffer(raw + bytes(-len(raw) % 8), dtype="<f8")
    return np.concatenate([[float(len(raw))], body])[None]


def unpacked(array: NDArray[np.float64]) -> InstrumentResult:
    """The inverse of `packed`."""
    try:
        raw = array[0, 1:].astype("<f8").tobytes()[: int(array[0, 0])]
        check_npz(io.BytesIO(raw), "the resume file")
        with np.load(io.BytesIO(raw), allow_pickle=False) as parts:
            text = parts[_FIELDS].tobytes().decode()
            arrays = {name: parts[name] for name in parts.files if name != _FIELDS}
        variables = {k: ([f"{k}:{i}" for i in range(v.ndim)], v) for k, v in arrays.items()}
        data = xr.Dataset(variables, attrs={_FIELDS: text})
        found: InstrumentResult = InstrumentResult.from_tree({"result": data})
    except (ValueError, KeyError, IndexError, OSError, EOFError, BadZipFile) as error:
        raise ResumeError(
            f"a finding in the resume file is damaged ({error}); remove the file, start again."
        ) from None
    return found
