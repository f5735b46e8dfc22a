"""What the site computes while it is built: instruments, the citation, formulas, other words.

mkdocs calls the functions named `on_...`. Formulas become MathML, which browsers draw without
a script, so that nothing is loaded from a network.
"""

import html
import importlib.util
import re
from pathlib import Path

import yaml

INSTRUMENTS, CITATION = "<!-- instruments -->", "<!-- citation -->"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_CITATION_FILE = Path(__file__).parents[1] / "CITATION.cff"
_NOTEBOOKS = Path(__file__).parents[1] / "scripts" / "notebooks.py"


def instrument_table():
    """Every installed instrument by its question, as a Markdown table."""
    from lossatlas.curvature import instruments
    from lossatlas.curvature.instrument import GROUPS

    groups = {group.name: group.title for group in GROUPS}
    head = "| question | instrument | cost, about | group |\n|---|---|---|---|\n"
    rows = (
        f"| {each.question} | `{each.name}` | {each.cost or 'none'} | {groups[each.group]} |"
        for each in instruments()
    )
    return head + "\n".join(rows)


def citation():
    """The record of CITATION.cff as BibTeX, in a fenced block."""
    known = yaml.safe_load(_CITATION_FILE.read_text("utf-8"))
    authors = " and ".join(f"{{{author['name']}}}" for author in known["authors"])
    lines = {
        "title": known["title"],
        "author": authors,
        "version": known["version"],
        "license": known["license"],
    }
    fields = ",\n".join(f"  {key:8}= {{{value}}}" for key, value in lines.items())
    return f"```bibtex\n@software{{lossatlas,\n{fields}\n}}\n```"


def on_page_markdown(markdown, **_):
    """Put generated parts in the place of their marks."""
    for mark, make in ((INSTRUMENTS, instrument_table), (CITATION, citation)):
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def mathml(formula, display):
    """A formula of LaTeX as MathML."""
    from latex2mathml.converter import convert

    drawn = convert(html.unescape(formula), display="block" if display else "inline")
    # A formula that is wider than the screen scrolls in a box of its own.
    return f'<div class="formula">{drawn}</div>' if display else drawn


def on_post_build(config, **_):
    """Write the notebooks of the tutorials beside their pages."""
    notebooks().write(Path(config["site_dir"]) / "tutorials")


def notebooks():
    """The script that makes notebooks of tutorials."""
    spec = importlib.util.spec_from_file_location("notebooks", _NOTEBOOKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_page_content(content, page, config, **_):
    """Draw the formulas; link notebooks; add words under which a reader may search the page."""
    place = Path(page.file.src_uri)
    if place.parent.name == "tutorials" and place.stem != "index":
        link = f'<p><a href="{place.stem}.ipynb" download>This page as a notebook</a></p>'
        content = content.replace("</h1>", f"</h1>{link}", 1)
    content = _FORMULA.sub(lambda m: mathml(m[2], m[1] == "div"), content)
    words = config["extra"].get("search_words", {}).get(page.file.src_uri, ())
    if words:
        # Under the heading, so that a search leads to the top of the page.
        hidden = f"<p hidden>Other words: {html.escape(', '.join(words))}</p>"
        content = content.replace("</h1>", f"</h1>{hidden}", 1)
    return content
