"""What the site computes while it is built: formulas, notebooks, other words to search for.

mkdocs calls the functions named `on_...`. Formulas become MathML, which browsers draw without
a script, so that nothing is loaded from a network.
"""

import html
import importlib.util
import re
from pathlib import Path

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_NOTEBOOKS = Path(__file__).parents[1] / "scripts" / "notebooks.py"


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
