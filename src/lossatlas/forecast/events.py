"""Scalars from the event files of TensorBoard, read without TensorBoard.

An event file is a row of records (length, checksum, bytes, checksum), each a protocol buffer
`Event`. What is not a scalar is passed over; nothing is executed or unpickled.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lossatlas.errors import FileError

MARK = "tfevents"
# Numbers of fields in `Event`, `Summary`, `Summary.Value` and `TensorProto`.
_STEP, _VERSION, _SUMMARY = 2, 3, 5
_VALUE = 1
_TAG, _SIMPLE, _TENSOR = 1, 2, 8
_CONTENT, _FLOATS, _DOUBLES = 4, 5, 6
_HEAD, _TAIL = 12, 4
_SIZES = {4: "<f", 8: "<d"}


@dataclass
class Scalars:
    """The scalars of one run, in the order in which they were written.

    Attributes:
        tags: what each value is, as in "train/loss".
        steps: the step of each value.
        values: the values.
        notes: what was left out, in sentences.
    """

    tags: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def event_files(path: Path) -> dict[Path, list[Path]]:
    """Folder of a run -> its event files in the order of writing."""
    if path.is_file():
        return {path.parent: [path]} if MARK in path.name else {}
    runs: dict[Path, list[Path]] = {}
    for file in sorted(path.rglob(f"*{MARK}*")):
        if file.is_file():
            runs.setdefault(file.parent, []).append(file)
    return runs


def read_scalars(files: list[Path]) -> Scalars:
    """The scalars of some event files of one run."""
    scalars = Scalars()
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise FileError(f"'{file}' cannot be read ({error}).") from None
        _add(scalars, data, file)
    return scalars


def _add(scalars: Scalars, data: bytes, file: Path) -> None:
    for place, event in enumerate(_records(data, scalars, file)):
        parts = list(_fields(event, file))
        if place == 0 and not any(number == _VERSION for number, _ in parts):
            raise FileError(f"'{file}' is not an event file of TensorBoard.")
        step = next((value for number, value in parts if number == _STEP), 0)
        for number, summary in parts:
            if number == _SUMMARY and isinstance(summary, bytes):
                _add_summary(scalars, int(step), summary, file)


def _add_summary(scalars: Scalars, step: int, summary: bytes, file: Path) -> None:
    for number, value in _fields(summary, file):
        if number == _VALUE and isinstance(value, bytes):
            tag, scalar = _scalar(value, file)
            if scalar is not None:
                scalars.tags.append(tag)
                scalars.steps.append(step)
                scalars.values.append(scalar)


def _scalar(value: bytes, file: Path) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, part in _fields(value, file):
        if not isinstance(part, bytes):
            continue
        if number == _TAG:
            tag = part.decode(errors="replace")
        elif number == _SIMPLE and len(part) == 4:
            (scalar,) = struct.unpack("<f", part)
        elif number == _TENSOR:
            scalar = _only_number(part, file)
    return tag, scalar


# The number of a tensor that holds one.
def _only_number(tensor: bytes, file: Path) -> float | None:
    for number, part in _fields(tensor, file):
        if number in {_CONTENT, _FLOATS, _DOUBLES} and isinstance(part, bytes):
            form = _SIZES.get(len(part))
            return None if form is None else float(struct.unpack(form, part)[0])
    return None


# A process that was killed leaves part of a record at the end.
def _records(data: bytes, scalars: Scalars, file: Path) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + _HEAD
        if end <= len(data):
            end += struct.unpack_from("<Q", data, at)[0] + _TAIL
        if end > len(data) or at + _HEAD > len(data):
            if at == 0:
                raise FileError(f"'{file}' is not an event file of TensorBoard.")
            scalars.notes.append(f"the end of '{file.name}' is cut off and left out")
            return
        yield data[at + _HEAD : end - _TAIL]
        at = end


# Number of a field -> a whole number, or bytes: of texts, messages, and of fixed width.
def _fields(data: bytes, file: Path) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _whole(data, at, file)
        kind = key & 7
        if kind == 0:
            value, at = _whole(data, at, file)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _whole(data, at, file)
        if size is None or at + size > len(data):
            raise FileError(f"'{file}' is damaged: it holds no events of TensorBoard.")
        yield key >> 3, data[at : at + size]
        at += size


def _whole(data: bytes, at: int, file: Path) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise FileError(f"'{file}' is damaged: it holds no events of TensorBoard.")
