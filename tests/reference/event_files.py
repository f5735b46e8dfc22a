"""Event files of TensorBoard, written byte by byte."""

import struct


def _whole(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _message(number, data):
    return _whole(number << 3 | 2) + _whole(len(data)) + data


def _record(event):
    # Checksums are not read.
    return struct.pack("<Q", len(event)) + b"\0\0\0\0" + event + b"\0\0\0\0"


def _scalar(tag, value, form):
    name = _message(1, tag.encode())
    if form == "simple":
        return name + _whole(2 << 3 | 5) + struct.pack("<f", value)
    packed = struct.pack("<f", value)
    # A float (type 1) without axes, as TensorFlow 2 writes it; or a text (type 7).
    tensor = {
        "content": _whole(1 << 3) + b"\x01" + _message(4, packed),
        "values": _whole(1 << 3) + b"\x01" + _message(5, packed),
        "text": _whole(1 << 3) + b"\x07" + _message(8, b"words"),
    }[form]
    return name + _message(8, tensor)


def event_file(rows, form="simple"):
    """The bytes of a file with (step, tag, value) rows."""
    time = _whole(1 << 3 | 1) + struct.pack("<d", 1.5)
    records = [_record(time + _message(3, b"brain.Event:2"))]
    for step, tag, value in rows:
        summary = _message(1, _scalar(tag, value, form))
        records.append(_record(time + _whole(2 << 3) + _whole(step) + _message(5, summary)))
    return b"".join(records)
