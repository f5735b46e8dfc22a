"""One rule for `--out`: a folder, unless it ends in a suffix that the command writes."""

import re

import pytest

from cli.test_survey_command import call
from lossatlas.cli.destination import Destination
from lossatlas.errors import ArgumentError

NAMES = ("w.safetensors", "w.nc", "report.html", "a.png", "b.png")
# Command -> suffixes that its help promises; none where it fills a folder.
COMMANDS = {
    "survey": (), "train": (), "inits rank": (), "inits run": (),
    "atlas": (".html",), "weights": (".nc",),
    "lr": (".nc", ".html"), "connect": (".nc", ".html"), "choose": (".nc", ".html"),
    "merge": (".safetensors", ".nc", ".html"), "soup": (".safetensors", ".nc", ".html"),
    "edit": (".safetensors", ".nc", ".html"),
}  # fmt: skip


def test_a_folder_holds_every_file_under_its_own_name(tmp_path):
    for out in (tmp_path / "run", tmp_path / "v1.2"):
        place = Destination(out, NAMES)
        assert not place.is_file
        assert place.folder == out
        assert [place.file(name) for name in NAMES] == [out / name for name in NAMES]
        place.check()


def test_a_name_is_shared_by_all_files(tmp_path):
    for suffix in (".safetensors", ".nc", ".html", ".png"):
        place = Destination(tmp_path / f"mine{suffix}", NAMES)
        assert place.folder == tmp_path
        told = [place.file(name).name for name in (*NAMES, "c.png", "w.resume")]
        assert told == [
            "mine.safetensors", "mine.nc", "mine.html", "mine.png", "mine-b.png", "mine-c.png",
            "mine.resume",
        ]  # fmt: skip
    assert not Destination(tmp_path / "mine.nc", NAMES, is_folder=True).is_file
    (tmp_path / "old.nc").mkdir()
    assert not Destination(tmp_path / "old.nc", NAMES).is_file


@pytest.mark.parametrize("suffix", [".pt", ".json", ".npz"])
def test_a_suffix_that_is_not_written_is_refused(tmp_path, suffix):
    wanted = "a folder, or a name that ends in .safetensors, .nc, .html or .png; got"
    with pytest.raises(ArgumentError, match=wanted):
        Destination(tmp_path / f"x{suffix}", NAMES).check()
    with pytest.raises(ArgumentError, match="must be a folder; got"):
        Destination(tmp_path / f"x{suffix}", NAMES, is_folder=True).check()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_refusal_name_the_same_suffixes(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wanted = COMMANDS[command]
    _, text, _ = call(monkeypatch, capsys, *command.split(), "--help")
    told = re.search(r"--out PATH\s+(.*?)(\s--|\[|$)", " ".join(text.split()))[1]
    assert told.startswith("Folder of ")
    assert all(suffix in told for suffix in wanted)
    given = {"weights": ["x.pt"], "edit": ["x.pt"], "atlas": ["x"], "lr": []}
    two = ["x.pt", "y.pt"] if command in {"connect", "choose", "merge", "soup"} else []
    code, _, error = call(
        monkeypatch, capsys, *command.split(), *given.get(command, two), "--out", "o.mp4"
    )
    assert code == 2
    assert "`out` must be a folder" in error
    assert all(suffix in error for suffix in wanted)
    assert not (tmp_path / "o.mp4").exists()
