"""The sink: results as JSON or as a table, notes, progress."""

import json
import math
import re
import sys

import pytest

from lossatlas.cli.output import Output
from lossatlas.result import Estimate, Result, result
from lossatlas.settings import Strict
from lossatlas.text import between


@result("sample of the command line")
class PrintedSample(Result):
    """Numbers of every kind."""

    trace: Estimate
    top: Estimate
    unknown: Estimate
    notes: tuple[str, ...] = ("A note.",)

    def sentences(self):
        return ("The trace is small.",)


class _Settings(Strict):
    seed: int = 3


FOUND = PrintedSample(
    Estimate(2.0, 0.5, unit="nats"),
    Estimate(7.0, bound=0.25),
    Estimate(math.nan, why_no_error="too few examples"),
)


def test_a_result_as_json(capsys, tmp_path):
    output = Output(as_json=True, settings=_Settings())
    output.result(FOUND, "sample", files={"results": tmp_path / "a.nc"}, extra={"more": (1,)})
    told = json.loads(capsys.readouterr().out)
    assert told["estimates"]["trace"] == {"value": 2.0, "stderr": 0.5, "unit": "nats"}
    assert told["estimates"]["top"]["bound"] == 0.25
    assert told["estimates"]["unknown"]["value"] is None
    assert told["estimates"]["unknown"]["why_no_error"] == "too few examples"
    assert told["sentences"] == ["The trace is small."]
    assert told["notes"] == ["A note."]
    assert told["files"] == {"results": str(tmp_path / "a.nc")}
    assert told["settings"] == {"seed": 3}
    assert told["more"] == [1]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(5280, 5281, "88 min"), (40, 200, "40 s to 3 min"), (3000, 7200, "50 min to 2.0 h")],
)
def test_a_time_between_itself_and_itself_is_one(low, high, text):
    assert between(low, high) == text


def test_a_result_as_a_table(capsys, tmp_path):
    Output().result(FOUND, "a [title]", files={"results": tmp_path / "a [b].nc"})
    text = capsys.readouterr().out
    for word in ("a [title]", "trace", "nats", "± 0.5", "± 0.25", "too few examples"):
        assert word in text
    assert str(tmp_path / "a [b].nc") in text
    assert "\x1b" not in text


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_without_a_terminal_is_a_line_now_and_then(quiet, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with Output(quiet=quiet).progress("mapping") as progress:
        for done in range(100):
            clock[0] += 0.5
            progress(done, 100)
        progress.stage("Sharpness", 1, 3)
        progress.line("one more")
    lines = capsys.readouterr().err.splitlines()
    if quiet:
        assert lines == []
        return
    assert lines[:2] == ["mapping: 0 of 100", "mapping: 6 of 100, about 55 s left"]
    assert lines[-1] == "sharpness, 2 of 3, about 2 min left"
    assert len(lines) == 18


@pytest.mark.parametrize(("columns", "is_table"), [(120, True), (40, False)])
def test_a_narrow_terminal_gets_lines(columns, is_table, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", str(columns))
    path = tmp_path / "a-file.nc"
    Output().result(FOUND, "title", files={"results": path})
    lines = capsys.readouterr().out.splitlines()
    assert ("│" in lines[2]) is is_table
    # No number and no path is broken in two.
    assert any(str(path) in line for line in lines)
    if not is_table:
        assert lines[:2] == ["title", "trace: 2.00 nats, ± 0.50"]
        assert max(len(line) for line in lines if str(tmp_path) not in line) <= columns


def test_a_title_is_one_line_and_no_column_is_empty(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    title = "a title that is longer than the table below it"
    Output().result({}, title, [("one", "1", ""), ("two", "2", "")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == title
    assert all(line.count("│") == 3 for line in lines[2:4])


@pytest.mark.parametrize("columns", range(24, 60, 5))
def test_a_share_is_not_broken(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    Output().result({}, "t", [("a long name of a number", "word " * 9, "right (95 %, all)")])
    text = capsys.readouterr().out
    assert "95 %" in text
    assert "\xa0" not in text


def test_what_was_printed_is_printed_again(capsys):
    kept = []
    first = Output(as_json=True, settings=_Settings(), keep=kept.append)
    first.result(FOUND, "sample", extra={"more": (1,)})
    Output(as_json=True, settings=_Settings()).show(*kept)
    one, two = capsys.readouterr().out.splitlines()
    assert one == two


@pytest.mark.parametrize("no_color", [False, True])
def test_progress_on_a_terminal_is_a_bar(no_color, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    with Output().progress("mapping") as progress:
        progress(3, 9)
        progress.stage("Sharpness", 1, 2)
        progress._bar.refresh()
    error = capsys.readouterr().err
    assert "sharpness" in error
    assert "1/2" in error
    assert bool(re.search(r"\x1b\[3[0-9;]+m", error)) is not no_color
