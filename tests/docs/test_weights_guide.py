"""The story of the guide to weights, as a user types it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "weights.md"


def blocks():
    text = GUIDE.read_text()
    script = re.search(r"```python\n(.*?)```", text, re.S)[1]
    commands = re.findall(r"^    (lossatlas .*)$", text.replace("\\\n        ", ""), re.M)
    return script, commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("story")
    (folder / "experts.py").write_text(blocks()[0])
    subprocess.run([sys.executable, "experts.py"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("number", range(len(blocks()[1])))
def test_the_commands_of_the_guide_run(number, folder):
    _, *given = shlex.split(blocks()[1][number])
    done = subprocess.run(
        [sys.executable, "-m", "lossatlas", *given], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    if "--compare" in given:
        rows = {
            name: float(value.replace("\u2212", "-"))
            for name, value in re.findall(r"│ ([\w:=. ]+?) +│ ([\u2212\d.]+) loss", told)
        }
        # What the guide says: merging helped, and no other way is far ahead of the average.
        assert rows["base"] > 0.04
        assert min(rows["expert 1"], rows["expert 2"]) > 1
        assert min(rows.values()) > -0.06
    elif "--method" in given:
        assert load_file(folder / "merged.safetensors")["4.bias"].shape == (10,)
    elif given[0] == "connect":
        assert "No barrier" in told
    else:
        assert (folder / "edited.safetensors").is_file()
