"""Compare the sizes stated in a file with its actual size, before allocating memory."""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from lossatlas.errors import FileError

# No byte of deflate gives more than 1,032.
_MOST = 1100


def check_npz(source: Path | IO[bytes], name: str) -> None:
    """Require that the arrays of an npz archive are as large as their headers state."""
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            if entry.file_size > _MOST * max(entry.compress_size, 1):
                raise FileError(_sentence(name, entry.filename, entry.file_size))
            if not entry.filename.endswith(".npy"):
                continue
            with archive.open(entry) as stream:
                stated = _stated(stream)
            if stated > entry.file_size:
                raise FileError(_sentence(name, entry.filename.removesuffix(".npy"), stated))


def check_npy(source: Path) -> None:
    """Require that the array of an npy file is as large as its header states."""
    with source.open("rb") as stream:
        stated = _stated(stream)
    if stated > source.stat().st_size:
        raise FileError(_sentence(str(source), "the array", stated))


def check_netcdf(source: Path) -> None:
    """Require that the arrays of a netCDF file are as large as they state."""
    import h5py

    def look(name: str, item: Any) -> None:
        for key in item.attrs:
            attribute = item.attrs.get_id(key)
            _check(source, f"{name}:{key}", _bytes(attribute.shape, attribute.dtype), size)
        if isinstance(item, h5py.Dataset) and not _is_bare_dimension(item):
            held = item.id.get_storage_size()
            packed = item.id.get_create_plist().get_nfilters() > 0
            _check(
                source, name, _bytes(item.shape, item.dtype), held * (_MOST if packed else 1)
            )
            # Names of a stored text are kept elsewhere in the file; their places count here.
            _check(source, name, held, size)

    size = source.stat().st_size
    with h5py.File(source, "r") as file:
        look("/", file)
        file.visititems(look)


def check_parquet(source: Path, metadata: Any) -> None:
    """Require that the columns of a parquet file fit into it."""
    size = source.stat().st_size
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            packed, whole = column.total_compressed_size, column.total_uncompressed_size
            _check(source, column.path_in_schema, packed, size)
            _check(source, column.path_in_schema, whole, 1000 * _MOST * max(packed, 1))


def _is_bare_dimension(item: Any) -> bool:
    # The length of an axis without coordinates is written as an array that is never read.
    name = item.attrs.get("NAME", b"")
    text = name if isinstance(name, bytes) else str(name).encode()
    return text.startswith(b"This is a netCDF dimension but not a netCDF variable")


def _bytes(shape: Any, kind: Any) -> int:
    return 0 if shape is None else math.prod(map(int, shape)) * int(kind.itemsize)


def _check(source: Path, name: str, stated: int, held: int) -> None:
    if stated > held or stated < 0:
        raise FileError(_sentence(str(source), name, stated))


def _stated(stream: IO[bytes]) -> int:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"npy version {version} is not known")
    shape, _, kind = read(stream)
    return math.prod(shape) * kind.itemsize


def _sentence(file: str, part: str, stated: int) -> str:
    return (
        f"'{file}' is damaged: {part} states {stated:,} bytes, more than the file has; copy or "
        "create it again."
    )
