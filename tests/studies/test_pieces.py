import numpy as np
import pytest

from lossatlas.errors import ResumeError, UnknownNameError
from lossatlas.studies.pieces import finished

NAMES = ["a", "b", "c"]


def squares(calls):
    def work(index):
        calls.append(index)
        return np.array([[float(index) ** 2, np.nan]])

    return work


def test_results_come_in_order_with_a_line_each():
    lines, calls = [], []
    found = finished(NAMES, squares(calls), run={"x": 1}, progress=lines.append)
    assert [table[0, 0] for table in found] == [0.0, 1.0, 4.0]
    assert calls == [0, 1, 2]
    assert lines == ["1 of 3: a", "2 of 3: b", "3 of 3: c"]


def test_what_is_done_is_not_done_again(tmp_path):
    def fails(index):
        if index == 2:
            raise RuntimeError("killed")
        return squares([])(index)

    with pytest.raises(RuntimeError, match="killed"):
        finished(NAMES, fails, run={"x": 1}, resume=tmp_path / "kept")
    calls = []
    found = finished(NAMES, squares(calls), run={"x": 1}, resume=tmp_path / "kept")
    assert calls == [2]
    assert [table[0, 0] for table in found] == [0.0, 1.0, 4.0]
    with pytest.raises(ResumeError, match="another run: x"):
        finished(NAMES, squares(calls), run={"x": 2}, resume=tmp_path / "kept")


def test_an_unknown_executor_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'serial'"):
        finished(NAMES, squares([]), run={}, executor="seriel")
