"""The Python of "Your own model" runs; a block skips where its package is missing."""

import os
import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "your-model.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SETUP, *BLOCKS = BLOCK.findall(PAGE.read_text("utf-8"))
# One block uses what another has defined.
FIRST = next(block for block in BLOCKS if block.startswith("def loss("))
os.environ.setdefault("DDE_BACKEND", "pytorch")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_the_block_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for package in re.findall(r"^(?:from|import) (\w+)", block, flags=re.MULTILINE):
        pytest.importorskip(package, exc_type=ImportError)
    names = {"__name__": "your_model"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for text in dict.fromkeys((SETUP, FIRST, block)):
            exec(compile(text, PAGE.name, "exec"), names)
    assert names["objective"].gradient()


def test_the_page_is_reached_from_the_site_and_the_readme():
    root = PAGE.parents[2]
    assert "guide/your-model.md" in (root / "mkdocs.yml").read_text("utf-8")
    assert "docs/guide/your-model.md" in (root / "README.md").read_text("utf-8")
