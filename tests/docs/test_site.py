"""What the pages list, and what the site computes: formulas, words to search for."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import lossatlas
from docs.site_pages import pages, text_of
from lossatlas.curvature import instruments
from lossatlas.curvature.instrument import GROUPS

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


def instrument_table():
    """Every instrument by its question, as a Markdown table."""
    groups = {group.name: group.title for group in GROUPS}
    head = "| question | instrument | cost, about | group |\n|---|---|---|---|\n"
    rows = (
        f"| {each.question} | `{each.name}` | {each.cost or 'none'} | {groups[each.group]} |"
        for each in instruments()
    )
    return head + "\n".join(rows)


def citation():
    """The record of CITATION.cff as BibTeX, in a fenced block."""
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    authors = " and ".join(f"{{{author['name']}}}" for author in known["authors"])
    lines = {
        "title": known["title"],
        "author": authors,
        "version": known["version"],
        "license": known["license"],
    }
    fields = ",\n".join(f"  {key:8}= {{{value}}}" for key, value in lines.items())
    return f"```bibtex\n@software{{lossatlas,\n{fields}\n}}\n```"


# Pages are read as Markdown too, where no hook fills in what is missing.
def test_the_front_page_lists_every_instrument_of_the_registry():
    page = (DOCS / "index.md").read_text("utf-8")
    for row in instrument_table().splitlines():
        assert row in page.splitlines()
    assert page.count("\n| ") >= len(instruments())


def test_the_front_page_has_an_install_line_and_six_cards():
    page = (DOCS / "index.md").read_text("utf-8")
    assert "pip install" in page
    assert page.count("<div markdown>") == 6


def test_the_citation_is_that_of_the_file():
    page = (DOCS / "citing.md").read_text("utf-8")
    assert citation() in page
    assert f"version = {{{lossatlas.__version__}}}" in page


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


# Nothing is filled in while the site is built but the API, so that pages are whole as Markdown.
@pytest.mark.parametrize("page", [*pages(), "docs/gallery/index.md"])
def test_no_section_is_empty(page):
    text = re.sub(r"```.*?```", "code", text_of(page), flags=re.S)
    text = re.sub(r"\A---.*?^---$", "", text, flags=re.S | re.M)
    assert "<!--" not in text
    text = re.sub(r"</?div[^>]*>", "", text)
    _, *sections = re.split(r"^(?=#+ )", text, flags=re.M)
    for section, after in zip(sections, [*sections[1:], "# end"], strict=True):
        heading, _, body = section.partition("\n")
        level, following = (len(each.split(" ")[0]) for each in (heading, after))
        # A heading may stand above a heading below it.
        assert body.strip() or following > level, f"{page}: '{heading}' is empty"
