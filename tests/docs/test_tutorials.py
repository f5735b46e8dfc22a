"""The Python of every tutorial runs from top to bottom; a page skips without its package."""

import re
import warnings
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)
PAGES = sorted(page.stem for page in (DOCS / "tutorials").glob("*.md") if page.stem != "index")


def blocks_of(page):
    return BLOCK.findall((DOCS / "tutorials" / f"{page}.md").read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(page)
    for package in {"transformers", "pytorch_lightning"} & {
        word for block in blocks for word in re.findall(r"^(?:from|import) (\w+)", block, re.M)
    }:
        pytest.importorskip(package, exc_type=ImportError)
    names = {"__name__": page}
    # Frameworks warn about this machine, and short trainings about themselves.
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"tutorials/{page}.md, block {number}", "exec"), names)
    assert len(blocks) >= 1
    assert capsys.readouterr().out.strip()


def test_every_tutorial_is_listed():
    index = (DOCS / "tutorials" / "index.md").read_text("utf-8")
    site = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    assert len(PAGES) == 10
    for page in PAGES:
        assert f"({page}.md)" in index
        assert f"tutorials/{page}.md" in site
