"""Killed is not lost: a whole survey from the shell, cut with SIGKILL."""

import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np

import lossatlas as la
from cli.test_survey_command import call

START = "import torch; torch.set_num_threads(1); from lossatlas.cli.app import main; main()"
# Every point in the slowest way, so that there is a middle to be killed in.
SURVEY = [
    "survey",
    "--model",
    "mlp(64, 64)",
    "--points",
    "25",
    "--span",
    "1",
    "--examples",
    "600",
    "--quiet",
]
SLOW = ["--set", "map.adaptive=false", "--set", "map.engine=plain"]


def start(folder, **options):
    arguments = [*SURVEY, *SLOW, "--out", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments], stdout=subprocess.DEVNULL, **options
    )


def chunks(folder):
    try:
        with sqlite3.connect(f"file:{folder}/survey.resume?mode=ro", uri=True) as base:
            return base.execute("SELECT COUNT(*) FROM object").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_a_survey_killed_in_its_map_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process, deadline = start(cut), time.monotonic() + 300
    while chunks(cut) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert chunks(cut) >= 3
    assert not (cut / "survey.nc").exists()
    assert not (cut / "report.html").exists()
    # The rest needs no process of its own.
    for folder, more in ((cut, ["--resume"]), (whole, [])):
        code, _, error = call(monkeypatch, capsys, *SURVEY, *SLOW, "--out", folder, *more)
        assert code == 0, error
    a, b = (la.load(folder / "survey.nc").landscape for folder in (cut, whole))
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.stderr, b.stderr)
    assert a.evaluations == b.evaluations == 25**2
    assert not (cut / "survey.resume").exists()
