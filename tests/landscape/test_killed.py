"""Killed is not lost: SIGKILL at any moment, and the map goes on with the same bits."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

import cases
import lossatlas as la
from lossatlas.errors import ResumeError
from lossatlas.io import Ledger

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import cases, lossatlas as la
objective = cases.make(cases.mlp).objective()
# Slow enough to be killed in the middle.
slow = lambda done, total, label: time.sleep(0.1)
land = la.map_plane(
    objective, la.random_plane(objective, dimension=3 if {adaptive} else 2),
    points=11 if {adaptive} else 25, adaptive={adaptive}, engine="plain", resume={ledger!r},
    progress=slow, executor={executor!r},
)
land.save({out!r})
"""


def chunks(ledger):
    try:
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as base:
            return base.execute("SELECT COUNT(*) FROM object").fetchone()[0]
    except sqlite3.Error:
        return 0


def start(tmp_path, name, *, ledger, adaptive, executor="serial"):
    out = str(tmp_path / name)
    code = SCRIPT.format(
        tests=os.path.join(os.path.dirname(__file__), os.pardir),  # noqa: PTH118, PTH120
        ledger=str(ledger),
        out=out,
        adaptive=adaptive,
        executor=executor,
    )
    return subprocess.Popen([sys.executable, "-c", code]), out


@pytest.mark.parametrize(
    ("adaptive", "executor"), [(True, "serial"), (False, "serial"), (False, "joblib")]
)
def test_a_map_killed_twice_has_the_bits_of_one_that_was_not(tmp_path, adaptive, executor):
    ledger = tmp_path / "run.resume"
    how = {"adaptive": adaptive, "executor": executor}
    for goal in (3, 6):
        process, out = start(tmp_path, "cut.nc", ledger=ledger, **how)
        deadline = time.monotonic() + 300
        while chunks(ledger) < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        # At most the chunk in flight is done again: whatever was told is on disk.
        assert chunks(ledger) >= goal
        assert not os.path.exists(out)  # noqa: PTH110
    kept = chunks(ledger)
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective, dimension=3 if adaptive else 2)
    settings = {"points": 11 if adaptive else 25, "adaptive": adaptive, "engine": "plain"}
    # The rest needs no process of its own.
    a = la.map_plane(objective, plane, resume=ledger, executor=executor, **settings)
    b = la.map_plane(objective, plane, resume=tmp_path / "b", **settings)
    assert chunks(tmp_path / "b") > kept
    assert a.values.tobytes() == b.values.tobytes()
    assert a.stderr.tobytes() == b.stderr.tobytes()
    assert a.computed.tobytes() == b.computed.tobytes()


def test_a_disk_that_fills_up_during_a_map_is_named_and_what_was_done_is_kept(
    tmp_path, monkeypatch
):
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective)
    options = {"points": 9, "adaptive": False, "engine": "plain", "resume": tmp_path / "r"}
    put = Ledger.put

    def full(self, name, values):
        self._base.execute("PRAGMA max_page_count=1")
        put(self, name, bytes((len(self) + 1) * 72_000) if len(self) == 2 else values)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "put", full)
        with pytest.raises(
            ResumeError, match=r"cannot be written \(database or disk is full\)"
        ):
            la.map_plane(objective, plane, **options)
    seen = []
    land = la.map_plane(
        objective, plane, progress=lambda done, *_: seen.append(done), **options
    )
    # The origin and the point beside it were evaluated when the engine was chosen.
    assert seen[:2] == [2 + 16, 2 + 32]
    assert (
        land.values.tobytes()
        == la.map_plane(objective, plane, **(options | {"resume": None})).values.tobytes()
    )
