"""What an earlier run left is never deleted or computed again without being asked."""

import os
import signal
import subprocess
import time

import click
import pytest

from cli.test_killed_command import chunks, start
from cli.test_survey_command import call
from lossatlas.cli.command import Command
from lossatlas.cli.declaration import Declaration
from lossatlas.cli.destination import Destination
from lossatlas.cli.run_record import RunRecord
from lossatlas.errors import ArgumentError, FileError
from lossatlas.settings import Strict, common, option


class SampleSettings(Strict):
    """Settings of a small command."""

    data: str = option("digits", "Data.")
    points: int = option(3, "Points.")
    out: object = common(None, "Folder.")


@pytest.fixture
def sample(tmp_path):
    """A command that counts how often it runs."""
    runs = []

    def run(settings, output, *, resume):
        runs.append((settings, resume))
        file = tmp_path / "out" / "result.nc"
        file.parent.mkdir(exist_ok=True)
        file.write_text("numbers")
        output.result({"points": settings.points}, "title", files={"results": file})

    def files(settings):
        return Declaration(
            Destination(tmp_path / "out"), "sample", ("result.nc",), ("a.resume",)
        )

    command = Command(SampleSettings, run, "Help.", files=files)
    command.runs = runs
    return command


def go(command, *arguments):
    command.main([*map(str, arguments)], standalone_mode=False)


def test_a_finished_run_is_printed_again(sample, capsys):
    go(sample, "--json")
    first = capsys.readouterr()
    go(sample, "--json")
    second = capsys.readouterr()
    assert second.out == first.out
    assert "already done" in second.err
    go(sample, "--json", "--resume")
    assert len(sample.runs) == 1
    go(sample, "--fresh")
    assert len(sample.runs) == 2


def test_a_run_is_kept_before_it_is_printed(sample, monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr("lossatlas.cli.output.Output.show", closed)
        with pytest.raises(BrokenPipeError):
            go(sample)
    go(sample)
    assert len(sample.runs) == 1


def test_other_settings_are_refused_unless_fresh(sample):
    go(sample)
    with pytest.raises(FileError, match=r"finished run with other settings \(points\)"):
        go(sample, "--points", 4)
    go(sample, "--points", 4, "--fresh")
    assert [settings.points for settings, _ in sample.runs] == [3, 4]
    with pytest.raises(FileError, match=r"\(points\)"):
        go(sample)


def test_changed_files_are_noticed(sample, tmp_path):
    data = tmp_path / "d.csv"
    data.write_text("1")
    go(sample, "--data", f"csv:{data}")
    go(sample, "--data", f"csv:{data}")
    assert len(sample.runs) == 1
    os.utime(data, (1, 1))
    with pytest.raises(FileError, match=f"other contents of csv:{data}"):
        go(sample, "--data", f"csv:{data}")


@pytest.mark.parametrize("text", ["{}", "csv:{}", "{}:make"])
def test_a_file_is_the_same_seen_from_another_folder(sample, tmp_path, monkeypatch, text):
    (tmp_path / "d.csv").write_text("1")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    go(sample, "--data", text.format("d.csv"))
    monkeypatch.chdir(tmp_path / "below")
    go(sample, "--data", text.format("../d.csv"))
    go(sample, "--data", text.format(tmp_path / "d.csv"))
    assert len(sample.runs) == 1
    (tmp_path / "below" / "d.csv").write_text("22")
    with pytest.raises(FileError, match=r"other settings \(data\)"):
        go(sample, "--data", text.format("d.csv"))


def test_a_file_that_was_moved_is_the_same(sample, tmp_path):
    (tmp_path / "d.csv").write_text("1")
    (tmp_path / "new").mkdir()
    go(sample, "--data", tmp_path / "d.csv")
    (tmp_path / "d.csv").rename(tmp_path / "new" / "d.csv")
    go(sample, "--data", tmp_path / "new" / "d.csv")
    assert len(sample.runs) == 1
    (tmp_path / "new" / "d.csv").rename(tmp_path / "new" / "e.csv")
    with pytest.raises(FileError, match=r"other settings \(data\)"):
        go(sample, "--data", tmp_path / "new" / "e.csv")


def test_a_missing_file_is_computed_anew_and_that_is_said(sample, tmp_path, capsys):
    go(sample)
    (tmp_path / "out" / "result.nc").unlink()
    go(sample)
    assert len(sample.runs) == 2
    assert "result.nc of the finished run" in capsys.readouterr().err


def test_unfinished_work_is_not_deleted(sample, tmp_path):
    ledger = tmp_path / "out" / "a.resume"
    ledger.parent.mkdir()
    ledger.touch()
    with pytest.raises(FileError, match="--resume continues it, --fresh discards it"):
        go(sample)
    assert ledger.exists()
    go(sample, "--resume")
    assert sample.runs[0][1] is True


def test_nothing_to_resume_is_said_and_both_at_once_is_refused(sample, capsys):
    with pytest.raises(ArgumentError, match="give one of them"):
        go(sample, "--resume", "--fresh")
    go(sample, "--resume")
    assert "nothing to resume" in capsys.readouterr().err


def test_results_beside_a_file_of_weights(tmp_path):
    place = Destination(tmp_path / "w.safetensors", ("sample.safetensors", "sample.nc"))
    files = Declaration(place, "sample", place.names, ("sample.resume",))
    record = RunRecord(files, SampleSettings())
    assert record.path == tmp_path / "w.json"
    (tmp_path / "w.resume").touch()
    assert record.unfinished


@pytest.mark.parametrize(
    "content", ["[1]", "{}", "mine", '{"lossatlas": "0.2", "command": "x"}']
)
@pytest.mark.parametrize("fresh", [[], ["--fresh"], ["--resume"]])
def test_a_foreign_file_of_that_name_is_no_record(sample, tmp_path, content, fresh):
    (tmp_path / "out").mkdir()
    record = tmp_path / "out" / "sample.json"
    record.write_text(content)
    with pytest.raises(FileError, match=r"sample.json' would be overwritten"):
        go(sample, *fresh)
    assert record.read_text() == content
    assert not sample.runs


@pytest.mark.parametrize("arguments", [["--list-instruments"], ["--instruments", "list"]])
def test_instruments_are_listed_beside_unfinished_work(
    monkeypatch, capsys, tmp_path, arguments
):
    (tmp_path / "survey").mkdir()
    (tmp_path / "survey" / "survey.resume").touch()
    monkeypatch.chdir(tmp_path)
    code, text, _ = call(monkeypatch, capsys, "survey", *arguments)
    assert code == 0
    assert "Is my learning rate too high?" in " ".join(text.split())


def test_a_stopped_command_says_whether_it_can_be_continued(sample, tmp_path):
    def stop(settings, output, *, resume):
        raise KeyboardInterrupt

    sample.run = stop
    with pytest.raises(click.Abort, match=r"^stopped$"):
        go(sample)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.resume").touch()
    with pytest.raises(click.Abort, match="with --resume continues"):
        go(sample, "--resume")


def test_sigterm_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    out = tmp_path / "cut"
    process, deadline = start(out, stderr=subprocess.PIPE), time.monotonic() + 300
    while chunks(out) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 143
    assert error.decode() == "lossatlas: stopped; the same command with --resume continues.\n"
    assert chunks(out) >= 3
    assert not (out / ".lossatlas.lock").exists()
    code, _, error = call(monkeypatch, capsys, "survey", "--out", out)
    assert code == 2
    assert "holds an unfinished run" in error
    assert chunks(out) >= 3
