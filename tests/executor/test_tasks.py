import io
import sys

import numpy as np
import pytest

from lossatlas.errors import ArgumentError, ResumeError, UnknownNameError
from lossatlas.executor import run_tasks, show_progress
from lossatlas.io import Ledger, open_ledger
from lossatlas.io.records import equal

TASKS = {"a": 0, "b": 1, "c": 2}


def squares(calls):
    def work(number):
        calls.append(number)
        return {"square": number**2, "table": np.array([[float(number), np.nan]])}

    return work


def in_turn(tasks, work):
    """The slow obvious twin: a loop."""
    return [work(task) for task in tasks.values()]


def test_results_come_in_order_and_progress_is_told():
    told, calls = [], []
    found = list(run_tasks(TASKS, lambda: squares(calls), progress=lambda *p: told.append(p)))
    assert all(map(equal, found, in_turn(TASKS, squares([]))))
    assert calls == [0, 1, 2]
    assert told == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]


@pytest.mark.parametrize("executor", ["serial", "joblib"])
def test_what_is_done_is_not_done_again(tmp_path, executor):
    def fails(number):
        if number == 2:
            raise RuntimeError("killed")
        return squares([])(number)

    def run(work, run=1):
        with open_ledger(tmp_path / "kept", {"x": run}) as ledger:
            return list(run_tasks(TASKS, lambda: work, ledger=ledger, executor=executor))

    with pytest.raises(RuntimeError, match="killed"):
        run(fails)
    with Ledger(tmp_path / "kept", {"x": 1}) as ledger:
        assert "c" not in ledger
        stored = len(ledger)
    assert executor == "joblib" or stored == 2
    assert all(map(equal, run(squares([])), in_turn(TASKS, squares([]))))
    # Everything is stored: work that fails is not called.
    assert all(map(equal, run(fails), in_turn(TASKS, squares([]))))
    with pytest.raises(ResumeError, match="another run: x"):
        run(fails, run=2)


def test_a_hole_in_the_ledger_is_filled_in_order(tmp_path):
    calls = []
    with Ledger(tmp_path / "kept", {}) as ledger:
        list(run_tasks({"b": 1}, lambda: squares([]), ledger=ledger))
        found = list(run_tasks(TASKS, lambda: squares(calls), ledger=ledger))
    assert calls == [0, 2]
    assert all(map(equal, found, in_turn(TASKS, squares([]))))


def test_results_are_streamed(tmp_path):
    calls = []
    results = run_tasks(TASKS, lambda: squares(calls))
    assert next(results)["square"] == 0
    assert calls == [0]


def test_an_unknown_executor_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'serial'"):
        run_tasks(TASKS, lambda: squares([]), executor="seriel")


def test_progress_true_writes_lines_where_there_is_no_terminal(monkeypatch):
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    list(run_tasks(TASKS, lambda: squares([]), progress=True))
    assert heard.getvalue() == "1 of 3: a\n3 of 3: c\n"


def test_progress_true_draws_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    heard = Terminal()
    monkeypatch.setattr(sys, "stderr", heard)
    with show_progress(True) as tell:
        tell(1, 2, "first [map]")
    assert "1/2" in heard.getvalue()
    assert "first [map]" in heard.getvalue()


def test_progress_that_is_none_is_named():
    with pytest.raises(ArgumentError, match="`progress` must be callable"):
        list(run_tasks(TASKS, lambda: squares([]), progress=3))
