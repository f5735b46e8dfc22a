"""SIGKILL while a curve is trained and while merges are compared: the same bits afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from networks import objective

import lossatlas as la
from lossatlas.errors import ResumeError
from lossatlas.weights import compare_merges, connect

HERE = Path(__file__).parent
_SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
import torch
import test_killed_work as t
torch.set_num_threads(1)
t.{job}(resume={ledger!r}, slow=0.05).save({out!r})
"""
METHODS = ["average", "task_arithmetic:scale=0.7", "ties:density=0.5", "dare", "search"]


def ends(task, count):
    base = {k: v.detach().clone() for k, v in task.params.items()}
    draw = torch.Generator().manual_seed(0)
    return [
        {k: v + 0.3 * torch.randn(v.shape, generator=draw) for k, v in base.items()}
        for _ in range(count)
    ]


def pause(slow):
    return lambda done, total: time.sleep(slow)


def path(resume=None, slow=0.0):
    task = objective("mlp")
    return connect(
        task, *ends(task, 2), kind="bezier", steps=100, seed=3, resume=resume,
        progress=pause(slow),
    )  # fmt: skip


def merges(resume=None, slow=0.0):
    task = objective("mlp")
    return compare_merges(
        task, *ends(task, 3), methods=METHODS, resume=resume, progress=pause(5 * slow)
    )


@pytest.mark.parametrize("job", ["path", "merges"])
def test_killed_is_not_lost(job, tmp_path):
    ledger, out = tmp_path / "work.resume", tmp_path / "found.nc"
    script = _SCRIPT.format(here=str(HERE), job=job, ledger=str(ledger), out=str(out))
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    for _ in range(1200):
        time.sleep(0.05)
        if ledger.exists() and _rows(ledger) >= (1 if job == "path" else 3):
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    expected = globals()[job]()
    went_on = globals()[job](resume=ledger)
    assert went_on == expected
    assert la.load(went_on.save(out)) == expected


def _rows(ledger):
    import sqlite3

    try:
        with sqlite3.connect(ledger) as base:
            names = [n for (n,) in base.execute("SELECT name FROM sqlite_master") if n != "run"]
            tables = [name for name in names if not name.startswith("sqlite")]
            return sum(base.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in tables)
    except sqlite3.Error:
        return 0


def test_finished_work_is_not_done_again(tmp_path):
    ledger = tmp_path / "work.resume"
    first = path(resume=ledger)
    task = objective("mlp")
    steps = []
    again = connect(
        task, *ends(task, 2), kind="bezier", steps=100, seed=3, resume=ledger,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert again == first
    assert steps[0] == (100, 117)


def test_a_file_of_another_run_is_refused(tmp_path):
    ledger = tmp_path / "work.resume"
    path(resume=ledger)
    task = objective("mlp")
    with pytest.raises(ResumeError, match="another run"):
        connect(task, *ends(task, 2), kind="bezier", steps=99, seed=3, resume=ledger)
    with pytest.raises(ResumeError):
        merges(resume=ledger)
