"""Guides are readable in an editor and in one breath: short lines, short paragraphs."""

import re
from pathlib import Path

import pytest

GUIDES = sorted((Path(__file__).parents[2] / "docs" / "guide").glob("*.md"))
_COLUMNS, _WORDS = 110, 90


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_lines_and_paragraphs_are_short(guide):
    text = guide.read_text()
    # Rows of tables and commands cannot be broken.
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    lossatlas"))]
    images = [line for line in lines if line.startswith("![")]
    assert [line for line in lines if len(line) > _COLUMNS and line not in images] == []
    prose = re.sub(r"```.*?```", "", "\n".join(lines), flags=re.S)
    parts = re.split(r"\n\s*\n|\n(?=- |\d+\. |#)", prose)
    assert [part for part in parts if len(part.split()) > _WORDS] == []
