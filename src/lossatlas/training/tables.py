"""Arrays from an npz file; object arrays are rejected, nothing is ever unpickled."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas.checks import nearest
from lossatlas.errors import DataError, FileError
from lossatlas.io.sizes import check_npz
from lossatlas.training.dataset import Dataset, TaskKind
from lossatlas.training.files import existing_file, reason

Array = np.ndarray[Any, np.dtype[Any]]
# What zipfile raises on damaged, encrypted or unknown archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError)


def load_npz(
    path: str | Path, *, examples: int | None = None, x: str = "x", y: str = "y"
) -> Dataset:
    """Read inputs and targets from an npz file."""
    source = existing_file(path, "an npz file")
    inputs, targets = _read(source, (x, y))
    count = len(inputs) if examples is None else examples
    if len(inputs) != len(targets):
        raise DataError(
            f"'{x}' of '{source}' has {len(inputs)} rows but '{y}' {len(targets)}; "
            "every example needs one of each."
        )
    if not len(inputs):
        raise DataError(f"'{source}' has no rows; pass a non-empty file.")
    task, goal, classes = _targets(f"'{y}' of '{source}'", targets)
    return Dataset(
        _inputs(f"'{x}' of '{source}'", inputs[:count]),
        goal[:count].clone(),
        source.stem,
        task,
        classes,
    )


def _read(source: Path, names: tuple[str, str]) -> list[Array]:
    try:
        # Given a path, numpy leaves the file open where the archive is damaged.
        if zipfile.is_zipfile(source):
            check_npz(source, str(source))
        with source.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FileError(f"'{source}' is a single array; write both with numpy.savez.")
            with archive:
                return [_array(source, archive, name) for name in names]
    except _DAMAGE as error:
        if isinstance(error, FileError | DataError):
            raise
        raise FileError(
            f"'{source}' is damaged, truncated or not npz ({_without_advice(error)}); write it "
            "again with numpy.savez."
        ) from None


def _array(source: Path, archive: Any, name: str) -> Array:
    if name not in archive.files:
        raise DataError(
            f"'{source}' has no array '{name}'{nearest(name, archive.files)}: it holds "
            f"{', '.join(map(repr, archive.files)) or 'none'}, and inputs are read from 'x', "
            "targets from 'y'. Write numpy.savez(PATH, x=..., y=...), or name yours: "
            f"npz:{source}#x=NAME,y=NAME."
        )
    try:
        array: Any = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(_objects(source, name)) from None
    if not isinstance(array, np.ndarray):
        raise FileError(f"'{name}' of '{source}' is damaged; write it again with numpy.savez.")
    if array.dtype.kind not in "buif":
        raise DataError(
            f"'{name}' of '{source}' must hold numbers; got {array.dtype}: convert it first."
        )
    if array.ndim == 0:
        raise DataError(
            f"'{name}' of '{source}' is a single number; store one row per example."
        )
    return array


def _objects(source: Path, name: str) -> str:
    return (
        f"'{name}' of '{source}' holds Python objects, which are never unpickled; "
        "save it as an array of numbers."
    )


def _inputs(what: str, array: Array) -> Tensor:
    if array.dtype == np.uint8:
        pixels = torch.from_numpy(array.astype(np.float32)) / 255
        if pixels.ndim == 3:
            return pixels.unsqueeze(1)
        if pixels.ndim == 4 and pixels.shape[3] in {1, 3} and pixels.shape[1] not in {1, 3}:
            return pixels.movedim(3, 1).contiguous()
        return pixels
    numbers = torch.from_numpy(array.astype(np.float32))
    _check_finite(what, numbers)
    return numbers if numbers.ndim > 1 else numbers.unsqueeze(1)


def _targets(what: str, array: Array) -> tuple[TaskKind, Tensor, tuple[str, ...]]:
    if array.dtype.kind == "f":
        numbers = torch.from_numpy(array.astype(np.float32))
        _check_finite(what, numbers)
        return "regression", numbers.flatten(1) if numbers.ndim > 1 else numbers[:, None], ()
    labels = torch.from_numpy(array.astype(np.int64))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{what} must hold one class per example, shape (n,); got {array.shape}: "
            "store it as floats for a regression."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= 100_000:
        raise DataError(f"{what} must hold classes 0, 1, 2, ...; got {low} to {high}.")
    return "classification", labels, tuple(map(str, range(high + 1)))


def _check_finite(what: str, numbers: Tensor) -> None:
    bad = int((~numbers.isfinite()).sum())
    if bad:
        raise DataError(f"{what} holds {bad} numbers that are NaN or infinite; remove them.")


def _without_advice(error: BaseException) -> str:
    # numpy advises to allow pickles, which is the one thing not to do with a foreign file.
    return "no npz archive" if "pickle" in str(error) else reason(error)
