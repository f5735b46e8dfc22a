"""What the README promises; tests/docs/test_pages.py runs its code."""

import re

import pytest

from docs.site_pages import ROOT, blocks_of, text_of

README = text_of("README.md")


def test_the_promise_of_ten_lines_holds():
    lines = [line for line in blocks_of("README.md")[0].splitlines() if line.strip()]
    assert len(lines) <= 10


def test_your_own_model_is_reached_from_the_site_and_the_readme():
    assert "guide/your-model.md" in (ROOT / "mkdocs.yml").read_text("utf-8")
    assert "docs/guide/your-model.md" in README


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if not t.startswith("http")]
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert missing == []
