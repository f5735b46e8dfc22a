"""Labeled images in a parquet file, as on the Hugging Face hub."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lossatlas.checks import nearest
from lossatlas.errors import DataError, FileError, MissingDependencyError
from lossatlas.io.sizes import check_parquet
from lossatlas.training.dataset import Dataset
from lossatlas.training.files import existing_file, reason
from lossatlas.training.images import decode, normalized

_ROWS = 256


def load_parquet(
    path: str | Path,
    *,
    examples: int | None = None,
    normalize: str | Sequence[Sequence[float]] = "unit",
    image: str = "image",
    label: str = "label",
    size: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """Read pictures and their labels; decode only the first `examples` pictures."""
    source = existing_file(path, "a parquet file")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError(
            f"'{source}' is a parquet file, and pyarrow is not installed; pip install "
            "'lossatlas[parquet]', or pass the data as .npz."
        ) from None
    try:
        with pq.ParquetFile(source) as table:
            check_parquet(source, table.metadata)
            _check_columns(source, table.schema_arrow.names, image, label)
            labels, classes = _labels(source, table, label)
            count = len(labels) if examples is None else min(examples, len(labels))
            rows = _pictures(source, table, image, count)
            pictures = decode(rows, size=size, channels=channels)
    except FileError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise FileError(
            f"'{source}' is damaged, truncated or not parquet ({reason(error)}); download or "
            "write it again."
        ) from None
    return Dataset(
        normalized(pictures, normalize), labels[:count].clone(), source.stem, classes=classes
    )


def _check_columns(source: Path, names: list[str], *wanted: str) -> None:
    for name in wanted:
        if name not in names:
            raise DataError(
                f"'{source}' has no column '{name}'{nearest(name, names)}, only "
                f"{', '.join(map(repr, names))}; name yours, as in '#image=img,label=kind'."
            )


def _labels(source: Path, table: Any, label: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    import pyarrow as pa

    # One number per row: reading all of them keeps the classes equal for every `examples`.
    column = table.read(columns=[label]).column(label)
    if not len(column):
        raise DataError(f"'{source}' has no rows; pass a non-empty file.")
    if column.null_count:
        raise DataError(
            f"'{source}' has {column.null_count} rows without '{label}'; drop them."
        )
    if pa.types.is_integer(column.type):
        return _numbered(source, column.to_numpy(), _hub_names(table, label))
    values = column.to_pylist()
    if not all(isinstance(value, str) for value in values):
        raise DataError(
            f"column '{label}' of '{source}' must hold integers or names; got {column.type}: "
            "select another with '#label=...'."
        )
    classes = tuple(sorted(set(values)))
    index = {name: number for number, name in enumerate(classes)}
    return torch.tensor([index[value] for value in values]), classes


def _numbered(
    source: Path, values: Any, names: tuple[str, ...]
) -> tuple[torch.Tensor, tuple[str, ...]]:
    labels = torch.from_numpy(values.astype("int64"))
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= 100_000:
        raise DataError(
            f"the labels of '{source}' run from {low} to {high}; they must be 0, 1, 2, ... "
            "(-1 often marks a hidden test set)."
        )
    return labels, names if len(names) > high else tuple(map(str, range(high + 1)))


def _hub_names(table: Any, label: str) -> tuple[str, ...]:
    # The hub writes the names of the classes into the schema.
    metadata = table.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _pictures(source: Path, table: Any, image: str, count: int) -> Iterator[tuple[str, bytes]]:
    row = 0
    for batch in table.iter_batches(batch_size=min(_ROWS, count), columns=[image]):
        for value in batch.column(0).to_pylist():
            if row == count:
                return
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                raise DataError(
                    f"row {row} of '{source}' holds no picture in '{image}' "
                    f"(got {type(content).__name__}); embed the files' bytes."
                )
            yield f"row {row} of '{source}'", content
            row += 1
