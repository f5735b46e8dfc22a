"""Pages of studies are what their generators write from results.json."""

import importlib
import json
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[2] / "docs" / "studies"
SHARED = {name for name, n in Counter(p.stem for p in STUDIES.glob("*/*.py")).items() if n > 1}


def by_text(results, out):
    return {"README.md": importlib.import_module("page").text(results)}


def by_write(results, out):
    importlib.import_module("page").write(results, out)
    return {"README.md": (out / "README.md").read_text()}


def by_run(results, out):
    run = importlib.import_module("run")
    run.HERE = out
    run.write_page({name: results[name] for name in run.SIMULATIONS if name in results})
    return {"README.md": (out / "README.md").read_text()}


def of_maps(results, out):
    return {"README.md": importlib.import_module("page").page(results)}


def of_steering(results, out):
    rates, texts, penalties, summary = map(
        importlib.import_module, ("rates", "texts", "page_penalties", "summary")
    )
    studies = {name: results[name] for name in rates.PROBLEMS}
    recipe = json.loads((summary.RECIPE / "results.json").read_text())
    tasks = list(recipe["tasks"].values())
    return {
        "rates.md": texts.rates(studies),
        "penalties.md": texts.penalties(penalties.Penalties(results["penalties"])),
        "README.md": summary._text(summary._recipe_page(), tasks) + "\n",
    }


PAGES = {
    **dict.fromkeys(
        ("certainty", "coverage", "forecast", "imbalance", "phases", "scale", "weights",
         "widths"),
        by_text,
    ),
    **dict.fromkeys(("generalization", "heuristics", "lr", "recipe", "spikes"), by_write),
    **dict.fromkeys(("coverage_curvature", "coverage_instruments"), by_run),
    "maps": of_maps,
    "steering": of_steering,
}  # fmt: skip
# Its tables are printed from parts that are not kept; the page around them is written by hand.
BY_HAND = {"inits"}


@contextmanager
def modules_of(folder):
    """Modules of a study can be imported, and its names are free again afterwards."""
    own = {path.stem for path in folder.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in own & SHARED & set(sys.modules)}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in own & SHARED:
            sys.modules.pop(name, None)
        sys.modules.update(others)


def test_every_study_is_here():
    kept = {path.parent.name for path in STUDIES.glob("*/results.json")}
    assert kept == set(PAGES) | BY_HAND


@pytest.mark.parametrize("study", sorted(PAGES))
def test_the_page_is_what_its_results_say(study, tmp_path):
    folder = STUDIES / study
    results = json.loads((folder / "results.json").read_text())
    with modules_of(folder):
        pages = PAGES[study](results, tmp_path)
    for name, text in pages.items():
        assert text == (folder / name).read_text(), f"write {study}/{name} again"
