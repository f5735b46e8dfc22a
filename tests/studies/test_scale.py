import json
import sys
from pathlib import Path

import pytest

SCALE = Path(__file__).parents[2] / "docs" / "studies" / "scale"


@pytest.fixture
def study(monkeypatch):
    """The modules of the study, whose names other studies have too."""
    monkeypatch.syspath_prepend(str(SCALE))
    names = ("measure", "page")
    kept = {name: sys.modules.pop(name, None) for name in names}
    yield [__import__(name) for name in names]
    for name in names:
        sys.modules.pop(name, None)
        if kept[name] is not None:
            sys.modules[name] = kept[name]


def test_the_page_holds_what_was_measured(study):
    results = json.loads((SCALE / "results.json").read_text("utf-8"))
    assert study[1].text(results) == (SCALE / "README.md").read_text("utf-8")


def test_sizes_are_measured_and_drawn(study, tmp_path):
    measure, page = study
    found = measure.grown(measure.QUICK, rounds=1)
    assert [size for size, _ in found["points"]] == [9, 25]
    assert [size for size, _ in found["parameters"]] == [682, 1482]
    assert all(cpu > 0 for rows in found.values() for _, cpu in rows)
    page.draw({**found, "processes": {"each": [[1, 0.1, 0.1], [2, 0.2, 0.1]]}}, tmp_path)
    assert (tmp_path / "scale.png").stat().st_size > 1000


@pytest.mark.processes
def test_processes_are_measured(study):
    found = study[0].over_processes(512, rounds=1)
    assert [[row[0] for row in rows] for rows in found.values()] == [[1, 2], [1, 2]]
    assert all(row[1] > 0 and row[2] > 0 for rows in found.values() for row in rows)
