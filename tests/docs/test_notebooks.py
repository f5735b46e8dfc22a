"""Tutorials as notebooks, and results as notebooks show them."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from docs.site_pages import HAS_KERNEL, ROOT, blocks_of
from lossatlas.executor import progress, show_progress
from lossatlas.plots import notebook as shown_in
from report.test_report_browser import drive
from report.test_report_browser import pytestmark as in_browser
from test_results_protocol import SAMPLES

needs_kernel = pytest.mark.skipif(
    not HAS_KERNEL, reason="nbconvert or ipykernel is not installed"
)


def script():
    spec = importlib.util.spec_from_file_location(
        "notebooks", ROOT / "scripts" / "notebooks.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTEBOOKS = script()


def test_a_page_becomes_cells_in_its_order():
    for page in NOTEBOOKS.pages():
        made = NOTEBOOKS.notebook(page.read_text("utf-8"))
        code = [cell["source"] for cell in made["cells"] if cell["cell_type"] == "code"]
        blocks = blocks_of(page.relative_to(ROOT).as_posix())
        assert code == [block.strip() for block in blocks]
        assert made["cells"][0]["source"].startswith("# ")
        texts = [c["source"] for c in made["cells"] if c["cell_type"] == "markdown"]
        assert not any(".md" in text for text in texts)


@needs_kernel
def test_the_tutorials_run_as_notebooks(tmp_path):
    needs = {"huggingface": "transformers", "lightning": "pytorch_lightning"}
    names = [
        page.stem
        for page in NOTEBOOKS.pages()
        if importlib.util.find_spec(needs.get(page.stem, "torch")) is not None
    ]
    # In a process of its own, so that sockets of the kernel are closed with it.
    script = ROOT / "scripts" / "notebooks.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, "--run", "--only", *names],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in names:
        text = (tmp_path / f"{name}.ipynb").read_text()
        cells = json.loads(text)["cells"]
        kinds = {each["output_type"] for cell in cells for each in cell.get("outputs", ())}
        assert "stream" in kinds
        assert "error" not in kinds
        if ".plot(" in text:
            assert "image/png" in text
        assert (tmp_path / f"{name}.html").read_text().lstrip().startswith("<!DOCTYPE html>")


def exported(results):
    """Results as outputs of a notebook, as nbconvert writes them."""
    from nbconvert import HTMLExporter
    from nbformat import v4

    cells = [
        v4.new_code_cell("x", outputs=[v4.new_output("display_data", each._repr_mimebundle_())])
        for each in results
    ]
    return HTMLExporter().from_notebook_node(v4.new_notebook(cells=cells))[0]


ALIVE = """
  const all = [...document.querySelectorAll("[data-lossatlas]")];
  for (let k = 0; k < 100 && !all.every((e) => e.querySelector(".main-svg")); k += 1) await wait(100);
  return all.map((e) => [e.dataset.live === "", e.querySelector("img").hidden,
    e.querySelectorAll(".main-svg, canvas").length]);
"""  # noqa: E501


@needs_kernel
@in_browser[0]
@in_browser[1]
@pytest.mark.filterwarnings("ignore")
def test_results_are_alive_in_an_exported_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "kernel", lambda: "a kernel")
    monkeypatch.setattr(shown_in, "_cell", iter(range(100)).__next__)
    monkeypatch.setattr(shown_in, "_HOLDER", [])
    names = [*SAMPLES][:: max(1, len(SAMPLES) // 6)]
    page = exported([SAMPLES[name]() for name in names])
    # The library is there once.
    assert page.count("window.lossatlasPlotly = inflate") == 1
    ready = "<script>document.documentElement.dataset.ready = ''</script></body>"
    seen, _, _ = drive(page.replace("</body>", ready), ALIVE, tmp_path)
    assert len(seen["result"]) == len(names)
    for name, (live, hidden, drawn) in zip(names, seen["result"], strict=True):
        assert (live, hidden) == (True, True), name
        assert drawn, name
    # What nbconvert's own page asks a network for is not there; nothing of ours fails.
    assert not [e for e in seen["errors"] if "lossatlas" in e or "Plotly" in e]


def test_a_large_figure_and_a_page_without_scripts_are_still(monkeypatch):
    result = SAMPLES["Landscape"]()
    monkeypatch.setattr(progress, "kernel", lambda: "a kernel")
    monkeypatch.setattr(shown_in, "_MOST", 10)
    bundle = result._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"]
    assert 'src="data:image/png;base64,' in bundle["text/html"]
    assert bundle["image/png"].startswith("iVBOR")
    assert bundle["text/plain"] == repr(result)


def test_a_cell_that_runs_again_holds_the_library_again(monkeypatch):
    cells = iter(["a", "b", "a", "c"])
    monkeypatch.setattr(shown_in, "_HOLDER", [])
    monkeypatch.setattr(shown_in, "_cell", lambda: next(cells))
    figure = SAMPLES["Landscape"]().plot(backend="plotly")
    pages = [shown_in.picture(b"", "", figure) for _ in range(4)]
    assert ["inflate(" in page.split("const draw")[0].split(";\n", 1)[1] for page in pages] == [
        True, False, True, False,
    ]  # fmt: skip


@needs_kernel
def test_a_notebook_shows_a_bar_with_the_time_left(monkeypatch):
    from IPython import display as room

    seen = []

    class Place:
        def update(self, shown, raw):
            seen.append(shown)

    def display(shown, raw, display_id):
        seen.append(shown)
        return Place()

    monkeypatch.setattr(room, "display", display)
    monkeypatch.setattr(progress, "kernel", lambda: "a kernel")
    now = iter(np.arange(0, 100, 10.0))
    monkeypatch.setattr("lossatlas.executor.progress.time.monotonic", lambda: next(now))
    with show_progress(True) as tell:
        for done in (1, 2, 4):
            tell(done, 4, "<map>")
    texts = [each["text/plain"] for each in seen]
    assert texts == [
        "1 of 4, 30 s left: <map>",
        "2 of 4, 20 s left: <map>",
        "4 of 4 in 30 s: <map>",
    ]
    assert '<progress value="1" max="4">' in seen[0]["text/html"]
    assert "<map>" not in seen[0]["text/html"]
    assert "progress" not in seen[-1]["text/html"]
