"""The story of the guide to weights, as a user types it."""

import re

import pytest
import torch
from safetensors.torch import load_file

from cli.test_survey_command import call
from docs.site_pages import commands_of
from docs.test_pages import run

PAGE = "docs/guide/weights.md"
# Others are names of commands in the text.
COMMANDS = [words for words in commands_of(PAGE) if "experts.py:net" in words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(folder)
        torch.manual_seed(0)
        assert run(PAGE, {"__name__": "__main__"}, folder) == {}
    return folder


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_commands_of_the_guide_run(number, folder, monkeypatch, capsys):
    given = COMMANDS[number]
    monkeypatch.chdir(folder)
    code, out, err = call(monkeypatch, capsys, *given)
    assert not code, err
    told = out + err
    if "--compare" in given:
        rows = {
            name: float(value.replace("\u2212", "-"))
            for name, value in re.findall(
                r"│ (\S+) minus the average +│ ([\u2212\d.]+) loss", told
            )
        }
        # What the guide says: merging helped, and no other way is far ahead of the average.
        assert rows["base"] > 0.04
        assert min(rows["low.safetensors"], rows["high.safetensors"]) > 1
        assert min(rows.values()) > -0.06
    elif "--method" in given:
        assert load_file(folder / "merged.safetensors")["4.bias"].shape == (10,)
    elif given[0] == "connect":
        assert "No barrier" in told
    else:
        assert (folder / "edited.safetensors").is_file()
