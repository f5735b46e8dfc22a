"""The tutorials are listed; tests/docs/test_pages.py runs them."""

from docs.site_pages import ROOT, pages, text_of

TUTORIALS = [page for page in pages() if page.startswith("docs/tutorials/")]


def test_every_tutorial_is_listed():
    index, site = text_of("docs/tutorials/index.md"), (ROOT / "mkdocs.yml").read_text("utf-8")
    assert len(TUTORIALS) == 11
    for page in TUTORIALS:
        name = page.removeprefix("docs/tutorials/")
        assert name == "index.md" or f"({name})" in index
        assert f"tutorials/{name}" in site
