"""Files of killed, hostile and other owners: cleared, refused, or left alone."""

import io
import json
import pathlib
import signal
import sqlite3
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import lossatlas as la
from lossatlas.errors import FileError, ResumeError
from lossatlas.io import Ledger, occupied, writing
from lossatlas.io.sizes import check_npy, check_npz, check_parquet
from lossatlas.training.tables import load_npz

HOLD = """
import sys, time
from lossatlas.io import occupied, writing
with occupied(sys.argv[1]) as folder, writing(folder / "survey.nc") as path:
    path.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_refused_at_once_and_a_killed_one_leaves_nothing(tmp_path, holder):
    message = rf"is being written by another run \(process {holder.pid} on .*--out"
    with pytest.raises(FileError, match=message), occupied(tmp_path):
        pass
    # A writer of the same file that lives is left alone.
    with writing(tmp_path / "survey.nc") as path:
        path.write_bytes(b"whole")
    assert len(list(tmp_path.glob(".survey.nc.*"))) == 1
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert len(list(tmp_path.glob(".survey.nc.*"))) == 1
    with occupied(tmp_path):
        assert not list(tmp_path.glob(".survey.nc.*"))
    assert [path.name for path in tmp_path.iterdir()] == ["survey.nc"]


def test_the_next_write_of_the_same_file_clears_what_a_killed_one_left(tmp_path, holder):
    holder.kill()
    holder.wait()
    foreign = tmp_path / ".survey.nc.0badcafe-1-abc"
    foreign.touch()
    (tmp_path / ".survey.nc.txt").touch()
    with writing(tmp_path / "survey.nc") as path:
        path.write_bytes(b"whole")
    names = {path.name for path in tmp_path.iterdir()} - {".lossatlas.lock"}
    # What another machine, or another program, writes is not ours to judge.
    assert names == {"survey.nc", foreign.name, ".survey.nc.txt"}


def test_one_process_cannot_write_a_folder_twice(tmp_path):
    with occupied(tmp_path):
        with pytest.raises(FileError, match="another run"), occupied(tmp_path):
            pass
        assert (tmp_path / ".lossatlas.lock").exists()
    with occupied(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_two_commands_with_one_out_do_not_mix(tmp_path, holder, capsys, monkeypatch):
    from cli.test_survey_command import call

    code, out, error = call(monkeypatch, capsys, "survey", "--out", str(tmp_path), "--quiet")
    assert (code, out) == (2, "")
    assert f"process {holder.pid}" in error
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("wal", [False, True], ids=["rollback", "wal"])
@pytest.mark.parametrize("mark", [0, 77])
def test_a_database_of_another_program_is_never_written(tmp_path, wal, mark):
    path = tmp_path / "photos.db"
    base = sqlite3.connect(path)
    base.execute(f"PRAGMA application_id={mark}")
    if wal:
        base.execute("PRAGMA journal_mode=WAL")
    base.execute("CREATE TABLE photos (name TEXT)")
    base.commit()
    if not wal:
        base.close()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    model = nn.Linear(2, 1)
    data = [(torch.eye(2), torch.zeros(2, 1))]
    objective = la.Objective(model, la.supervised(nn.functional.mse_loss), data)
    with pytest.raises(ResumeError, match=r"of another program.*was not changed"):
        la.map_plane(objective, la.random_plane(objective), points=3, resume=path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    base.close()


def test_a_ledger_of_an_earlier_version_goes_on(tmp_path):
    path = tmp_path / "map.resume"
    with Ledger(path, {"a": 1}) as ledger:
        ledger.put("x", b"done")
    base = sqlite3.connect(path)
    base.execute("PRAGMA application_id=0")
    base.close()
    with Ledger(path, {"a": 1}) as ledger:
        assert ledger.get("x") == b"done"


def test_a_ledger_of_a_killed_owner_goes_on(tmp_path):
    code = (
        "import sys, os; from lossatlas.io import Ledger\n"
        "ledger = Ledger(sys.argv[1], {'a': 1}); ledger.put('x', b'done')\n"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "map.resume"
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    with Ledger(path, {"a": 1}) as ledger:
        assert ledger.get("x") == b"done"


def hostile_netcdf(path, how):
    with h5py.File(path, "w") as file:
        file.attrs["lossatlas_kind"] = "landscape"
        group = file.create_group("map")
        shape = (200_000, 200_000)
        options = {
            "declared": {},
            "chunked": {"chunks": (1000, 1000)},
            "packed": {"chunks": (1000, 1000), "compression": "gzip"},
        }[how]
        group.create_dataset("values", shape, dtype="f8", **options)
    return path


@pytest.mark.parametrize("how", ["declared", "chunked", "packed"])
def test_a_netcdf_that_states_320_gb_is_refused_before_anything_is_allocated(tmp_path, how):
    path = hostile_netcdf(tmp_path / "big.nc", how)
    assert path.stat().st_size < 20_000
    with pytest.raises(FileError, match="states 320,000,000,000 bytes, more than the file has"):
        la.load(path)


def hostile_npz(path, entries=("x", "y")):
    with zipfile.ZipFile(path, "w") as archive:
        for name in entries:
            head = io.BytesIO()
            shape = (1_000_000, 2_416)
            np.lib.format.write_array_header_1_0(
                head, {"descr": "<f8", "fortran_order": False, "shape": shape}
            )
            archive.writestr(f"{name}.npy", head.getvalue() + bytes(64))
    return path


def test_an_npz_that_states_18_gib_is_refused_before_anything_is_allocated(tmp_path):
    path = hostile_npz(tmp_path / "big.npz")
    with pytest.raises(FileError, match=r"x states 19,328,000,000 bytes"):
        load_npz(path)
    with zipfile.ZipFile(path) as archive:
        (tmp_path / "x.npy").write_bytes(archive.read("x.npy"))
    with pytest.raises(FileError, match=r"states 19,328,000,000 bytes"):
        check_npy(tmp_path / "x.npy")


def test_a_safetensors_file_that_states_more_than_it_has_is_refused(tmp_path):
    head = json.dumps(
        {"w": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}
    ).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(100))
    with pytest.raises(FileError, match="damaged, truncated or not safetensors"):
        la.io.load_checkpoint(path)


def test_a_parquet_that_unpacks_to_more_than_it_can_is_refused(tmp_path):
    class Column:
        path_in_schema, total_compressed_size, total_uncompressed_size = "image", 10**12, 10**12

    class Group:
        num_columns = 1

        def column(self, _):
            return Column()

    class Metadata:
        num_row_groups = 1

        def row_group(self, _):
            return Group()

    path = tmp_path / "a.parquet"
    path.write_bytes(bytes(1000))
    with pytest.raises(FileError, match="image states 1,000,000,000,000 bytes"):
        check_parquet(path, Metadata())


def test_honest_files_pass(tmp_path):
    x, y = np.zeros((5000, 20), "f4"), np.zeros(5000, "i8")
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y)
    check_npz(tmp_path / "a.npz", "a")
    assert len(load_npz(tmp_path / "a.npz").inputs) == 5000
    np.save(tmp_path / "a.npy", x)
    check_npy(tmp_path / "a.npy")
    assert pathlib.Path(tmp_path / "a.npz").stat().st_size < x.nbytes / 100
