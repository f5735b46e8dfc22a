"""What the site computes: the instruments, the citation, formulas, words to search for."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import lossatlas
from lossatlas.curvature import instruments

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WORDS = (
    "initialization",
    "huggingface",
    "GPU",
    "citation",
    "jupyter notebook",
    "W&B",
    "overfitting",
)


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def settings():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def render(hooks, content, page="index.md", words=()):
    found = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    return hooks.on_page_content(content, found, {"extra": {"search_words": {page: words}}})


def test_the_front_page_lists_every_instrument_of_the_registry(hooks):
    page = hooks.on_page_markdown((DOCS / "index.md").read_text("utf-8"))
    assert hooks.INSTRUMENTS not in page
    for each in instruments():
        row = next(line for line in page.splitlines() if f"| `{each.name}` |" in line)
        assert each.question in row
        assert each.cost in row


def test_the_front_page_has_an_install_line_and_six_cards():
    page = (DOCS / "index.md").read_text("utf-8")
    assert "pip install" in page
    assert page.count("<div markdown>") == 6


def test_the_citation_is_that_of_the_file(hooks):
    page = hooks.on_page_markdown((DOCS / "citing.md").read_text("utf-8"))
    assert f"version = {{{lossatlas.__version__}}}" in page
    assert "@software{lossatlas" in page


def test_readers_find_pages_by_other_words(hooks, settings):
    pages = settings["extra"]["search_words"]
    assert all((DOCS / page).is_file() for page in pages)
    assert set(WORDS) <= {word for words in pages.values() for word in words}
    found = render(hooks, "<h1>Log</h1><p>", "guide/forecast.md", ("W&B",))
    assert found == "<h1>Log</h1><p hidden>Other words: W&amp;B</p><p>"
    assert render(hooks, "<p>text</p>") == "<p>text</p>"


def test_tutorials_link_to_their_notebooks(hooks, tmp_path):
    content = render(hooks, "<h1>Merge</h1>", "tutorials/merge.md")
    assert 'href="merge.ipynb"' in content
    hooks.on_post_build({"site_dir": tmp_path})
    assert (tmp_path / "tutorials" / "merge.ipynb").is_file()
    assert "ipynb" not in render(hooks, "<h1>All</h1>", "tutorials/index.md")


def test_formulas_become_mathml(hooks):
    pytest.importorskip("latex2mathml", reason="the site is built without it here")
    inline = render(hooks, r'<span class="arithmatex">\(a &lt; b\)</span>')
    block = render(hooks, '<div class="arithmatex">\\[\nx^2\n\\]</div>')
    assert inline.startswith("<math")
    assert "<mo>&#x0003C;</mo>" in inline
    assert 'display="block"' in block


def test_formulas_are_closed():
    for page in (DOCS / "theory").glob("*.md"):
        text = page.read_text("utf-8")
        blocks = re.findall(r"^\$\$(.*?)\$\$$", text, re.S | re.M)
        rest = re.sub(r"^\$\$(.*?)\$\$$", "", text, flags=re.S | re.M)
        assert all(line.count("$") % 2 == 0 for line in rest.splitlines()), page.name
        for formula in blocks + re.findall(r"\$(.+?)\$", rest):
            assert formula.count("{") == formula.count("}"), formula


def test_every_page_of_theory_has_sources():
    for page in (DOCS / "theory").glob("*.md"):
        assert page.stem == "index" or "## Sources" in page.read_text("utf-8")
