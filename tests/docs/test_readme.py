"""The Python of the README runs as it stands there, top to bottom."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_the_blocks_run_and_write_what_they_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for number, block in enumerate(BLOCKS, 1):
            exec(compile(block, f"README.md, block {number}", "exec"), names)
    assert len(BLOCKS) == 4
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert (tmp_path / "best.pt").is_file()
    assert "±" in capsys.readouterr().out


def test_the_promise_of_ten_lines_holds():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 10


def test_what_the_loss_returns_runs():
    guide = (ROOT / "docs" / "guide" / "survey.md").read_text(encoding="utf-8")
    part = guide.split("## What the loss returns")[1].split("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", part, flags=re.DOTALL | re.MULTILINE)
    names = {"__name__": "guide"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(compile(block, "docs/guide/survey.md", "exec"), names)
    assert names["found"].samples == 12


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if not t.startswith("http")]
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert missing == []
