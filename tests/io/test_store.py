import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from lossatlas import io
from lossatlas.errors import ArgumentError, FileError, ResumeError
from lossatlas.io import Ledger, Provenance, from_bytes, to_bytes, writing
from lossatlas.io.records import equal


@io.kind("test-thing")
class Thing:
    def __init__(self, numbers):
        self.numbers = numbers

    def to_tree(self):
        return {"a/b": xr.Dataset({"n": ("k", self.numbers)})}

    @classmethod
    def from_tree(cls, tree):
        return cls(tree["a/b"]["n"].to_numpy())


def test_results_come_back(tmp_path):
    path = io.save(Thing(np.array([1.0, np.nan, np.inf])), tmp_path / "x" / "thing.nc")
    assert io.load(path).numbers.tobytes() == np.array([1.0, np.nan, np.inf]).tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["thing.nc"]


def test_only_results_can_be_saved(tmp_path):
    with pytest.raises(ArgumentError, match="must be a lossatlas result; got dict"):
        io.save({}, tmp_path / "x.nc")


def broken(tmp_path, how):
    path = tmp_path / "broken.nc"
    if how == "folder":
        path.mkdir()
    elif how == "empty":
        path.touch()
    elif how == "text":
        path.write_text("PK\x03\x04 not netCDF")
    elif how == "truncated":
        whole = io.save(Thing(np.arange(5000.0)), tmp_path / "whole.nc")
        path.write_bytes(whole.read_bytes()[:5000])
    elif how == "foreign":
        xr.Dataset({"x": ("k", [1])}).to_netcdf(path, engine="h5netcdf")
    elif how == "future":
        root = xr.Dataset(attrs={"lossatlas_kind": "test-thing", "lossatlas_format": 99})
        root.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "damaged or not netCDF"),
        ("truncated", "damaged or not netCDF"),
        ("foreign", "not written by lossatlas"),
        ("future", "format 99; this version reads"),
    ],
)
def test_what_cannot_be_read_is_a_named_error(tmp_path, how, message):
    with pytest.raises(FileError, match=message):
        io.load(broken(tmp_path, how))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, code):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    says = "disk is full" if code == errno.ENOSPC else "was not written"

    def fail():
        with writing(path) as temporary:
            temporary.write_text("half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(FileError, match=says):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_named_error():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(FileError, match="not written"), writing("/dev/full/x"):
        pass


def test_the_ledger_keeps_bits_and_knows_its_run(tmp_path):
    values = np.array([[1.0, np.nan], [-0.0, np.inf]]).tobytes()
    with Ledger(tmp_path / "run", {"points": 3, "seed": 0}) as ledger:
        assert ledger.get("a") is None
        ledger.put("a", values)
        ledger.put("a", values)
        assert len(ledger) == 1
        assert "a" in ledger
        assert "b" not in ledger
    with Ledger(tmp_path / "run", {"points": 3, "seed": 0}) as ledger:
        assert ledger.get("a") == values
    with pytest.raises(ResumeError, match="another run: seed differ"):
        Ledger(tmp_path / "run", {"points": 3, "seed": 1})
    io.remove_ledger(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"mine", b"SQLite format 3\0" + bytes(100)])
def test_a_file_that_is_no_ledger_is_not_removed(tmp_path, content):
    for suffix in ("", "-wal"):
        (tmp_path / f"run{suffix}").write_bytes(content)
    with pytest.raises(ResumeError, match="run' is "):
        io.remove_ledger(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == content
    (tmp_path / "run").unlink()
    # Nobody knows whose it is.
    io.remove_ledger(tmp_path / "run")
    assert (tmp_path / "run-wal").read_bytes() == content


def test_a_damaged_ledger_is_named(tmp_path):
    path = tmp_path / "run"
    with Ledger(path, {"points": 3}) as ledger:
        for k in range(200):
            ledger.put(str(k), np.full((16, 2), float(k)).tobytes())
    io.remove_ledger(f"{path}-wal")
    content = bytearray(path.read_bytes())
    content[2000:] = os.urandom(len(content) - 2000)
    path.write_bytes(content)

    def read_all():
        with Ledger(path, {"points": 3}) as ledger:
            for k in range(200):
                assert ledger.get(str(k)) is not None

    with pytest.raises(ResumeError, match=r"damaged|is not a resume file"):
        read_all()


def test_provenance_is_equal_after_json():
    record = Provenance(
        seed=3, settings={"ranges": ((-1.0, 1.0),), "metrics": ("a",)}, model="f0"
    )
    assert Provenance.from_json(record.to_json()) == record
    assert record.versions["lossatlas"]


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1.0, np.nan], [-0.0, np.inf]]),
        np.float32(0.1) * np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        np.empty((0, 3)),
        np.array(["a", "long name"]),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        torch.tensor([0.5, float("nan")], dtype=torch.bfloat16),
        {"file": np.arange(3), "a/b": (1, "x", None, math.inf), "e": {"deep": True}},
        Provenance(seed=3, settings={"points": 3}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_from_bytes_to_the_last_bit(value):
    assert equal(from_bytes(to_bytes(value)), value)


@pytest.mark.parametrize("length", [0, 4, 20, -8])
def test_bytes_that_are_cut_off_are_named(length):
    with pytest.raises(ResumeError, match="is damaged"):
        from_bytes(to_bytes({"x": np.arange(4.0)})[:length])


def test_bytes_that_state_more_than_they_hold_allocate_nothing():
    head = json.dumps(
        {"fields": {"$array": "x"}, "arrays": {"x": ["<f8", [1_000_000, 2_416]]}}
    ).encode()
    with pytest.raises(ResumeError, match=r"is damaged \(buffer is smaller"):
        from_bytes(len(head).to_bytes(8, "little") + head + bytes(64))
