"""Notebooks of the tutorials, made from their pages: `python scripts/notebooks.py FOLDER`.

A fenced block of Python becomes a cell of code, what lies between becomes a cell of text. With
`--run` each is executed and written as HTML too (needs nbconvert and ipykernel).
"""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
# %reset would turn off the pictures under cells.
_BEGIN = """import os; os.chdir({!r})
get_ipython().user_ns.update(_keep=[*get_ipython().user_ns_hidden])
for _name in [name for name in get_ipython().user_ns if name not in _keep]:
    del get_ipython().user_ns[_name]"""
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


def notebook(markdown: str) -> dict:
    """A page as a notebook, in the form that Jupyter writes.

    Args:
        markdown: the page.

    Returns:
        Plain values for JSON.
    """
    parts = _BLOCK.split(markdown)
    cells = [
        _cell(number, "code" if number % 2 else "markdown", part.strip())
        for number, part in enumerate(parts)
        if part.strip()
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def _cell(number: int, kind: str, text: str) -> dict:
    lines = _unlinked(text) if kind == "markdown" else text
    made = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return made | more | {"source": lines}


def _unlinked(text: str) -> str:
    # Links between pages of the site lead nowhere from a notebook.
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


def pages() -> list[Path]:
    """The tutorials, each a page with code."""
    return [page for page in sorted(TUTORIALS.glob("*.md")) if page.stem != "index"]


def write(folder: Path, only: list[str] | None = None) -> list[Path]:
    """Write a notebook a tutorial, not executed.

    Args:
        folder: made where it is missing.
        only: names of tutorials; by default all.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for page in pages():
        if only is not None and page.stem not in only:
            continue
        path = folder / f"{page.stem}.ipynb"
        made = notebook(page.read_text("utf-8"))
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")
        written.append(path)
    return written


def execute(paths: list[Path]) -> None:
    """Run notebooks where they lie, keep their output, and write each as HTML beside it.

    Args:
        paths: of the notebooks. One kernel serves all, each begins with no names.
    """
    from jupyter_client import KernelManager

    manager = KernelManager(kernel_name="python3")
    # A kernel chooses its own way to show pictures.
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    manager.start_kernel(env=env)
    try:
        for path in paths:
            _execute(path, manager)
    finally:
        manager.shutdown_kernel(now=True)


def _execute(path: Path, manager: Any) -> None:
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import ExecutePreprocessor

    made = nbformat.read(path, as_version=4)
    made.cells.insert(0, nbformat.v4.new_code_cell(_BEGIN.format(str(path.parent.resolve()))))
    found, _ = ExecutePreprocessor(timeout=600).preprocess(made, {}, km=manager)
    del found.cells[0]
    nbformat.write(found, path)
    page, _ = HTMLExporter().from_notebook_node(found)
    path.with_suffix(".html").write_text(page, "utf-8")


def main() -> None:
    """Write all notebooks, and run them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", help="names of tutorials; by default all")
    parser.add_argument("--run", action="store_true", help="execute them, write HTML too")
    given = parser.parse_args()
    written = write(given.folder, given.only)
    if given.run:
        execute(written)


if __name__ == "__main__":
    main()
